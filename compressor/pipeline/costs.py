"""What a measurement found of files, each timed with one number of threads or with several."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from compressor.bench import Latency, Memory
from compressor.runs import record
from exporters import Runner


@dataclass(frozen=True, kw_only=True)
class Costs:
    """What was measured, by the name of the file; `beside` is of the teacher in other runtimes.

    A file has a row for each number of threads and batch size.
    """

    latencies: Mapping[str, tuple[Latency, ...]]
    memory: Mapping[str, tuple[Memory, ...]]
    beside: Mapping[str, tuple[Latency, ...]] = field(default_factory=dict)

    def timings(self, name: str) -> dict[str, record.Timing]:
        """Return what a record keeps of a file, by batch size: the row with the fastest number of threads."""
        memory = {row.batch: row for row in self.memory.get(name, ())}
        return {str(batch): _timing(row, memory.get(batch)) for batch, row in fastest(self.latencies[name]).items()}


def by_threads(runners: Sequence[Runner]) -> tuple[Runner, ...]:
    """Return the runners that differ in their threads; a GPU's runtime has none, however many were asked for."""
    kept: dict[int | None, Runner] = {}
    for runner in runners:
        kept.setdefault(runner.threads, runner)
    return tuple(kept.values())


def fastest(rows: Sequence[Latency]) -> dict[int, Latency]:
    """Return the row with the smallest median of each batch size."""
    return {batch: min((row for row in rows if row.batch == batch), key=_median) for batch in _batches(rows)}


def thread_sentences(times: Mapping[str, Sequence[Latency]]) -> Iterator[str]:
    """Yield a sentence for each file and batch size that was timed with several numbers of threads, fastest first."""
    for name, rows in times.items():
        for batch in _batches(rows):
            ordered = sorted((row for row in rows if row.batch == batch), key=_median)
            if len(ordered) > 1:
                each = ", ".join(f"{row.at(50):.3g} ms with {row.on_threads}" for row in ordered)
                yield f"{name} at batch {batch}: {each}"


def _batches(rows: Sequence[Latency]) -> list[int]:
    return list(dict.fromkeys(row.batch for row in rows))


def _median(row: Latency) -> float:
    return row.at(50)


def _timing(latency: Latency, memory: Memory | None) -> record.Timing:
    return record.Timing(
        p50=latency.at(50),
        p90=latency.at(90),
        p95=latency.at(95),
        p99=latency.at(99),
        mean=latency.mean_ms,
        median_ci=latency.median_interval,
        images_per_s=latency.throughput,
        iterations=len(latency.samples_ms),
        threads=latency.threads,
        transfers=latency.transfers,
        cuda_graph=latency.cuda_graph,
        other_load=latency.other_load,
        clock_mhz=latency.clock_mhz,
        gpu_clock_mhz=latency.gpu_clock_mhz,
        gpu_slow_downs=latency.gpu_slow_downs,
        gpu_shared=latency.gpu_shared,
        energy_j=latency.energy_j,
        memory_mb=None if memory is None else memory.added_mb,
        peak_memory_mb=None if memory is None else memory.peak_mb,
        gpu_memory_mb=None if memory is None else memory.gpu_mb,
    )
