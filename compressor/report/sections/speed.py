"""Accuracy against latency, and how latencies are spread."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from compressor.report import figures
from compressor.report.contents import Contents
from compressor.report.sections.pieces import Chart
from compressor.runs.record import Named, batches


@dataclass(frozen=True)
class Fastest:
    """The file that is `times` as fast as its teacher at a batch size."""

    file: Named
    batch: str
    times: float

    @property
    def parts(self) -> str:
        """Say which part of it is the runtime's and which the network's, where both are known."""
        split = self.file.split(self.batch)
        return "" if split is None else f"{split[0]:.1f}× by the runtime, {split[1]:.1f}× by the network"

    @property
    def doubt(self) -> str | None:
        """What disturbed one of the two measurements."""
        timed = (file.timing(self.batch) for file in (self.file.metrics, self.file.teacher) if file is not None)
        return next((timing.disturbed for timing in timed if timing is not None and timing.disturbed), None)


def fastest(files: Sequence[Named]) -> Fastest | None:
    """Return the file with the largest speed-up at the smallest batch that was timed."""
    timed = batches(file.metrics for file in files)
    if not timed:
        return None
    found = [Fastest(file, timed[0], times) for file in files if (times := file.speed_up(timed[0])) is not None]
    return max(found, key=lambda each: each.times, default=None)


def frontiers(files: Sequence[Named]) -> tuple[Chart, ...]:
    """Draw accuracy over latency with the Pareto front, a chart a batch size."""
    charts = [_frontier(files, batch) for batch in batches(file.metrics for file in files)]
    return tuple(chart for chart in charts if chart is not None)


def pareto(points: Sequence[tuple[float, float]]) -> tuple[bool, ...]:
    """Return whether each (latency, accuracy) is on the front: no other is as good in both and better in one."""
    return tuple(
        not any(
            other[0] <= own[0] and other[1] >= own[1] and other != own  # equal points do not push each other off
            for other in points
        )
        for own in points
    )


def latencies(contents: Contents) -> tuple[Chart, ...]:
    """Draw how the latencies of each file are spread, a chart a batch size."""
    if contents.benchmark is None:
        return ()
    numbers = {file.name: number for number, file in enumerate(contents.files)}
    by_batch: dict[int, list[figures.Row]] = {}
    noise: dict[int, str] = {}
    for name, taken in contents.benchmark.latencies.items():
        for latency in taken:
            if name in numbers and latency.samples_ms:
                by_batch.setdefault(latency.batch, []).append(figures.Row(numbers[name], latency.samples_ms))
                if latency.noisy:
                    noise[latency.batch] = f"Not reliable: {latency.noisy}."
    return tuple(
        Chart(
            f"Batch {batch}",
            figures.distributions(rows, description=_spread(rows, contents.files), name=f"spread{batch}"),
            noise.get(batch, ""),
            tuple(row.series for row in rows),
        )
        for batch, rows in sorted(by_batch.items())
    )


def _frontier(files: Sequence[Named], batch: str) -> Chart | None:
    """Draw the files that were timed at a batch size and whose accuracy is known."""
    placed = [
        (number, file, timing.p50, file.metrics.top1)
        for number, file in enumerate(files)
        if (timing := file.metrics.timing(batch)) is not None and file.metrics.top1 is not None
    ]
    if not placed:
        return None
    front = pareto([(latency, top1) for _, _, latency, top1 in placed])
    points = [
        figures.Point(number, latency, top1, file.metrics.top1_ci, on_front)
        for (number, file, latency, top1), on_front in zip(placed, front, strict=True)
    ]
    words = "; ".join(f"{file.label} {latency:.3g} ms, {top1:.2f} %" for _, file, latency, top1 in placed)
    best = ", ".join(files[point.series].label for point in points if point.on_front)
    svg = figures.frontier(points, description=f"Top-1 over median latency: {words}.", name=f"front{batch}")
    return Chart(f"Batch {batch}", svg, f"On the front: {best}.", tuple(point.series for point in points))


def _spread(rows: Sequence[figures.Row], files: Sequence[Named]) -> str:
    words = []
    for row in rows:
        p50, p90, p99 = np.percentile(row.samples, [50, 90, 99], method="inverted_cdf")
        words.append(f"{files[row.series].label}: p50 {p50:.3g}, p90 {p90:.3g}, p99 {p99:.3g} ms")
    return "Spread of latencies. " + "; ".join(words) + "."
