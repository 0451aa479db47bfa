"""A training of one stage or of several, one after the other: what a stage hands on is the student's weights.

Networks, predictions and optimisers of a method belong to its stage and end with it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import nn

from compressor import models
from compressor.inputs import Prepared
from compressor.methods import Setting
from compressor.models.probe import check_logits
from compressor.pipeline.cached_teacher import with_teacher_logits
from compressor.pipeline.teachers import frozen_teachers
from compressor.training.loop import Epoch, TrainingState, fit
from compressor.training.sources import Batches, Source

_SEEDS = 2**32  # of recipes: those of a later stage lie beyond them


def new_state(prepared: Prepared, *, stage: int = 0, start: Mapping[str, Any] | None = None) -> TrainingState:
    """Build student, objective and optimiser, the same for the same seed.

    Args:
        prepared: with the recipe of one stage.
        stage: its number, from 0; each draws its own chance.
        start: weights that the stage before hands on.
    """
    recipe, data, teacher = prepared.recipe, prepared.data, prepared.teacher
    torch.manual_seed(recipe.seed)
    student = prepared.new_student()
    if start is not None:
        student.load_state_dict(start)
    setting = Setting(
        student=student,
        teachers=frozen_teachers(prepared),
        classes=len(data.classes),
        input_shape=data.train_shape,
        samples=len(data.train) if recipe.method.needs.data else 0,
        std=torch.tensor(data.std if teacher is None else teacher.std, device=prepared.device),
        device=prepared.device,
        gather=prepared.group.gather,
        mean=torch.tensor(data.mean if teacher is None else teacher.mean, device=prepared.device),
    )
    return TrainingState(
        student,
        recipe.method.build(setting),
        recipe.train,
        seed=recipe.seed + stage * _SEEDS,
        device=prepared.device,
        steps_per_epoch=prepared.source.steps,
        group=prepared.group,
    )


def reported(state: TrainingState) -> models.Normalized:
    """Return the network to validate and to keep."""
    network = state.reported()
    assert isinstance(network, models.Normalized)
    return network


@dataclass
class StagedTraining:
    """Where a training stands: the stage, from 0, and its state. `whole` has the recipe with all stages."""

    whole: Prepared
    stage: int = 0
    state: TrainingState = field(init=False)

    def __post_init__(self) -> None:
        self.state = new_state(self.here, stage=self.stage)

    @cached_property
    def stages(self) -> tuple[Prepared, ...]:
        """What each stage sees."""
        return tuple(replace(self.whole, recipe=part) for part in self.whole.recipe.parts)

    @property
    def here(self) -> Prepared:
        """What this stage sees."""
        return self.stages[self.stage]

    @cached_property
    def _sources(self) -> dict[int, Source]:
        return {}

    @property
    def source(self) -> Source:
        """The batches of this stage, with the answers of its teachers where these are cached."""
        if self.stage not in self._sources:
            self._sources[self.stage] = with_teacher_logits(self.here)
        return self._sources[self.stage]

    @property
    def before(self) -> int:
        """Epochs of the stages before this one."""
        return sum(stage.recipe.train.epochs for stage in self.stages[: self.stage])

    @property
    def epoch(self) -> int:
        """Epochs finished, of all stages."""
        return self.before + self.state.epoch

    def fit(self, batches: Batches) -> Iterator[Epoch]:
        """Train to the last epoch of the last stage; see `loop.fit`."""
        while True:
            yield from fit(self.state, batches)
            if self.stage == len(self.stages) - 1:
                return
            handed_on = self.state.reported().state_dict()
            self.stage += 1
            self.state = new_state(self.here, stage=self.stage, start=handed_on)

    def state_dict(self) -> dict[str, Any]:
        """Return a copy of all that a resumed run needs; see `TrainingState.state_dict`."""
        return {"stage": self.stage, **self.state.state_dict()}

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Continue from what `state_dict` returned.

        Raises:
            UsageError: the saved run had other settings, another seed or another number of steps in an epoch.
        """
        stage = saved.get("stage", 0)  # states of before there were any
        if stage != self.stage:
            self.stage = stage
            self.state = new_state(self.here, stage=stage)
        self.state.load_state_dict(saved)


def require_buildable(prepared: Prepared, first: int = 0) -> None:
    """Build the stages from number `first` on and throw them away: a module that is not there is known before hours.

    Raises:
        UsageError: a stage taps or freezes a module that the student has not, or leaves nothing to train; or a network
            does not take images of `data.train_size`.
    """
    _require_size(prepared)
    for number, part in list(enumerate(prepared.recipe.parts))[first:]:
        new_state(replace(prepared, recipe=part), stage=number)


def _require_size(prepared: Prepared) -> None:
    """See that all networks take the images that are trained on, where these have another size."""
    data = prepared.data
    if data.train_size is None:
        return
    networks: list[tuple[str, nn.Module]] = [(prepared.recipe.student.arch, prepared.new_student())]
    networks += [(network.called, network.module) for network in prepared.teachers]
    for called, network in networks:
        check_logits(network, called, len(data.classes), data.train_shape, hint="leave data.train_size out")
