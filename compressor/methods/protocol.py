"""The contract between a distillation method and the training loop.

A *method* is frozen hyper-parameters: the recipe's schema and nothing else. It builds an *objective*, which is given
the networks and turns each batch into one or more `Update`s. The loop runs every update the same way: sum the terms,
backward, step the optimiser that the update names. Because `updates` is a generator, what follows a `yield` sees the
networks after that step; this is how a discriminator and a student take turns without a special case in the loop.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol, Self, runtime_checkable

import torch
from torch import Tensor, nn

from compressor.batch import Batch
from compressor.generators import ImageKind
from compressor.kinds import Config as Config  # a part of the contract
from compressor.kinds import NotLoaded
from compressor.kinds import refusal as refusal
from compressor.methods.taps import shapes


def _alone(tensor: Tensor) -> Tensor:
    return tensor


@dataclass(frozen=True)
class Setting:
    """What an objective is built from. The objective must not change the teachers.

    `student` is the network to train *through* (a distributed wrapper, where there is one); `samples` counts the
    labelled training images, 0 for a method without data; `std` is the per-channel standard deviation `[C]` that one
    unit of the attack's step means, in pixel units. `gather` returns the rows `[B, ...]` of all processes, in the order
    of their ranks, without gradients; one process has all of them already. `mean` and `std` are those that the
    first teacher normalises by.
    """

    student: nn.Module
    teachers: Sequence[nn.Module]
    classes: int
    input_shape: tuple[int, int, int]
    samples: int
    std: Tensor
    device: torch.device
    gather: Callable[[Tensor], Tensor] = _alone
    mean: Tensor = field(default_factory=lambda: torch.zeros(()))

    def image_kind(self, classes: int = 0) -> ImageKind:
        """Return what a generator is to make: images like the data's, told of `classes` where that is above 0."""
        channels = self.input_shape[0]
        mean, std = (values.expand(channels).tolist() for values in (self.mean, self.std))
        return ImageKind(self.input_shape, mean, std, classes)

    def shapes(self, network: nn.Module, paths: Sequence[str]) -> dict[str, tuple[int, ...]]:
        """Return the output shape of inner modules of one of the networks, the batch left out (see `taps.shapes`)."""
        return shapes(network, paths, input_shape=self.input_shape, device=self.device)


@dataclass(frozen=True)
class Moment:
    """Where in the training a batch stands.

    `epoch` counts from 0 and `step` from 0 over all epochs. `generator` lives on the training device and is seeded from
    the run's seed, `step` and the process alone, so a resumed run draws what the uninterrupted one would have drawn.
    `world` is in how many parts the step's batch is given, to the processes that train together and by
    `train.accumulate` to each of them one after the other, and `rank` counts the parts from 0.
    """

    epoch: int
    epochs: int
    step: int
    generator: torch.Generator
    rank: int = 0
    world: int = 1

    @property
    def elapsed(self) -> float:
        """The fraction of epochs begun, `(epoch + 1) / epochs` in `(0, 1]`: the published schedules count from 1."""
        return (self.epoch + 1) / self.epochs


@dataclass(frozen=True)
class Update:
    """One optimiser step: weighted scalar terms, summed by the loop and logged under their names.

    `player` names who steps: `"student"`, or a key of the objective's `players()`. No terms: no step (all samples of
    the batch were skipped). `notes` are scalars that are logged like the terms and that nothing minimises, such as the
    share of samples that still teach; one that is not finite is left out.
    """

    terms: Mapping[str, Tensor]
    player: str = "student"
    notes: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Player:
    """Parameters that are trained apart from the student's, and how. What is None is as the recipe has it.

    `parameters` are parameters, or groups `{"params": ..., "lr": ..., "weight_decay": ...}` of them, as torch's
    optimisers take them. `optimizer` is the name of one of the recipe's, or makes one from groups that hold their `lr`
    and `weight_decay`: `partial(torch.optim.Adam, betas=(0.5, 0.999))`. `schedule` maps a step, from 0 over all epochs,
    and the number of all steps to the factor of every group's own rate.
    """

    parameters: Iterable[nn.Parameter] | Iterable[dict[str, Any]]
    lr: float | None = None
    optimizer: Literal["sgd", "adamw"] | Callable[[list[dict[str, Any]]], torch.optim.Optimizer] | None = None
    weight_decay: float | None = None
    schedule: Callable[[int, int], float] | None = None


class Objective(nn.Module):
    """What a method does with a batch. Subclasses implement `updates` and keep their networks as attributes.

    As a module, all that it owns (a discriminator, last epoch's predictions in a buffer) is in its `state_dict` and is
    saved and resumed with the run, and is never exported. The student and the teachers belong to the `Setting`, which
    is no module, so they are not. Parameters of own modules that no player holds are trained with the student's
    optimiser.
    """

    def __init__(self, setting: Setting) -> None:
        super().__init__()
        self.setting = setting

    def players(self) -> dict[str, Player]:
        """Return who is trained beside the student, by name. Asked once, when all networks are where they stay."""
        return {}

    def updates(self, batch: Batch, moment: Moment) -> Iterator[Update]:
        """Yield the updates of one batch, in order. Called under the loop's autocast, networks in training mode."""
        raise NotImplementedError

    def images(self, count: int, generator: torch.Generator) -> Tensor | None:  # noqa: ARG002 (the contract's)
        """Return images of its own making, `[count, C, H, W]` in `[0, 1]`, drawn by `generator`; None: it has none."""
        return None

    def warnings(self, notes: Mapping[str, float]) -> Iterator[str]:  # noqa: ARG002 (the contract's)
        """Yield what a user should be told of an epoch, given the means of what was noted in it."""
        yield from ()

    def forward(self, *_: Any) -> Any:
        raise TypeError("an objective is not called, its updates are iterated")


@dataclass(frozen=True)
class Needs:
    """What a method must be given. What a recipe lacks of it, or has and no use for, is refused before a training.

    `teachers` are the fewest and `most` the most that it learns from, None without a limit. One teacher may be named
    beyond that: the first is what a student is compared with. `data`: labelled images, else batches are empty.
    `unlabelled`: a second stream. `target`: one of another domain. `views`: how many augmentations of each labelled
    image. `gradients`: whether it differentiates teachers by their images. `cached`: whether all it asks its teachers
    is their logits on a batch's images, which the batch may then bring (`Batch.taught`). `mixed`: whether it learns
    from images that are mixed of two (`Batch.mixed`), which have no one label.
    """

    teachers: int = 1
    most: int | None = 1
    data: bool = True
    unlabelled: bool = False
    target: bool = False
    views: int = 1
    gradients: bool = False
    cached: bool = False
    mixed: bool = False


class NotLoadedMethod(NotLoaded):
    """A method of a plug-in, in a recipe that is not the user's own: what it needs is not known."""

    needs: ClassVar[Needs] = Needs(teachers=0, most=None)


class Method(Protocol):
    """Frozen hyper-parameters: a `Config`, one of `METHODS` or a plug-in; `kind` is the name in the recipe."""

    needs: ClassVar[Needs]

    @property
    def kind(self) -> str: ...

    def build(self, setting: Setting) -> Objective: ...

    def model_dump(self) -> dict[str, Any]: ...

    def model_copy(self, *, update: Mapping[str, Any] | None = None) -> Self: ...


@runtime_checkable
class Altering(Protocol):
    """What a method may also be: one whose student is trained, kept and exported with other layers than it was built
    with.
    """

    def alter(self, student: nn.Module, teachers: Sequence[nn.Module], *, input_shape: tuple[int, int, int]) -> None:
        """Change a new student in place, once, before the objective is built.

        Only by a `models.Change`, which the student's file tells, so that it is loaded as it was trained. A parameter
        without `requires_grad` stays as it is.

        Raises:
            UsageError: it cannot be changed so.
        """
