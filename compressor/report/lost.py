"""The classes that a student lost most on."""

from __future__ import annotations

from dataclasses import dataclass

from compressor.runs.record import Result


@dataclass(frozen=True)
class LostClass:
    """A class on which the student is worse: `number` is its place among the classes, `change` is in points, below 0.

    `teacher` and `student` are the accuracies of both in percent, None where they are not known.
    """

    number: int
    name: str
    teacher: float | None
    student: float | None
    change: float


def lost_most(result: Result, count: int) -> tuple[LostClass, ...]:
    """Return the classes that lost from teacher to student, the worst first, `count` at most."""
    before = (result.teacher and result.teacher.class_accuracy) or {}
    after = result.student.class_accuracy or {}
    found = [
        LostClass(number, name, before.get(name), after.get(name), change)
        for number, (name, change) in enumerate((result.student.class_change or {}).items())
        if change is not None and change < 0
    ]
    return tuple(sorted(found, key=lambda each: each.change)[:count])
