"""The contract of a loss term: what compares a student with its teacher, on any images and in any method.

A loss is frozen hyper-parameters that build a callable. Both kinds return a loss per sample, `[B]` float32: a method
decides which samples count, how they are weighed, and takes the mean. One that each image's true label is needed for
has `labelled: ClassVar[bool] = True`, and is refused where images are mixed of two.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, Self

import torch
from pydantic import Field
from torch import Tensor, nn

from compressor.methods.protocol import Config, Setting
from compressor.methods.weights import Weight

Paths = str | tuple[str, ...]


class LogitTerm(Protocol):
    """What a logit loss builds. A module is saved with the run, and its parameters are trained with the student."""

    def __call__(self, student: Tensor, teacher: Tensor, labels: Tensor | None) -> Tensor:
        """Return the loss of each sample, `[B]`.

        Args:
            student, teacher: logits, `[B, K]` float32; the teacher's have no graph.
            labels: `[B]` int64, None where there are none, as on boundary samples and images mixed of two: a loss that
                needs a class then takes the teacher's most probable one.
        """
        ...


class LogitLoss(Protocol):
    """Compares logits: a `Config`, one of `LOGIT_LOSSES` or a plug-in; `kind` is the name in the recipe."""

    @property
    def kind(self) -> str: ...

    def build(self, setting: Setting) -> LogitTerm: ...


class FeatureLoss(Protocol):
    """Compares inner outputs: a `Config`, one of `FEATURE_LOSSES` or a plug-in.

    `student` and `teacher` are module paths, `weight` the factor of the term. `build` returns a module that is called
    with the two outputs, each `[B, ...]`, and the batch that they are of, and returns the loss of each sample `[B]`.
    Where paths are several, the outputs are a tuple in their order. The module's parameters are trained with the
    student's optimiser, its buffers are resumed, and neither is exported. `build` refuses shapes that cannot be
    compared with a `UsageError`.
    """

    @property
    def kind(self) -> str: ...
    @property
    def student(self) -> Paths: ...
    @property
    def teacher(self) -> Paths: ...
    @property
    def weight(self) -> Weight: ...

    def build(self, setting: Setting) -> nn.Module: ...

    def model_copy(self, *, update: Mapping[str, Any] | None = None) -> Self: ...


class Feature(Config):
    """The keys of a feature loss that compares one inner output of each network."""

    kind: str
    student: str = Field(min_length=1, description="module path in the student, such as layer3")
    teacher: str = Field(min_length=1, description="module path in the teacher")
    weight: Weight = Weight(1.0)


def wide(tensor: Tensor) -> Tensor:
    """Return half precision as float32, so that squares and means do not overflow; wider tensors as they are."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def paths(where: Paths) -> tuple[str, ...]:
    """Return the module paths of one side of a feature loss, one or several."""
    return (where,) if isinstance(where, str) else where


def tapped_shapes(loss: FeatureLoss, setting: Setting) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the shapes that a feature loss with one tap a side compares, the student's first, for one image."""
    (student,), (teacher,) = all_tapped_shapes(loss, setting)
    return student, teacher


def all_tapped_shapes(loss: FeatureLoss, setting: Setting) -> tuple[list[tuple[int, ...]], list[tuple[int, ...]]]:
    """Return the shapes of all taps of a feature loss, the student's first, for one image, in their order."""
    student = setting.shapes(setting.student, paths(loss.student))
    teacher = setting.shapes(setting.teachers[0], paths(loss.teacher))
    return [student[path] for path in paths(loss.student)], [teacher[path] for path in paths(loss.teacher)]


def in_words(loss: FeatureLoss, student: Sequence[object], teacher: Sequence[object]) -> str:
    """Return all taps with their shapes, for a refusal."""
    where = [" and ".join(paths(side)) for side in (loss.student, loss.teacher)]
    return f"{where[0]} of the student gives {_listed(student)}, {where[1]} of the teacher {_listed(teacher)}"


def _listed(shape: Sequence[object]) -> list[object]:
    return [list(part) if isinstance(part, tuple) else part for part in shape]
