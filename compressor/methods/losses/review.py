"""Knowledge review: later layers of the student help its earlier ones to be like the teacher's."""

from itertools import pairwise
from typing import Annotated, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from compressor.batch import Batch
from compressor.errors import UsageError
from compressor.methods.losses.protocol import all_tapped_shapes, in_words, wide
from compressor.methods.protocol import Config, Setting, refusal
from compressor.methods.weights import Weight

Several = Annotated[tuple[str, ...], Field(min_length=2)]


class ReviewKD(Config):
    """Distance of maps, each fused with what later layers say, at several scales (Chen et al., CVPR 2021).

    Source: "Distilling Knowledge via Knowledge Review".

    `student` and `teacher` name the same number of modules, from the first to the last; a vector is a map of one place.
    From the last to the first, the student's map goes through a 1x1 convolution, is added to the review of the layer
    after it with weights that a sigmoid gives each place, resized to the teacher's, and led to its channels by a 3x3
    convolution. The loss of a layer is the mean squared difference at full size and at 4x4, 2x2 and 1x1 where smaller,
    weighed 1, 1/2, 1/4 and 1/8 and divided by their sum; those of all layers are added.
    """

    kind: Literal["reviewkd"] = "reviewkd"
    student: Several = Field(description="module paths in the student, such as [layer1, layer2, layer3]")
    teacher: Several = Field(description="module paths in the teacher, as many")
    weight: Weight = Weight(1.0)

    @model_validator(mode="after")
    def _pairs(self) -> Self:
        if len(self.student) != len(self.teacher):
            raise refusal(
                f"names {len(self.teacher)} modules and student {len(self.student)}, which are compared in pairs",
                key="teacher",
            )
        return self

    def build(self, setting: Setting) -> "Review":
        student, teacher = all_tapped_shapes(self, setting)
        if not {len(shape) for shape in (*student, *teacher)} <= {1, 3}:
            raise UsageError(
                f"reviewkd cannot compare its taps: {in_words(self, student, teacher)}",
                hint="tap vectors, or maps [channels, height, width]",
            )
        return Review([shape[0] for shape in student], [shape[0] for shape in teacher])


class Review(nn.Module):
    """The loss that `ReviewKD` describes, of layers with these channels, from the first to the last."""

    def __init__(self, student: list[int], teacher: list[int]) -> None:
        super().__init__()
        middle = min(512, student[-1])
        self.enter = nn.ModuleList(_convolution(channels, middle, 1) for channels in student)
        self.leave = nn.ModuleList(_convolution(middle, channels, 3) for channels in teacher)
        self.fuse = nn.ModuleList(nn.Conv2d(2 * middle, 2, 1) for _ in pairwise(student))

    def forward(self, student: tuple[Tensor, ...], teacher: tuple[Tensor, ...], batch: Batch | None = None) -> Tensor:  # noqa: ARG002
        later: Tensor | None = None
        losses = []
        for layer in reversed(range(len(student))):
            taught, review = _maps(teacher[layer]), self.enter[layer](_maps(student[layer]))
            if later is not None:
                later = F.interpolate(later, review.shape[2:])
                share, rest = (
                    self.fuse[layer](torch.cat((review, later), dim=1)).sigmoid().split(1, dim=1)
                )  # [B, 1, H, W] each
                review = review * share + later * rest
            later = F.interpolate(review, taught.shape[2:])
            losses.append(scaled_distance(wide(self.leave[layer](later)), wide(taught)))
        return sum(losses[1:], losses[0])


def scaled_distance(a: Tensor, b: Tensor) -> Tensor:
    """Return the mean squared difference of maps `[B, C, H, W]` over all scales, `[B]`."""
    found, whole, weight = _distance(a, b), 1.0, 1.0
    for side in (4, 2, 1):
        if side < min(a.shape[2:]):
            weight /= 2
            whole += weight
            found = found + weight * _distance(*(F.adaptive_avg_pool2d(maps, side) for maps in (a, b)))
    return found / whole


def _distance(a: Tensor, b: Tensor) -> Tensor:
    return (a - b).square().flatten(1).mean(dim=1)


def _convolution(channels: int, wanted: int, side: int) -> nn.Module:
    convolution = nn.Conv2d(channels, wanted, side, padding=side // 2, bias=False)
    nn.init.kaiming_uniform_(convolution.weight, a=1)
    return nn.Sequential(convolution, nn.BatchNorm2d(wanted))


def _maps(outputs: Tensor) -> Tensor:
    return outputs if outputs.dim() == 4 else outputs[:, :, None, None]
