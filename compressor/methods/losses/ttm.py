"""Transformed teacher matching: only the teacher is softened, and the student is to become as soft by itself."""

from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor, nn

from compressor.methods.losses.kl import divergence
from compressor.methods.protocol import Config, Setting

Exponent = Annotated[float, Field(gt=0, le=1, description="of the teacher's probabilities, 1 / temperature")]


class TTM(Config):
    """Divergence from the teacher's probabilities to a power (Zheng and Yang, ICLR 2024).

    Source: "Knowledge Distillation Based on Transformed Teacher Matching".

    `KL(p^gamma / sum_k p_k^gamma || q)`: the teacher has the temperature `1 / gamma`, the student none. A student that
    equals its teacher therefore still has a gradient. The published weights are large, such as `kd_weight: 45`.
    """

    kind: Literal["ttm"] = "ttm"
    gamma: Exponent = 0.1

    def build(self, setting: Setting) -> "Transformed":  # noqa: ARG002 (the contract's signature)
        return Transformed(self.gamma, weighted=False)


class WTTM(Config):
    """The same, weighed by how unsure the teacher is (Zheng and Yang, ICLR 2024).

    Source: "Knowledge Distillation Based on Transformed Teacher Matching".

    Each sample's divergence is multiplied by the power sum `sum_k p_k^gamma` of the teacher's probabilities: 1 where it
    is certain, up to `K^(1 - gamma)` where all classes are equal.
    """

    kind: Literal["wttm"] = "wttm"
    gamma: Exponent = 0.1

    def build(self, setting: Setting) -> "Transformed":  # noqa: ARG002 (the contract's signature)
        return Transformed(self.gamma, weighted=True)


class Transformed(nn.Module):
    """The loss that `TTM` and, `weighted`, `WTTM` describe."""

    def __init__(self, gamma: float, *, weighted: bool) -> None:
        super().__init__()
        self.gamma, self.weighted = gamma, weighted

    def forward(self, student: Tensor, teacher: Tensor, labels: Tensor | None = None) -> Tensor:  # noqa: ARG002
        powers = self.gamma * teacher.log_softmax(dim=1)
        loss = divergence(powers.log_softmax(dim=1), student.log_softmax(dim=1))
        return powers.logsumexp(dim=1).exp() * loss if self.weighted else loss
