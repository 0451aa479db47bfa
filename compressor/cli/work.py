"""The commands that work on a run: train, distill, export, validate, bench, run."""

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
    ExportPrecision,
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
    Target,
    Teacher,
    TeacherArch,
    Threads,
    TrainPrecision,
    recipe_of,
    values_of,
)
from compressor.cli.output import show, tell_of
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


def export(
    target: Target = None,
    format_: Annotated[str | None, typer.Option("--format", "-f", help="onnx or trt.")] = None,
    precision: Annotated[ExportPrecision | None, typer.Option(help="Arithmetic of the artifact.")] = None,
    opset: Annotated[int | None, typer.Option(help="ONNX operator set.")] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Export a student and prove the file."""
    from compressor import pipeline

    tell = tell_of(quiet)
    result = pipeline.export(target, tell, format_=format_, precision=precision and precision.value, opset=opset)
    show(result, as_json=as_json)
    tell("next: compress validate")


def validate(
    target: Target = None,
    data: Data = None,
    teacher: Teacher = None,
    teacher_arch: TeacherArch = None,
    image_size: ImageSize = None,
    device: Device = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Measure accuracy, agreement and robustness.

    Of every file of a run on the same images, or of one artifact.
    """
    from compressor import pipeline
    from compressor.gates import enforce

    tell = tell_of(quiet)
    if target is not None and target.is_file():
        from compressor import recipe

        source = recipe.Data(name=data, image_size=image_size)
        given = None if teacher is None else recipe.Teacher(checkpoint=teacher, arch=teacher_arch)
        show(pipeline.validate_file(target, source, given, tell, device=device), as_json=as_json)
        return
    _refuse({"--data": data, "--teacher": teacher, "--teacher-arch": teacher_arch, "--image-size": image_size})
    result = pipeline.validate(target, tell, device=device)
    show(result, as_json=as_json)
    tell("next: compress bench")
    enforce(result.gates, complete=False)


def bench(
    target: Target = None,
    batch_sizes: Annotated[str | None, typer.Option(help="Comma-separated, such as 1,8,32.")] = None,
    duration: Annotated[
        float | None, typer.Option(min=0.001, help="Seconds of measuring, each file and batch size.")
    ] = None,
    threads: Threads = None,
    device: Device = None,
    baseline: Annotated[Path | None, typer.Option(help="An earlier bench.json to compare with.")] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Measure latency and throughput.

    Of every file of a run in turn, or of one artifact.
    """
    from compressor import pipeline
    from compressor.gates import enforce

    tell = tell_of(quiet)
    settings: dict[str, Any] = {}
    if batch_sizes is not None:
        settings["batch_sizes"] = _integers("--batch-sizes", batch_sizes)
    settings |= {key: value for key, value in {"duration_s": duration, "threads": threads}.items() if value is not None}
    if target is not None and target.is_file():
        show(pipeline.bench_file(target, settings, tell, device=device, baseline=baseline), as_json=as_json)
        return
    result = pipeline.bench(target, settings, tell, device=device, baseline=baseline)
    show(result, as_json=as_json)
    enforce(result.gates, complete=False)


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
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the resolved recipe and stop.")] = False,
    set_: Set = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Do all of a recipe and hold its gates."""
    from compressor import pipeline
    from compressor.gates import enforce
    from compressor.recipe import dump

    chosen = recipe_of(recipe, values_of(locals()), set_)
    if dry_run:
        typer.echo(dump(chosen), nl=False)
        return
    result = pipeline.run(chosen, tell_of(quiet), out=out, overwrite=overwrite)
    show(result, as_json=as_json)
    enforce(result.gates, complete=True)


def _only_resume(values: dict[str, Any], overrides: Sequence[str] | None) -> None:
    if values or overrides:
        raise UsageError(
            "--resume goes on with the recipe of the run and takes no other setting",
            hint="leave out all but --resume, or start a new run",
        )


def _refuse(flags: dict[str, object]) -> None:
    given = [flag for flag, value in flags.items() if value is not None]
    if given:
        raise UsageError(
            f"{given[0]} goes with a single artifact; a run has its own", hint="compress validate FILE ..."
        )


def _integers(flag: str, text: str) -> tuple[int, ...]:
    try:
        numbers = tuple(int(part) for part in text.split(","))
    except ValueError:
        numbers = ()
    if not numbers or min(numbers) < 1:
        raise UsageError(f"{flag} takes whole numbers with commas between, not {text!r}", hint=f"{flag} 1,8,32")
    return numbers
