"""Decoupled distillation: how sure of its class, and how the rest is spread, as two losses."""

from typing import Literal

import torch
from pydantic import NonNegativeFloat, PositiveFloat
from torch import Tensor, nn
from torch.nn import functional as F

from compressor.methods.losses.kl import divergence
from compressor.methods.protocol import Config, Setting


class DKD(Config):
    """Target and non-target classes apart (Zhao et al., CVPR 2022).

    Source: "Decoupled Knowledge Distillation".

    `T² (alpha KL(b_t || b_s) + beta KL(p̂_t || p̂_s))`: `b` is the probability of the label's class and of all others
    together, `p̂` the prediction among the others, both softened. The authors fade it in over 20 epochs: a weight
    such as `kd_weight: [0, 1, 0.08]` does so. Without labels the teacher's most probable class stands for the label's.
    """

    kind: Literal["dkd"] = "dkd"
    temperature: PositiveFloat = 4.0
    alpha: NonNegativeFloat = 1.0
    beta: NonNegativeFloat = 8.0

    def build(self, setting: Setting) -> "Decoupled":  # noqa: ARG002 (the contract's signature)
        return Decoupled(self)


class Decoupled(nn.Module):
    """The loss that `DKD` describes."""

    def __init__(self, config: DKD) -> None:
        super().__init__()
        self.config = config

    def forward(self, student: Tensor, teacher: Tensor, labels: Tensor | None) -> Tensor:
        config = self.config
        classes = teacher.argmax(dim=1) if labels is None else labels
        taught, learnt = (_parted(logits / config.temperature, classes) for logits in (teacher, student))
        target, others = (divergence(p, q) for p, q in zip(taught, learnt, strict=True))
        return config.temperature**2 * (config.alpha * target + config.beta * others)


def _parted(logits: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
    """Return log-probabilities of the class and all others together, `[B, 2]`, and among the others, `[B, K - 1]`."""
    named = F.one_hot(classes, logits.shape[1]).bool()
    others = logits[~named].view(len(logits), -1)
    both = torch.stack((logits[named], others.logsumexp(dim=1)), dim=1)
    return both.log_softmax(dim=1), others.log_softmax(dim=1)
