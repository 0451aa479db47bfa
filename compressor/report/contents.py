"""What is known of a run when its report is made, and what is missing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compressor.bench import Benchmark
from compressor.measure.gallery import BoundaryExample, Disagreement, Slice
from compressor.measure.predictions import FilePredictions, StoredPredictions
from compressor.runs.record import Named, Result


@dataclass(frozen=True)
class Missing:
    """Something that the report would show: `what` in words, and the `command` that adds it, where there is one."""

    what: str
    command: str | None = None


@dataclass(frozen=True)
class Gallery:
    """Images to look at, and why some could not be had; each tuple may be empty."""

    examples: tuple[BoundaryExample, ...] = ()
    plane: Slice | None = None
    disagreements: tuple[Disagreement, ...] = ()
    notes: tuple[str, ...] = ()
    reason: str | None = None  # why there are no boundary samples and no plane


@dataclass(frozen=True)
class Contents:
    """A run as far as it came. `name` tells it from others of the same report.

    `recipe` is its text, `environment` what `env.json` says, `epochs` the rows of `metrics.jsonl`.
    """

    name: str
    folder: Path
    recipe: str
    environment: Mapping[str, Any]
    epochs: Sequence[Mapping[str, Any]]
    result: Result | None = None
    benchmark: Benchmark | None = None
    answers: StoredPredictions | None = None
    gallery: Gallery = Gallery()
    missing: tuple[Missing, ...] = ()

    @property
    def files(self) -> tuple[Named, ...]:
        """Teacher, student and artifacts, as far as the record has them."""
        return () if self.result is None else self.result.files()

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes; numbers where nothing was measured by class."""
        if self.result is None:
            return ()
        known = self.result.student.class_accuracy
        return tuple(known) if known else tuple(map(str, range(self.result.data.classes)))

    def answer(self, name: str) -> FilePredictions | None:
        """Return what a file said of the test images, unless the file has changed since."""
        found = None if self.answers is None else self.answers.files.get(name)
        now = next((file.metrics.sha256 for file in self.files if file.name == name), None)
        return found if found is not None and found.sha256 == now else None
