"""What can be known of the gates before anything is spent."""

from __future__ import annotations

from typing import TYPE_CHECKING

from compressor.artifacts.formats import exporter_of
from compressor.errors import InputRejected
from compressor.gates.regression import read_baseline
from compressor.gates.units import REGRESSIONS, SPEEDUP_BATCH, UNITS
from compressor.runs.record import batches

if TYPE_CHECKING:
    from compressor.recipe import Export, Gates, Recipe
    from compressor.runs.record import Metrics, Result

_TEACHER = (
    *("max_accuracy_drop", "min_agreement", "min_boundary_agreement", "max_class_drop", "min_speedup"),
    "max_agreement_regression",
)
_WITHOUT_RUNNING = ("max_size_mb", "max_size_regression")


def unmeasurable(recipe: Recipe) -> list[str]:
    """Return a sentence for each gate on something that no stage of the recipe will measure.

    Raises:
        InputRejected: the baseline is not there, is damaged or is of another schema.
    """
    names = [gate for gate in UNITS if getattr(recipe.gates, gate) is not None]
    return [
        *_without_teacher(recipe, names),
        *_unmeasured(recipe),
        *_untimed(recipe),
        *_without_device(recipe, names),
        *_without_baseline(recipe, names),
    ]


def require_same_data(gates: Gates, fingerprint: str) -> None:
    """See that the baseline was measured on the test images that the run will be measured on.

    Raises:
        InputRejected: it was not, and a gate compares accuracies with it.
    """
    compared = [
        gate for gate in ("max_top1_regression", "max_agreement_regression") if getattr(gates, gate) is not None
    ]
    if gates.baseline is not None and compared and read_baseline(gates.baseline).data.fingerprint != fingerprint:
        raise InputRejected(
            f"the baseline {gates.baseline} was measured on other images, so the gate {compared[0]} has nothing "
            "to compare with",
            hint="measure the baseline again on these data, or leave the gate out",
        )


def _without_teacher(recipe: Recipe, names: list[str]) -> list[str]:
    if recipe.teacher is not None:
        return []
    return [f"the gate {gate} compares with a teacher, and the recipe has none" for gate in _TEACHER if gate in names]


def _unmeasured(recipe: Recipe) -> list[str]:
    gates, found = recipe.gates, []
    if gates.min_boundary_agreement is not None and recipe.validation.boundary_samples == 0:
        found.append("the gate min_boundary_agreement needs boundary samples, and validate.boundary_samples is 0")
    if gates.min_robust_top1 is not None and recipe.validation.attack_samples == 0:
        found.append("the gate min_robust_top1 needs attacked images, and validate.attack_samples is 0")
    if gates.max_parity_error is not None and not recipe.export:
        found.append("the gate max_parity_error compares an export with the student, and the recipe exports nothing")
    return found


def _untimed(recipe: Recipe) -> list[str]:
    gates = recipe.gates
    batches = {
        "p50_ms": gates.p50_ms and gates.p50_ms.batch,
        "p99_ms": gates.p99_ms and gates.p99_ms.batch,
        "min_speedup": gates.min_speedup and SPEEDUP_BATCH,
    }
    has = ", ".join(map(str, recipe.bench.batch_sizes))
    return [
        f"the gate {gate} needs the latency of batch {batch}, and bench.batch_sizes has only {has}"
        for gate, batch in batches.items()
        if batch and batch not in recipe.bench.batch_sizes
    ]


def _without_device(recipe: Recipe, names: list[str]) -> list[str]:
    """Name the gates on a file that can be made on the chosen device and not be run there."""
    running = [gate for gate in names if gate not in _WITHOUT_RUNNING]
    stuck = [f"{target.format} {target.precision}" for target in recipe.export if _needs_gpu(target)]
    if stuck and _on_cpu(recipe.device):
        return [f"the gate {gate} has to run {stuck[0]}, and that needs a GPU" for gate in running]
    slow = [target.format for target in recipe.export if exporter_of(target.format).PROVIDERS.keys() == {"cpu"}]
    if slow and recipe.gates.min_speedup is not None and not _on_cpu(recipe.device):
        return [f"the gate min_speedup compares {slow[0]} on the CPU with a teacher on the GPU"]
    return []


def _needs_gpu(target: Export) -> bool:
    on_cpu = exporter_of(target.format).PROVIDERS.get("cpu")
    return on_cpu is None or target.precision not in on_cpu.precisions


def _on_cpu(device: str) -> bool:
    if device != "auto":
        return device == "cpu"
    import torch  # only a recipe that wants to know pays for it

    return not torch.cuda.is_available()


def _without_baseline(recipe: Recipe, names: list[str]) -> list[str]:
    gates = recipe.gates
    comparing = [gate for gate in REGRESSIONS if gate in names]
    if gates.baseline is None:
        how = "--baseline, or gates.baseline in a recipe"
        return [f"the gate {gate} compares with a baseline, and none is named: {how}" for gate in comparing]
    before = read_baseline(gates.baseline)
    if not comparing:
        return [f"no gate compares with the baseline {gates.baseline}: set {', '.join(REGRESSIONS)}"]
    files = _counterparts(recipe, before)
    if not files:
        made = sorted({f"{target.format} {target.precision}" for target in recipe.export}) or ["the student alone"]
        return [f"the baseline {gates.baseline} has no file like those that the recipe makes: {', '.join(made)}"]
    return [sentence for gate in comparing if (sentence := _missing(gate, files, recipe))]


def _counterparts(recipe: Recipe, before: Result) -> list[Metrics]:
    if not recipe.export:
        return [before.student]
    made = {(target.format, target.precision) for target in recipe.export}
    return [artifact for artifact in before.artifacts if (artifact.format, artifact.precision) in made]


def _missing(gate: str, files: list[Metrics], recipe: Recipe) -> str | None:
    """Return what no file of the baseline has, of that which a gate compares."""
    if gate == "max_top1_regression" and all(file.top1 is None for file in files):
        return f"the gate {gate} compares accuracies, and the baseline has none"
    if gate == "max_agreement_regression" and all(file.agreement is None for file in files):
        return f"the gate {gate} compares agreements with the teacher, and the baseline has none"
    timed = batches(files)
    if gate == "max_latency_regression" and not {*timed} & {*map(str, recipe.bench.batch_sizes)}:
        has = ", ".join(timed) or "none"
        return f"the gate {gate} compares latencies, and of bench.batch_sizes the baseline has {has}"
    return None
