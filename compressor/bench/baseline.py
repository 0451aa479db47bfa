"""A benchmark file, written to be compared with later."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from math import inf
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from compressor.bench.harness import Latency
from compressor.bench.memory import Memory
from compressor.bench.statistics import apart
from compressor.errors import InputRejected
from compressor.files import write_text
from compressor.machine.hardware import hardware, versions

MEDIAN = "50"


class Benchmark(BaseModel):
    """A benchmark file: latencies and memory of each artifact by name, and what they were measured on."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    benchmark: Literal[1] = 1
    latencies: dict[str, tuple[Latency, ...]]
    memory: dict[str, tuple[Memory, ...]] = {}
    versions: dict[str, str]
    hardware: dict[str, Any]

    def of(self, name: str) -> tuple[Latency, ...] | None:
        """Return the latencies of an artifact by its name, else of the only one whose file is called so."""
        files = [key for key in self.latencies if PurePosixPath(key).name == PurePosixPath(name).name]
        return self.latencies.get(name, self.latencies[files[0]] if len(files) == 1 else None)


@dataclass(frozen=True, kw_only=True)
class Change:
    """A percentile now and in the baseline. `ratio` is now / baseline: above 1 is slower.

    `clear` says that the intervals of the two medians do not overlap, that this percentile moved the same way, and
    that nothing else explains it: other processes, whose bursts slow many calls in a row and make the intervals too
    narrow, or a GPU that was slowed down in one of the two only.
    """

    batch: int
    percentile: str
    now_ms: float
    baseline_ms: float
    ratio: float
    clear: bool


def compare(latencies: Sequence[Latency], baseline: Sequence[Latency]) -> tuple[Change, ...]:
    """Compare two measurements of an artifact, where both measured in the same way: the median and what else was asked.

    Raises:
        InputRejected: they have nothing in common.
    """
    changes = tuple(
        Change(
            batch=now.batch,
            percentile=name,
            now_ms=now.at(float(name)),
            baseline_ms=before.at(float(name)),
            ratio=now.at(float(name)) / before.at(float(name)),
            clear=_clear(now, before) and _same_way(now, before, float(name)),
        )
        for now, before in product(latencies, baseline)
        if alike(now, before) and now.format == before.format and now.precision == before.precision
        for name in dict.fromkeys([MEDIAN, *now.percentiles])
    )
    if not changes:
        raise InputRejected(
            "the baseline measured no batch size in the same format, precision, provider, threads, transfers and "
            "CUDA graph",
            hint="repeat the baseline with the same options",
        )
    return changes


def slower(changes: Sequence[Change]) -> tuple[Change, ...]:
    """Return the changes of a median that are clearly for the worse."""
    return tuple(change for change in changes if change.percentile == MEDIAN and change.clear and change.ratio > 1)


def summary(changes: Sequence[Change]) -> str:
    """Say in one sentence how many medians are clearly slower than the baseline's, and how many faster."""
    medians = [change for change in changes if change.percentile == MEDIAN]
    faster = [change for change in medians if change.clear and change.ratio < 1]
    return (
        f"{len(slower(changes))} of {len(medians)} medians are clearly slower than the baseline, "
        f"{len(faster)} clearly faster"
    )


def alike(one: Latency, other: Latency) -> bool:
    """Whether two latencies were measured in the same way on the same provider: only the artifact may differ."""
    keys = ("provider", "batch", "threads", "transfers", "cuda_graph")
    return all(getattr(one, key) == getattr(other, key) for key in keys)


def write(
    path: Path, latencies: Mapping[str, tuple[Latency, ...]], memory: Mapping[str, tuple[Memory, ...]] | None = None
) -> None:
    """Write a benchmark file of this machine, which `read` gives back."""
    found = Benchmark(latencies=dict(latencies), memory=dict(memory or {}), versions=versions(), hardware=hardware())
    write_text(path, found.model_dump_json(indent=1) + "\n")


def read(path: Path) -> Benchmark:
    """Read a benchmark file.

    Raises:
        InputRejected: there is none, it is damaged, of another schema, or holds what no measurement gives.
    """
    try:
        found = Benchmark.model_validate_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputRejected(
            f"cannot read the baseline {path}: {error.strerror}", hint="compress bench writes one"
        ) from error
    except (ValidationError, UnicodeDecodeError) as error:
        problem = error.errors()[0] if isinstance(error, ValidationError) else {"loc": (), "msg": "it is not text"}
        where = ".".join(map(str, problem["loc"])) or "the file"
        raise InputRejected(
            f"{path} is not a benchmark file of schema 1: {where}: {problem['msg']}", hint="compress bench writes one"
        ) from error
    for name, latencies in found.latencies.items():
        for latency in latencies:
            if not _possible(latency):
                raise InputRejected(
                    f"{path} holds what was never measured: {name}, batch {latency.batch}",
                    hint="compress bench writes one",
                )
    return found


def _possible(latency: Latency) -> bool:
    """Whether a measurement could have given this: an edited file must not divide by zero, nor hold by a NaN."""
    samples = (*latency.samples_ms, *(latency.median_interval or ()))
    return latency.batch > 0 and bool(latency.samples_ms) and all(0 < sample < inf for sample in samples)


def _clear(now: Latency, before: Latency) -> bool:
    disturbed = now.noisy or before.noisy or now.gpu_slow_downs != before.gpu_slow_downs
    return not disturbed and apart(now.median_interval, before.median_interval)


def _same_way(now: Latency, before: Latency, percent: float) -> bool:
    return (now.at(percent) > before.at(percent)) == (now.at(50) > before.at(50))
