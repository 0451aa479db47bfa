"""The first stage: a student, trained into a new run folder or from where it stopped."""

from __future__ import annotations

import json
from pathlib import Path

from compressor import checkpoint, tracking
from compressor.errors import UsageError
from compressor.files import write_text
from compressor.gates import require_same_data, unmeasurable
from compressor.inputs import Prepared, prepare
from compressor.machine.hardware import clashes, hardware, versions
from compressor.pipeline.student import new_state, train_student
from compressor.progress import Tell
from compressor.recipe import Recipe, dump, load, require_runnable
from compressor.runs import record
from compressor.runs.folder import Run, create, find, working
from compressor.training.loop import TrainingState


def check(recipe: Recipe) -> None:
    """Refuse what could only fail after hours.

    Raises:
        UsageError: the recipe lacks a teacher or data, or a gate is on something no stage measures.
        EnvironmentMissing: a tracker cannot be used.
    """
    require_runnable(recipe)
    problems = unmeasurable(recipe)
    if problems:
        raise UsageError(problems[0], hint="; ".join(problems[1:]) or None)
    tracking.require(recipe)


def train(
    recipe: Recipe, tell: Tell, *, out: Path | None = None, overwrite: bool = False, latest: bool = True
) -> tuple[record.Result, Run]:
    """Train the student of a recipe, from its teacher where the method has one, into a new run folder."""
    check(recipe)
    prepared, state, folder = begin(recipe, tell, out=out, overwrite=overwrite, latest=latest)
    with working(folder):
        return train_student(prepared, state, folder, tell), folder


def resume(where: Path, tell: Tell) -> tuple[record.Result, Run]:
    """Go on with a run where it stopped; on a CPU the student ends with the very weights of an undisturbed run."""
    folder = find(where)
    with working(folder):
        return resume_stage(folder, tell), folder


def begin(
    recipe: Recipe, tell: Tell, *, out: Path | None, overwrite: bool, latest: bool = True
) -> tuple[Prepared, TrainingState, Run]:
    """Open all that a recipe names, and only then make the run folder.

    Args:
        recipe: one that `check` accepts.
        latest: let `runs/latest` point to the new folder.
    """
    prepared = prepare(recipe, tell)
    require_same_data(recipe.gates, prepared.data.fingerprint)
    state = new_state(prepared)
    folder = create(recipe.name, out=out, overwrite=overwrite, latest=latest)
    tell.keep(folder.log)
    tell(f"run: {folder.folder}")
    write_text(folder.recipe, dump(prepared.recipe))
    write_text(folder.environment, json.dumps({"versions": versions(), "hardware": hardware()}, indent=2) + "\n")
    for clash in clashes():
        tell(f"warning: {clash}")
    return prepared, state, folder


def resume_stage(folder: Run, tell: Tell, *, trusted: bool = False) -> record.Result:
    """Train what is left of a run; a run that stopped before its first epoch begins anew.

    Args:
        trusted: the run's recipe is the caller's own, so that plug-ins it names are imported (see `recipe.load`).
    """
    tell.keep(folder.log)
    recipe = load(folder.recipe, trusted=trusted)
    tracking.require(recipe)
    prepared = prepare(recipe, tell, examine=False)
    state = new_state(prepared)
    if folder.last.exists():
        state.load_state_dict(checkpoint.load_state(folder.last))
    folder.keep_epochs(state.epoch)
    tell(f"run: {folder.folder}, resuming after {state.epoch} of {prepared.recipe.train.epochs} epochs")
    return train_student(prepared, state, folder, tell)
