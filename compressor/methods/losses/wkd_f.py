"""WKD-F: the distance of the normal distributions that the channels have over an image."""

from typing import Literal

from pydantic import NonNegativeFloat
from torch import Tensor, nn

from compressor.batch import Batch
from compressor.errors import UsageError
from compressor.methods.losses.protocol import Feature, in_words, tapped_shapes, wide
from compressor.methods.protocol import Setting


class WKDF(Feature):
    """Wasserstein distance of feature distributions (Lv et al., NeurIPS 2024).

    Source: "Wasserstein Distance Rivals Kullback-Leibler Divergence for Knowledge Distillation".

    Over the places of an image each channel is taken for a normal distribution: `ratio` times the squared differences
    of the means plus those of the standard deviations, summed over the channels. The student's maps go through a 1x1
    convolution, BatchNorm and ReLU, trained with the student: as in the authors' code where the maps are of one size.
    Where heights and widths differ theirs takes another form, and ours the same.
    The published weight is 0.08, faded out by a cosine.
    """

    kind: Literal["wkd-f"] = "wkd-f"
    ratio: NonNegativeFloat = 4.0

    def build(self, setting: Setting) -> "Moments":
        student, teacher = tapped_shapes(self, setting)
        if not (len(student) == len(teacher) == 3 and min(student[1] * student[2], teacher[1] * teacher[2]) > 1):
            raise UsageError(
                f"wkd-f cannot compare its taps: {in_words(self, student, teacher)}",
                hint="tap maps [channels, height, width] of more than one place",
            )
        convolution = nn.Conv2d(student[0], teacher[0], 1)
        return Moments(nn.Sequential(convolution, nn.BatchNorm2d(teacher[0]), nn.ReLU()), self.ratio)


class Moments(nn.Module):
    """The loss that `WKDF` describes."""

    def __init__(self, regressor: nn.Module, ratio: float) -> None:
        super().__init__()
        self.regressor, self.ratio = regressor, ratio

    def forward(self, student: Tensor, teacher: Tensor, batch: Batch | None = None) -> Tensor:  # noqa: ARG002
        learnt, taught = _moments(self.regressor(student)), _moments(teacher)
        means, deviations = ((a - b).square().sum(dim=1) for a, b in zip(learnt, taught, strict=True))
        return self.ratio * means + deviations


def _moments(maps: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation of each channel of `[B, C, H, W]` over its places, `[B, C]` each."""
    places = wide(maps).flatten(2)
    return places.mean(dim=2), (places.var(dim=2) + 1e-5).sqrt()  # a channel without variation has a gradient
