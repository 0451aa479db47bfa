"""The plot of a comparison of methods: an SVG file of its own, which takes its ink from the page that it stands on."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from compressor.measure.paired import spread
from compressor.printable import one_line
from compressor.report.drawing import drawing

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from compressor.report.comparison.compared import Comparison

Kind = tuple[str, tuple[tuple[str, str], ...]]  # a method and what it has of what varies

_INK, _FAINT = "#123456", "#345678"  # stand for the reader's own text colour and a weaker one
_CSS = (
    "<style>.compress-compare{color:#1a1a1a}"
    "@media (prefers-color-scheme:dark){.compress-compare{color:#e8e8e8}}</style>"
)
_STYLE: dict[Any, Any] = {
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), _INK),
    "svg.fonttype": "none",
    "font.size": 11,
    "font.family": "sans-serif",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "text.parse_math": False,
}
# Okabe and Ito's colours that stand out from white and from black, and shapes for prints without colour.
_MARKS = (("#0072b2", "o"), ("#d55e00", "s"), ("#009e73", "^"), ("#cc79a7", "D"), ("#56b4e9", "v"), ("#e69f00", "P"))


def to_svg(compared: Comparison) -> str:
    """Return top-1 by method, a panel a student: a point a seed, lines join the pairs, and the mean beside them.

    The bar is the 95 % t-interval of the mean. The frame holds points and bars whole. The background is clear and the
    ink follows a dark or a light page.
    """
    students = list(dict.fromkeys(row.student for row in compared.rows))
    kinds = {(row.method, row.varied): "\n".join(map(one_line, row.label.split(" "))) for row in compared.rows}
    widest = 0.9 + 0.35 * (len(compared.keys) > 0)  # inches, of one of them
    width, style = 1.2 + len(students) * (0.8 + widest * len(kinds)), _STYLE | {"svg.hashsalt": compared.recipe_sha256}
    with drawing(width, 4.2, style) as figure:
        panels = figure.subplots(1, len(students), sharey=True, squeeze=False)[0]
        for panel, student in zip(panels, students, strict=True):
            _panel(panel, compared, student, kinds)
        panels[0].set_ylim(*_frame([outcome.top1 for outcome in compared.outcomes.values()], _ends(compared)))
        panels[0].set_ylabel(f"top-1 %, {compared.data.test:,} test images")
        figure.suptitle(f"{one_line(compared.name)}: a point a seed, mean with 95 % interval", fontsize=12)
        text = io.StringIO()
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return _following_the_page(text.getvalue())


def _ends(compared: Comparison) -> list[float]:
    """Return the ends of all intervals that are drawn."""
    values: dict[object, list[float]] = {}
    for cell, outcome in compared.outcomes.items():
        values.setdefault((cell.student, cell.method, cell.varied), []).append(outcome.top1)
    return [end for each in values.values() for end in spread(each).interval or ()]


def _frame(points: Sequence[float], ends: Sequence[float]) -> tuple[float, float]:
    """Return the ends of the axis: room around the points, little beyond 0 or 100 %, and more where a bar is longer."""
    low, high = min(points), max(points)
    room = max(0.5 * (high - low), 0.5)
    edge = 0.1 * room
    around = max(low - room, -edge), min(high + room, 100 + edge)
    return min([around[0], *(end - edge for end in ends)]), max([around[1], *(end + edge for end in ends)])


def _panel(panel: Axes, compared: Comparison, student: str, kinds: Mapping[Kind, str]) -> None:
    found = {
        (cell.seed, (cell.method, cell.varied)): outcome.top1
        for cell, outcome in compared.outcomes.items()
        if cell.student == student
    }
    for seed in dict.fromkeys(seed for seed, _ in found):
        places = [(x, found[seed, kind]) for x, kind in enumerate(kinds) if (seed, kind) in found]
        panel.plot([x for x, _ in places], [y for _, y in places], color=_FAINT, linewidth=0.9, alpha=0.5, zorder=1)
    for x, kind in enumerate(kinds):
        colour, shape = _MARKS[x % len(_MARKS)]
        values = [top1 for (_, each), top1 in found.items() if each == kind]
        if not values:
            continue
        panel.scatter([x] * len(values), values, s=26, color=colour, marker=shape, zorder=2)
        over = spread(values)
        low, high = over.interval or (over.mean, over.mean)
        bars = [[over.mean - low], [high - over.mean]]
        panel.errorbar(
            [x + 0.2], [over.mean], bars, color=colour, marker=shape, markersize=9, capsize=4, linewidth=2, zorder=3
        )
    panel.set_xticks(range(len(kinds)), list(kinds.values()))
    panel.set_xlim(-0.5, len(kinds) - 0.4)
    panel.set_title(one_line(student), fontsize=11)
    panel.grid(axis="y", color=_FAINT, linewidth=0.4, alpha=0.5)


def _following_the_page(svg: str) -> str:
    """Return the plot with the ink of the page that it stands on."""
    head, opening, rest = svg.partition("<svg ")
    attributes, close, body = rest.partition(">")
    body = body.replace(_INK, "currentColor").replace(_FAINT, "currentColor")
    return f'{head}{opening}class="compress-compare" {attributes}{close}\n {_CSS}{body}'
