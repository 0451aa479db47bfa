"""Where teacher and student disagree: how often, who is right, and images of it."""

from __future__ import annotations

from dataclasses import dataclass

from compressor.report.contents import Contents
from compressor.report.pictures import Picture, picture
from compressor.report.sections.pieces import Bar
from compressor.runs.record import STUDENT, TEACHER


@dataclass(frozen=True)
class DisagreementCount:
    """Images that teacher and student decide differently, of `total`, and who is right about them."""

    images: int
    total: int
    teacher: int
    student: int
    neither: int


@dataclass(frozen=True)
class DisagreementCard:
    """An image and both answers; `right` is "teacher", "student" or "neither"."""

    picture: Picture
    label: str
    teacher: Bar
    student: Bar
    right: str


def disagreement_count(contents: Contents) -> DisagreementCount | None:
    """Count the images that teacher and student decide differently."""
    teacher, student = contents.answer(TEACHER), contents.answer(STUDENT)
    if teacher is None or student is None:
        return None
    apart = teacher.classes != student.classes
    images = int(apart.sum())
    taught, learned = (int((apart & (each.classes == student.labels)).sum()) for each in (teacher, student))
    return DisagreementCount(images, len(apart), taught, learned, images - taught - learned)


def disagreement_cards(contents: Contents) -> tuple[DisagreementCard, ...]:
    """Return the images that teacher and student decide differently, with both answers."""
    names = contents.classes
    return tuple(
        DisagreementCard(
            picture=picture(each.image),
            label=names[each.label],
            teacher=Bar(names[each.teacher], 100 * each.teacher_probability),
            student=Bar(names[each.student], 100 * each.student_probability),
            right={each.teacher: TEACHER, each.student: STUDENT}.get(each.label, "neither"),
        )
        for each in contents.gallery.disagreements
    )
