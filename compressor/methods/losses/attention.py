"""Attention transfer: where in the image the channels together are active, not what they say."""

from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from compressor.batch import Batch
from compressor.errors import UsageError
from compressor.methods.losses.protocol import Feature, in_words, tapped_shapes, wide
from compressor.methods.protocol import Setting


class AT(Feature):
    """Distance of spatial attention maps (Zagoruyko and Komodakis, ICLR 2017, arXiv:1612.03928).

    A map is the mean of the squared channels, divided by its length; the loss is the mean squared difference over its
    places, as in the authors' code (the paper has the length of the difference). Channels may differ, height and width
    may not.
    """

    kind: Literal["at"] = "at"

    def build(self, setting: Setting) -> "Attention":
        student, teacher = tapped_shapes(self, setting)
        if not (len(student) == len(teacher) == 3 and student[1:] == teacher[1:]):
            raise UsageError(
                f"at cannot compare its taps: {in_words(self, student, teacher)}",
                hint="tap maps [channels, height, width] of the same height and width",
            )
        return Attention()


class Attention(nn.Module):
    """The loss that `AT` describes."""

    def forward(self, student: Tensor, teacher: Tensor, batch: Batch | None = None) -> Tensor:  # noqa: ARG002
        return (_attention(student) - _attention(teacher)).square().mean(dim=1)


def _attention(maps: Tensor) -> Tensor:
    """Return where maps `[B, C, H, W]` are active, `[B, H * W]` of length 1."""
    return F.normalize(wide(maps).square().mean(dim=1).flatten(1), dim=1)
