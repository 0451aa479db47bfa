"""Where a run is told of beside its folder: TensorBoard, MLflow. The folder stays the record; these are copies.

A tracker that cannot be used is refused before training. One that fails later costs a warning and never the training.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

from compressor.errors import Interrupted
from compressor.progress import Tell
from compressor.recipe import MLflow, Recipe
from compressor.runs import record
from compressor.runs.folder import Run

__all__ = ["Tracker", "Trackers", "require", "tracking"]

FINISHED, FAILED, KILLED = "FINISHED", "FAILED", "KILLED"


class Tracker(Protocol):
    """One place that a run is told of. Every method may raise whatever its library raises."""

    title: str

    def epoch(self, row: Mapping[str, Any]) -> None:
        """Take what `Run.log_epoch` took."""
        ...

    def result(self, result: record.Result) -> None:
        """Take the record and the files of the run as they are now. It is called again when they have become more."""
        ...

    def close(self, status: str) -> None:
        """Take how this process left the run: `FINISHED`, `FAILED` or `KILLED`. A run may be gone on with."""
        ...


class Trackers:
    """All trackers of a run; what one of them throws becomes a warning, the first time that it throws."""

    def __init__(self, trackers: list[Tracker], tell: Tell) -> None:
        self._trackers, self._tell = trackers, tell
        self._warned: set[str] = set()

    def epoch(self, row: Mapping[str, Any]) -> None:
        self._each(f"epoch {row['epoch']}", lambda tracker: tracker.epoch(row))

    def result(self, result: record.Result) -> None:
        self._each("the result", lambda tracker: tracker.result(result))

    def close(self, status: str) -> None:
        self._each("the end of the run", lambda tracker: tracker.close(status))

    def _each(self, what: str, do: Callable[[Tracker], None]) -> None:
        for tracker in self._trackers:
            try:
                do(tracker)
            except Exception as error:
                if tracker.title not in self._warned:
                    self._warned.add(tracker.title)
                    self._tell(f"warning: {tracker.title} did not take {what}, and the run goes on: {reason_of(error)}")


@contextmanager
def tracking(recipe: Recipe, run: Run, tell: Tell) -> Iterator[Trackers]:
    """Open the trackers of a recipe for a run, begun or gone on with, and tell them how the block ended."""
    opened: list[Tracker] = []
    for config in recipe.tracking:
        try:
            opened.append(_open(config, recipe, run))
        except Exception as error:  # it was there when `require` asked
            tell(f"warning: {config.kind} is left out, and the run goes on: {reason_of(error)}")
    trackers = Trackers(opened, tell)
    status = FAILED
    try:
        yield trackers
        status = FINISHED
    except (Interrupted, KeyboardInterrupt):
        status = KILLED
        raise
    finally:
        trackers.close(status)


def require(recipe: Recipe) -> None:
    """See that every tracker of a recipe can be used.

    Raises:
        EnvironmentMissing: its package is not installed, or its server does not answer.
        UsageError: it needs a server and none is named.
    """
    for config in recipe.tracking:
        if isinstance(config, MLflow):
            from compressor.tracking import mlflow

            mlflow.require(config)
        else:
            from compressor.tracking import tensorboard

            tensorboard.require()


def reason_of(error: Exception) -> str:
    """Return the first line of what an error says, or its name."""
    text = str(error).strip()
    return without_secrets(text.splitlines()[0].rstrip(".")) if text else type(error).__name__


def without_secrets(text: str) -> str:
    """Return a text without users and queries of addresses: an environment variable may hold passwords there."""
    return re.sub(r"(://[^\s?#]*)[?#]\S*", r"\1", re.sub(r"://[^/\s@]*@", "://", text))


def _open(config: Any, recipe: Recipe, run: Run) -> Tracker:
    if isinstance(config, MLflow):
        from compressor.tracking.mlflow import MLflowTracker

        return MLflowTracker(config, recipe, run)
    from compressor.tracking.tensorboard import TensorBoardTracker

    return TensorBoardTracker(config, recipe, run)
