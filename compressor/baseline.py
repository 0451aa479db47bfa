"""What measurements are good for: a file to compare with later, and warnings."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from compressor.bench import Latency
from compressor.errors import InputRejected
from compressor.files import write_text
from compressor.hardware import hardware, versions


class Benchmark(BaseModel):
    """A benchmark file: the latencies of each artifact by name, and what they were measured on."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    benchmark: Literal[1] = 1
    latencies: dict[str, tuple[Latency, ...]]
    versions: dict[str, str]
    hardware: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Change:
    """A percentile now and in the baseline. `ratio` is now / baseline: above 1 is slower.

    `clear` says that the intervals of the two medians do not overlap, and that no other processes were busy meanwhile:
    their bursts slow many calls in a row, which makes the intervals too narrow.
    """

    batch: int
    percentile: str
    now_ms: float
    baseline_ms: float
    ratio: float
    clear: bool


def compare(latencies: Sequence[Latency], baseline: Sequence[Latency]) -> tuple[Change, ...]:
    """Compare two measurements of an artifact, at the batch sizes that both have.

    Raises:
        InputRejected: they have nothing in common.
    """
    changes = tuple(
        Change(
            batch=now.batch,
            percentile=name,
            now_ms=milliseconds,
            baseline_ms=before.at(float(name)),
            ratio=milliseconds / before.at(float(name)),
            clear=not (now.noisy or before.noisy) and _apart(now.median_interval, before.median_interval),
        )
        for now, before in product(latencies, baseline)
        if _alike(now, before) and now.precision == before.precision
        for name, milliseconds in now.percentiles.items()
    )
    if not changes:
        raise InputRejected(
            "the baseline measured no batch size in the same format, precision, provider, threads and transfers",
            hint="repeat the baseline with the same options",
        )
    return changes


def slow_int8(measured: Mapping[str, Sequence[Latency]]) -> tuple[str, ...]:
    """Return a sentence for each INT8 artifact that is slower than a wider one of the same runtime."""
    rows = [(name, latency) for name, latencies in measured.items() for latency in latencies]
    return tuple(
        f"{name} is slower than {other} at batch {ours.batch}: {ours.at(50):.3g} ms against {theirs.at(50):.3g} ms"
        for (name, ours), (other, theirs) in product(rows, rows)
        if ours.precision == "int8"
        and theirs.precision != "int8"
        and _alike(ours, theirs)
        and ours.at(50) > theirs.at(50)
    )


def other_machine(baseline: Benchmark) -> str | None:
    """Return a sentence when the baseline is of another machine, so that its ratios say little of the artifacts."""
    here = hardware()
    differing = [key for key in ("cpu", "cores", "gpus") if baseline.hardware.get(key) != here[key]]
    if not differing:
        return None
    return "the baseline is of another machine: " + ", ".join(
        f"{key} {baseline.hardware.get(key)!r}, here {here[key]!r}" for key in differing
    )


def write(path: Path, latencies: Mapping[str, tuple[Latency, ...]]) -> None:
    """Write a benchmark file of this machine, which `read` gives back."""
    found = Benchmark(latencies=dict(latencies), versions=versions(), hardware=hardware())
    write_text(path, found.model_dump_json(indent=1) + "\n")


def read(path: Path) -> Benchmark:
    """Read a benchmark file.

    Raises:
        InputRejected: there is none, it is damaged, or it is of another schema.
    """
    try:
        return Benchmark.model_validate_json(path.read_text(encoding="utf-8"))
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


def _alike(one: Latency, other: Latency) -> bool:
    """Whether two latencies were measured in the same way, so that only the artifact differs."""
    keys = ("format", "provider", "batch", "threads", "transfers")
    return all(getattr(one, key) == getattr(other, key) for key in keys)


def _apart(now: tuple[float, float] | None, before: tuple[float, float] | None) -> bool:
    return now is not None and before is not None and (now[0] > before[1] or before[0] > now[1])
