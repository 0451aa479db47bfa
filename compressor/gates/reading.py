"""What a gate is about: the value that was measured, what it rests on, and how sure it is."""

from __future__ import annotations

from dataclasses import dataclass

from compressor.bench import NOISY
from compressor.gates.units import SPEEDUP_BATCH
from compressor.measure.scores import wilson
from compressor.runs.record import Artifact, Metrics, Result, Timing

Interval = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Reading:
    """A value and its 95 % interval, in the unit of the gate.

    `value` is None when it was not measured, and `basis` then says what is missing. `doubt` says why the value decides
    nothing, whatever it is.
    """

    value: float | None
    basis: str
    interval: Interval | None = None
    doubt: str | None = None


def read(gate: str, batch: int | None, metrics: Metrics, result: Result) -> Reading:
    """Read what a gate on one file is about from the record of its run; `batch` is that of the latency gates."""
    if metrics.provider is None and gate != "max_size_mb":
        return Reading(value=None, basis="the file could not be run where it was built")
    images = _images(metrics)
    match gate:
        case "p50_ms" | "p99_ms":
            return _latency(gate, batch or 1, metrics)
        case "min_speedup":
            return _speedup(SPEEDUP_BATCH, metrics, result.teacher)
        case "min_boundary_agreement":
            basis = "on images at the teacher's boundary"
            return _share(metrics.boundary_agreement, result.data.boundary_samples, basis)
        case "min_robust_top1":
            attacked = [top1 for top1 in (metrics.fgsm_top1, metrics.pgd_top1) if top1 is not None]
            return _share(min(attacked, default=None), result.data.attack_samples, "on attacked images", whole=100)
        case "max_parity_error":
            parity = metrics.parity if isinstance(metrics, Artifact) else None
            value = None if parity is None else parity.max_error
            return Reading(value=value, basis="largest difference from the student's logits")
        case "max_size_mb":
            return Reading(value=metrics.size_bytes / 1e6, basis="1 MB is a million bytes")
        case "min_top1":
            return Reading(value=metrics.top1, basis=images, interval=metrics.top1_ci)
        case "max_ece":
            return Reading(value=metrics.ece, basis=images)
        case "max_accuracy_drop":
            return Reading(value=metrics.accuracy_drop, basis=_against(metrics), interval=metrics.accuracy_drop_ci)
        case "min_agreement":
            return _share(metrics.agreement, metrics.samples, _against(metrics))
        case "max_class_drop":
            return Reading(value=metrics.worst_class_drop, basis=f"{_against(metrics)}, the class that lost most")
    raise AssertionError(f"no reading for gate {gate}")


def noise(timing: Timing) -> str | None:
    """Return what may have made a time longer than the file alone would need."""
    load = timing.other_load or 0.0
    if load > NOISY:
        return f"other processes used {load:.0%} of the CPU meanwhile"
    if timing.gpu_shared:
        return "another process was on the GPU meanwhile"
    return None


def _share(value: float | None, samples: int | None, basis: str, *, whole: float = 1) -> Reading:
    """Return a fraction (or with `whole` 100 a percentage) of `samples` images, with its interval."""
    if value is None or not samples:
        return Reading(value=value, basis=basis)
    low, high = wilson(round(value / whole * samples), samples)
    return Reading(value=value, basis=basis, interval=(low * whole / 100, high * whole / 100))


def _against(metrics: Metrics) -> str:
    compared = metrics.agreement is not None or metrics.samples is None
    return _images(metrics) if compared else "no teacher to compare with"


def _images(metrics: Metrics) -> str:
    return "the file is not validated yet" if metrics.samples is None else f"on {metrics.samples} images"


def _latency(gate: str, batch: int, metrics: Metrics) -> Reading:
    timing = metrics.timing(str(batch))
    if timing is None:
        return Reading(value=None, basis=f"no latency of batch {batch}")
    disturbed = noise(timing)
    basis = f"batch {batch}, {timing.iterations} samples" + (f"; {disturbed}" if disturbed else "")
    if gate == "p50_ms":
        return Reading(value=timing.p50, basis=basis, interval=timing.median_ci)
    return Reading(value=timing.p99, basis=basis)


def _speedup(batch: int, metrics: Metrics, teacher: Metrics | None) -> Reading:
    ours, theirs = metrics.timing(str(batch)), None if teacher is None else teacher.timing(str(batch))
    if ours is None or theirs is None or teacher is None:
        whose = "the artifact" if ours is None else "the teacher"
        return Reading(value=None, basis=f"no latency of batch {batch} of {whose}")
    if metrics.provider != teacher.provider:
        return Reading(
            value=None, basis=f"the artifact ran on {metrics.provider} and the teacher on {teacher.provider}"
        )
    return Reading(
        value=theirs.p50 / ours.p50,
        basis=f"batch {batch}, {theirs.p50:.3g} ms to {ours.p50:.3g} ms at the median",
        interval=ratio_interval(theirs.median_ci, ours.median_ci),
    )


def ratio_interval(above: Interval | None, below: Interval | None) -> Interval | None:
    """Return the widest range that the ratio of two values has while each is within its interval."""
    return None if above is None or below is None else (above[0] / below[1], above[1] / below[0])
