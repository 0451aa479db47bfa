"""The commands that train: train, distill, run."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from compressor.cli.options import (
    Allow,
    DataOptions,
    Devices,
    Gate,
    Init,
    Json,
    Key,
    Quantize,
    Quiet,
    RecipeOption,
    Resume,
    RunOptions,
    Set,
    Student,
    TeacherOptions,
    TrainingOptions,
    changes,
    recipe_of,
)
from compressor.cli.output import hold, publish, show, tell_of
from compressor.errors import Interrupted, UsageError
from compressor.runs.stages import Stage

if TYPE_CHECKING:
    from compressor.api import Run
    from compressor.progress import Tell
    from compressor.recipe import Override, Recipe
    from compressor.runs.record import Result


@dataclass(frozen=True)
class NetworkOptions:
    """What `train` trains."""

    arch: Annotated[str | None, typer.Option(help="What to train, such as resnet20."), Key("student.arch")] = None
    init: Init = None
    quantize: Quantize = None


@dataclass(frozen=True)
class StudentOptions:
    """Whom `distill` trains, and how it learns."""

    student: Student = None
    init: Init = None
    quantize: Quantize = None
    method: Annotated[
        str | None, typer.Option(help="bss, kd, cckd or ce; see `compress methods`."), Key("method.kind")
    ] = None


@dataclass(frozen=True)
class CheckOptions:
    """What is measured on where nothing is trained on."""

    check_data: Annotated[
        str | None,
        typer.Option(help="With --data none: real images for measuring alone, a data set or folder:PATH."),
        Key("data.check"),
    ] = None


@dataclass(frozen=True)
class OtherStudent:
    """Whom `run` trains."""

    student: Annotated[str | None, typer.Option(help="Another student than the recipe's."), Key("student.arch")] = None


@dataclass(frozen=True)
class Baseline:
    """What regressions count from."""

    baseline: Annotated[
        Path | None,
        typer.Option(help="result.json of an earlier run, or its folder: what regressions count from."),
        Key("gates.baseline"),
    ] = None


def train(
    network: NetworkOptions,
    images: DataOptions,
    training: TrainingOptions,
    kept: RunOptions,
    recipe: RecipeOption = None,
    resume: Resume = None,
    devices: Devices = None,
    allow: Allow = None,
    set_: Set = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train a network on labels alone."""
    from compressor import api
    from compressor.recipe import Override

    typed, tell = changes(network, images, training, kept, set_=set_), tell_of(quiet)
    if resume is not None:
        trained = _resumed(resume, typed, tell, allow or (), devices)
    else:
        if recipe is None:
            typed = [Override(("method", "kind"), "ce"), *typed]
        chosen = _chosen(recipe, typed, "--arch")
        _together(devices, chosen)
        trained = api.train(recipe=chosen, out=kept.out, overwrite=kept.overwrite, tell=tell)
    show(trained.result, as_json=as_json)
    _conclude(trained, tell, f"compress distill --teacher {shlex.quote(str(trained.folder))} --student resnet8")


def distill(
    teacher: TeacherOptions,
    student: StudentOptions,
    images: DataOptions,
    checked: CheckOptions,
    training: TrainingOptions,
    kept: RunOptions,
    recipe: RecipeOption = None,
    resume: Resume = None,
    devices: Devices = None,
    allow: Allow = None,
    set_: Set = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train a student from a teacher."""
    from compressor import api
    from compressor.runs.folder import argument, find

    typed, tell = changes(teacher, student, images, checked, training, kept, set_=set_), tell_of(quiet)
    if resume is not None:
        trained = _resumed(resume, typed, tell, allow or (), devices)
    else:
        chosen = _chosen(recipe, typed, "--student")
        _together(devices, chosen)
        trained = api.distill(recipe=chosen, out=kept.out, overwrite=kept.overwrite, tell=tell)
    show(trained.result, as_json=as_json)
    _conclude(trained, tell, f"compress export{argument(find(trained.folder))} --format onnx")


def run(
    recipe: Annotated[str, typer.Argument(help="A recipe file, or a name from `recipes ls`.")],
    teacher: TeacherOptions,
    student: OtherStudent,
    images: DataOptions,
    checked: CheckOptions,
    training: TrainingOptions,
    kept: RunOptions,
    before: Baseline,
    start: Annotated[Stage | None, typer.Option("--from", help="Do this stage and all later ones again.")] = None,
    page: Annotated[bool, typer.Option("--report/--no-report", help="Write report/report.html at the end.")] = True,
    smoke: Annotated[
        bool, typer.Option("--smoke", help="Try the whole path in a minute: the real inputs, then tiny networks.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the resolved recipe and stop.")] = False,
    devices: Devices = None,
    gate: Gate = None,
    junit: Annotated[Path | None, typer.Option(help="Also write the gates here, as JUnit XML.")] = None,
    markdown: Annotated[Path | None, typer.Option(help="Also write the summary here, as Markdown.")] = None,
    set_: Set = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Do all of a recipe and hold its gates."""
    from compressor import api
    from compressor.recipe import dump

    chosen = recipe_of(recipe, changes(teacher, student, images, checked, training, kept, before, set_=set_, gate=gate))
    if dry_run:
        typer.echo(dump(chosen), nl=False)
        return
    if smoke and (devices or 1) > 1:
        raise UsageError("--smoke is tried by one process", hint="leave --devices out")
    _together(devices, chosen)
    tell = tell_of(quiet)
    if smoke:
        from compressor import pipeline

        show(pipeline.smoke(chosen, tell), as_json=as_json)
        tell("next: the same command without --smoke")
        return
    try:
        done = api.run(chosen, out=kept.out, overwrite=kept.overwrite, start=start, page=page, tell=tell)
    except Interrupted as stopped:  # in training, whose own hint would leave the later stages out
        again = "the same command without --overwrite" if kept.overwrite else "the same command"
        raise Interrupted(stopped.message, hint=f"{again} goes on") from None
    result = done.result
    show(result, as_json=as_json)
    if result.student.guesses:
        tell(f"warning: {_guessing(result, chosen)}")
    publish(result, junit=junit, markdown=markdown)
    hold(result, complete=True)


def _conclude(trained: Run, tell: Tell, following: str) -> None:
    """Say what to type next: `following`, unless the network has learned nothing."""
    if trained.result.student.guesses:
        tell(f"warning: {_guessing(trained.result, trained.recipe)}")
        following = "the same command with more --epochs, or a smaller --batch-size"
    tell(f"next: {following}")


def _guessing(result: Result, recipe: Recipe) -> str:
    size = recipe.data.step(result.data.train)
    steps = result.training.epochs * ceil(result.data.train / size)
    return (
        f"the {recipe.trains} is no better than guessing: {result.student.top1:.2f} % of {result.data.classes} "
        f"classes, after {steps:,} steps of {size} images"
    )


def _resumed(folder: Path, typed: Sequence[Override], tell: Tell, allow: Sequence[str], devices: int | None) -> Run:
    """Go on with a run, as its own recipe says."""
    from compressor import api

    if typed:
        raise UsageError(
            "--resume goes on with the recipe of the run and takes no other setting",
            hint="leave out all but --resume, or start a new run",
        )
    _together(devices, api.Run(folder).recipe)
    return api.resume(folder, allow=allow, tell=tell)


def _together(devices: int | None, recipe: Recipe) -> None:
    """Go on here where one process is enough or this is one of several; else start them, and end as they do."""
    from compressor.machine.ranks import LAUNCHED, place

    if devices is None or LAUNCHED in os.environ:
        return
    if place().world > 1:
        raise UsageError("--devices starts processes, and torchrun has done so", hint="leave --devices out")
    if devices > 1:
        from compressor.machine.launch import launch, require_devices

        require_devices(devices, recipe.device)
        raise SystemExit(launch(devices, sys.argv[1:]))


def _chosen(recipe: str | None, typed: Sequence[Override], option: str) -> Recipe:
    """Return the recipe to train by; `option` names its network where there is no recipe to do so."""
    if recipe is None and not any(each.place[0] == "student" for each in typed):
        raise UsageError(
            "no network to train is named",
            hint=f"{option} resnet20, or --recipe NAME; `compress models` lists networks",
        )
    return recipe_of(recipe, typed)
