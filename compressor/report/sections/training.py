"""The curves of training: how accuracy and each loss term went."""

from __future__ import annotations

from collections.abc import Sequence

from compressor.report import figures
from compressor.report.contents import Contents
from compressor.report.sections.pieces import Chart


def training_curves(several: Sequence[Contents]) -> tuple[Chart, ...]:
    """Draw the validation accuracy and each loss term over the epochs, a curve a run; what nobody has is left out."""
    terms = list(dict.fromkeys(term for contents in several for row in contents.epochs for term in row["losses"]))
    wanted = [("Validation accuracy", "top-1, %", "validation_top1"), *((f"Loss: {term}", "", term) for term in terms)]
    charts: list[Chart] = []
    for title, unit, key in wanted:
        lines = [_line(number, contents, key) for number, contents in enumerate(several)]
        lines = [line for line in lines if line.x]
        if lines:
            description = f"{title} over epochs. " + " ".join(
                f"{several[line.series].name}: from {line.y[0]:.4g} to {line.y[-1]:.4g}." for line in lines
            )
            svg = figures.curves(lines, unit=unit, description=description, name=f"curve{len(charts)}")
            charts.append(Chart(title, svg))
    return tuple(charts)


def _line(number: int, contents: Contents, key: str) -> figures.Line:
    values = [(row["epoch"], row["losses"].get(key, row.get(key))) for row in contents.epochs]
    known = [(epoch, value) for epoch, value in values if value is not None]
    return figures.Line(number, [epoch for epoch, _ in known], [value for _, value in known])
