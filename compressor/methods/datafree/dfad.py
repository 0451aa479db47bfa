"""Data-free adversarial distillation: the generator looks for images on which student and teacher differ."""

from typing import Literal

from pydantic import NonNegativeFloat
from torch import Tensor

from compressor.methods.datafree.objective import DataFree, DataFreeObjective
from compressor.methods.datafree.terms import GeneratorLoss, l1
from compressor.methods.protocol import Objective, Setting


class DFADLoss(GeneratorLoss):
    """The generator's terms: the distance of student and teacher alone."""

    adversarial_weight: NonNegativeFloat = 1.0


class DFAD(DataFree):
    """`min_S max_G` of the mean absolute difference of logits on generated images (Fang et al., arXiv:1912.11006).

    Neither labels nor statistics of the training data are used. The defaults are the published ones; the learning rate
    and the batch size are the recipe's. The distance grows with the teacher's logits: one with very large ones wants a
    lower learning rate.
    """

    kind: Literal["dfad"] = "dfad"
    losses: DFADLoss = DFADLoss()

    def build(self, setting: Setting) -> Objective:
        return _DFAD(self, setting)


class _DFAD(DataFreeObjective):
    def lesson(self, logits: Tensor, taught: Tensor, labels: Tensor | None) -> dict[str, Tensor]:  # noqa: ARG002
        return {"l1": l1(logits, taught).mean()}
