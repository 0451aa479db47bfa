"""The figures of a report: SVG that takes its colours from the page, so that light and dark are the page's affair.

Matplotlib draws with stand-in colours; `_inline` puts CSS variables in their place, makes every id the figure's own and
drops what only a file of its own needs. Text stays text: it can be searched, read aloud and is escaped by the writer.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

import numpy as np
from markupsafe import Markup
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator
from numpy.typing import NDArray

from compressor.printable import printable
from compressor.report.drawing import drawing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SERIES = 8  # colours that the page has; later series start again

_VARIABLES = {"#010101": "ink", "#020202": "muted", "#030303": "line", "#040404": "paper"} | {
    f"#0505{number:02x}": f"s{number}" for number in range(SERIES)
}
_INK, _MUTED, _LINE, _PAPER = list(_VARIABLES)[:4]
_STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",  # comes with Matplotlib; the page's own font takes its place
    "font.size": 10,
    "text.parse_math": False,  # a class may be called $x_1$
    "text.color": _INK,
    "axes.edgecolor": _LINE,
    "axes.labelcolor": _MUTED,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.formatter.useoffset": False,
    "grid.color": _LINE,
    "grid.linewidth": 0.6,
    "xtick.color": _LINE,
    "ytick.color": _LINE,
    "xtick.labelcolor": _MUTED,
    "ytick.labelcolor": _MUTED,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "lines.linewidth": 1.8,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
    "svg.fonttype": "none",
    "svg.hashsalt": "compress",  # the same figure gives the same text
}
_MARKED: dict[str, Any] = {"fontsize": 7.5, "fontweight": "bold", "ha": "center", "va": "center_baseline", "zorder": 6}

# Regions of classes: Okabe and Ito's colours, told apart with any colour vision, and grey for all other classes.
REGIONS = ("#56b4e9", "#e69f00", "#009e73", "#cc79a7", "#f0e442", "#0072b2", "#d55e00")
OTHER = "#999999"


@dataclass(frozen=True)
class Line:
    """A curve: `y` over `x`, in the colour of series number `series`."""

    series: int
    x: Sequence[float]
    y: Sequence[float]


@dataclass(frozen=True)
class Point:
    """A file: median `latency` in ms, `top1` in percent with its interval; `on_front` when none is better in both."""

    series: int
    latency: float
    top1: float
    interval: tuple[float, float] | None
    on_front: bool


@dataclass(frozen=True)
class Row:
    """The latencies of a file at one batch size, in ms."""

    series: int
    samples: Sequence[float]


def curves(lines: Sequence[Line], *, unit: str, description: str, name: str) -> Markup:
    """Draw curves over epochs."""
    with _figure(3.4, 2.2) as (figure, axes):
        for line in lines:
            marker = "o" if len(line.x) == 1 else None
            axes.plot(line.x, line.y, color=_series(line.series), marker=marker, markersize=4)
        axes.set_xlabel("epoch")
        axes.set_ylabel(unit)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6, min_n_ticks=1))
        return _inline(figure, name, description)


def frontier(points: Sequence[Point], *, description: str, name: str) -> Markup:
    """Draw accuracy over latency: numbered points, filled on the Pareto front, hollow behind it."""
    with _figure(4.3, 3.0) as (figure, axes):
        front = sorted((point for point in points if point.on_front), key=lambda point: point.latency)
        if front:
            xs, ys = [point.latency for point in front], [point.top1 for point in front]
            axes.plot(xs, ys, color=_MUTED, linewidth=1.2, linestyle=(0, (4, 3)), drawstyle="steps-post", zorder=2)
        for point in points:
            colour = _series(point.series)
            if point.interval is not None:
                axes.plot([point.latency] * 2, point.interval, color=colour, linewidth=1.2, alpha=0.55, zorder=3)
            face = colour if point.on_front else _PAPER
            axes.scatter(point.latency, point.top1, s=130, facecolor=face, edgecolor=colour, linewidth=1.5, zorder=5)
            ink = _PAPER if point.on_front else colour
            axes.text(point.latency, point.top1, str(point.series + 1), color=ink, **_MARKED)
        _logarithmic(axes, [point.latency for point in points])
        axes.set_xlabel("median latency, ms")
        axes.set_ylabel("top-1, %")
        axes.margins(y=0.12)
        return _inline(figure, name, description)


def distributions(rows: Sequence[Row], *, description: str, name: str) -> Markup:
    """Draw a row a file: a line from the fastest call to p99, a box from p25 to p75, marks at p50, p90 and p99."""
    with _figure(4.3, 0.9 + 0.36 * len(rows)) as (figure, axes):
        for place, row in enumerate(rows):
            colour = _series(row.series)
            low, p25, p50, p75, p90, p99 = np.percentile(row.samples, [0, 25, 50, 75, 90, 99], method="inverted_cdf")
            axes.plot([low, p99], [place, place], color=colour, linewidth=1.2, zorder=2)
            axes.barh(place, p75 - p25, left=p25, height=0.5, color=colour, alpha=0.35, zorder=3)
            axes.plot([p50, p50], [place - 0.3, place + 0.3], color=colour, linewidth=2.4, zorder=4)
            axes.plot([p90], [place], marker="o", markersize=5, color=colour, zorder=4)
            axes.plot([p99], [place], marker="D", markersize=5, color=colour, markerfacecolor=_PAPER, zorder=4)
        _logarithmic(axes, [value for row in rows for value in np.percentile(row.samples, [0, 99])])
        axes.set_yticks(range(len(rows)), [str(row.series + 1) for row in rows])
        axes.tick_params(axis="y", labelcolor=_INK)
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.grid(visible=False, axis="y")
        axes.spines["left"].set_visible(False)
        axes.set_xlabel("ms a call")
        return _inline(figure, name, description)


def regions(
    probabilities: NDArray[np.float32],
    xs: NDArray[np.float32],
    ys: NDArray[np.float32],
    *,
    colours: Sequence[str],
    points: Sequence[tuple[float, float]],
    description: str,
    name: str,
) -> Markup:
    """Draw which class a network gives each point of a plane `[S, S, K]`, paler where it is less sure.

    Args:
        colours: of each class, `#rrggbb`.
        points: the base, then its boundary samples; they are marked with a square and with numbers.
    """
    finer = _finer(_finer(probabilities).swapaxes(0, 1)).swapaxes(0, 1)
    palette = np.array([[int(colour[at : at + 2], 16) for at in (1, 3, 5)] for colour in colours], np.float32) / 255
    sure = finer.max(axis=2, keepdims=True)
    strength = 0.35 + 0.65 * np.clip(2 * sure - 1, 0, 1)
    image = 1 - strength * (1 - palette[finer.argmax(axis=2)])  # mixed with white
    with _figure(3.0, 3.0) as (figure, axes):
        ends = (float(xs[0]), float(xs[-1]), float(ys[0]), float(ys[-1]))
        axes.imshow(np.rint(255 * image).astype(np.uint8), origin="lower", extent=ends, interpolation="nearest")
        for number, (x, y) in enumerate(points):
            axes.scatter(x, y, s=110, marker="o" if number else "s", facecolor="#ffffff", edgecolor="#111111", zorder=5)
            axes.text(x, y, str(number) if number else "B", color="#111111", **_MARKED)
        axes.set_axis_off()
        figure.subplots_adjust(0, 0, 1, 1)
        return _inline(figure, name, description)


def _finer(values: NDArray[np.float32], factor: int = 4) -> NDArray[np.float32]:
    """Return the first axis `factor` times as fine, with straight lines between the points."""
    old = np.arange(len(values))
    new = np.linspace(0, len(values) - 1, factor * (len(values) - 1) + 1)
    below = np.minimum(new.astype(int), len(values) - 2)
    share = (new - old[below]).astype(np.float32).reshape(-1, *[1] * (values.ndim - 1))
    finer: NDArray[np.float32] = (1 - share) * values[below] + share * values[below + 1]
    return finer


def _series(number: int) -> str:
    return f"#0505{number % SERIES:02x}"


def _logarithmic(axes: Axes, values: Sequence[float]) -> None:
    """Give the horizontal axis a logarithmic scale around `values`, with plain numbers at round places."""
    low, high = min(values), max(values)
    axes.set_xscale("log")
    room = max((high / low) ** 0.08, 1.08)
    axes.set_xlim(low / room, high * room)
    round_ones = [m * 10.0**e for e in range(-6, 7) for m in (1, 2, 5)]
    inside = [value for value in round_ones if low / room <= value <= high * room]
    if len(inside) < 2:
        inside = list(MaxNLocator(nbins=4).tick_values(low / room, high * room))
    elif len(inside) > 6:
        inside = [value for value in inside if f"{value:e}"[0] == "1"]
    axes.xaxis.set_major_locator(FixedLocator(inside))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.4g}"))


@contextmanager
def _figure(width: float, height: float) -> Iterator[tuple[Figure, Axes]]:
    """Yield a figure of so many inches and its one pair of axes."""
    with drawing(width, height, _STYLE) as figure:
        yield figure, figure.add_subplot()


def _inline(figure: Figure, name: str, description: str) -> Markup:
    """Return the figure as an `<svg>` for a page; `name` is unique there, `description` is what it is for the blind."""
    written = io.BytesIO()
    figure.savefig(written, format="svg", metadata={"Date": None})
    root = ElementTree.fromstring(written.getvalue())
    for parent in list(root.iter()):
        for child in list(parent):
            if _bare(child.tag) in ("metadata", "style"):  # a style inside would be that of the whole page
                parent.remove(child)
    for element in root.iter():
        element.tag = _bare(element.tag)
        for key, value in list(element.attrib.items()):
            del element.attrib[key]
            if not (element.tag == "g" and key == "id"):  # groups are referred to by nobody
                element.set(_bare(key), _own(_bare(key), value, name))
    view = root.attrib["viewBox"]
    root.attrib.clear()
    root.attrib.update(
        {"viewBox": view, "role": "img", "aria-label": printable(description), "stroke-linejoin": "round"}
    )
    return Markup(ElementTree.tostring(root, encoding="unicode"))  # the writer has escaped what it wrote


def _bare(tag: str) -> str:
    return tag.rpartition("}")[2]


def _own(key: str, value: str, name: str) -> str:
    """Return an attribute's value with the page's colours and the figure's own ids."""
    if key == "id":
        return f"{name}-{value}"
    if key == "href" and value.startswith("#"):
        return f"#{name}-{value[1:]}"
    if key == "style":
        value = re.sub(r"font(-family)?: ([^;]*)'DejaVu Sans'[^;]*", _own_font, value)
    value = re.sub(r"url\(#", f"url(#{name}-", value)
    return re.sub(r"#[0-9a-f]{6}", lambda found: _variable(found[0]), value) if key != "href" else value


def _own_font(found: re.Match[str]) -> str:
    size = re.search(r"[\d.]+px", found[0])
    weight = "font-weight: 700; " if re.search(r"bold|700", found[0]) else ""
    return f"{weight}font-size: {size[0]}" if size else ""


def _variable(colour: str) -> str:
    return f"var(--{_VARIABLES[colour]})" if colour in _VARIABLES else colour
