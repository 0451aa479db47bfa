"""The commands that train: train, distill, run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from compressor.cli.options import (
    BatchSize,
    Data,
    Device,
    Epochs,
    Gate,
    ImageSize,
    Json,
    Lr,
    Name,
    NormalizeOption,
    NumClasses,
    Out,
    Overwrite,
    Quiet,
    RecipeOption,
    Resume,
    Seed,
    Set,
    Stage,
    Teacher,
    TeacherArch,
    TrainPrecision,
    gate_overrides,
    recipe_of,
    values_of,
)
from compressor.cli.output import hold, publish, show, tell_of
from compressor.errors import UsageError


def train(
    student: Annotated[str | None, typer.Option("--arch", help="What to train, such as resnet20.")] = None,
    data: Data = None,
    recipe: RecipeOption = None,
    image_size: ImageSize = None,
    epochs: Epochs = None,
    lr: Lr = None,
    batch_size: BatchSize = None,
    seed: Seed = None,
    device: Device = None,
    precision: TrainPrecision = None,
    name: Name = None,
    out: Out = None,
    overwrite: Overwrite = False,
    resume: Resume = None,
    set_: Set = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train a network on labels alone."""
    from compressor import pipeline

    values, tell = values_of(locals()), tell_of(quiet)
    if resume is not None:
        _only_resume(values, set_)
        result, folder = pipeline.resume(resume, tell)
    else:
        if recipe is None:
            values["method"] = {"kind": "ce"}
        result, folder = pipeline.train(recipe_of(recipe, values, set_), tell, out=out, overwrite=overwrite)
    show(result, as_json=as_json)
    tell(f"next: compress distill --teacher {folder.folder} --student resnet8")


def distill(
    teacher: Teacher = None,
    student: Annotated[str | None, typer.Option(help="resnet20, torchvision/NAME, timm/NAME, pkg.mod:make.")] = None,
    data: Data = None,
    recipe: RecipeOption = None,
    method: Annotated[str | None, typer.Option(help="bss, kd or ce; see `compress methods`.")] = None,
    teacher_arch: TeacherArch = None,
    num_classes: NumClasses = None,
    normalize: NormalizeOption = None,
    image_size: ImageSize = None,
    epochs: Epochs = None,
    lr: Lr = None,
    batch_size: BatchSize = None,
    seed: Seed = None,
    device: Device = None,
    precision: TrainPrecision = None,
    name: Name = None,
    out: Out = None,
    overwrite: Overwrite = False,
    resume: Resume = None,
    set_: Set = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train a student from a teacher."""
    from compressor import pipeline

    values, tell = values_of(locals()), tell_of(quiet)
    if resume is not None:
        _only_resume(values, set_)
        result, _ = pipeline.resume(resume, tell)
    else:
        chosen = recipe_of(recipe, values, set_)
        if chosen.teacher is None:
            raise UsageError("distill needs a teacher", hint="--teacher FILE, or compress train for a network alone")
        result, _ = pipeline.train(chosen, tell, out=out, overwrite=overwrite)
    show(result, as_json=as_json)
    tell("next: compress export --format onnx")


def run(
    recipe: Annotated[str, typer.Argument(help="A recipe file, or a name from `recipes ls`.")],
    teacher: Teacher = None,
    student: Annotated[str | None, typer.Option(help="Another student than the recipe's.")] = None,
    data: Data = None,
    teacher_arch: TeacherArch = None,
    num_classes: NumClasses = None,
    normalize: NormalizeOption = None,
    epochs: Epochs = None,
    seed: Seed = None,
    device: Device = None,
    name: Name = None,
    out: Out = None,
    overwrite: Overwrite = False,
    start: Annotated[Stage | None, typer.Option("--from", help="Do this stage and all later ones again.")] = None,
    page: Annotated[bool, typer.Option("--report/--no-report", help="Write report/report.html at the end.")] = True,
    smoke: Annotated[
        bool, typer.Option("--smoke", help="Try the whole path in a minute: the real inputs, then tiny networks.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the resolved recipe and stop.")] = False,
    gate: Gate = None,
    baseline: Annotated[
        Path | None, typer.Option(help="result.json of an earlier run, or its folder: what regressions count from.")
    ] = None,
    junit: Annotated[Path | None, typer.Option(help="Also write the gates here, as JUnit XML.")] = None,
    markdown: Annotated[Path | None, typer.Option(help="Also write the summary here, as Markdown.")] = None,
    set_: Set = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Do all of a recipe and hold its gates."""
    from compressor import pipeline
    from compressor.recipe import dump

    chosen = recipe_of(recipe, values_of(locals()), [*(set_ or ()), *gate_overrides(gate)])
    if dry_run:
        typer.echo(dump(chosen), nl=False)
        return
    if smoke:
        show(pipeline.smoke(chosen, tell_of(quiet)), as_json=as_json)
        return
    result = pipeline.run(
        chosen,
        tell_of(quiet),
        out=out,
        overwrite=overwrite,
        start=None if start is None else start.value,
        page=page,
    )
    show(result, as_json=as_json)
    publish(result, junit=junit, markdown=markdown)
    hold(result, complete=True)


def _only_resume(values: dict[str, Any], overrides: Sequence[str] | None) -> None:
    if values or overrides:
        raise UsageError(
            "--resume goes on with the recipe of the run and takes no other setting",
            hint="leave out all but --resume, or start a new run",
        )
