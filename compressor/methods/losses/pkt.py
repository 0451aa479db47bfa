"""Probabilistic knowledge transfer: which images are each other's neighbours, as a distribution."""

from typing import Literal

from torch import Tensor, nn

from compressor.batch import Batch
from compressor.methods.losses.kl import divergence
from compressor.methods.losses.protocol import Feature, tapped_shapes
from compressor.methods.losses.relations import cosines, pooled
from compressor.methods.protocol import Setting


class PKT(Feature):
    """Divergence of the distributions of neighbours (Passalis and Tefas, ECCV 2018).

    Source: "Learning Deep Representations with Probabilistic Knowledge Transfer".

    `p(j | i)` is `(1 + cos(x_i, x_j)) / 2` divided by its sum over all images of the batch, `i` itself included as in
    the authors' code; the loss of a sample is `KL(p_t(. | i) || p_s(. | i))`. Code that takes the mean over the whole
    matrix has `1 / B` of it. Maps are averaged over their places first.
    """

    kind: Literal["pkt"] = "pkt"

    def build(self, setting: Setting) -> "Neighbours":
        tapped_shapes(self, setting)  # refuses taps that are not there
        return Neighbours()


class Neighbours(nn.Module):
    """The loss that `PKT` describes."""

    def forward(self, student: Tensor, teacher: Tensor, batch: Batch | None = None) -> Tensor:  # noqa: ARG002
        return divergence(_log_neighbours(teacher), _log_neighbours(student))


def _log_neighbours(outputs: Tensor) -> Tensor:
    """Return the logarithms of the distributions of neighbours of `[B, ...]`, `[B, B]`."""
    kernel = ((1 + cosines(pooled(outputs))) / 2).clamp_min(1e-7)  # opposite vectors have a kernel of 0
    return (kernel / kernel.sum(dim=1, keepdim=True)).log()
