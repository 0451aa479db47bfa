"""Whether compiled code pays for a training: measured before its first step, on steps that are thrown away."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import cycle, islice
from typing import Any

from compressor.batch import Batch
from compressor.inputs import Prepared
from compressor.pipeline.course import new_state
from compressor.progress import Tell
from compressor.recipe import Recipe
from compressor.training.distributed import ALONE

_BATCHES = 4  # different ones, that the steps go round
_WARM, _TIMED = _BATCHES, 2 * _BATCHES  # steps of each candidate
_FEWEST = 100  # steps of a training that anything is measured for
_FASTER = 0.97  # of the time without, for compiled code to be kept
_WORTH_S = 120.0  # that the training would take without, for a compiler to be tried


@dataclass(frozen=True)
class Timed:
    """What a way to train costs: `start` seconds once, for the first steps, then `step` seconds each."""

    start: float
    step: float

    def whole(self, steps: int) -> float:
        """Return the seconds of a training of so many steps."""
        return self.start + self.step * steps


def compiled_or_not(prepared: Prepared, tell: Tell) -> Prepared:
    """Return the inputs with each `train.compile: auto` replaced by whether compiled code makes the training shorter.

    The time of the compiler itself counts, so that a short training is not compiled; one that is shorter still than a
    compiler would need is not even tried. What is chosen stands in the recipe that is stored with the run: one that is
    gone on with trains by the same code. All processes do as the first has measured.
    """
    recipe, group = prepared.recipe, prepared.group
    if all(part.train.compile != "auto" for part in recipe.parts):
        return prepared
    chosen = list(recipe.parts)
    for stage, part in enumerate(chosen):
        if part.train.compile == "auto":
            here = replace(prepared, recipe=part, group=ALONE)
            chosen[stage] = _with_compile(part, group.first(_pays(here, stage, tell) if group.leads else False))
    whole: dict[str, Any] = {"train": chosen[-1].train}
    if recipe.stages:
        whole["stages"] = tuple(
            stage.model_copy(update={"train": part.train}) for stage, part in zip(recipe.stages, chosen, strict=True)
        )
    return replace(prepared, recipe=recipe.model_copy(update=whole))


def _with_compile(part: Recipe, compiled: bool) -> Recipe:
    return part.model_copy(update={"train": part.train.model_copy(update={"compile": compiled})})


def _pays(prepared: Prepared, stage: int, tell: Tell) -> bool:
    """Return whether a stage is shorter with compiled code, and say what was measured."""
    steps = prepared.source.steps * prepared.recipe.train.epochs
    if steps < _FEWEST:
        return False
    batches = list(islice(prepared.source.batches(0, 0), _BATCHES))
    plain = _timed(prepared, stage, batches, compiled=False)
    if plain.step * steps < _WORTH_S:
        return False
    try:
        code = _timed(prepared, stage, batches, compiled=True)
    except Exception as error:  # whatever a compiler, or the lack of one, raises: the training does without
        said = str(error).strip().splitlines()
        tell(f"step: not compiled, for the compiler fails ({type(error).__name__}: {said[0] if said else 'no reason'})")
        return False
    pays = code.step < _FASTER * plain.step and code.whole(steps) < plain.whole(steps)
    measured = f"{1000 * code.step:.1f} ms a step after {code.start:.0f} s, {1000 * plain.step:.1f} ms without"
    tell(f"step: {'compiled' if pays else 'not compiled'} ({measured}, {steps:,} steps)")
    return pays


def _timed(prepared: Prepared, stage: int, batches: Sequence[Batch], *, compiled: bool) -> Timed:
    """Train some steps of a stage, time them, and throw them away."""
    state = new_state(replace(prepared, recipe=_with_compile(prepared.recipe, compiled)), stage=stage)
    state.enter_training()
    given = cycle(batches)

    def step() -> None:
        state.advance(next(given))
        state.losses.read(0)  # waits for the device

    start = sum(seconds(step) for _ in range(_WARM))
    return Timed(start, statistics.median(seconds(step) for _ in range(_TIMED)))


def seconds(work: Callable[[], None]) -> float:
    """Return the wall time of some work."""
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun
