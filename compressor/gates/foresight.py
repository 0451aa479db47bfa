"""What can be known of the gates before anything is spent."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from compressor.artifacts.formats import exporter_of
from compressor.choices import NOTHING
from compressor.errors import InputRejected
from compressor.gates.regression import read_baseline
from compressor.gates.table import GATES, Need, limits, needing
from compressor.runs.record import Metrics, Result

if TYPE_CHECKING:
    from compressor.recipe import Export, Gates, Recipe


def unmeasurable(recipe: Recipe) -> list[str]:
    """Return a sentence for each gate on something that no stage of the recipe will measure.

    Raises:
        InputRejected: the baseline is not there, is damaged or is of another schema.
    """
    asked = list(limits(recipe.gates))
    found = [
        f"the gate {name} {why}"
        for need, missing in _MISSING.items()
        for name in asked
        if need in GATES[name].needs and (why := missing(recipe)) is not None
    ]
    return [*found, *_untimed(recipe), *_without_baseline(recipe, asked)]


def require_same_data(gates: Gates, fingerprint: str) -> None:
    """See that the baseline was measured on the test images that the run will be measured on.

    Raises:
        InputRejected: it was not, and a gate compares accuracies with it.
    """
    compared = [name for name in limits(gates) if "same images" in GATES[name].needs]
    if gates.baseline is not None and compared and read_baseline(gates.baseline).data.fingerprint != fingerprint:
        raise InputRejected(
            f"the baseline {gates.baseline} was measured on other images, so the gate {compared[0]} has nothing "
            "to compare with",
            hint="measure the baseline again on these data, or leave the gate out",
        )


def _no_teacher(recipe: Recipe) -> str | None:
    return None if recipe.teacher is not None else "compares with a teacher, and the recipe has none"


def _no_images(recipe: Recipe) -> str | None:
    none = recipe.data.name == NOTHING and recipe.data.check is None
    return f"is about real images, and the data are {NOTHING}: --check-data names some to measure on" if none else None


def _no_boundary(recipe: Recipe) -> str | None:
    wanted = recipe.validation.boundary_samples > 0
    return None if wanted else "needs boundary samples, and validate.boundary_samples is 0"


def _no_attack(recipe: Recipe) -> str | None:
    wanted = recipe.validation.attack_samples > 0 or recipe.validation.autoattack_samples > 0
    return None if wanted else "needs attacked images, and validate.attack_samples is 0"


def _no_export(recipe: Recipe) -> str | None:
    return None if recipe.export else "compares an export with the student, and the recipe exports nothing"


def _not_running(recipe: Recipe) -> str | None:
    """Name the first file that can be made on the chosen device and not be run there."""
    stuck = [f"{target.format} {target.precision}" for target in recipe.export if _needs_gpu(target)]
    return f"has to run {stuck[0]}, and that needs a GPU" if stuck and _on_cpu(recipe.device) else None


def _two_devices(recipe: Recipe) -> str | None:
    slow = [target.format for target in recipe.export if exporter_of(target.format).PROVIDERS.keys() == {"cpu"}]
    return f"compares {slow[0]} on the CPU with a teacher on the GPU" if slow and not _on_cpu(recipe.device) else None


# What a recipe lacks of what a gate needs, to follow the gate's name in a sentence.
_MISSING: dict[Need, Callable[[Recipe], str | None]] = {
    "teacher": _no_teacher,
    "images": _no_images,
    "boundary": _no_boundary,
    "attack": _no_attack,
    "export": _no_export,
    "running": _not_running,
    "one device": _two_devices,
}


def _needs_gpu(target: Export) -> bool:
    on_cpu = exporter_of(target.format).PROVIDERS.get("cpu")
    return on_cpu is None or target.precision not in on_cpu.precisions


def _on_cpu(device: str) -> bool:
    if device != "auto":
        return device == "cpu"
    import torch  # only a recipe that wants to know pays for it

    return not torch.cuda.is_available()


def _untimed(recipe: Recipe) -> list[str]:
    timed = recipe.bench.batch_sizes
    needed = {name: GATES[name].needed_batch(limit) for name, limit in limits(recipe.gates).items()}
    return [
        f"the gate {name} needs the latency of batch {batch}, and bench.batch_sizes has only "
        + ", ".join(map(str, timed))
        for name, batch in needed.items()
        if batch is not None and batch not in timed
    ]


def _without_baseline(recipe: Recipe, names: Sequence[str]) -> list[str]:
    gates = recipe.gates
    comparing = [name for name in names if "baseline" in GATES[name].needs]
    if gates.baseline is None:
        how = "--baseline, or gates.baseline in a recipe"
        return [f"the gate {name} compares with a baseline, and none is named: {how}" for name in comparing]
    before = read_baseline(gates.baseline)
    if not comparing:
        return [f"no gate compares with the baseline {gates.baseline}: set {', '.join(needing('baseline'))}"]
    files = _counterparts(recipe, before)
    if not files:
        made = sorted({f"{target.format} {target.precision}" for target in recipe.export}) or ["the student alone"]
        return [f"the baseline {gates.baseline} has no file like those that the recipe makes: {', '.join(made)}"]
    return [
        f"the gate {name} {why}"
        for name in comparing
        if (lacking := GATES[name].lacking) is not None
        and (why := lacking(files, recipe.bench.batch_sizes)) is not None
    ]


def _counterparts(recipe: Recipe, before: Result) -> list[Metrics]:
    if not recipe.export:
        return [before.student]
    made = {(target.format, target.precision) for target in recipe.export}
    return [artifact for artifact in before.artifacts if (artifact.format, artifact.precision) in made]
