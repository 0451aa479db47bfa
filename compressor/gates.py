"""Promises of a recipe, held against what the record says of a file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from compressor.bench import NOISY
from compressor.errors import GateFailed
from compressor.report.record import Artifact, Gate, Metrics, Timing

if TYPE_CHECKING:
    from compressor.recipe import Gates, PerBatch, Recipe

# Every gate with the unit of its limit. `min_` promises at least the limit, all others at most.
UNITS = {
    "max_accuracy_drop": " points",
    "min_top1": " %",
    "min_agreement": "",
    "min_boundary_agreement": "",
    "max_class_drop": " points",
    "max_parity_error": "",
    "p50_ms": " ms",
    "p99_ms": " ms",
    "min_speedup": "x",
    "max_size_mb": " MB",
    "min_robust_top1": " %",
    "max_ece": "",
}
SPEEDUP_BATCH = 1


def evaluate_gates(gates: Gates, metrics: Metrics, *, teacher: Metrics | None = None) -> tuple[Gate, ...]:
    """Return a verdict on a file for each gate that is set.

    A drop in accuracy is undecided while the limit lies within its paired 95 % interval: another test set of this size
    might well say the opposite. `gates.undecided` says whether that breaks the promise; where it does not, and where
    something was not measured, `passed` is None. All other values are taken as they are.
    """
    limits = {gate: getattr(gates, gate) for gate in UNITS}
    return tuple(_verdict(gate, limit, gates, metrics, teacher) for gate, limit in limits.items() if limit is not None)


def promised(verdicts: Sequence[Gate]) -> bool | None:
    """Whether all promises hold: None while there are none, or while one waits for a measurement."""
    if any(verdict.passed is False for verdict in verdicts):
        return False
    return None if not verdicts or any(verdict.value is None for verdict in verdicts) else True


def enforce(verdicts: Sequence[Gate], *, complete: bool) -> None:
    """Accept the verdicts, or name those that break a promise; when all is measured, an open one breaks it too.

    Raises:
        GateFailed: a promise does not hold.
    """
    broken = [verdict for verdict in verdicts if verdict.passed is False or (complete and verdict.value is None)]
    if broken:
        raise GateFailed(
            f"{len(broken)} of {len(verdicts)} gates failed: "
            + "; ".join(f"{verdict.gate} of {verdict.artifact}: {verdict.detail}" for verdict in broken),
            hint="train longer, take a larger student or a wider precision, or change the limits under gates",
        )


def unmeasurable(recipe: Recipe) -> list[str]:
    """Return a sentence for each gate on something that no stage of the recipe will measure."""
    gates, found = recipe.gates, []
    if recipe.teacher is None:
        against = ("max_accuracy_drop", "min_agreement", "min_boundary_agreement", "max_class_drop", "min_speedup")
        found += [
            f"gates.{gate} compares with a teacher, and the recipe has none"
            for gate in against
            if getattr(gates, gate) is not None
        ]
    if gates.min_boundary_agreement is not None and recipe.validation.boundary_samples == 0:
        found.append("gates.min_boundary_agreement needs boundary samples, and validate.boundary_samples is 0")
    if gates.min_robust_top1 is not None and recipe.validation.attack_samples == 0:
        found.append("gates.min_robust_top1 needs attacked images, and validate.attack_samples is 0")
    if gates.max_parity_error is not None and not recipe.export:
        found.append("gates.max_parity_error compares an export with the student, and the recipe exports nothing")
    batches = {
        "p50_ms": gates.p50_ms and gates.p50_ms.batch,
        "p99_ms": gates.p99_ms and gates.p99_ms.batch,
        "min_speedup": gates.min_speedup and SPEEDUP_BATCH,
    }
    has = ", ".join(map(str, recipe.bench.batch_sizes))
    found += [
        f"gates.{gate} needs the latency of batch {batch}, and bench.batch_sizes has only {has}"
        for gate, batch in batches.items()
        if batch and batch not in recipe.bench.batch_sizes
    ]
    return found


def _verdict(gate: str, limit: float | PerBatch, gates: Gates, metrics: Metrics, teacher: Metrics | None) -> Gate:
    batch = SPEEDUP_BATCH
    if not isinstance(limit, int | float):
        batch, limit = limit.batch, limit.max
    value, basis = _reading(gate, batch, metrics, teacher)
    unit = UNITS[gate]
    at_least = gate.startswith("min_")
    passed: bool | None = None
    if value is None:
        detail = f"not measured: {basis}"
    else:
        passed = value >= limit if at_least else value <= limit
        detail = f"{value:.4g}{unit}, promised at {'least' if at_least else 'most'} {limit:g}{unit}; {basis}"
    if gate == "max_accuracy_drop" and _undecided(limit, metrics):
        passed, detail = (None if gates.undecided == "pass" else False), f"undecided: {detail}"
    return Gate(gate=gate, artifact=metrics.path, limit=limit, value=value, passed=passed, detail=detail)


def _reading(gate: str, batch: int, metrics: Metrics, teacher: Metrics | None) -> tuple[float | None, str]:
    """Return the value that a gate is about, and what it rests on; or None, and what is missing."""
    basis = f"on {metrics.samples} images"
    match gate:
        case "p50_ms" | "p99_ms":
            return _latency(gate, batch, metrics)
        case "min_speedup":
            return _speedup(batch, metrics, teacher)
        case "min_boundary_agreement":
            return metrics.boundary_agreement, "on images at the teacher's boundary"
        case "min_robust_top1":
            attacked = [top1 for top1 in (metrics.fgsm_top1, metrics.pgd_top1) if top1 is not None]
            return min(attacked, default=None), "on attacked images"
        case "max_parity_error":
            parity = metrics.parity if isinstance(metrics, Artifact) else None
            return (None if parity is None else parity.max_error), "largest difference from the student's logits"
        case "max_size_mb":
            return metrics.size_bytes / 1e6, "1 MB is a million bytes"
        case "min_top1":
            return metrics.top1, basis + _interval(metrics.top1_ci)
        case "max_ece":
            return metrics.ece, basis
        case "max_accuracy_drop":
            return metrics.accuracy_drop, _against(metrics) + _interval(metrics.accuracy_drop_ci)
        case "min_agreement":
            return metrics.agreement, _against(metrics)
        case "max_class_drop":
            return metrics.worst_class_drop, f"{_against(metrics)}, the class that lost most"
    raise AssertionError(f"no reading for gate {gate}")


def _undecided(limit: float, metrics: Metrics) -> bool:
    if metrics.accuracy_drop_ci is None:
        return False
    low, high = metrics.accuracy_drop_ci
    return low <= limit <= high


def _against(metrics: Metrics) -> str:
    return "no teacher to compare with" if metrics.agreement is None else f"on {metrics.samples} images"


def _interval(ends: tuple[float, float] | None) -> str:
    return "" if ends is None else f", 95 % interval {ends[0]:.2f} to {ends[1]:.2f}"


def _latency(gate: str, batch: int, metrics: Metrics) -> tuple[float | None, str]:
    timing = _at_batch(metrics, batch)
    if timing is None:
        return None, f"no latency of batch {batch}"
    value = timing.p50 if gate == "p50_ms" else timing.p99
    load = timing.other_load or 0.0
    noise = f"; other processes used {load:.0%} of the CPU meanwhile" if load > NOISY else ""
    return value, f"batch {batch}, {timing.iterations} samples{noise}"


def _speedup(batch: int, metrics: Metrics, teacher: Metrics | None) -> tuple[float | None, str]:
    ours, theirs = _at_batch(metrics, batch), None if teacher is None else _at_batch(teacher, batch)
    if ours is None or theirs is None or teacher is None:
        return None, f"no latency of batch {batch} of {'the artifact' if ours is None else 'the teacher'}"
    if metrics.provider != teacher.provider:
        return None, f"the artifact ran on {metrics.provider} and the teacher on {teacher.provider}"
    return theirs.p50 / ours.p50, f"batch {batch}, {theirs.p50:.3g} ms to {ours.p50:.3g} ms at the median"


def _at_batch(metrics: Metrics, batch: int) -> Timing | None:
    return (metrics.latency_ms or {}).get(str(batch))
