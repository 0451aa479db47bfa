"""What a method is worth: the grid of trainings that shows it, and the statistics of its pairs.

Trainings with the same student and the same seed start from the same weights and see the same images in the same order,
so they are pairs: what differs between them is the method, and much of the spread of the seeds cancels. A gain is the
mean of paired differences with Student's t-interval, which speaks of other seeds, not of another teacher or test set.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import product
from statistics import fmean, stdev

from scipy.special import stdtrit  # type: ignore[import-untyped]  # comes with scikit-learn

from compressor.errors import UsageError

FIRST = "first"
BASELINES = ("kd", "ce", FIRST)  # plain distillation, no teacher, and the same method with what varies at its first
TEACHER = "teacher"  # beside dotted keys of the recipe, what may vary
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Cell:
    """One training of the grid. `varied` are keys of its recipe and their values as text, `TEACHER` among them."""

    student: str
    method: str
    seed: int
    varied: tuple[tuple[str, str], ...] = ()

    @property
    def name(self) -> str:
        """Of its folder: letters, digits and . _ + - only."""
        values = [value if key == TEACHER else f"{key}-{value}" for key, value in self.varied]
        parts = [re.sub(r"[^A-Za-z0-9._+-]+", "-", part).strip("-") for part in (self.student, self.method, *values)]
        return f"{'-'.join(parts)}-s{self.seed}"


@dataclass(frozen=True)
class Outcome:
    """What a training gave: accuracies (`..._top1`) in percent, agreements as fractions, None where not measured.

    `seconds` are those of training alone; `p50_ms` is the student's median latency at its smallest batch.
    """

    top1: float
    target_top1: float | None = None
    agreement: float | None = None
    boundary_agreement: float | None = None
    pgd_top1: float | None = None
    autoattack_top1: float | None = None
    seconds: float = 0.0
    images_per_s: float = 0.0
    p50_ms: float | None = None


METRICS = tuple(field.name for field in fields(Outcome))
# What differences are taken of.
QUALITIES = ("top1", "target_top1", "agreement", "boundary_agreement", "pgd_top1", "autoattack_top1")
_WITH_TEACHER = ("agreement", "boundary_agreement")


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
    """A row minus a baseline, over the seeds that both finished. Wins are seeds in which the row is larger."""

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
    """One method on one student with one choice of what varies: `seeds` that finished, `failed` ones, what came of it.

    `cost` is its training time over that of `kd`, from the seeds that both finished; None where there is no such pair.
    """

    student: str
    method: str
    varied: tuple[tuple[str, str], ...]
    seeds: tuple[int, ...]
    failed: tuple[int, ...]
    spreads: dict[str, Spread | None]
    differences: tuple[Difference, ...]
    cost: float | None

    @property
    def label(self) -> str:
        """The method, with what it has of what varies."""
        return " ".join([self.method, *(f"{key}={value}" for key, value in self.varied)])

    def difference(self, baseline: str, metric: str = "top1") -> Difference | None:
        """Return the difference to a baseline, where there are pairs."""
        found = (each for each in self.differences if (each.baseline, each.metric) == (baseline, metric))
        return next(found, None)


def _always(_method: str, _key: str) -> bool:
    return True


def grid(
    students: Sequence[str],
    methods: Sequence[str],
    seeds: Sequence[int],
    varied: Mapping[str, Sequence[str]] | None = None,
    *,
    takes: Callable[[str, str], bool] = _always,
) -> tuple[Cell, ...]:
    """Return all trainings, seed by seed: what is done when one stops early are whole pairs.

    Args:
        varied: keys of the recipe and the values that each takes, as text.
        takes: (method, key) -> whether the method has the key; one that has not is trained once for all its values.

    Raises:
        UsageError: nothing to compare, or one of them twice.
    """
    varied = varied or {}
    for what, values in (("student", students), ("method", methods), ("seed", seeds), *varied.items()):
        if not values:
            raise UsageError(f"there is no {what} to compare")
        twice = [value for value in values if list(values).count(value) > 1]
        if twice:
            raise UsageError(f"the {what} {twice[0]} is named twice")
    cells = tuple(
        Cell(student, method, seed, chosen)
        for seed in seeds
        for student in students
        for method in methods
        for chosen in _choices({key: values for key, values in varied.items() if takes(method, key)})
    )
    if len(cells) == len(seeds):
        raise UsageError(
            f"there is nothing to compare {methods[0]} on {students[0]} with", hint="--methods ce,kd,bss --seeds 5"
        )
    names = [cell.name for cell in cells]
    shared = next((name for name in names if names.count(name) > 1), None)
    if shared is not None:
        raise UsageError(f"two of the trainings would share the folder {shared}", hint="compare them apart, with --out")
    return cells


def _choices(varied: Mapping[str, Sequence[str]]) -> list[tuple[tuple[str, str], ...]]:
    return [tuple(zip(varied, values, strict=True)) for values in product(*varied.values())]


def analyse(
    cells: Sequence[Cell], outcomes: Mapping[Cell, Outcome], *, baselines: Sequence[str] = BASELINES
) -> tuple[Row, ...]:
    """Return one row for each student, method and choice in the order of `cells`; one without an outcome has failed.

    Args:
        baselines: methods that differences are taken to, and `FIRST`.
    """
    rows: dict[object, list[Cell]] = {}
    for cell in cells:
        rows.setdefault((cell.student, cell.method, cell.varied), []).append(cell)
    return tuple(_row(mine, cells, outcomes, baselines) for mine in rows.values())


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


def _row(
    mine: Sequence[Cell], cells: Sequence[Cell], outcomes: Mapping[Cell, Outcome], baselines: Sequence[str]
) -> Row:
    some = mine[0]
    done = [cell for cell in mine if cell in outcomes]
    spreads = {}
    for metric in METRICS:
        values = [value for cell in done if (value := getattr(outcomes[cell], metric)) is not None]
        spreads[metric] = spread(values) if values else None
    others = [name for name in baselines if name != some.method and not (some.method == "ce" and name == "kd")]
    twins = {name: {cell: _twin(cell, name, cells) for cell in done} for name in {*others, "kd"}}
    first = next((teacher for cell in cells if (teacher := _teacher(cell))), None)
    compared = (
        _difference(done, baseline, metric, _answering(twins[baseline], metric, first), outcomes)
        for baseline in others
        for metric in QUALITIES
    )
    kd = {cell: outcomes[twin] for cell, twin in twins["kd"].items() if twin is not None and twin in outcomes}
    spent, usual = sum(outcomes[cell].seconds for cell in kd), sum(each.seconds for each in kd.values())
    return Row(
        student=some.student,
        method=some.method,
        varied=some.varied,
        seeds=tuple(cell.seed for cell in done),
        failed=tuple(cell.seed for cell in mine if cell not in outcomes),
        spreads=spreads,
        differences=tuple(difference for difference in compared if difference is not None),
        cost=spent / usual if usual > 0 else None,
    )


def _twin(cell: Cell, baseline: str, cells: Sequence[Cell]) -> Cell | None:
    """Return the cell of a baseline that makes a pair with one: the first that has the same of what both have."""
    if baseline == FIRST:
        first = next(each for each in cells if _same(each, cell) and each.method == cell.method)
        return None if first == cell else first
    own = dict(cell.varied)
    fitting = (each for each in cells if _same(each, cell) and each.method == baseline)
    return next((each for each in fitting if all(own.get(key, value) == value for key, value in each.varied)), None)


def _same(one: Cell, other: Cell) -> bool:
    return (one.student, one.seed) == (other.student, other.seed)


def _difference(
    done: Sequence[Cell],
    baseline: str,
    metric: str,
    twins: Mapping[Cell, Cell | None],
    outcomes: Mapping[Cell, Outcome],
) -> Difference | None:
    differences = {}
    for cell in done:
        twin = twins[cell]
        ours = getattr(outcomes[cell], metric)
        theirs = None if twin is None or twin not in outcomes else getattr(outcomes[twin], metric)
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


def _answering(twins: Mapping[Cell, Cell | None], metric: str, first: str | None) -> dict[Cell, Cell | None]:
    """Return the pairs in which a metric means the same: agreement with one teacher says nothing of another.

    A cell without a teacher of its own was measured against the `first`.
    """

    def same(cell: Cell, twin: Cell | None) -> bool:
        return twin is None or (_teacher(cell) or first) == (_teacher(twin) or first)

    return {cell: twin if metric not in _WITH_TEACHER or same(cell, twin) else None for cell, twin in twins.items()}


def _teacher(cell: Cell) -> str | None:
    return dict(cell.varied).get(TEACHER)
