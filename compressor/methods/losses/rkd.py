"""Relational distillation: distances between images, and angles between three, as the teacher has them."""

from typing import Literal, Self

import torch
from pydantic import NonNegativeFloat, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from compressor.batch import Batch
from compressor.methods.losses.protocol import Feature, tapped_shapes
from compressor.methods.losses.relations import angles, distances, pooled
from compressor.methods.protocol import Setting, refusal


class RKD(Feature):
    """Distances and angles between the images of a batch (Park et al., CVPR 2019).

    Source: "Relational Knowledge Distillation".

    `distance` weighs the Huber loss of the pairs' distances, each network's divided by their mean over all pairs of
    different images; `angle` that of the cosines at each image of the ways to two others. Both are means over all
    pairs and triples, those of an image with itself included, as in RepDistiller's code (which divides by the mean of
    the distances above 0); the authors' own was not read. A sample's part are the pairs and the angles at it. Maps are
    averaged over their places first. Time and memory of the angles grow with `B³`.
    """

    kind: Literal["rkd"] = "rkd"
    distance: NonNegativeFloat = 1.0
    angle: NonNegativeFloat = 2.0

    @model_validator(mode="after")
    def _compares_something(self) -> Self:
        if self.distance == self.angle == 0:
            raise refusal("is 0 like angle, which leaves nothing to compare", key="distance")
        return self

    def build(self, setting: Setting) -> "Relational":
        tapped_shapes(self, setting)  # refuses taps that are not there
        return Relational(self)


class Relational(nn.Module):
    """The loss that `RKD` describes."""

    def __init__(self, config: RKD) -> None:
        super().__init__()
        self.config = config

    def forward(self, student: Tensor, teacher: Tensor, batch: Batch | None = None) -> Tensor:  # noqa: ARG002
        learnt, taught = pooled(student), pooled(teacher)
        loss = torch.zeros_like(learnt[:, 0])
        if self.config.distance > 0:
            loss = loss + self.config.distance * _huber(_scaled(learnt), _scaled(taught))
        if self.config.angle > 0:
            loss = loss + self.config.angle * _huber(angles(learnt).flatten(1), angles(taught).flatten(1))
        return loss


def _scaled(vectors: Tensor) -> Tensor:
    """Return the distances between vectors `[B, D]`, `[B, B]`, in units of their mean over different samples."""
    apart, count = distances(vectors), len(vectors)
    return apart / (apart.sum() / max(count * (count - 1), 1)).clamp_min(1e-12)


def _huber(a: Tensor, b: Tensor) -> Tensor:
    return F.smooth_l1_loss(a, b, reduction="none").mean(dim=1)
