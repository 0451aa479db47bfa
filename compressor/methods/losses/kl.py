"""Losses between softened predictions: as they are, or of standardised logits."""

from dataclasses import dataclass
from typing import Literal

from pydantic import Field, PositiveFloat
from torch import Tensor
from torch.nn import functional as F

from compressor.methods.protocol import Config, Setting


class KL(Config):
    """Divergence of the softened predictions (Hinton et al., arXiv:1503.02531)."""

    kind: Literal["kl"] = "kl"
    temperature: PositiveFloat = 3.0
    t2: bool = Field(default=False, description="multiply by the temperature squared")

    def build(self, setting: Setting) -> "Softened":  # noqa: ARG002 (the contract's signature)
        return Softened(self.temperature, t2=self.t2)


class LSKD(Config):
    """KL of logits that each image standardises (Sun et al., CVPR 2024).

    Source: "Logit Standardization in Knowledge Distillation".

    Every vector of logits, the student's and the teacher's, becomes `(z - mean) / std` over the classes before it is
    softened, so that the student need not match the teacher's range. Times the temperature squared, as published.
    """

    kind: Literal["lskd"] = "lskd"
    temperature: PositiveFloat = 2.0

    def build(self, setting: Setting) -> "Standardised":  # noqa: ARG002 (the contract's signature)
        return Standardised(Softened(self.temperature, t2=True))


@dataclass(frozen=True)
class Softened:
    """The cross entropy of the softened predictions, `-sum_k p_k log q_k`.

    It is the KL divergence plus the entropy of the teacher, which is constant: the gradients are the same, and a
    student that equals its teacher has gradient zero, not loss zero. The gradient by a sample's logits is
    `(q - p) / temperature` and so, since `q - p` does too, shrinks as `1 / temperature²`; with `t2` the loss is
    multiplied by `temperature²` to make up for it. The published boundary distillation does without.
    """

    temperature: float
    t2: bool

    def __call__(self, student: Tensor, teacher: Tensor, labels: Tensor | None = None) -> Tensor:  # noqa: ARG002
        softened = (teacher / self.temperature).softmax(dim=1)
        loss = F.cross_entropy(student / self.temperature, softened, reduction="none")
        return loss * self.temperature**2 if self.t2 else loss


@dataclass(frozen=True)
class Standardised:
    """The same loss of logits with mean 0 and standard deviation 1 over the classes."""

    softened: Softened

    def __call__(self, student: Tensor, teacher: Tensor, labels: Tensor | None = None) -> Tensor:
        return self.softened(_standardised(student), _standardised(teacher), labels)


def divergence(log_p: Tensor, log_q: Tensor) -> Tensor:
    """Return `KL(p || q)` of each row of log-probabilities `[N, M]`, `[N]`."""
    return F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(dim=1)


def _standardised(logits: Tensor) -> Tensor:
    """Return logits `[B, K]` with mean 0 and, but for a small constant, unbiased standard deviation 1 in each row."""
    return (logits - logits.mean(dim=1, keepdim=True)) / (logits.std(dim=1, keepdim=True) + 1e-7)
