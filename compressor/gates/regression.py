"""Gates against a baseline: how much worse a file is than the one that an earlier run made of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import hypot, inf
from pathlib import Path

from compressor.errors import InputRejected
from compressor.gates.reading import Interval, Reading, Subject, ratio_interval
from compressor.machine.hardware import other_machine
from compressor.measure.scores import wilson
from compressor.runs import record
from compressor.runs.record import Metrics, Result, Timing, batches

_WAY = ("threads", "transfers", "cuda_graph")


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A file and its counterpart in the baseline, with the records that they are of."""

    now: Metrics
    before: Metrics
    here: Result
    baseline: Result


def read_baseline(path: Path) -> Result:
    """Return the record of an earlier run: its `result.json`, or its folder.

    Raises:
        InputRejected: there is none, it is damaged, or it is of another schema.
    """
    file = path / record.NAME if path.is_dir() else path
    if not file.is_file():
        raise InputRejected(
            f"there is no baseline {file}", hint="keep the result.json of a run that you trust, and name that"
        )
    return record.read_file(file)


def of(compare: Callable[[Pair], Reading]) -> Callable[[Subject], Reading]:
    """Return how a gate reads what a file lost against its counterpart, in the unit of the gate, 0 for nothing."""

    def read(subject: Subject) -> Reading:
        file, baseline = subject.file, subject.before
        if isinstance(baseline, str):
            return Reading(value=None, basis=baseline)
        before = match(file, baseline)
        if before is None:
            neither = f"the baseline has neither {file.path} nor another file of {file.format} {file.precision}"
            return Reading(value=None, basis="", doubt=neither)
        return compare(Pair(now=file, before=before, here=subject.result, baseline=baseline))

    return read


def match(metrics: Metrics, before: Result) -> Metrics | None:
    """Return the file of the baseline at the same path, else the only one of the same format and precision."""
    files = [file.metrics for file in before.files() if file.name != record.TEACHER]
    same = [file for file in files if file.path == metrics.path]
    alike = [file for file in files if (file.format, file.precision) == (metrics.format, metrics.precision)]
    return same[0] if same else alike[0] if len(alike) == 1 else None


def without(key: str, what: str) -> Callable[[Sequence[Metrics], Sequence[int]], str | None]:
    """Return what to say of files none of which has a measure: `what` it is in words."""

    def lacking(files: Sequence[Metrics], _: Sequence[int]) -> str | None:
        measured = any(getattr(file, key) is not None for file in files)
        return None if measured else f"compares {what}, and the baseline has none"

    return lacking


def without_batches(files: Sequence[Metrics], asked: Sequence[int]) -> str | None:
    """Say of files that none was timed at a batch size that will be timed."""
    timed = batches(files)
    if {*timed} & {*map(str, asked)}:
        return None
    return f"compares latencies, and of bench.batch_sizes the baseline has {', '.join(timed) or 'none'}"


def size(pair: Pair) -> Reading:
    """How much larger the file is, in per cent."""
    now, before = pair.now.size_bytes, pair.before.size_bytes
    return Reading(value=100 * (now / before - 1), basis=f"{before:,} to {now:,} bytes")


def top1(pair: Pair) -> Reading:
    """How many points of top-1 were lost."""
    now, before = pair.now, pair.before
    if _other_images(pair):
        return _OTHER_IMAGES
    if now.top1 is None or before.top1 is None:
        return Reading(value=None, basis=f"no top-1 of {'the baseline' if before.top1 is None else 'the file'}")
    basis = f"{before.top1:.2f} % to {now.top1:.2f} % of {now.samples} images"
    if now.sha256 == before.sha256:
        return Reading(value=before.top1 - now.top1, basis=f"{basis}, the very same file")
    interval = _difference(before.top1, before.top1_ci, now.top1, now.top1_ci)
    return Reading(value=before.top1 - now.top1, basis=basis, interval=interval)


def agreement(pair: Pair) -> Reading:
    """How much of the agreement with the teacher was lost, a fraction."""
    now, before = pair.now, pair.before
    if _other_images(pair):
        return _OTHER_IMAGES
    if now.agreement is None or before.agreement is None:
        whose = "the baseline" if before.agreement is None else "the file"
        return Reading(value=None, basis=f"no agreement of {whose} with a teacher")
    basis = f"{before.agreement:.4f} to {now.agreement:.4f} of {now.samples} images"
    if now.sha256 == before.sha256:
        return Reading(value=before.agreement - now.agreement, basis=f"{basis}, the very same file")
    interval = _difference(
        before.agreement,
        _fraction_interval(before.agreement, before.samples),
        now.agreement,
        _fraction_interval(now.agreement, now.samples),
    )
    return Reading(value=before.agreement - now.agreement, basis=basis, interval=interval)


def latency(pair: Pair) -> Reading:
    """How much longer the median is, in per cent, at the batch size where that is largest beyond doubt."""
    now, before = pair.now, pair.before
    if now.latency_ms is None or before.latency_ms is None:
        whose = "the baseline" if before.latency_ms is None else "the file"
        return Reading(value=None, basis=f"no latency of {whose}")
    shared = common_batches(now, before)
    if not shared:
        return Reading(
            value=None,
            basis="the baseline measured no batch size on the same provider, with the same threads, transfers and "
            "CUDA graph",
        )
    slowdowns = [_slowdown(batch, now.latency_ms[batch], before.latency_ms[batch]) for batch in shared]
    worst = max(slowdowns, key=_certainty)
    doubt = other_machine(pair.baseline.hardware, pair.here.hardware)
    return worst if doubt is None else Reading(value=worst.value, basis=worst.basis, doubt=doubt)


def common_batches(now: Metrics, before: Metrics) -> list[str]:
    """Return the batch sizes that both files were timed at in the same way."""
    ours, theirs = now.latency_ms or {}, before.latency_ms or {}
    if now.provider != before.provider:
        return []
    shared = [batch for batch in ours if batch in theirs]
    return [b for b in shared if all(getattr(ours[b], key) == getattr(theirs[b], key) for key in _WAY)]


_OTHER_IMAGES = Reading(value=None, basis="the baseline was measured on other images")


def _other_images(pair: Pair) -> bool:
    return pair.here.data.fingerprint != pair.baseline.data.fingerprint


def _fraction_interval(share: float, samples: int | None) -> Interval | None:
    if not samples:
        return None
    low, high = wilson(round(share * samples), samples)
    return low / 100, high / 100


def _difference(before: float, before_ci: Interval | None, now: float, now_ci: Interval | None) -> Interval | None:
    """Return the 95 % interval of `before - now`, as if of two samples of images.

    The images are the same, so that this is too wide rather than too narrow: a record does not say on which images two
    runs agree. Source: Newcombe, Statistics in Medicine 1998, method 10.
    """
    if before_ci is None or now_ci is None:
        return None
    lost = before - now
    return lost - hypot(before - before_ci[0], now_ci[1] - now), lost + hypot(before_ci[1] - before, now - now_ci[0])


def _certainty(slowdown: Reading) -> tuple[float, float]:
    assert slowdown.value is not None
    return (slowdown.value if slowdown.interval is None else slowdown.interval[0]), slowdown.value


def _slowdown(batch: str, now: Timing, before: Timing) -> Reading:
    """Compare two medians. What disturbs a measurement only adds time, so that the undisturbed one may be any less."""
    basis = f"batch {batch}, {before.p50:.3g} ms to {now.p50:.3g} ms at the median"
    known = ratio_interval(now.median_ci, before.median_ci)
    low, high = (-100.0, inf) if known is None else (100 * (known[0] - 1), 100 * (known[1] - 1))
    for when, timing in (("now", now), ("in the baseline", before)):
        disturbed = timing.disturbed or (timing.gpu_slow_downs and f"the GPU was slowed by {timing.gpu_slow_downs[0]}")
        if disturbed:
            basis += f"; {when}, {disturbed}"
            low, high = (-100.0, high) if when == "now" else (low, inf)
    return Reading(value=100 * (now.p50 / before.p50 - 1), basis=basis, interval=(low, high))
