"""What each stage of a run depends on: sections of its recipe, and hashes of files, networks and data.

A stage whose inputs are the same is not done again.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from compressor.errors import UsageError
from compressor.files import sha256
from compressor.machine.hardware import MACHINE, hardware
from compressor.pipeline.finished_run import FinishedRun
from compressor.recipe import Export, Recipe
from compressor.runs import record
from compressor.runs.folder import Run, is_run, siblings
from compressor.runs.stages import Stage, Stages

# Sections that the weights do not depend on.
AFTER_TRAINING = ("name", "export", "validation", "bench", "gates", "tracking")
FINGERPRINT = "fingerprint"  # of the data, which the training begins with too: known when they are open


def training_inputs(recipe: Recipe) -> dict[str, Any]:
    """Return what the weights depend on, as far as that shows before the data are open: they count by their name."""
    sections = recipe.model_dump(mode="json", by_alias=True, exclude=set(AFTER_TRAINING))
    first, *others = [_content(teacher.checkpoint) for teacher in recipe.teachers] or [None]
    return {**sections, "teacher_sha256": first, **{f"teacher_{n}_sha256": each for n, each in enumerate(others, 2)}}


def _content(given: Path) -> str | None:
    """Return the hash of a teacher; None where there is none: what is wrong with it is said when it is opened."""
    path = Run(given).student if is_run(given) else given
    return sha256(path) if path.is_file() else None


def earlier_run(name: str, inputs: Mapping[str, Any], out: Path | None) -> Run | None:
    """Return the run to go on with, `out` or the newest of the recipe's name: one that was begun with the same inputs.

    Raises:
        UsageError: `out` holds a run of another recipe or other inputs.
    """
    if out is None:
        return next((folder for folder in siblings(name) if not other_training(Stages(folder), inputs)), None)
    if not is_run(out):
        return None
    changed = other_training(Stages(Run(out)), inputs)
    if changed:
        raise UsageError(
            f"{out} holds a run that was trained otherwise: {', '.join(changed[:3])} differ",
            hint="--overwrite to replace it, or another --out",
        )
    return Run(out)


def other_training(stages: Stages, inputs: Mapping[str, Any]) -> list[str]:
    """Return the `training_inputs` that a run was not begun with."""
    return [name for name in stages.changed("train", inputs) if name != FINGERPRINT]


def stage_inputs(stage: Stage, run: FinishedRun, exports: tuple[Export, ...] | None = None) -> dict[str, Any]:
    """Return what a stage after training depends on.

    Args:
        exports: what is exported, by default what the recipe says.
    """
    recipe, teacher = run.prepared.recipe, run.prepared.teacher
    if stage == "report":
        shown = (run.folder.folder / record.NAME, run.folder.bench, run.folder.predictions)
        return {path.name: sha256(path) for path in shown if path.is_file()}
    inputs: dict[str, Any] = {
        "student": run.student.sha256,
        "teacher": None if teacher is None else teacher.sha256,
        "data": run.prepared.data.fingerprint,
        "device": str(run.prepared.device),
    }
    if stage == "export":
        targets = recipe.export if exports is None else exports
        return {
            **inputs,
            "seed": recipe.seed,
            "export": {str(index): target.model_dump(mode="json") for index, target in enumerate(targets)},
        }
    inputs["files"] = {artifact.path: artifact.sha256 for artifact in run.result.artifacts}
    if stage == "validate":
        return {**inputs, "validate": recipe.validation.model_dump(mode="json"), "seed": recipe.seed}
    found = hardware()
    machine = {key: found[key] for key in MACHINE}
    return {**inputs, "bench": recipe.bench.model_dump(mode="json"), "machine": machine}


def damaged(stage: Stage, run: FinishedRun) -> list[str]:
    """Return the files that a stage made and that are not as they were made."""
    if stage == "report":
        return [] if run.folder.report.is_file() else [run.folder.report.name]
    if stage != "export":
        return []

    def intact(artifact: record.Artifact) -> bool:
        path = run.folder.folder / artifact.path
        return path.is_file() and sha256(path) == artifact.sha256

    return [artifact.path for artifact in run.result.artifacts if not intact(artifact)]
