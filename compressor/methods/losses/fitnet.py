"""Hints: the student's inner output, through a regressor of its own, equals the teacher's."""

from typing import Literal

from torch import Tensor, nn

from compressor.batch import Batch
from compressor.errors import UsageError
from compressor.methods.losses.protocol import Feature, in_words, tapped_shapes, wide
from compressor.methods.protocol import Setting


class FitNet(Feature):
    """Squared distance of inner outputs (Romero et al., ICLR 2015, arXiv:1412.6550), mean over their elements.

    A 1x1 convolution, for vectors a linear layer, leads from the student's channels to the teacher's and is trained
    with the student. Maps must have the same height and width.
    """

    kind: Literal["fitnet"] = "fitnet"

    def build(self, setting: Setting) -> "Hint":
        student, teacher = tapped_shapes(self, setting)
        if len(student) == len(teacher) == 3 and student[1:] == teacher[1:]:
            return Hint(nn.Conv2d(student[0], teacher[0], 1))
        if len(student) == len(teacher) == 1:
            return Hint(nn.Linear(student[0], teacher[0]))
        raise UsageError(
            f"fitnet cannot compare its taps: {in_words(self, student, teacher)}",
            hint="tap maps of the same height and width, or two vectors",
        )


class Hint(nn.Module):
    """The loss that `FitNet` describes."""

    def __init__(self, regressor: nn.Module) -> None:
        super().__init__()
        self.regressor = regressor

    def forward(self, student: Tensor, teacher: Tensor, batch: Batch | None = None) -> Tensor:  # noqa: ARG002
        return (wide(self.regressor(student)) - wide(teacher)).square().flatten(1).mean(dim=1)
