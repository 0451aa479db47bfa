"""The first stage: a student, trained into a new run folder or from where it stopped."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, NoReturn

from compressor import checkpoint, models, tracking
from compressor.attack import autoattack
from compressor.errors import UsageError
from compressor.files import write_text
from compressor.gates import require_same_data, unmeasurable
from compressor.inputs import prepare, require_known
from compressor.machine.hardware import clashes, hardware, versions
from compressor.methods.taps import unwrap
from compressor.models.quantised import Quantised
from compressor.pipeline.epochs import run_epochs
from compressor.pipeline.fastest import with_fastest
from compressor.pipeline.finished_run import FinishedRun, require_same, stored_recipe, teachers_of
from compressor.pipeline.identity import FINGERPRINT, training_inputs
from compressor.pipeline.staged import StagedTraining, reported, require_buildable
from compressor.pipeline.trained import first_record, write_generated, write_student
from compressor.progress import Tell
from compressor.recipe import Recipe, dump, require_runnable
from compressor.runs import manifest, record
from compressor.runs.folder import Run, find, new_run
from compressor.runs.lock import working
from compressor.runs.stages import Stages
from compressor.training.distributed import Processes, join, require_same_start


def check(recipe: Recipe) -> None:
    """Refuse what could only fail after hours.

    Raises:
        UsageError: the recipe lacks a teacher or data, misspells a name, or has a gate on what no stage measures.
        EnvironmentMissing: a tracker cannot be used, or what is to be measured needs a package that is not here.
    """
    require_runnable(recipe)
    require_known(recipe)
    problems = unmeasurable(recipe)
    if problems:
        raise UsageError(problems[0], hint="; ".join(problems[1:]) or None)
    tracking.require(recipe)
    if recipe.validation.autoattack_samples > 0:
        autoattack.require()


def train(
    recipe: Recipe, tell: Tell, *, out: Path | None = None, overwrite: bool = False, latest: bool = True
) -> tuple[record.Result, Run]:
    """Train the student of a recipe, from its teacher where the method has one, into a new run folder.

    Of several processes, which torchrun or `--devices` have started, the first returns; the others end here.
    """
    group = join()
    check(recipe)
    inputs = training_inputs(recipe)
    with new_training(recipe, inputs, tell, group, out=out, overwrite=overwrite, latest=latest) as run:
        return run.result, run.folder


def resume(where: Path, tell: Tell, *, allow: Sequence[str] = ()) -> tuple[record.Result, Run]:
    """Go on with a run where it stopped; on a CPU the student ends with the very weights of an undisturbed run.

    As many processes may go on with it as are started for that, where there were others; see `train`.

    Args:
        allow: code of the user's own that the run names and that may be imported.
    """
    group = join()
    folder = find(where)
    with held(folder, group):
        return resumed_training(folder, tell, group, allow=allow).result, folder


def held(folder: Run, group: Processes) -> AbstractContextManager[None]:
    """Hold a run folder, by the process that writes to it."""
    return working(folder.folder) if group.leads else nullcontext()


@contextmanager
def new_training(
    recipe: Recipe,
    inputs: Mapping[str, Any],
    tell: Tell,
    group: Processes,
    *,
    out: Path | None,
    overwrite: bool,
    latest: bool = True,
) -> Iterator[FinishedRun]:
    """Open all that a recipe names, only then make the run folder, train, and hold the folder until the block ends.

    Args:
        recipe: one that `check` accepts.
        inputs: its `training_inputs`.
        latest: let `runs/latest` point to the new folder.
    """
    prepared = with_fastest(prepare(recipe, tell, group=group), tell)
    require_same_data(recipe.gates, prepared.data.fingerprint)
    require_same_start(group, {**inputs, "data fingerprint": prepared.data.fingerprint})
    require_buildable(prepared, first=1)  # the first is built to stay
    training = StagedTraining(prepared)
    if not group.leads:
        _assist(training)
    if group.world > 1:
        tell(f"{group.world} processes train together, each on its part of a step")
    student = training.state.student
    rounding = f"; {student.plan.sentence}" if isinstance(student, Quantised) else ""
    tell(f"{recipe.trains}: {models.described(recipe.student.arch, student)}{rounding}")
    new = prepared.new_weights(unwrap(student))
    if prepared.initial is not None and new:
        tell(
            f"{recipe.trains}: starts from {recipe.student.init}, but for its head ({', '.join(new)}), which is new: "
            f"that file has {prepared.initial.classes} classes and the data have {len(prepared.data.classes)}"
        )
    with new_run(recipe.name, out=out, overwrite=overwrite, latest=latest) as folder:
        tell.keep(folder.log)
        tell(f"run: {folder.folder}")
        environment = {"versions": versions(), "hardware": hardware()}
        write_text(folder.environment, json.dumps(environment, indent=2) + "\n")
        Stages(folder).begin("train", {**inputs, FINGERPRINT: prepared.data.fingerprint})
        folder.becomes(dump(prepared.recipe))  # last
        for clash in clashes():
            tell(f"warning: {clash}")
        group.first(str(folder.folder))
        yield _trained(training, folder, tell)


def resumed_training(folder: Run, tell: Tell, group: Processes, *, allow: Sequence[str]) -> FinishedRun:
    """Train what is left of a run; a run that stopped before its first epoch begins anew.

    Args:
        allow: as for `stored_recipe`.

    Raises:
        InputRejected: its data or its teacher are others than those it began with.
    """
    if group.leads:
        tell.keep(folder.log)
    recipe = stored_recipe(folder, allow=allow)
    tracking.require(recipe)
    prepared = prepare(recipe, tell, examine=False, group=group)
    stages = Stages(folder)
    begun = stages.inputs("train")
    require_same(folder, prepared, fingerprint=begun.get(FINGERPRINT), teachers=teachers_of(begun))
    training = StagedTraining(prepared)
    if folder.last.exists():
        with checkpoint.guarded(folder.last):
            training.load_state_dict(checkpoint.load_state(folder.last))
    inputs = training_inputs(recipe)
    require_same_start(
        group,
        {**inputs, "data fingerprint": prepared.data.fingerprint, "state": (training.epoch, training.state.batch)},
    )
    if not group.leads:
        _assist(training)
    group.first(str(folder.folder))
    if not begun:  # a folder that was laid out and not begun, such as the cell of a comparison
        stages.begin("train", {**inputs, FINGERPRINT: prepared.data.fingerprint})
    folder.keep_epochs(training.epoch)
    tell(f"run: {folder.folder}, resuming after {training.epoch} of {prepared.recipe.epochs} epochs")
    return _trained(training, folder, tell)


def _assist(training: StagedTraining) -> NoReturn:
    """Train beside the first process, which writes and talks, and end with the training."""
    group, silent = training.whole.group, Tell(quiet=True)
    folder = Run(Path(group.first("")))
    run_epochs(training, folder, silent, tracking.Trackers([], silent))
    group.leave()
    raise SystemExit(0)


def _trained(training: StagedTraining, folder: Run, tell: Tell) -> FinishedRun:
    """Train to the last epoch, write the student, and put it beside its teacher on the test split.

    Raises:
        Interrupted: by a signal; the state was saved first.
        Diverged: a loss term is NaN or infinite; the last finished epoch was saved.
    """
    prepared = training.whole
    with tracking.tracking(prepared.recipe, folder, tell) as trackers:
        run_epochs(training, folder, tell, trackers)
        prepared.group.leave()
        write_generated(prepared, training.state.objective, folder)
        student = write_student(prepared, reported(training.state), folder)
        run = first_record(prepared, student, folder)
        run.result.write(folder.folder)
        manifest.write(folder, run.result)
        Stages(folder).done("train")
        trackers.result(run.result)
    return run
