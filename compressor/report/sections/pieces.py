"""What several sections have: charts, legends and bars."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from markupsafe import Markup

from compressor.report import figures


@dataclass(frozen=True)
class Chart:
    """A figure with its title and a line below; `series` are the numbers of what it shows, where they are numbered."""

    title: str
    svg: Markup
    note: str = ""
    series: tuple[int, ...] = ()


@dataclass(frozen=True)
class Key:
    """An entry of a legend: a colour of the page by number, or a colour of its own."""

    label: str
    series: int | None = None
    colour: str | None = None
    mark: str = ""


@dataclass(frozen=True)
class Bar:
    """A probability of a class, `percent` of it as the width of a bar."""

    name: str
    percent: float


def keys(labels: Iterable[str], shown: Iterable[Chart] | None = None) -> tuple[Key, ...]:
    """Return the legend of numbered series: of those that the charts have, or of all."""
    there = None if shown is None else {number for chart in shown for number in chart.series}
    return tuple(
        Key(label, series=number % figures.SERIES, mark=str(number + 1))
        for number, label in enumerate(labels)
        if there is None or number in there
    )
