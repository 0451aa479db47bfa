"""Curriculum temperature: the temperature is learnt too, against the student, ever more so."""

import math
from typing import ClassVar, Literal

import torch
from pydantic import PositiveFloat
from torch import Tensor, nn

from compressor.errors import UsageError
from compressor.methods.losses.kl import divergence
from compressor.methods.protocol import Config, Setting


class CTKD(Config):
    """Divergence at a temperature that is learnt to make it large (Li et al., AAAI 2023).

    Source: "Curriculum Temperature for Knowledge Distillation".

    `T² KL` of the softened predictions with one temperature for all, `T = lowest + span * sigmoid(theta)`, theta
    starting at 1. Its gradient is reversed and multiplied by a factor that grows from 0 to 1 as half a cosine over the
    first `epochs`, counted in labelled samples that this process met. Theta is trained by the student's optimiser,
    resumed and never exported.
    """

    kind: Literal["ctkd"] = "ctkd"
    labelled: ClassVar[bool] = True
    lowest: PositiveFloat = 1.0
    span: PositiveFloat = 20.0
    epochs: PositiveFloat = 10.0

    def build(self, setting: Setting) -> "Curriculum":
        if setting.samples == 0:
            raise UsageError(
                "ctkd counts epochs of training images, and there are none", hint="choose another loss between logits"
            )
        return Curriculum(self, setting.samples)


class Curriculum(nn.Module):
    """The loss that `CTKD` describes."""

    met: Tensor  # how many labelled samples, []

    def __init__(self, config: CTKD, samples: int) -> None:
        super().__init__()
        self.config, self.samples = config, samples
        self.theta = nn.Parameter(torch.ones(()))
        self.register_buffer("met", torch.zeros((), dtype=torch.int64))

    def forward(self, student: Tensor, teacher: Tensor, labels: Tensor | None) -> Tensor:
        held = self.theta.detach()
        temperature = self.temperature(held + self.strength() * (held - self.theta))  # theta, its gradient reversed
        if labels is not None and self.training:
            self.met += len(labels)
        p, q = ((logits / temperature).log_softmax(dim=1) for logits in (teacher, student))
        return temperature**2 * divergence(p, q)

    def temperature(self, theta: Tensor) -> Tensor:
        return self.config.lowest + self.config.span * theta.sigmoid()

    def strength(self) -> Tensor:
        """Return the factor of the reversed gradient, in `[0, 1]`."""
        passed = (self.met / (self.samples * self.config.epochs)).clamp(max=1)
        return (1 - torch.cos(math.pi * passed)) / 2
