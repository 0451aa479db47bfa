"""The contract between a distillation method and the training loop.

A *method* is frozen hyper-parameters: the recipe's schema and nothing else. It builds an *objective*, which is given
the networks and turns each batch into one or more `Update`s. The loop runs every update the same way: sum the terms,
backward, step the optimiser that the update names. Because `updates` is a generator, what follows a `yield` sees the
networks after that step; this is how a discriminator and a student take turns without a special case in the loop.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from compressor.batch import Batch


class Config(BaseModel):
    """A part of a recipe: frozen, and a key it does not know is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


@dataclass(frozen=True)
class Setting:
    """What an objective is built from. The objective must not change the teachers.

    `student` is the network to train *through* (a distributed wrapper, where there is one); `std` is the per-channel
    standard deviation `[C]` that one unit of the attack's step means, in pixel units.
    """

    student: nn.Module
    teachers: Sequence[nn.Module]
    classes: int
    input_shape: tuple[int, int, int]
    samples: int
    std: Tensor
    device: torch.device


@dataclass(frozen=True)
class Moment:
    """Where in the training a batch stands.

    `epoch` counts from 0 and `step` from 0 over all epochs. `generator` lives on the training device and is seeded
    from the run's seed and `step` alone, so a resumed run draws what the uninterrupted one would have drawn.
    """

    epoch: int
    epochs: int
    step: int
    generator: torch.Generator

    @property
    def elapsed(self) -> float:
        """The fraction of epochs begun, `(epoch + 1) / epochs` in `(0, 1]`: the published schedules count from 1."""
        return (self.epoch + 1) / self.epochs


@dataclass(frozen=True)
class Update:
    """One optimiser step: weighted scalar terms, summed by the loop and logged under their names.

    `player` names whose optimiser steps: `"student"`, or a key of the objective's `optimisers`. No terms: no step (all
    samples of the batch were skipped).
    """

    terms: Mapping[str, Tensor]
    player: str = "student"


class Objective(nn.Module):
    """What a method does with a batch. Subclasses implement `updates` and keep their networks as attributes.

    As a module, all that it owns (a discriminator, last epoch's predictions in a buffer) is in its `state_dict` and is
    saved and resumed with the run. The student and the teachers belong to the `Setting`, which is no module, so they
    are not. Parameters of own modules that no entry of `optimisers` holds are trained with the student's optimiser.
    """

    def __init__(self, setting: Setting) -> None:
        super().__init__()
        self.setting = setting
        self.optimisers: dict[str, torch.optim.Optimizer] = {}

    def updates(self, batch: Batch, moment: Moment) -> Iterator[Update]:
        """Yield the updates of one batch, in order. Called under the loop's autocast, networks in training mode."""
        raise NotImplementedError

    def forward(self, *_: Any) -> Any:
        raise TypeError("an objective is not called, its updates are iterated")


@dataclass(frozen=True)
class Needs:
    """What a method must be given: how many teachers, whether labelled data, whether an unlabelled stream."""

    teachers: int = 1
    data: bool = True
    unlabelled: bool = False


class Method(Protocol):
    """Frozen hyper-parameters, one of `METHODS`; `kind` is the name in the recipe."""

    needs: ClassVar[Needs]

    @property
    def kind(self) -> str: ...

    def build(self, setting: Setting) -> Objective: ...


@dataclass
class Taps:
    """The outputs of inner modules, by module path, of the latest forward pass.

    `Taps(student, ["layer3"])` then `student(images)` then `taps["layer3"]`. Refuses a path that does not exist.
    Call `close` (or leave the `with` block) to remove the hooks.
    """

    network: nn.Module
    paths: Sequence[str]
    outputs: dict[str, Tensor] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        modules = dict(self.network.named_modules())
        missing = [path for path in self.paths if path not in modules]
        if missing:
            raise KeyError(f"no module {missing[0]!r}; the network has {', '.join(filter(None, modules))}")
        self._hooks = [modules[path].register_forward_hook(self._keep(path)) for path in self.paths]

    def _keep(self, path: str) -> Any:
        def hook(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
            self.outputs[path] = output

        return hook

    def __getitem__(self, path: str) -> Tensor:
        return self.outputs[path]

    def close(self) -> None:
        for hook in self._hooks:
            hook.remove()
        self.outputs.clear()

    def __enter__(self) -> "Taps":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
