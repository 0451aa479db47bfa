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
    """All that is shown of a comparison. `recipes` holds the SHA-256 of each cell's resolved recipe."""

    name: str
    recipe_sha256: str
    data: record.Data
    epochs: int
    teacher: record.Network | None
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
        return f"{self.name}: {self.data.source}, {self.data.test:,} test images, {self.epochs} epochs"

    @property
    def origin(self) -> str:
        """What every row was made with."""
        parts = [f"recipe {self.name} ({self.recipe_sha256[:12]})"]
        parts += [
            f"{package} {self.versions[package]}" for package in ("compressor", "torch") if package in self.versions
        ]
        parts.append(f"data {self.data.fingerprint}")
        if self.teacher is not None:
            accuracy = "" if self.teacher.top1 is None else f" with {self.teacher.top1:.2f} %"
            parts.append(f"teacher {self.teacher.arch or '?'} ({self.teacher.sha256[:12]}){accuracy}")
        return ", ".join(parts)
