"""The second half of a comparison: from images on which both agree, look for images near by on which they differ.

Two artifacts differ exactly between their boundaries. From each image, lines are drawn across these (`steering`), both
artifacts' changes of mind are placed on each line by bisection (`lines`), and what lies between the two is a find. The
distances are upper bounds: another line may lead to a nearer one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from compressor.data import Split
from compressor.difference.given import Given, images_of
from compressor.difference.lines import Shares, along, first_change
from compressor.difference.sides import Flags, PairLogits, Side, ask
from compressor.difference.steering import likely_targets, neighbours, pull_apart, walk
from compressor.measure.scores import Floats, Labels

BEYOND = 8  # how much longer than the attack's own way a line in its direction is
CHUNK = 64  # images that are searched from at once
BYTE = 255.0  # distances are in steps of an 8-bit pixel


@dataclass(frozen=True, kw_only=True)
class Found:
    """Images `[M, C, H, W]` on which the artifacts differ beyond rounding, and how far each lies from its base.

    `bases` `[M]` are rows of `Search`; `linf` and `l2` `[M]` are in units of 1/255.
    """

    bases: NDArray[np.int64]
    images: Floats
    answers: PairLogits
    linf: NDArray[np.float64]
    l2: NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Search:
    """What was found from `N` base images, on which both artifacts decide for `decided` `[N]`.

    `boundary_a` and `boundary_b` `[N]` are the shortest ways found to each artifact's own boundary, `apart` `[N]` is
    how far the two boundaries are from each other on the line where the first of them is nearest; L∞ in units of
    1/255, NaN where no line crossed. `nearest` has at most one image a base, the one with the smallest L∞ distance;
    `surest` at most one within `epsilon`, the one where the less sure artifact is surest; none without gradients.
    """

    indices: NDArray[np.int64]  # [N] places in the split
    labels: Labels
    images: Floats
    decided: Labels
    boundary_a: NDArray[np.float64]
    boundary_b: NDArray[np.float64]
    apart: NDArray[np.float64]
    nearest: Found
    surest: Found
    epsilon: float
    guided: bool

    def __len__(self) -> int:
        return len(self.indices)


def search(
    a: Side,
    b: Side,
    split: Split,
    given: Given,
    *,
    samples: int,
    epsilon: float,
    std: Tensor,
    seed: int,
    note: Callable[[int, int], None] | None = None,
) -> Search | None:
    """Search from up to `samples` images on which both agree; `seed` alone decides which. None where they never agree.

    Args:
        epsilon: the largest change of a pixel, of 1, that the attack on the difference may make.
        std: per-channel standard deviation of the data `[C]`, the unit of the walk's steps.
        note: told how many images are done, of how many.
    """
    agreed = np.flatnonzero(~given.answers.differ)
    rows = np.random.default_rng(seed).permutation(agreed)[:samples]
    if not len(rows):
        return None
    images = images_of(split, given.indices[rows])
    decided = given.answers.decisions[0][rows]
    # Where one has no gradients, those of the other are a better guess than none.
    a, b = (replace(side, guide=side.guide or other.guide) for side, other in ((a, b), (b, a)))
    guided = a.guide is not None
    ends = [] if guided else neighbours(images, decided)
    parts: list[_Part] = []
    for start in range(0, len(rows), CHUNK):
        here = slice(start, start + CHUNK)
        base = _Base(start, images[here], decided[here], given.answers[rows[here]])
        if guided:
            steered = list(_steered(a, b, base, epsilon=epsilon, std=std))
        else:
            steered = [(each[here], None) for each in ends]
        parts.append(_searched(a, b, base, steered))
        if note is not None:
            note(min(start + CHUNK, len(rows)), len(rows))
    return Search(
        indices=given.indices[rows],
        labels=given.labels[rows],
        images=images,
        decided=decided,
        boundary_a=np.concatenate([part.boundary_a for part in parts]),
        boundary_b=np.concatenate([part.boundary_b for part in parts]),
        apart=np.concatenate([part.apart for part in parts]),
        nearest=_joined([part.nearest for part in parts]),
        surest=_joined([part.surest for part in parts]),
        epsilon=epsilon,
        guided=guided,
    )


@dataclass(frozen=True)
class _Base:
    """A chunk of the images that are searched from, `first` the row of its first one."""

    first: int
    images: Floats
    decided: Labels
    answers: PairLogits


@dataclass(frozen=True)
class _Part:
    """The columns of `Search` for a chunk."""

    boundary_a: NDArray[np.float64]
    boundary_b: NDArray[np.float64]
    apart: NDArray[np.float64]
    nearest: Found
    surest: Found


_Steered = tuple[Floats, PairLogits | None]  # far ends of lines, and the answers there where they count as finds


def _steered(a: Side, b: Side, base: _Base, *, epsilon: float, std: Tensor) -> Iterator[_Steered]:
    """Yield the far ends of lines that gradients lead along."""
    target = likely_targets(base.answers, base.decided)
    for side in (a,) if a.guide is b.guide else (a, b):
        for ends in walk(side, base.images, base.decided, target, std):
            yield ends, None
    for swapped in (False, True):
        stays, leaves = (b, a) if swapped else (a, b)
        spreads = base.answers.spreads[::-1] if swapped else base.answers.spreads
        apart = pull_apart(stays, leaves, base.images, base.decided, target, epsilon=epsilon, spreads=spreads)
        # Signs of gradients lead the shortest way in L∞, and the boundary may lie beyond epsilon.
        yield np.clip(base.images + BEYOND * (apart - base.images), 0, 1).astype(np.float32), None
        yield apart, ask(a, b, apart, base.answers.spreads)


def _searched(a: Side, b: Side, base: _Base, steered: list[_Steered]) -> _Part:
    """Follow every line, and keep the nearest and the surest find of each image."""
    count = len(base.images)
    boundary_a, boundary_b, first, distance = (np.full(count, np.inf) for _ in range(4))
    apart, surety = np.full(count, np.nan), np.zeros(count)
    nearest, surest = base.images.copy(), base.images.copy()
    for ends, answers in steered:
        if answers is not None:
            weakest = np.where(answers.counted, np.minimum(*answers.margins), 0)
            better = weakest > surety
            surest[better], surety[better] = ends[better], weakest[better]
        line = _followed(a, b, base, ends)
        boundary_a, boundary_b = np.minimum(boundary_a, line.way_a), np.minimum(boundary_b, line.way_b)
        between = np.isfinite(line.way_a) & np.isfinite(line.way_b) & (line.near < first)
        first[between], apart[between] = line.near[between], np.abs(line.way_a[between] - line.way_b[between])
        better = line.differ & (line.near < distance)
        nearest[better], distance[better] = line.points[better], line.near[better]
    return _Part(
        _unknown(boundary_a),
        _unknown(boundary_b),
        apart,
        _found(a, b, base, nearest, np.isfinite(distance)),
        _found(a, b, base, surest, surety > 0),
    )


@dataclass(frozen=True)
class _Line:
    """One line from each image: the ways to each artifact's boundary, inf where it is not met, and what is there."""

    way_a: Shares
    way_b: Shares
    points: Floats  # just past the first of the two boundaries
    differ: Flags  # whether the artifacts do there

    @property
    def near(self) -> Shares:
        return np.minimum(self.way_a, self.way_b)


def _followed(a: Side, b: Side, base: _Base, ends: Floats) -> _Line:
    length = BYTE * np.abs(ends - base.images).max(axis=(1, 2, 3)).astype(np.float64)
    left = [first_change(side.runner, base.images, ends, base.decided) for side in (a, b)]
    way_a, way_b = (np.multiply(share, length, out=share.copy(), where=np.isfinite(share)) for share in left)
    near = np.minimum(*left)
    points = along(base.images, ends, np.where(np.isfinite(near), near, 0))
    return _Line(way_a, way_b, points, ask(a, b, points, base.answers.spreads).counted)


def _found(a: Side, b: Side, base: _Base, images: Floats, taken: Flags) -> Found:
    """Ask once more, so that what is reported of an image is what the artifacts say of it."""
    rows = np.flatnonzero(taken)
    answers = ask(a, b, images[rows], base.answers.spreads)
    still = answers.counted
    rows, answers = rows[still], answers[still]
    moved = BYTE * (images[rows].astype(np.float64) - base.images[rows])  # [M, C, H, W]
    return Found(
        bases=base.first + rows,
        images=images[rows],
        answers=answers,
        linf=np.abs(moved).max(axis=(1, 2, 3), initial=0),
        l2=np.sqrt((moved**2).sum(axis=(1, 2, 3))),
    )


def _joined(parts: list[Found]) -> Found:
    return Found(
        bases=np.concatenate([part.bases for part in parts]),
        images=np.concatenate([part.images for part in parts]),
        answers=PairLogits(
            np.concatenate([part.answers.a for part in parts]),
            np.concatenate([part.answers.b for part in parts]),
            parts[0].answers.spreads,
        ),
        linf=np.concatenate([part.linf for part in parts]),
        l2=np.concatenate([part.l2 for part in parts]),
    )


def _unknown(way: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(np.isfinite(way), way, np.nan)
