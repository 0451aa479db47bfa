"""Data-free distillation with the teacher's statistics: DFQ-AKD."""

from typing import Literal

from pydantic import PositiveInt
from torch import Tensor

from compressor.generators import UpsampleLarge
from compressor.methods.datafree.objective import BatchNormUse, DataFree, Game, Generating
from compressor.methods.datafree.terms import GeneratorLoss, kl
from compressor.methods.protocol import Objective, Setting


class DFQ(DataFree):
    """Images of all classes, like those behind the teacher's BatchNorm, that it is sure of and the student is not.

    Source: Choi et al., Data-Free Network Quantization With Adversarial Knowledge Distillation, CVPR Workshops 2020
    (arXiv:2005.04136), with the weights of its form in the benchmark of CMI (Fang et al., IJCAI 2021); the student
    learns by KL divergence at temperature 1. The paper's several generators and students are not part of it.
    """

    kind: Literal["dfq-akd"] = "dfq-akd"
    student_steps: PositiveInt = 10
    generator: Generating = Generating(network=UpsampleLarge(), betas=(0.5, 0.999))
    losses: GeneratorLoss = GeneratorLoss(
        adversarial_weight=1.0, adversarial="kl", one_hot_weight=1.0, balance_weight=20.0, statistics_weight=1.0
    )
    student_batchnorm: BatchNormUse = "learning"

    def build(self, setting: Setting) -> Objective:
        return _DFQ(self, setting)


class _DFQ(Game):
    def lesson(self, logits: Tensor, taught: Tensor, labels: Tensor | None) -> dict[str, Tensor]:  # noqa: ARG002
        return {"kl": kl(logits, taught).mean()}
