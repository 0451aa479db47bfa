"""What `compress compare` found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from compressor.measure.paired import Cell, Outcome, Row
from compressor.runs import record

NAME = "compare"  # of its files, before the dot


@dataclass(frozen=True)
class Failure:
    """A training that has no result, and why."""

    cell: str
    exit_code: int
    reason: str


@dataclass(frozen=True)
class Comparison:
    """All that is shown of a comparison. `recipes` holds the SHA-256 of each cell's resolved recipe.

    `epochs` is None where they vary; `teachers` are by what the table calls them, or one by the name "".
    """

    name: str
    recipe_sha256: str
    data: record.Data
    epochs: int | None
    teachers: Mapping[str, record.Network]
    rows: tuple[Row, ...]
    outcomes: Mapping[Cell, Outcome]
    recipes: Mapping[Cell, str]
    failures: tuple[Failure, ...]
    notes: tuple[str, ...]
    versions: Mapping[str, str]
    hardware: Mapping[str, Any]

    @property
    def title(self) -> str:
        """What was compared on what."""
        title = f"{self.name}: {self.data.source}, {self.data.test:,} test images"
        return title if self.epochs is None else f"{title}, {self.epochs} epochs"

    @property
    def teacher(self) -> record.Network | None:
        """The first teacher, which students without one of their own were measured against."""
        return next(iter(self.teachers.values()), None)

    @property
    def keys(self) -> tuple[str, ...]:
        """What varies beside students and methods: `teacher`, keys of the recipe."""
        return tuple(dict.fromkeys(key for row in self.rows for key, _ in row.varied))

    @property
    def origin(self) -> str:
        """What every row was made with."""
        parts = [f"recipe {self.name} ({self.recipe_sha256[:12]})"]
        parts += [
            f"{package} {self.versions[package]}" for package in ("compressor", "torch") if package in self.versions
        ]
        parts.append(f"data {self.data.fingerprint}")
        for name, teacher in self.teachers.items():
            accuracy = "" if teacher.top1 is None else f" with {teacher.top1:.2f} %"
            title = f"teacher {name}:" if name else "teacher"
            parts.append(f"{title} {teacher.arch or '?'} ({teacher.sha256[:12]}){accuracy}")
        return ", ".join(parts)
