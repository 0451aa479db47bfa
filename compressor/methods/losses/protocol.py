"""The contract of a loss term: what compares a student with its teacher, on any images and in any method.

A loss is frozen hyper-parameters that build a callable. Both kinds return a loss per sample, `[B]` float32: a method
decides which samples count, how they are weighed, and takes the mean.
"""

from collections.abc import Mapping
from typing import Any, Protocol, Self

import torch
from pydantic import Field
from torch import Tensor, nn

from compressor.methods.protocol import Config, Setting
from compressor.methods.weights import Weight


class LogitTerm(Protocol):
    """What a logit loss builds. A module is saved with the run, and its parameters are trained with the student."""

    def __call__(self, student: Tensor, teacher: Tensor, labels: Tensor | None) -> Tensor:
        """Return the loss of each sample, `[B]`.

        Args:
            student, teacher: logits, `[B, K]` float32; the teacher's have no graph.
            labels: `[B]` int64, None where there are none, such as on boundary samples: a loss that needs a class then
                takes the teacher's most probable one.
        """
        ...


class LogitLoss(Protocol):
    """Compares logits: a `Config`, one of `LOGIT_LOSSES` or a plug-in; `kind` is the name in the recipe."""

    @property
    def kind(self) -> str: ...

    def build(self, setting: Setting) -> LogitTerm: ...


class FeatureLoss(Protocol):
    """Compares two inner outputs: a `Config`, one of `FEATURE_LOSSES` or a plug-in.

    `student` and `teacher` are module paths, `weight` the factor of the term. `build` returns a module that maps the
    two outputs, each `[B, ...]`, to the loss of each sample `[B]`; its parameters are trained with the student's
    optimiser, saved with the run and never exported. It refuses shapes that cannot be compared with a `UsageError`.
    """

    @property
    def kind(self) -> str: ...
    @property
    def student(self) -> str: ...
    @property
    def teacher(self) -> str: ...
    @property
    def weight(self) -> Weight: ...

    def build(self, setting: Setting) -> nn.Module: ...

    def model_copy(self, *, update: Mapping[str, Any] | None = None) -> Self: ...


class Feature(Config):
    """The keys that every feature loss has."""

    kind: str
    student: str = Field(min_length=1, description="module path in the student, such as layer3")
    teacher: str = Field(min_length=1, description="module path in the teacher")
    weight: Weight = Weight(1.0)


def wide(tensor: Tensor) -> Tensor:
    """Return half precision as float32, so that squares and means do not overflow; wider tensors as they are."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def tapped_shapes(loss: FeatureLoss, setting: Setting) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the shapes that a feature loss compares, the student's first, for one image."""
    student = setting.shapes(setting.student, [loss.student])[loss.student]
    teacher = setting.shapes(setting.teachers[0], [loss.teacher])[loss.teacher]
    return student, teacher


def in_words(loss: FeatureLoss, student: tuple[int, ...], teacher: tuple[int, ...]) -> str:
    """Return both taps with their shapes, for a refusal."""
    return f"{loss.student} of the student gives {list(student)}, {loss.teacher} of the teacher {list(teacher)}"
