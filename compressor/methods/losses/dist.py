"""Correlations instead of divergences: the order of classes within an image, and of images within a class."""

from typing import Literal

from pydantic import NonNegativeFloat, PositiveFloat
from torch import Tensor, nn

from compressor.methods.protocol import Config, Setting


class DIST(Config):
    """Correlation of predictions, by image and by class (Huang et al., NeurIPS 2022).

    Source: "Knowledge Distillation from A Stronger Teacher".

    `T² (beta (1 - r_image) + gamma (1 - r_class))` with Pearson's `r` of the softened predictions: over the classes for
    each image, and over the batch for each class. The second is a property of the batch and the same for all of it.
    """

    kind: Literal["dist"] = "dist"
    temperature: PositiveFloat = 4.0
    beta: NonNegativeFloat = 1.0
    gamma: NonNegativeFloat = 1.0

    def build(self, setting: Setting) -> "Correlated":  # noqa: ARG002 (the contract's signature)
        return Correlated(self)


class Correlated(nn.Module):
    """The loss that `DIST` describes."""

    def __init__(self, config: DIST) -> None:
        super().__init__()
        self.config = config

    def forward(self, student: Tensor, teacher: Tensor, labels: Tensor | None = None) -> Tensor:  # noqa: ARG002
        config = self.config
        q, p = ((logits / config.temperature).softmax(dim=1) for logits in (student, teacher))
        within, between = 1 - _correlation(q, p), 1 - _correlation(q.T, p.T).mean()
        return config.temperature**2 * (config.beta * within + config.gamma * between)


def _correlation(a: Tensor, b: Tensor) -> Tensor:
    """Return Pearson's correlation of each row of `[N, M]`, `[N]`; 0 for rows without variation."""
    a, b = (values - values.mean(dim=1, keepdim=True) for values in (a, b))
    correlation: Tensor = (a * b).sum(dim=1) / (a.norm(dim=1) * b.norm(dim=1)).clamp_min(1e-12)
    return correlation
