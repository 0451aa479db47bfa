"""A comparison of methods in words: a table for the terminal, Markdown, and all of it as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from itertools import product
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from compressor.measure.paired import BASELINES, CONFIDENCE, FIRST, Difference, Row, Spread
from compressor.printable import one_line
from compressor.report.comparison.compared import NAME, Comparison
from compressor.report.rendering import escape_markdown

_LEGEND = (
    "Mean ± standard deviation over seeds. Differences are paired: the same seed means the same initial weights, order "
    "and crops. In brackets the 95 % t-interval of their mean, then the seeds that won. It speaks of other seeds, not "
    "of another teacher or other test images; an interval that holds zero shows neither a gain nor its absence."
)

_MEASURES = (
    ("top1", "top-1 %", ".2f"),
    ("target_top1", "target %", ".2f"),
    ("agreement", "agree", ".3f"),
    ("boundary_agreement", "boundary", ".3f"),
    ("pgd_top1", "PGD %", ".1f"),
    ("autoattack_top1", "AutoAttack %", ".1f"),
)
_UNUSUAL = ("target_top1", "autoattack_top1")
_ACCURACIES = {"top1": "top-1", "target_top1": "target top-1"}  # whose differences are shown


def to_json(compared: Comparison) -> str:
    """Return everything, documented in docs/compare.md."""
    document = {
        "compare": 1,
        "name": compared.name,
        "recipe_sha256": compared.recipe_sha256,
        "data": compared.data.model_dump(mode="json"),
        "epochs": compared.epochs,
        "teacher": compared.teacher and compared.teacher.model_dump(mode="json"),
        "teachers": {name: teacher.model_dump(mode="json") for name, teacher in compared.teachers.items()},
        "confidence": CONFIDENCE,
        "rows": [_row(compared, row) for row in compared.rows],
        "cells": [
            {
                **asdict(cell),
                "varied": dict(cell.varied),
                "name": cell.name,
                "recipe_sha256": compared.recipes[cell],
                **asdict(outcome),
            }
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
        "varied": dict(row.varied),
        "recipe": compared.name,
        "version": compared.versions.get("compressor"),
        "differences": [{**asdict(each), "shown": each.shown} for each in row.differences],
    }


def table(compared: Comparison) -> Table:
    """Return one row for each student and method, for a terminal."""
    shown = Table(title=Text(one_line(compared.title)), title_justify="left", box=box.SIMPLE_HEAD)
    named = _named(compared)
    for number, heading in enumerate(_headings(compared)):
        shown.add_column(Text(heading), justify="left" if number < named else "right", no_wrap=number < named)
    for cells in _cells(compared):
        shown.add_row(*(Text(one_line(cell)) for cell in cells))
    return shown


def sentences(compared: Comparison) -> Iterator[str]:
    """Yield what the table says in words, then what a reader must know of it."""
    for row in compared.rows:
        for metric, baseline in product(_ACCURACIES, BASELINES):
            difference = row.difference(baseline, metric)
            if difference is not None:
                yield _sentence(row, difference, _against(compared, row, baseline))
    for failure in compared.failures:
        yield f"{failure.cell} failed (exit code {failure.exit_code}): {failure.reason}"
    yield from compared.notes


def to_markdown(compared: Comparison) -> str:
    """Return the verdicts, the table and the plot."""
    headings = [escape_markdown(heading) for heading in _headings(compared)]
    named = _named(compared)
    lines = [f"# Comparison {escape_markdown(compared.title)}", ""]
    lines += [f"- {escape_markdown(sentence)}" for sentence in sentences(compared)]
    lines += ["", f"| {' | '.join(headings)} |", f"|{'---|' * named}{'---:|' * (len(headings) - named)}"]
    lines += [f"| {' | '.join(map(escape_markdown, cells))} |" for cells in _cells(compared)]
    lines += [
        "",
        f"![Top-1 by method, a point a seed]({NAME}.svg)",
        "",
        escape_markdown(f"Made with {compared.origin}."),
        "",
        _LEGEND,
    ]
    return "\n".join(lines) + "\n"


def _headings(compared: Comparison) -> list[str]:
    headings = ["student", "method", *compared.keys, "seeds", *(name for _, name, _ in _measures(compared))]
    headings += [f"{_ACCURACIES[metric]} minus {baseline}" for metric, baseline in _differences(compared)]
    headings += ["train s", "images/s", "cost / kd"]
    return [*headings, "ms"] if _timed(compared) else headings


def _named(compared: Comparison) -> int:
    """Return how many columns say what a row is."""
    return 2 + len(compared.keys)


def _cells(compared: Comparison) -> Iterator[list[str]]:
    for row in compared.rows:
        spreads = row.spreads
        cells = [row.student, row.method, *(dict(row.varied).get(key, "-") for key in compared.keys), _seeds(row)]
        cells += [_spread(spreads[metric], form) for metric, _, form in _measures(compared)]
        cells += [_difference(row.difference(baseline, metric)) for metric, baseline in _differences(compared)]
        cells += [_spread(spreads["seconds"], ".1f"), _mean(spreads["images_per_s"], ",.0f")]
        cells.append("-" if row.cost is None else f"{row.cost:.2f}x")
        yield [*cells, _mean(spreads["p50_ms"], ".2f")] if _timed(compared) else cells


def _measures(compared: Comparison) -> list[tuple[str, str, str]]:
    """Return what is shown of each row, with its heading and form; what is not usual only where it was measured."""
    measured = {metric for row in compared.rows for metric, spread in row.spreads.items() if spread is not None}
    return [each for each in _MEASURES if each[0] not in _UNUSUAL or each[0] in measured]


def _differences(compared: Comparison) -> list[tuple[str, str]]:
    metrics = _ACCURACIES if _adapted(compared) else ["top1"]
    return [(metric, baseline) for metric in metrics for baseline in _baselines(compared)]


def _adapted(compared: Comparison) -> bool:
    return any(row.spreads["target_top1"] for row in compared.rows)


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


def _against(compared: Comparison, row: Row, baseline: str) -> str:
    """Return what a row is compared with: a baseline goes by its name, the first of its own method by what that has."""
    if baseline != FIRST:
        return baseline
    return next(each for each in compared.rows if (each.student, each.method) == (row.student, row.method)).label


def _sentence(row: Row, difference: Difference, against: str) -> str:
    values = difference.spread
    what = (
        f"{row.label} minus {against} on {row.student}: {values.mean:+.2f} points of {_ACCURACIES[difference.metric]}"
    )
    if values.n == 1:
        return f"{what} from one seed, which has no interval: not shown"
    won = f"{difference.wins} of {values.n} seeds won, {difference.losses} lost"
    if values.interval is None:
        return f"{what}, the same in all {values.n} seeds, which gives no interval: not shown"
    interval = f"95 % interval {values.interval[0]:+.2f} to {values.interval[1]:+.2f}"
    if not difference.shown:
        return f"{what}, {interval} holds zero, {won}: not shown"
    return f"{what}, {interval}, {won}: {'better' if values.mean > 0 else 'worse'}"
