"""Similarity preservation: images that look alike to the teacher look alike to the student."""

from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from compressor.batch import Batch
from compressor.methods.losses.protocol import Feature, tapped_shapes, wide
from compressor.methods.losses.relations import products
from compressor.methods.protocol import Setting


class SP(Feature):
    """Squared distance of similarity matrices (Tung and Mori, ICCV 2019).

    Source: "Similarity-Preserving Knowledge Distillation".

    The matrix `G` holds the scalar products of the outputs of all pairs of images of a batch, each row divided by its
    length; the loss is `||G_t - G_s||² / B²`, and a sample's part of it its row. Outputs may have any shapes.
    """

    kind: Literal["sp"] = "sp"

    def build(self, setting: Setting) -> "Similarity":
        tapped_shapes(self, setting)  # refuses taps that are not there
        return Similarity()


class Similarity(nn.Module):
    """The loss that `SP` describes."""

    def forward(self, student: Tensor, teacher: Tensor, batch: Batch | None = None) -> Tensor:  # noqa: ARG002
        return (_similarity(student) - _similarity(teacher)).square().mean(dim=1)


def _similarity(outputs: Tensor) -> Tensor:
    """Return how alike the samples of `[B, ...]` are, `[B, B]` with rows of length 1."""
    rows = wide(outputs).flatten(1)
    return F.normalize(products(rows, rows), dim=1)
