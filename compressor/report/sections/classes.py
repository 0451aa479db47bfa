"""What changed between the classes: confusions, and the classes that lost most."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from compressor.measure.predictions import FilePredictions
from compressor.report.contents import Contents
from compressor.report.lost import LostClass, lost_most
from compressor.runs.record import STUDENT, TEACHER

HEAT_MAP = 20  # classes; with more, a list of pairs is easier to read
PAIRS = 12
CLASSES = 10


@dataclass(frozen=True)
class ClassChange:
    """A class that lost, and how many test images there are of it, None where that is not known."""

    lost: LostClass
    images: int | None


@dataclass(frozen=True)
class HeatCell:
    """A change of a count: `strength` in `[-1, 1]`, positive where the student says this more often."""

    change: int
    strength: float


@dataclass(frozen=True)
class Pair:
    """How often a true class was taken for another."""

    true: str
    said: str
    teacher: int
    student: int

    @property
    def change(self) -> int:
        return self.student - self.teacher


@dataclass(frozen=True)
class Confusion:
    """What changed from teacher to student. `heat` is by true class, then by what was said; None with many classes."""

    heat: tuple[tuple[HeatCell, ...], ...] | None
    pairs: tuple[Pair, ...]


def class_changes(contents: Contents) -> tuple[ClassChange, ...]:
    """Return the classes that lost most from teacher to student, the worst first."""
    if contents.result is None:
        return ()
    answer = contents.answer(STUDENT)
    images = None if answer is None else np.bincount(answer.labels, minlength=len(contents.classes)).tolist()
    return tuple(
        ClassChange(each, None if images is None else images[each.number])
        for each in lost_most(contents.result, CLASSES)
    )


def confusion(contents: Contents) -> Confusion | None:
    """Return how the mistakes changed from teacher to student."""
    teacher, student = contents.answer(TEACHER), contents.answer(STUDENT)
    if teacher is None or student is None:
        return None
    names = contents.classes
    before, after = (_said(answer, len(names)) for answer in (teacher, student))
    changed = {pair: after.get(pair, 0) - before.get(pair, 0) for pair in before | after}
    mistakes = [pair for pair, change in changed.items() if change and pair[0] != pair[1]]
    pairs = tuple(
        Pair(names[true], names[said], before.get((true, said), 0), after.get((true, said), 0))
        for true, said in sorted(mistakes, key=lambda pair: (-abs(changed[pair]), pair))[:PAIRS]
    )
    return Confusion(_heat(changed, len(names)) if len(names) <= HEAT_MAP else None, pairs)


def _said(answer: FilePredictions, classes: int) -> dict[tuple[int, int], int]:
    """Count what was said of each class, without a table of all pairs: there may be thousands of classes."""
    pairs, sizes = np.unique(answer.labels.astype(np.int64) * classes + answer.classes, return_counts=True)
    return {divmod(int(pair), classes): int(size) for pair, size in zip(pairs, sizes, strict=True)}


def _heat(changed: dict[tuple[int, int], int], classes: int) -> tuple[tuple[HeatCell, ...], ...]:
    largest = max(map(abs, changed.values()), default=0) or 1
    return tuple(
        tuple(HeatCell(change := changed.get((true, said), 0), change / largest) for said in range(classes))
        for true in range(classes)
    )
