"""What each stage of a run was last done with, so that a stage whose inputs are the same is not done again."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, Literal, get_args

from compressor.dotted import dotted
from compressor.files import write_text
from compressor.runs.folder import Run

Stage = Literal["train", "export", "validate", "bench", "report"]
STAGES: tuple[Stage, ...] = get_args(Stage)


class Stages:
    """The stages of one run, kept in `stages.json`. Inputs are plain values, compared one by one."""

    def __init__(self, run: Run) -> None:
        self._path = run.stages
        self._known: dict[str, dict[str, Any]] = {}
        if self._path.exists():
            self._known = _read(self._path.read_bytes())

    def inputs(self, stage: Stage) -> dict[str, Any]:
        """Return what the stage was last begun with, by dotted names; nothing where that is not known."""
        return dict(self._known.get(stage, {}).get("inputs", {}))

    def changed(self, stage: Stage, inputs: Mapping[str, Any]) -> list[str]:
        """Return the dotted names of inputs that differ from those the stage was last begun with."""
        before = self.inputs(stage)
        now = _plain(inputs)
        return sorted(name for name in {*before, *now} if before.get(name) != now.get(name))

    def finished(self, stage: Stage) -> str | None:
        """Return when the stage was finished, ISO 8601, None if it was not."""
        when = self._known.get(stage, {}).get("finished")
        return when if isinstance(when, str) else None

    def begin(self, stage: Stage, inputs: Mapping[str, Any]) -> None:
        """Note what the stage is begun with. Until it is done, it counts as not done, and so do all after it."""
        for later in STAGES[STAGES.index(stage) :]:
            self._known.pop(later, None)
        self._known[stage] = {"inputs": _plain(inputs), "finished": None}
        self._write()

    @contextmanager
    def doing(self, stage: Stage, inputs: Mapping[str, Any]) -> Iterator[None]:
        """Note that a stage is begun, and at the end of the block that it is done."""
        self.begin(stage, inputs)
        yield
        self.done(stage)

    def done(self, stage: Stage) -> None:
        """Note that the stage is finished."""
        self._known[stage]["finished"] = datetime.now(UTC).isoformat(timespec="seconds")
        self._write()

    def forget(self, start: Stage) -> None:
        """Count a stage and all later ones as not done."""
        for stage in STAGES[STAGES.index(start) :]:
            self._known.pop(stage, None)
        self._write()

    def _write(self) -> None:
        write_text(self._path, json.dumps(self._known, indent=1, sort_keys=True) + "\n")


def _read(content: bytes) -> dict[str, dict[str, Any]]:
    """Return the stages of a file; of one that was cut short or edited, none count as done."""
    try:
        known = json.loads(content)
    except ValueError:
        return {}
    if not isinstance(known, dict):
        return {}
    return {stage: entry for stage, entry in known.items() if isinstance(entry, dict)}


def _plain(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Return inputs by dotted names, as JSON gives them back."""
    return dotted(json.loads(json.dumps(inputs, default=str)))
