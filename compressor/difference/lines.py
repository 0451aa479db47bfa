"""Along straight lines: where an artifact first leaves its decision, found by its answers alone."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from compressor.measure.scores import Floats, Labels, infer
from exporters import Runner

GRID = 8  # points of a line that are looked at first: a decision that is left and taken back between two is not seen
HALVINGS = 12  # a change is then placed within 1 / (GRID * 2**HALVINGS) of the line

Shares = NDArray[np.float64]


def along(start: Floats, end: Floats, share: Shares) -> Floats:
    """Return the points `[M, C, H, W]` at a share `[M]` of the way from start to end; the box is convex, so inside."""
    weight = share.astype(np.float32)[:, None, None, None]
    return np.ascontiguousarray(start + weight * (end - start))


def first_change(runner: Runner, start: Floats, end: Floats, base: Labels) -> Shares:
    """Return the share `[M]` of each line at which the runner has just left the class `base`; inf where it never does.

    At the share that is returned the decision is another one, a resolution before it is `base` still.
    """
    low, high = np.zeros(len(start)), np.full(len(start), np.inf)
    for step in range(1, GRID + 1):
        rows = np.flatnonzero(np.isinf(high))
        left = _left(runner, start, end, base, rows, np.full(len(rows), step / GRID))
        high[rows[left]] = step / GRID
        low[rows[~left]] = step / GRID
    rows = np.flatnonzero(np.isfinite(high))
    for _ in range(HALVINGS):
        middle = (low[rows] + high[rows]) / 2
        left = _left(runner, start, end, base, rows, middle)
        high[rows[left]], low[rows[~left]] = middle[left], middle[~left]
    return high


def _left(
    runner: Runner, start: Floats, end: Floats, base: Labels, rows: NDArray[np.int64], share: Shares
) -> NDArray[np.bool_]:
    decided = infer(runner, along(start[rows], end[rows], share)).argmax(axis=1)
    return np.asarray(decided != base[rows])
