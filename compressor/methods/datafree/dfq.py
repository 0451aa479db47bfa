"""Data-free distillation with the teacher's statistics: DFQ-AKD."""

from typing import Literal

from pydantic import NonNegativeFloat, PositiveInt
from torch import Tensor

from compressor.generators import AnyGenerator, UpsampleLarge
from compressor.methods.datafree.objective import BatchNormUse, Betas, DataFree, DataFreeObjective, Generating
from compressor.methods.datafree.terms import GeneratorLoss, Measure, kl
from compressor.methods.protocol import Objective, Setting


class DFQGenerator(Generating):
    """The generator, and how it is trained."""

    network: AnyGenerator = UpsampleLarge()
    betas: Betas = (0.5, 0.999)


class DFQLoss(GeneratorLoss):
    """The generator's terms."""

    adversarial_weight: NonNegativeFloat = 1.0
    adversarial: Measure = "kl"
    one_hot_weight: NonNegativeFloat = 1.0
    balance_weight: NonNegativeFloat = 20.0
    statistics_weight: NonNegativeFloat = 1.0


class DFQ(DataFree):
    """Images of all classes, like those behind the teacher's BatchNorm, that it is sure of and the student is not.

    Source: Choi et al., Data-Free Network Quantization With Adversarial Knowledge Distillation, CVPR Workshops 2020
    (arXiv:2005.04136), with the weights of its form in the benchmark of CMI (Fang et al., IJCAI 2021); the student
    learns by KL divergence at temperature 1. The paper's several generators and students are not part of it.
    """

    kind: Literal["dfq-akd"] = "dfq-akd"
    student_steps: PositiveInt = 10
    generator: DFQGenerator = DFQGenerator()
    losses: DFQLoss = DFQLoss()
    student_batchnorm: BatchNormUse = "learning"

    def build(self, setting: Setting) -> Objective:
        return _DFQ(self, setting)


class _DFQ(DataFreeObjective):
    def lesson(self, logits: Tensor, taught: Tensor, labels: Tensor | None) -> dict[str, Tensor]:  # noqa: ARG002
        return {"kl": kl(logits, taught).mean()}
