"""What measurements are good for: which file to take, and where INT8 does not pay."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from compressor.bench.baseline import alike
from compressor.bench.harness import Latency
from compressor.bench.statistics import apart


@dataclass(frozen=True, kw_only=True)
class Budget:
    """A latency to stay within: a percentile at a batch size."""

    limit_ms: float
    batch: int
    percent: float = 99


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The file to take under a budget; with `met` False none is within it, and this is the fastest.

    `top1` is percent, None where it is not known. `threads` are in words where the file was timed with several
    numbers of them.
    """

    budget: Budget
    met: bool
    name: str
    latency_ms: float
    images_per_s: float
    top1: float | None
    threads: str = ""

    @property
    def sentence(self) -> str:
        budget = self.budget
        within = f"within {budget.limit_ms:g} ms (p{budget.percent:g}) at batch {budget.batch}"
        accuracy = "accuracy not measured" if self.top1 is None else f"top-1 {self.top1:.2f}"
        threads = f", with {self.threads}" if self.threads else ""
        found = f"{self.name}{threads}, {self.latency_ms:.3g} ms, {self.images_per_s:,.0f} images/s, {accuracy}"
        return f"{within}: {found}" if self.met else f"none is {within}; the fastest is {found}"


def choose(
    measured: Mapping[str, Sequence[Latency]], budget: Budget, *, top1: Mapping[str, float | None] | None = None
) -> Choice:
    """Return the most accurate file within the budget, and of equally accurate ones the faster.

    A file whose accuracy is not known loses to any whose is; where none is known, the one with most images a second
    wins. A file that was timed with several numbers of threads is judged with each.

    Raises:
        ValueError: nothing was measured at that batch size.
    """
    accuracy = top1 or {}
    timed = [(name, row) for name, rows in measured.items() for row in rows if row.batch == budget.batch]
    within = [each for each in timed if each[1].at(budget.percent) <= budget.limit_ms]

    def merit(each: tuple[str, Latency]) -> tuple[float, float]:
        name, row = each
        known = accuracy.get(name)
        # An accuracy is at least 0, so that one that is not known is below all.
        return (-1.0, row.throughput) if known is None else (known, -row.at(budget.percent))

    name, row = max(within, key=merit) if within else min(timed, key=lambda each: each[1].at(budget.percent))
    return Choice(
        budget=budget,
        met=bool(within),
        name=name,
        latency_ms=row.at(budget.percent),
        images_per_s=row.throughput,
        top1=accuracy.get(name),
        threads=row.on_threads if sum(other == name for other, _ in timed) > 1 else "",
    )


def slow_int8(measured: Mapping[str, Sequence[Latency]]) -> tuple[str, ...]:
    """Return a sentence for each INT8 file and batch size at which a wider precision is clearly faster.

    It names the fastest one of the same runtime where there is one, since then quantising has not paid; else the
    fastest one of any runtime on the same device, since then another file is the better choice.
    """
    rows = [(name, latency) for name, latencies in measured.items() for latency in latencies]
    found = []
    for name, ours in rows:
        if ours.precision != "int8":
            continue
        faster = [
            (theirs.format != ours.format, theirs.at(50), other)
            for other, theirs in rows
            if theirs.precision != "int8"
            and alike(ours, theirs)
            and theirs.at(50) < ours.at(50)
            and apart(ours.median_interval, theirs.median_interval)
        ]
        if faster:
            _, theirs_ms, other = min(faster)
            times = f"{ours.at(50):.3g} ms against {theirs_ms:.3g} ms"
            found.append(f"{name} is slower than {other} at batch {ours.batch}: {times}")
    return tuple(found)
