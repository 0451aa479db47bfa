"""What a method is worth: the grid of trainings that shows it, and the statistics of its pairs.

Trainings with the same student and the same seed start from the same weights and see the same images in the same order,
so they are pairs: what differs between them is the method, and much of the spread of the seeds cancels. A gain is the
mean of paired differences with Student's t-interval, which speaks of other seeds, not of another teacher or test set.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from statistics import fmean, stdev

from scipy.special import stdtrit  # type: ignore[import-untyped]  # comes with scikit-learn

from compressor.errors import UsageError

BASELINES = ("kd", "ce")  # plain distillation, and no teacher
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Cell:
    """One training of the grid."""

    student: str
    method: str
    seed: int

    @property
    def name(self) -> str:
        """Of its folder: letters, digits and . _ + - only."""
        return f"{re.sub(r'[^A-Za-z0-9._+-]+', '-', self.student)}-{self.method}-s{self.seed}"


@dataclass(frozen=True)
class Outcome:
    """What a training gave: `top1` and `pgd_top1` in percent, agreements as fractions, None where not measured.

    `seconds` are those of training alone; `p50_ms` is the student's median latency at its smallest batch.
    """

    top1: float
    agreement: float | None = None
    boundary_agreement: float | None = None
    pgd_top1: float | None = None
    seconds: float = 0.0
    images_per_s: float = 0.0
    p50_ms: float | None = None


METRICS = tuple(field.name for field in fields(Outcome))
QUALITIES = ("top1", "agreement", "boundary_agreement", "pgd_top1")  # of which differences are taken


@dataclass(frozen=True)
class Spread:
    """Mean and standard deviation (of a sample) over seeds, and the 95 % t-interval of the mean.

    One seed has neither deviation nor interval, and equal values have no interval: their spread cannot be estimated.
    """

    n: int
    mean: float
    sd: float | None
    interval: tuple[float, float] | None


@dataclass(frozen=True)
class Difference:
    """A method minus a baseline, over the seeds that both finished. Wins are seeds in which the method is larger."""

    baseline: str
    metric: str
    seeds: tuple[int, ...]
    spread: Spread
    wins: int
    losses: int

    @property
    def shown(self) -> bool:
        """Whether the interval leaves zero out. False is not a proof of no difference."""
        interval = self.spread.interval
        return interval is not None and (interval[0] > 0 or interval[1] < 0)


@dataclass(frozen=True)
class Row:
    """One method on one student: `seeds` that finished, `failed` ones, and what the former gave.

    `cost` is its training time over that of `kd`, from the seeds that both finished; None where there is no such pair.
    """

    student: str
    method: str
    seeds: tuple[int, ...]
    failed: tuple[int, ...]
    spreads: dict[str, Spread | None]
    differences: tuple[Difference, ...]
    cost: float | None

    def difference(self, baseline: str, metric: str = "top1") -> Difference | None:
        """Return the difference to a baseline, where there are pairs."""
        found = (each for each in self.differences if (each.baseline, each.metric) == (baseline, metric))
        return next(found, None)


def grid(students: Sequence[str], methods: Sequence[str], seeds: Sequence[int]) -> tuple[Cell, ...]:
    """Return all trainings, seed by seed: what is done when one stops early are whole pairs.

    Raises:
        UsageError: nothing to compare, or one of them twice.
    """
    for what, values in (("student", students), ("method", methods), ("seed", seeds)):
        if not values:
            raise UsageError(f"there is no {what} to compare")
        twice = [value for value in values if list(values).count(value) > 1]
        if twice:
            raise UsageError(f"the {what} {twice[0]} is named twice")
    if len(students) == len(methods) == 1:
        raise UsageError(
            f"there is nothing to compare {methods[0]} on {students[0]} with", hint="--methods ce,kd,bss --seeds 5"
        )
    cells = tuple(Cell(student, method, seed) for seed in seeds for student in students for method in methods)
    if len({cell.name for cell in cells}) < len(cells):
        raise UsageError("two of the students would share a folder", hint="compare them one at a time, with --out")
    return cells


def analyse(cells: Sequence[Cell], outcomes: Mapping[Cell, Outcome]) -> tuple[Row, ...]:
    """Return one row for each student and method in the order of `cells`; a cell without an outcome has failed."""
    pairs = dict.fromkeys((cell.student, cell.method) for cell in cells)
    return tuple(_row(student, method, cells, outcomes) for student, method in pairs)


def spread(values: Sequence[float]) -> Spread:
    """Return mean, deviation and interval of at least one value."""
    n, mean = len(values), fmean(values)
    if n == 1:
        return Spread(n, mean, None, None)
    sd = stdev(values)
    if math.isclose(max(values), min(values), abs_tol=1e-9):
        return Spread(n, mean, sd, None)
    half = float(stdtrit(n - 1, 0.5 + CONFIDENCE / 2)) * sd / math.sqrt(n)
    return Spread(n, mean, sd, (mean - half, mean + half))


def _row(student: str, method: str, cells: Sequence[Cell], outcomes: Mapping[Cell, Outcome]) -> Row:
    mine = [cell for cell in cells if (cell.student, cell.method) == (student, method)]
    done = [cell for cell in mine if cell in outcomes]
    spreads = {}
    for metric in METRICS:
        values = [value for cell in done if (value := getattr(outcomes[cell], metric)) is not None]
        spreads[metric] = spread(values) if values else None
    baselines = () if method == "ce" else tuple(name for name in BASELINES if name != method)
    compared = (_difference(done, baseline, metric, outcomes) for baseline in baselines for metric in QUALITIES)
    kd = {cell: outcomes[twin] for cell in done if (twin := Cell(student, "kd", cell.seed)) in outcomes}
    spent, usual = sum(outcomes[cell].seconds for cell in kd), sum(each.seconds for each in kd.values())
    return Row(
        student=student,
        method=method,
        seeds=tuple(cell.seed for cell in done),
        failed=tuple(cell.seed for cell in mine if cell not in outcomes),
        spreads=spreads,
        differences=tuple(difference for difference in compared if difference is not None),
        cost=spent / usual if usual > 0 else None,
    )


def _difference(
    done: Sequence[Cell], baseline: str, metric: str, outcomes: Mapping[Cell, Outcome]
) -> Difference | None:
    differences = {}
    for cell in done:
        twin = Cell(cell.student, baseline, cell.seed)
        ours, theirs = getattr(outcomes[cell], metric), getattr(outcomes.get(twin), metric, None)
        if ours is not None and theirs is not None:
            differences[cell.seed] = ours - theirs
    if not differences:
        return None
    values = list(differences.values())
    return Difference(
        baseline=baseline,
        metric=metric,
        seeds=tuple(differences),
        spread=spread(values),
        wins=sum(each > 0 for each in values),
        losses=sum(each < 0 for each in values),
    )
