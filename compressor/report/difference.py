"""The record of `compress diff`, documented in docs/diff.md, and what a terminal shows of it.

Top-1 is percent; agreement, shares and probabilities are fractions; distances are in steps of an 8-bit pixel, 1/255;
margins are in standard deviations of the artifact's logits. What was not measured is null.
"""

from collections.abc import Iterator
from typing import Literal

from rich import box
from rich.table import Table

from compressor.report.terminal import escape
from compressor.runs.record import Record

Kind = Literal["tie", "close", "confident"]
WAYS = {"gradients": "by gradients", "lines": "along lines to other images, for want of gradients"}
SHOWN = 10  # rows of a table in a terminal


class Side(Record):
    """One of the two artifacts. `gradients` says whose led the search to its boundary."""

    path: str
    format: str
    precision: str
    provider: str | None
    sha256: str
    size_bytes: int
    gradients: str | None
    top1: float
    top1_ci: tuple[float, float]


class Images(Record):
    """The images that both were asked about."""

    source: str
    fingerprint: str
    classes: int
    test: int


class Verdict(Record):
    """What an artifact says: its class, that class's probability, and how far it puts it above the other's choice."""

    decision: str
    probability: float
    margin: float


class Flip(Record):
    """An image on which they differ, `index` its place in the test split, or that of the image it was made from."""

    index: int
    label: str
    kind: Kind
    right: Literal["a", "b"] | None
    a: Verdict
    b: Verdict


class Find(Flip):
    """An image that the search made of a test image on which both decide for `base`."""

    base: str
    linf: float
    l2: float


class Pair(Record):
    """How often A decides for one class and B for another."""

    a: str
    b: str
    count: int


class GivenImages(Record):
    """The test images as they are. `accuracy_drop` is A's top-1 minus B's, with its paired 95 % interval."""

    images: int
    agreement: float
    agreement_ci: tuple[float, float]
    differ: int
    ties: int
    close: int
    confident: int
    only_a_right: int
    only_b_right: int
    neither_right: int
    accuracy_drop: float
    accuracy_drop_ci: tuple[float, float]
    pairs: tuple[Pair, ...]
    flips: tuple[Flip, ...]


class Spread(Record):
    """Of some distances, over the images where they are known."""

    images: int
    minimum: float
    median: float


class Within(Record):
    """Up to a change of `epsilon`/255 of any pixel: in how many images there is a find, or an artifact's boundary."""

    epsilon: float
    differ: int
    share: float
    boundary_a: int
    boundary_b: int


class Searched(Record):
    """What was found near images on which both agree. All distances are upper bounds: a nearer way may exist."""

    images: int
    seed: int
    way: Literal["gradients", "lines"]
    found: int
    share: float
    linf: Spread | None
    l2: Spread | None
    boundary_a: Spread | None
    boundary_b: Spread | None
    boundaries_apart: Spread | None
    within: tuple[Within, ...]
    confident: int
    confident_within: float | None
    nearest: tuple[Find, ...]
    surest: tuple[Find, ...]


class Difference(Record):
    """All that was found of two artifacts; `tie` and `sure` are the limits that decide the `kind` of an image."""

    difference: Literal[1] = 1
    created: str
    summary: str
    a: Side
    b: Side
    data: Images
    given: GivenImages
    searched: Searched | None
    tie: float
    sure: float
    versions: dict[str, str]
    hardware: dict[str, str | int | float | list[str] | list[int] | None]


def headline(given: GivenImages, searched: Searched | None) -> str:
    """Return the outcome in one or two sentences."""
    low, high = given.agreement_ci
    first = (
        f"A and B decide alike on {100 * given.agreement:.2f} % of {given.images:,} images "
        f"(95 % interval {100 * low:.2f} to {100 * high:.2f})"
    )
    if given.confident:
        first += f"; on {given.confident:,} both are sure and differ"
    if searched is None:
        return first + "."
    start = f"{first}. Searched from {searched.images:,} images on which they agree"
    if searched.linf is None:
        return f"{start}, none was found on which they differ."
    apart = searched.boundaries_apart
    reached = searched.within[-1]
    return (
        f"{start}, a change of at most {reached.epsilon:g}/255 makes them differ on {reached.differ:,} "
        f"({100 * reached.share:.1f} %); the nearest takes {searched.linf.minimum:.2g}/255, "
        f"the median of {searched.found:,} found {searched.linf.median:.2g}/255"
        + ("." if apart is None else f", where their boundaries lie {apart.median:.2g}/255 apart.")
    )


def below(record: Difference) -> Iterator[str | Table]:
    """Yield what a terminal shows below the headline: sentences, as markup, and tables."""
    yield _sides(record)
    given, searched = record.given, record.searched
    if given.differ:
        yield (
            f"Decided differently: {given.differ} images. Both sure on {given.confident}, close on {given.close}, "
            f"ties {given.ties}. Only A right on {given.only_a_right}, only B on {given.only_b_right}, "
            f"neither on {given.neither_right}."
        )
        yield _pairs(given)
        yield "The surest of them, with each one's probability and margin in spreads of its logits:"
        yield _flips(given)
    if searched is not None:
        yield f"Searched from {searched.images} images on which both agree, {WAYS[searched.way]}."
        yield _within(searched)
        yield _distances(searched)


def _sides(record: Difference) -> Table:
    table = _table("", "file", "format", "precision", "runs on", "top-1 %", "gradients")
    for name, side in (("A", record.a), ("B", record.b)):
        top1 = f"{side.top1:.2f}"
        cells = (side.path, side.format, side.precision, side.provider or "-", top1, side.gradients or "none")
        table.add_row(name, *map(escape, cells))
    return table


def _pairs(given: GivenImages) -> Table:
    table = _table("A says", "B says", "images")
    for pair in given.pairs[:SHOWN]:
        table.add_row(escape(pair.a), escape(pair.b), str(pair.count))
    _rest(table, len(given.pairs))
    return table


def _flips(given: GivenImages) -> Table:
    table = _table("image", "label", "A", "B", "right", "kind")
    for flip in given.flips[:SHOWN]:
        a, b = (f"{side.decision} {side.probability:.2f} (+{side.margin:.2f})" for side in (flip.a, flip.b))
        right = (flip.right or "-").upper()
        table.add_row(str(flip.index), escape(flip.label), escape(a), escape(b), right, flip.kind)
    _rest(table, len(given.flips))
    return table


def _within(searched: Searched) -> Table:
    table = _table("change up to", "they differ", "A's boundary", "B's boundary")
    for each in searched.within:
        counts = (each.differ, each.boundary_a, each.boundary_b)
        table.add_row(
            f"{each.epsilon:g}/255", *(f"{count} ({100 * count / searched.images:.1f} %)" for count in counts)
        )
    if searched.confident_within is not None:
        share = 100 * searched.confident / searched.images
        table.add_row(f"{searched.confident_within:g}/255, both sure", f"{searched.confident} ({share:.1f} %)", "", "")
    return table


def _distances(searched: Searched) -> Table:
    table = _table("distance in 1/255", "smallest", "median", "images")
    rows = {
        "to an image on which they differ, L∞": searched.linf,
        "to the same image, L2": searched.l2,
        "to A's boundary, L∞": searched.boundary_a,
        "to B's boundary, L∞": searched.boundary_b,
        "from one boundary to the other, L∞": searched.boundaries_apart,
    }
    for name, spread in rows.items():
        if spread is None:
            table.add_row(name, "-", "-", "0")
        else:
            table.add_row(name, f"{spread.minimum:.3g}", f"{spread.median:.3g}", str(spread.images))
    return table


def _table(*columns: str) -> Table:
    return Table(*columns, box=box.SIMPLE_HEAD)


def _rest(table: Table, total: int) -> None:
    if total > SHOWN:
        table.caption = f"and {total - SHOWN} more: --json lists them all"
