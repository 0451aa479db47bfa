"""All stages of a recipe, in order. One whose inputs are unchanged is skipped, one that was cut short is done again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from compressor.artifacts.formats import exporter_for
from compressor.errors import UsageError
from compressor.files import sha256, write_text
from compressor.pipeline.bench import bench_stage
from compressor.pipeline.export import export_stage
from compressor.pipeline.finished_run import FinishedRun, open_run
from compressor.pipeline.identity import AFTER_TRAINING, damaged, earlier_run, stage_inputs, training_inputs
from compressor.pipeline.report import report_stage
from compressor.pipeline.train import check, held, new_training, resumed_training
from compressor.pipeline.validate import validate_stage
from compressor.progress import Tell
from compressor.recipe import Recipe, dump
from compressor.recipe.code import code_named
from compressor.report.bom import write_bom
from compressor.report.card import write_card
from compressor.report.ci import write_ci
from compressor.runs import manifest, record
from compressor.runs.folder import Run
from compressor.runs.stages import Stage, Stages
from compressor.tracking import tracking
from compressor.training.distributed import Processes, join


def run(
    recipe: Recipe,
    tell: Tell,
    *,
    out: Path | None = None,
    overwrite: bool = False,
    start: Stage | None = None,
    latest: bool = True,
    page: bool = True,
) -> tuple[record.Result, Run]:
    """Do all of a recipe: train, export, validate, bench, judge its gates, and write the report.

    An earlier run of the same recipe and inputs, `out` or the newest of the recipe's name, is gone on with; else a new
    one is begun.

    Of several processes, which torchrun or `--devices` have started, the others end with the training.

    Args:
        overwrite: begin anew in `out`, whatever run is there.
        start: do this stage and all later ones again.
        latest: let `runs/latest` point to a new folder.
        page: write `report/report.html`, which takes some seconds; the files for CI are always written.

    Raises:
        UsageError: `start` names a stage after training and there is no such run, or `out` holds another run.
        InputRejected: the data or the teacher of an earlier run are others now.
    """
    group = join()
    check(recipe)
    for target in recipe.export:
        exporter_for(target)  # a missing runtime is known before training
    inputs = training_inputs(recipe)
    new = overwrite or start == "train" or not group.leads
    earlier = group.first(None if new else earlier_run(recipe.name, inputs, out))
    if earlier is None and start not in (None, "train"):
        raise UsageError(f"there is no run of {recipe.name} to go on from", hint="leave --from out")
    if earlier is None:
        training = new_training(recipe, inputs, tell, group, out=out, overwrite=overwrite, latest=latest)
    else:
        training = _earlier_training(recipe, earlier, tell, group)
    with training as run:
        if start is not None and start != "train":
            Stages(run.folder).forget(start)
        run = _unless_done(run, "export", lambda now: export_stage(now.noting(artifacts=()), recipe.export, tell), tell)
        run = _unless_done(run, "validate", lambda now: validate_stage(now, tell), tell)
        run = _unless_done(run, "bench", lambda now: bench_stage(now, tell), tell)
        return _published(run, tell, page).result, run.folder


@contextmanager
def _earlier_training(recipe: Recipe, folder: Run, tell: Tell, group: Processes) -> Iterator[FinishedRun]:
    """Hold an earlier run, trained to its end, under the later sections of the recipe as it is now."""
    with held(folder, group):
        when = group.first(Stages(folder).finished("train"))
        allow = code_named(recipe)
        if when is None:
            run = resumed_training(folder, tell, group, allow=allow)
        else:
            group.leave()
            if not group.leads:  # nothing is left to train
                raise SystemExit(0)
            run = open_run(folder, tell, allow=allow)
            tell(f"train: unchanged since {when}, skipped")
        then = run.prepared.recipe
        merged = then.model_copy(update={name: getattr(recipe, name) for name in AFTER_TRAINING})
        if merged != then:
            write_text(folder.recipe, dump(merged))
        run = replace(run, prepared=replace(run.prepared, recipe=merged))
        yield run.noting(name=recipe.name, recipe_sha256=sha256(folder.recipe))


def _unless_done(run: FinishedRun, stage: Stage, do: Callable[[FinishedRun], FinishedRun], tell: Tell) -> FinishedRun:
    """Do a stage after training where it is not done yet with these inputs."""
    stages = Stages(run.folder)
    when = stages.finished(stage)
    changed = [*damaged(stage, run), *stages.changed(stage, stage_inputs(stage, run))]
    if when is not None and not changed:
        tell(f"{stage}: unchanged since {when}, skipped")
        return run
    if when is not None:
        tell(f"{stage}: again, since {', '.join(changed[:3])}{', ...' if len(changed) > 3 else ''} changed")
    return do(run)


def _published(run: FinishedRun, tell: Tell, page: bool) -> FinishedRun:
    """Write what is read of a run elsewhere: files for CI, the page, card, bill of materials, manifest, trackers."""
    run = run.saved()  # the gates may be others than when the stages were done
    write_ci(run.result, run.folder.report.parent)
    if page:
        run = _unless_done(run, "report", lambda now: report_stage(now, tell), tell)
    write_card(run.folder, run.result)
    write_bom(run.folder, run.result)
    manifest.write(run.folder, run.result)
    with tracking(run.prepared.recipe, run.folder, tell) as trackers:
        trackers.result(run.result)
    return run
