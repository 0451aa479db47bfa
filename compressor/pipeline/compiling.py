"""Whether compiled code pays for a training: measured before its first step, on steps that are thrown away."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import cycle, islice

from compressor.batch import Batch
from compressor.inputs import Prepared
from compressor.pipeline.staged import new_state
from compressor.progress import Tell

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


def compiling_pays(prepared: Prepared, stage: int, tell: Tell) -> bool:
    """Return whether a stage is shorter with compiled code, and say what was measured.

    The time of the compiler itself counts, so that a short training is not compiled; one that is shorter still than a
    compiler would need is not even tried.

    Args:
        prepared: with the recipe of the stage alone, for one process.
        stage: its number, from 0.
    """
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
    train = prepared.recipe.train.model_copy(update={"compile": compiled})
    recipe = prepared.recipe.model_copy(update={"train": train})
    state = new_state(replace(prepared, recipe=recipe), stage=stage)
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
