"""A comparison of methods, shown: a table for the terminal, Markdown, a plot in SVG, and all of it as JSON."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import box
from rich.table import Table

from compressor.ablation import BASELINES, CONFIDENCE, Cell, Difference, Outcome, Row, Spread, spread
from compressor.files import write_text
from compressor.report import record

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NAME = "compare"
_POINTS = {"top1", "pgd_top1"}  # differences of these are points, of the others fractions


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


def write(compared: Comparison, folder: Path) -> None:
    """Write `compare.json`, `compare.md` and `compare.svg`."""
    write_text(folder / f"{NAME}.json", to_json(compared) + "\n")
    write_text(folder / f"{NAME}.svg", to_svg(compared))
    write_text(folder / f"{NAME}.md", to_markdown(compared))


def to_json(compared: Comparison) -> str:
    """Return everything, documented in docs/compare.md."""
    document = {
        "compare": 1,
        "name": compared.name,
        "recipe_sha256": compared.recipe_sha256,
        "data": compared.data.model_dump(mode="json"),
        "epochs": compared.epochs,
        "teacher": compared.teacher and compared.teacher.model_dump(mode="json"),
        "confidence": CONFIDENCE,
        "rows": [_row(compared, row) for row in compared.rows],
        "cells": [
            {**asdict(cell), "name": cell.name, "recipe_sha256": compared.recipes[cell], **asdict(outcome)}
            for cell, outcome in compared.outcomes.items()
        ],
        "failures": [asdict(failure) for failure in compared.failures],
        "notes": list(compared.notes),
        "versions": dict(compared.versions),
        "hardware": dict(compared.hardware),
    }
    return json.dumps(document, indent=2)


def _row(compared: Comparison, row: Row) -> dict[str, Any]:
    return {
        **asdict(row),
        "recipe": compared.name,
        "version": compared.versions.get("compressor"),
        "differences": [{**asdict(each), "shown": each.shown} for each in row.differences],
    }


# Tables


def table(compared: Comparison) -> Table:
    """Return one row for each student and method, for a terminal."""
    shown = Table(title=compared.title, title_justify="left", box=box.SIMPLE_HEAD)
    for number, heading in enumerate(_headings(compared)):
        shown.add_column(heading, justify="left" if number < 2 else "right", no_wrap=number < 2)
    for cells in _cells(compared):
        shown.add_row(*cells)
    return shown


def sentences(compared: Comparison) -> Iterator[str]:
    """Yield what the table says in words, then what a reader must know of it."""
    for row in compared.rows:
        for baseline in BASELINES:
            difference = row.difference(baseline)
            if difference is not None:
                yield _sentence(row, difference)
    for failure in compared.failures:
        yield f"{failure.cell} failed (exit code {failure.exit_code}): {failure.reason}"
    yield from compared.notes


def to_markdown(compared: Comparison) -> str:
    """Return the verdicts, the table and the plot."""
    headings = _headings(compared)
    lines = [f"# Comparison {_md(compared.title)}", ""]
    lines += [f"- {_md(sentence)}" for sentence in sentences(compared)]
    lines += ["", f"| {' | '.join(headings)} |", f"|---|---|{'---:|' * (len(headings) - 2)}"]
    lines += [f"| {' | '.join(map(_md, cells))} |" for cells in _cells(compared)]
    lines += [
        "",
        f"![Top-1 by method, a point a seed]({NAME}.svg)",
        "",
        _md(f"Made with {compared.origin}."),
        "",
        LEGEND,
    ]
    return "\n".join(lines) + "\n"


LEGEND = (
    "Mean ± standard deviation over seeds. Differences are paired: the same seed means the same initial weights, order "
    "and crops. In brackets the 95 % t-interval of their mean, then the seeds that won. It speaks of other seeds, not "
    "of another teacher or other test images; an interval that holds zero shows neither a gain nor its absence."
)


def _headings(compared: Comparison) -> list[str]:
    headings = ["student", "method", "seeds", "top-1 %", "agree", "boundary", "PGD %"]
    headings += [f"top-1 minus {baseline}" for baseline in _baselines(compared)]
    headings += ["train s", "images/s", "cost / kd"]
    return [*headings, "ms"] if _timed(compared) else headings


def _cells(compared: Comparison) -> Iterator[list[str]]:
    for row in compared.rows:
        spreads = row.spreads
        cells = [row.student, row.method, _seeds(row)]
        for metric, form in (("top1", ".2f"), ("agreement", ".3f"), ("boundary_agreement", ".3f"), ("pgd_top1", ".1f")):
            cells.append(_spread(spreads[metric], form))
        cells += [_difference(row.difference(baseline)) for baseline in _baselines(compared)]
        cells += [_spread(spreads["seconds"], ".1f"), _mean(spreads["images_per_s"], ",.0f")]
        cells.append("-" if row.cost is None else f"{row.cost:.2f}x")
        yield [*cells, _mean(spreads["p50_ms"], ".2f")] if _timed(compared) else cells


def _baselines(compared: Comparison) -> list[str]:
    return [name for name in BASELINES if any(row.difference(name) for row in compared.rows)]


def _timed(compared: Comparison) -> bool:
    return any(row.spreads["p50_ms"] for row in compared.rows)


def _seeds(row: Row) -> str:
    return f"{len(row.seeds)} ({len(row.failed)} failed)" if row.failed else str(len(row.seeds))


def _spread(values: Spread | None, form: str) -> str:
    if values is None:
        return "-"
    return f"{values.mean:{form}}" + ("" if values.sd is None else f" ± {values.sd:{form}}")


def _mean(values: Spread | None, form: str) -> str:
    return "-" if values is None else f"{values.mean:{form}}"


def _difference(difference: Difference | None) -> str:
    if difference is None:
        return "-"
    values = difference.spread
    interval = "" if values.interval is None else f" [{values.interval[0]:+.2f}, {values.interval[1]:+.2f}]"
    verdict = "" if difference.shown else " not shown"
    return f"{values.mean:+.2f}{interval} {difference.wins}/{values.n}{verdict}"


def _sentence(row: Row, difference: Difference) -> str:
    values = difference.spread
    what = f"{row.method} minus {difference.baseline} on {row.student}: {values.mean:+.2f} points of top-1"
    if values.n == 1:
        return f"{what} from one seed, which has no interval: not shown"
    won = f"{difference.wins} of {values.n} seeds won, {difference.losses} lost"
    if values.interval is None:
        return f"{what}, the same in all {values.n} seeds, which gives no interval: not shown"
    interval = f"95 % interval {values.interval[0]:+.2f} to {values.interval[1]:+.2f}"
    if not difference.shown:
        return f"{what}, {interval} holds zero, {won}: not shown"
    return f"{what}, {interval}, {won}: {'better' if values.mean > 0 else 'worse'}"


def _md(text: str) -> str:
    """Return text that Markdown shows as it is, also in a table."""
    return text.replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*")


# The plot

_INK, _FAINT = "#123456", "#345678"  # stand for the reader's own text colour and a weaker one
_STYLE = (
    "<style>.compress-compare{color:#1a1a1a}"
    "@media (prefers-color-scheme:dark){.compress-compare{color:#e8e8e8}}</style>"
)
# Okabe and Ito's colours that stand out from white and from black, and shapes for prints without colour.
_MARKS = (("#0072b2", "o"), ("#d55e00", "s"), ("#009e73", "^"), ("#cc79a7", "D"), ("#56b4e9", "v"), ("#e69f00", "P"))


def to_svg(compared: Comparison) -> str:
    """Return top-1 by method, a panel a student: a point a seed, lines join the pairs, and the mean beside them.

    The bar is the 95 % t-interval of the mean, cut where it leaves the frame, which the points decide. The background
    is clear and the ink follows a dark or a light page.
    """
    for name in ("matplotlib", "matplotlib.font_manager"):  # building the font cache is no news
        logging.getLogger(name).setLevel(logging.ERROR)
    import matplotlib as mpl
    from matplotlib.figure import Figure

    students = list(dict.fromkeys(row.student for row in compared.rows))
    methods = list(dict.fromkeys(row.method for row in compared.rows))
    look: dict[Any, Any] = {
        **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), _INK),
        **{
            "svg.hashsalt": compared.recipe_sha256,
            "svg.fonttype": "none",
            "font.size": 11,
            "font.family": "sans-serif",
        },
        **{"axes.spines.top": False, "axes.spines.right": False, "text.parse_math": False},
    }
    with mpl.rc_context(look):
        figure = Figure(figsize=(1.2 + len(students) * (0.8 + 0.9 * len(methods)), 4.2), layout="constrained")
        panels = figure.subplots(1, len(students), sharey=True, squeeze=False)[0]
        for panel, student in zip(panels, students, strict=True):
            _panel(panel, compared, student, methods)
        panels[0].set_ylim(*_frame([outcome.top1 for outcome in compared.outcomes.values()]))
        panels[0].set_ylabel(f"top-1 %, {compared.data.test:,} test images")
        figure.suptitle(f"{compared.name}: a point a seed, mean with 95 % interval", fontsize=12)
        text = io.StringIO()
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return _following_the_page(text.getvalue())


def _frame(values: Sequence[float]) -> tuple[float, float]:
    """Return the ends of the axis: the values with room around them, and not far beyond 0 or 100 %."""
    low, high = min(values), max(values)
    room = max(0.5 * (high - low), 0.5)
    return max(low - room, -0.1 * room), min(high + room, 100 + 0.1 * room)


def _panel(panel: Axes, compared: Comparison, student: str, methods: Sequence[str]) -> None:
    found = {cell: outcome.top1 for cell, outcome in compared.outcomes.items() if cell.student == student}
    for seed in dict.fromkeys(cell.seed for cell in found):
        places = [(x, found[cell]) for x, cell in enumerate(Cell(student, m, seed) for m in methods) if cell in found]
        panel.plot([x for x, _ in places], [y for _, y in places], color=_FAINT, linewidth=0.9, alpha=0.5, zorder=1)
    for x, method in enumerate(methods):
        colour, shape = _MARKS[x % len(_MARKS)]
        values = [top1 for cell, top1 in found.items() if cell.method == method]
        if not values:
            continue
        panel.scatter([x] * len(values), values, s=26, color=colour, marker=shape, zorder=2)
        over = spread(values)
        low, high = over.interval or (over.mean, over.mean)
        bars = [[over.mean - low], [high - over.mean]]
        panel.errorbar(
            [x + 0.2], [over.mean], bars, color=colour, marker=shape, markersize=9, capsize=4, linewidth=2, zorder=3
        )
    panel.set_xticks(range(len(methods)), methods)
    panel.set_xlim(-0.5, len(methods) - 0.4)
    panel.set_title(student, fontsize=11)
    panel.grid(axis="y", color=_FAINT, linewidth=0.4, alpha=0.5)


def _following_the_page(svg: str) -> str:
    """Return the plot with the ink of the page that it stands on."""
    head, opening, rest = svg.partition("<svg ")
    attributes, close, body = rest.partition(">")
    body = body.replace(_INK, "currentColor").replace(_FAINT, "currentColor")
    return f'{head}{opening}class="compress-compare" {attributes}{close}\n {_STYLE}{body}'
