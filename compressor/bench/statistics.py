"""Numbers that stand for many samples.

A percentile is a latency that was really measured, by nearest rank: the smallest sample with at least that share of all
samples at or below it. Intervals of the median treat samples as independent, which consecutive ones are only roughly.
"""

from collections.abc import Sequence
from math import ceil

import numpy as np


def percentile(samples: Sequence[float], percent: float) -> float:
    """Return the smallest sample with at least `percent` % of the samples at or below it (nearest rank)."""
    # Rounded, because 55 % of 100 must be rank 55, and floating point may make it a hair more.
    rank = ceil(round(percent * len(samples) / 100, 9))
    return sorted(samples)[max(rank, 1) - 1]


def median_interval(samples: Sequence[float]) -> tuple[float, float] | None:
    """Return the narrowest pair of samples, equally far from both ends, that holds the median with 95 % confidence.

    The number of samples below the median is binomial with one half, whatever the distribution. None with fewer than
    six samples, where no such pair exists.
    """
    count = len(samples)
    ranks = np.arange(1, count + 1)
    # log of C(n, k) / 2^n for k = 0..n, by C(n, k) = C(n, k - 1) (n - k + 1) / k
    log_chance = np.concatenate([[0.0], np.cumsum(np.log((count - ranks + 1) / ranks))]) - count * np.log(2)
    tail = np.cumsum(np.exp(log_chance))  # tail[k]: at most k samples are below the median
    outside = int((tail <= 0.025).sum())  # so many samples may be cut off at each end
    if outside == 0:
        return None
    ordered = sorted(samples)
    return ordered[outside - 1], ordered[count - outside]


def apart(one: tuple[float, float] | None, other: tuple[float, float] | None) -> bool:
    """Whether two intervals are known and do not overlap."""
    return one is not None and other is not None and (one[0] > other[1] or other[0] > one[1])
