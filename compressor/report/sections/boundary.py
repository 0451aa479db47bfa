"""The decision boundary: samples on it, and the regions of both networks in a plane across it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from compressor.measure.gallery import BoundaryExample, Slice
from compressor.report import figures
from compressor.report.contents import Contents
from compressor.report.numbers import signed
from compressor.report.pictures import Picture, difference, picture
from compressor.report.sections.pieces import Bar, Chart, Key


@dataclass(frozen=True)
class BoundaryCard:
    """A boundary sample: the test image, the sample, their difference, and what both networks say of the sample."""

    base: Picture
    sample: Picture
    change: Picture
    factor: str
    label: str
    target: str
    steps: int
    largest: str
    teacher: tuple[Bar, ...]
    student: tuple[Bar, ...]


@dataclass(frozen=True)
class Plane:
    """Decision regions of the teacher and the student; `classes` are those of the base and its two samples."""

    charts: tuple[Chart, ...]
    keys: tuple[Key, ...]
    classes: tuple[str, ...]


@dataclass(frozen=True)
class Likeness:
    """How alike the ways to the boundary are in teacher and student, and how many pairs of them there are, as text."""

    magnitude: str
    angle: str
    walks: str


def boundary_cards(contents: Contents) -> tuple[BoundaryCard, ...]:
    """Return the boundary samples as pictures with what both networks say of them."""
    return tuple(_card(example, contents.classes) for example in contents.gallery.examples)


def likeness(contents: Contents) -> Likeness | None:
    """Return MagSim and AngSim of the student."""
    student = None if contents.result is None else contents.result.student
    if student is None or student.magsim is None or student.angsim is None:
        return None
    return Likeness(f"{student.magsim:.3f}", signed(student.angsim, 3), f"{student.similarity_walks or 0:,}")


def no_boundary(contents: Contents) -> str | None:
    """Return why a finished run shows nothing of the boundary, None where it does."""
    result, gallery = contents.result, contents.gallery
    if result is None or gallery.examples or gallery.plane is not None:
        return None
    if gallery.reason is not None:
        return gallery.reason
    if result.teacher is None:
        return "the run has no teacher whose boundary could be shown"
    return "of the images tried, none that both networks get right was walked across the teacher's boundary"


def plane(contents: Contents) -> Plane | None:
    """Draw the decision regions of both networks in the plane of three images."""
    cut = contents.gallery.plane
    if cut is None:
        return None
    largest = _largest_first(cut)
    named = list(dict.fromkeys([*cut.classes, *largest]))[: len(figures.REGIONS)]
    colours = dict(zip(named, figures.REGIONS, strict=False))
    keys = [Key(contents.classes[each], colour=colours[each]) for each in named]
    if set(largest) - set(named):
        keys.append(Key("other classes", colour=figures.OTHER))
    charts: list[Chart] = []
    for title, values in (("Teacher", cut.teacher), ("Student", cut.student)):
        top = values.argmax(axis=2)
        shares = ", ".join(
            f"{contents.classes[each]} {np.mean(top == each):.0%}" for each in largest if (top == each).any()
        )
        svg = figures.regions(
            values,
            cut.xs,
            cut.ys,
            colours=[colours.get(each, figures.OTHER) for each in range(values.shape[2])],
            points=cut.points,
            description=f"Decision regions of the {title.lower()}: {shares}.",
            name=f"plane{len(charts)}",
        )
        charts.append(Chart(title, svg))
    return Plane(tuple(charts), tuple(keys), tuple(contents.classes[each] for each in cut.classes))


def _card(example: BoundaryExample, classes: Sequence[str]) -> BoundaryCard:
    change, factor = difference(example.base, example.sample)
    shown = sorted({example.label, example.target, int(example.teacher.argmax()), int(example.student.argmax())})
    return BoundaryCard(
        base=picture(example.base),
        sample=picture(example.sample),
        change=picture(change),
        factor=f"{factor:.3g}×",
        label=classes[example.label],
        target=classes[example.target],
        steps=example.steps,
        largest=f"{255 * float(np.abs(example.sample - example.base).max()):.3g}/255",
        teacher=tuple(Bar(classes[each], 100 * float(example.teacher[each])) for each in shown),
        student=tuple(Bar(classes[each], 100 * float(example.student[each])) for each in shown),
    )


def _largest_first(cut: Slice) -> list[int]:
    """Return the classes that either network gives a point of the plane, those with most points first."""
    tops = np.concatenate([cut.teacher.argmax(axis=2).ravel(), cut.student.argmax(axis=2).ravel()])
    there, sizes = np.unique(tops, return_counts=True)
    return [int(each) for each in there[np.argsort(-sizes, kind="stable")]]
