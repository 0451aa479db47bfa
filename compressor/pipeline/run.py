"""All stages of a recipe, in order. One whose inputs are unchanged is skipped, one that was cut short is gone on with.

The inputs of a stage are what its result depends on: sections of the recipe, and the hashes of files and data.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from compressor.artifacts.opening import exporter_of
from compressor.errors import UsageError
from compressor.files import sha256, write_text
from compressor.machine.hardware import hardware
from compressor.pipeline.bench import bench_stage
from compressor.pipeline.export import export_stage
from compressor.pipeline.finished_run import FinishedRun, open_run, open_student
from compressor.pipeline.report import report_stage
from compressor.pipeline.student import train_student
from compressor.pipeline.train import begin, check, resume_stage
from compressor.pipeline.validate import validate_stage
from compressor.progress import Tell
from compressor.recipe import Recipe, dump
from compressor.report.bom import write_bom
from compressor.report.card import write_card
from compressor.report.ci import write_ci
from compressor.runs import manifest, record
from compressor.runs.folder import Run, is_run, siblings, working
from compressor.runs.stages import Stage, Stages
from compressor.tracking import tracking

# Sections that the weights do not depend on.
_AFTER_TRAINING = ("name", "export", "validation", "bench", "gates", "tracking")


def run(
    recipe: Recipe,
    tell: Tell,
    *,
    out: Path | None = None,
    overwrite: bool = False,
    start: Stage | None = None,
    latest: bool = True,
    page: bool = True,
) -> record.Result:
    """Do all of a recipe: train, export, validate, bench, judge its gates, and write the report.

    An earlier run of the same recipe and inputs, `out` or the newest of the recipe's name, is gone on with; else a new
    one is begun.

    Args:
        overwrite: begin anew in `out`, whatever is there.
        start: do this stage and all later ones again.
        latest: let `runs/latest` point to a new folder.
        page: write `report/report.html`, which takes some seconds; the files for CI are always written.

    Raises:
        UsageError: `start` names a stage after training and there is no such run, or `out` holds another run.
    """
    check(recipe)
    for target in recipe.export:
        exporter_of(target.format).require()  # a missing runtime is known before training
    inputs = _train_inputs(recipe)
    folder = None if overwrite or start == "train" else _earlier(recipe, inputs, out)
    if folder is None:
        if start not in (None, "train"):
            raise UsageError(f"there is no run of {recipe.name} to go on from", hint="leave --from out")
        return _new(recipe, inputs, tell, out, overwrite, latest, page)
    with working(folder):
        opened = _trained(recipe, folder, tell)
        return _rest(opened, Stages(folder), tell, start, page).result


def _new(
    recipe: Recipe,
    inputs: Mapping[str, Any],
    tell: Tell,
    out: Path | None,
    overwrite: bool,
    latest: bool,
    page: bool,
) -> record.Result:
    prepared, state, folder = begin(recipe, tell, out=out, overwrite=overwrite, latest=latest)
    with working(folder):
        stages = Stages(folder)
        stages.begin("train", inputs)  # so that the run is known again if it is cut short
        result = train_student(prepared, state, folder, tell)
        stages.done("train")
        opened = FinishedRun(folder, prepared, open_student(folder, prepared), result)
        return _rest(opened, stages, tell, None, page).result


def _trained(recipe: Recipe, folder: Run, tell: Tell) -> FinishedRun:
    """Open an earlier run, after training what is left of it, under the later sections of the recipe as it is now."""
    stages = Stages(folder)
    when = stages.finished("train")
    if when is None:
        resume_stage(folder, tell, trusted=True)  # it was begun with what the caller's own recipe says
        stages.done("train")
    opened = open_run(folder, tell)
    if opened.prepared.data.fingerprint != opened.result.data.fingerprint:
        raise UsageError(
            f"the data of {folder.folder} are not those it was trained on: files came, went or changed their names",
            hint="--from train trains a new run",
        )
    if when is not None:
        tell(f"train: unchanged since {when}, skipped")
    later = {name: getattr(recipe, name) for name in _AFTER_TRAINING}
    merged = opened.prepared.recipe.model_copy(update=later)
    if merged != opened.prepared.recipe:
        write_text(folder.recipe, dump(merged))
    opened = replace(opened, prepared=replace(opened.prepared, recipe=merged))
    return opened.noting(name=recipe.name, recipe_sha256=sha256(folder.recipe))


def _rest(opened: FinishedRun, stages: Stages, tell: Tell, start: Stage | None, page: bool) -> FinishedRun:
    """Do the stages after training that are not done yet with these inputs."""
    if start is not None:
        stages.forget(start)
    recipe = opened.prepared.recipe
    steps: list[tuple[Stage, Callable[[FinishedRun], Mapping[str, Any]], Callable[[FinishedRun], FinishedRun]]] = [
        ("export", _export_inputs, lambda now: export_stage(now.noting(artifacts=()), recipe.export, tell)),
        ("validate", _validate_inputs, lambda now: validate_stage(now, tell)),
        ("bench", _bench_inputs, lambda now: bench_stage(now, recipe.bench, tell)),
    ]
    for stage, inputs_of, do in steps:
        inputs = inputs_of(opened)
        when = stages.finished(stage)
        changed = [*(_damaged(opened) if stage == "export" else []), *stages.changed(stage, inputs)]
        if when is not None and not changed:
            tell(f"{stage}: unchanged since {when}, skipped")
            continue
        if when is not None:
            tell(f"{stage}: again, since {', '.join(changed[:3])}{', ...' if len(changed) > 3 else ''} changed")
        stages.begin(stage, inputs)
        opened = do(opened)
        stages.done(stage)
    opened = opened.saved()  # the gates may be others than when the stages were done
    write_ci(opened.result, opened.folder.report.parent)
    if page:
        _report(opened, stages, tell)
    write_card(opened.folder, opened.result)
    write_bom(opened.folder, opened.result)
    manifest.write(opened.folder, opened.result)
    with tracking(recipe, opened.folder, tell) as trackers:
        trackers.result(opened.result)
    return opened


def _report(opened: FinishedRun, stages: Stages, tell: Tell) -> None:
    shown = (record.NAME, opened.folder.bench.name, opened.folder.predictions.name)
    paths = [opened.folder.folder / name for name in shown]
    inputs = {path.name: sha256(path) for path in paths if path.is_file()}
    when = stages.finished("report")
    if when is not None and opened.folder.report.is_file() and not stages.changed("report", inputs):
        tell(f"report: unchanged since {when}, skipped")
        return
    stages.begin("report", inputs)
    tell(f"report: {report_stage(opened, tell)}")
    stages.done("report")


def _earlier(recipe: Recipe, inputs: Mapping[str, Any], out: Path | None) -> Run | None:
    """Return the run to go on with: one that was begun with the same inputs.

    Raises:
        UsageError: `out` holds a run of another recipe or other inputs.
    """
    if out is None:
        same = (folder for folder in siblings(recipe.name) if not Stages(folder).changed("train", inputs))
        return next(same, None)
    if not is_run(out):
        return None
    changed = Stages(Run(out)).changed("train", inputs)
    if changed:
        raise UsageError(
            f"{out} holds a run that was trained otherwise: {', '.join(changed[:3])} differ",
            hint="--overwrite to replace it, or another --out",
        )
    return Run(out)


def _train_inputs(recipe: Recipe) -> dict[str, Any]:
    """Return what the weights depend on. Data count by their name; their content is seen when they are open."""
    sections = recipe.model_dump(mode="json", by_alias=True, exclude=set(_AFTER_TRAINING))
    first, *others = [_content(teacher.checkpoint) for teacher in recipe.teachers] or [None]
    return {**sections, "teacher_sha256": first, **{f"teacher_{n}_sha256": each for n, each in enumerate(others, 2)}}


def _content(given: Path) -> str | None:
    """Return the hash of a teacher; None where there is none: what is wrong with it is said when it is opened."""
    path = Run(given).student if is_run(given) else given
    return sha256(path) if path.is_file() else None


def _export_inputs(opened: FinishedRun) -> dict[str, Any]:
    recipe = opened.prepared.recipe
    targets = {str(index): target.model_dump(mode="json") for index, target in enumerate(recipe.export)}
    return {**_network_inputs(opened), "seed": recipe.seed, "export": targets}


def _validate_inputs(opened: FinishedRun) -> dict[str, Any]:
    recipe = opened.prepared.recipe
    settings = recipe.validation.model_dump(mode="json")
    return {**_network_inputs(opened), "files": _files(opened), "validate": settings, "seed": recipe.seed}


def _bench_inputs(opened: FinishedRun) -> dict[str, Any]:
    found = hardware()
    machine = {key: found[key] for key in ("cpu", "cores", "gpus")}
    settings = opened.prepared.recipe.bench.model_dump(mode="json")
    return {**_network_inputs(opened), "files": _files(opened), "bench": settings, "machine": machine}


def _network_inputs(opened: FinishedRun) -> dict[str, Any]:
    teacher = opened.prepared.teacher
    return {
        "student": opened.student.sha256,
        "teacher": None if teacher is None else teacher.sha256,
        "data": opened.prepared.data.fingerprint,
        "device": str(opened.prepared.device),
    }


def _files(opened: FinishedRun) -> dict[str, str]:
    return {artifact.path: artifact.sha256 for artifact in opened.result.artifacts}


def _damaged(opened: FinishedRun) -> list[str]:
    """Return the artifacts that are not as they were made."""

    def intact(artifact: record.Artifact) -> bool:
        path = opened.folder.folder / artifact.path
        return path.is_file() and sha256(path) == artifact.sha256

    return [artifact.path for artifact in opened.result.artifacts if not intact(artifact)]
