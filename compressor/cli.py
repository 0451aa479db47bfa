"""The `compress` command: parse, one call, print. Data goes to standard output, everything else to standard error.

Nothing heavy is imported here: a command imports what it needs, so that help and listings come at once.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from compressor.errors import CompressError, UsageError
from exporters.errors import ExporterError

if TYPE_CHECKING:
    from compressor.progress import Tell
    from compressor.recipe import Recipe
    from compressor.report import Metrics, Result

app = typer.Typer(
    name="compress",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Distil an image classifier into a smaller one, prove what was kept, export and measure it.",
)
recipes_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="List, show, copy and check recipes.")
app.add_typer(recipes_app, name="recipes")


class Normalize(StrEnum):
    given = "given"
    auto = "auto"


class Precision(StrEnum):
    fp32 = "fp32"
    bf16 = "bf16"
    fp16 = "fp16"


class ExportPrecision(StrEnum):
    fp32 = "fp32"
    fp16 = "fp16"
    bf16 = "bf16"
    int8 = "int8"


RecipeOption = Annotated[str | None, typer.Option("--recipe", "-r", help="A recipe file, or a name from `recipes ls`.")]
Teacher = Annotated[Path | None, typer.Option(help="Teacher: a checkpoint, or the folder of a run.")]
TeacherArch = Annotated[str | None, typer.Option(help="Teacher architecture, when its file fits several.")]
NumClasses = Annotated[int | None, typer.Option(help="Teacher classes, when they cannot be found out.")]
NormalizeOption = Annotated[
    Normalize | None, typer.Option(help="auto: take the usual mean and std that fit the teacher best.")
]
Data = Annotated[str | None, typer.Option(help="digits, cifar10, cifar100, mnist, fashion_mnist or folder:PATH.")]
ImageSize = Annotated[int | None, typer.Option(min=1, help="Height and width, for images of mixed sizes.")]
Epochs = Annotated[int | None, typer.Option(help="Passes over the training images.")]
Lr = Annotated[float | None, typer.Option(help="Learning rate.")]
BatchSize = Annotated[int | None, typer.Option("--batch-size", "-b", help="Training images a step.")]
Seed = Annotated[int | None, typer.Option(help="Seed of initial weights, order, crops and attack targets.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, ... or auto.")]
TrainPrecision = Annotated[Precision | None, typer.Option(help="Arithmetic of training.")]
Name = Annotated[str | None, typer.Option(help="Name of the run: runs/NAME-1, runs/NAME-2, ...")]
Out = Annotated[Path | None, typer.Option("--out", "-o", help="Run folder, instead of runs/NAME-n.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what the run folder holds.")]
Resume = Annotated[Path | None, typer.Option(help="Go on with this run; everything else comes from its recipe.")]
Set = Annotated[list[str] | None, typer.Option("--set", help="Override a recipe key: a.b=c. May be repeated.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but the result.")]
Target = Annotated[Path | None, typer.Argument(help="A run folder or an artifact; the latest run when left out.")]
Threads = Annotated[
    int | None, typer.Option(min=1, help="Threads of one inference; the runtime's own choice when left out.")
]


@app.command()
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

    values, tell = _values(locals()), _tell(quiet)
    if resume is not None:
        _only_resume(values, set_)
        result, folder = pipeline.resume(resume, tell)
    else:
        if recipe is None:
            values["method"] = {"kind": "ce"}
        result, folder = pipeline.train(_recipe(recipe, values, set_), tell, out=out, overwrite=overwrite)
    _show(result, as_json=as_json)
    tell(f"next: compress distill --teacher {folder.folder} --student resnet8")


@app.command()
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

    values, tell = _values(locals()), _tell(quiet)
    if resume is not None:
        _only_resume(values, set_)
        result, _ = pipeline.resume(resume, tell)
    else:
        chosen = _recipe(recipe, values, set_)
        if chosen.teacher is None:
            raise UsageError("distill needs a teacher", hint="--teacher FILE, or compress train for a network alone")
        result, _ = pipeline.train(chosen, tell, out=out, overwrite=overwrite)
    _show(result, as_json=as_json)
    tell("next: compress export --format onnx")


@app.command()
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

    tell = _tell(quiet)
    result = pipeline.export(target, tell, format_=format_, precision=precision and precision.value, opset=opset)
    _show(result, as_json=as_json)
    tell("next: compress validate")


@app.command()
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

    tell = _tell(quiet)
    if target is not None and target.is_file():
        from compressor import recipe

        source = recipe.Data(name=data, image_size=image_size)
        given = None if teacher is None else recipe.Teacher(checkpoint=teacher, arch=teacher_arch)
        _show(pipeline.validate_file(target, source, given, tell, device=device), as_json=as_json)
        return
    _refuse({"--data": data, "--teacher": teacher, "--teacher-arch": teacher_arch, "--image-size": image_size})
    result = pipeline.validate(target, tell, device=device)
    _show(result, as_json=as_json)
    tell("next: compress bench")
    enforce(result.gates, complete=False)


@app.command()
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

    tell = _tell(quiet)
    settings: dict[str, Any] = {}
    if batch_sizes is not None:
        settings["batch_sizes"] = _integers("--batch-sizes", batch_sizes)
    settings |= {key: value for key, value in {"duration_s": duration, "threads": threads}.items() if value is not None}
    if target is not None and target.is_file():
        _show(pipeline.bench_file(target, settings, tell, device=device, baseline=baseline), as_json=as_json)
        return
    result = pipeline.bench(target, settings, tell, device=device, baseline=baseline)
    _show(result, as_json=as_json)
    enforce(result.gates, complete=False)


@app.command()
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

    chosen = _recipe(recipe, _values(locals()), set_)
    if dry_run:
        typer.echo(dump(chosen), nl=False)
        return
    result = pipeline.run(chosen, _tell(quiet), out=out, overwrite=overwrite)
    _show(result, as_json=as_json)
    enforce(result.gates, complete=True)


@app.command()
def inspect(
    path: Annotated[Path, typer.Argument(help="A checkpoint, an ONNX file or a run folder.")], as_json: Json = False
) -> None:
    """Print what is known of a file, executing nothing."""
    from compressor.inspection import inspect as look

    facts = look(path)
    if as_json:
        typer.echo(json.dumps(facts, indent=2))
    else:
        _show_facts(facts)


@app.command()
def models(
    torchvision: Annotated[bool, typer.Option("--torchvision", help="List torchvision's classifiers too.")] = False,
    as_json: Json = False,
) -> None:
    """List networks with parameters and MACs."""
    from dataclasses import asdict

    from rich.console import Console
    from rich.table import Table

    from compressor.models import catalogue

    entries = catalogue(torchvision=torchvision)
    if as_json:
        typer.echo(json.dumps([asdict(entry) for entry in entries], indent=2))
        return
    table = Table("name", "parameters", "MACs", "input", "description", box=None)
    for entry in entries:
        shape = "x".join(map(str, entry.input_shape))
        macs = "-" if entry.macs is None else f"{entry.macs / 1e6:,.1f} M"
        table.add_row(entry.name, f"{entry.parameters:,}", macs, shape, entry.description)
    Console(width=None if sys.stdout.isatty() else 140).print(table)


@app.command()
def methods(as_json: Json = False) -> None:
    """List methods and their hyper-parameters."""
    from compressor.methods import describe

    entries = describe()
    if as_json:
        typer.echo(json.dumps(entries, indent=2))
        return
    for entry in entries:
        typer.echo(f"{entry['kind']}: {entry['summary']}")
        for key, value in entry["defaults"].items():
            typer.echo(f"    {key}: {json.dumps(value)}")


@recipes_app.command("ls")
def recipes_ls(as_json: Json = False) -> None:
    """List the recipes that come with the tool."""
    from compressor.presets import presets

    found = presets()
    if as_json:
        typer.echo(json.dumps([{"name": each.name, "summary": each.summary} for each in found], indent=2))
        return
    width = max(len(each.name) for each in found)
    for each in found:
        typer.echo(f"{each.name:<{width}}  {each.summary}")


@recipes_app.command("show")
def recipes_show(name: Annotated[str, typer.Argument(help="A name from `recipes ls`, or a file.")]) -> None:
    """Print a recipe as it is written."""
    from compressor.presets import find

    typer.echo(find(name).read_text(encoding="utf-8"), nl=False)


@recipes_app.command("cp")
def recipes_cp(
    name: Annotated[str, typer.Argument(help="A name from `recipes ls`.")],
    destination: Annotated[Path, typer.Argument(help="A file that does not exist yet, or a folder.")],
) -> None:
    """Copy a recipe, to change it."""
    from compressor.presets import copy

    written = copy(name, destination)
    typer.echo(str(written))
    _tell(False)(f"next: compress recipes check {written}")


@recipes_app.command("check")
def recipes_check(
    name: Annotated[str, typer.Argument(help="A recipe file, or a name from `recipes ls`.")], set_: Set = None
) -> None:
    """Check a recipe and print it with every default written out."""
    from compressor.pipeline import check
    from compressor.recipe import dump

    recipe, tell = _recipe(name, {}, set_), _tell(False)
    if recipe.teacher is None and recipe.method.needs.teachers:
        tell("the recipe is well-formed and leaves the teacher to --teacher")
    else:
        check(recipe)
        tell("the recipe is well-formed")
    typer.echo(dump(recipe), nl=False)


@recipes_app.command("schema")
def recipes_schema() -> None:
    """Print the JSON Schema of a recipe, for editors."""
    from compressor.recipe import schema

    typer.echo(json.dumps(schema(), indent=2))


# flag (as the commands name it) -> recipe key
_FLAGS = {
    "teacher": "teacher.checkpoint",
    "teacher_arch": "teacher.arch",
    "num_classes": "teacher.classes",
    "normalize": "teacher.normalize",
    "student": "student.arch",
    "data": "data.name",
    "image_size": "data.image_size",
    "batch_size": "data.batch_size",
    "method": "method.kind",
    "epochs": "train.epochs",
    "lr": "train.lr",
    "precision": "train.precision",
    "seed": "seed",
    "device": "device",
    "name": "name",
}


def _values(flags: dict[str, Any]) -> dict[str, Any]:
    """Return the flags that were given as a nested recipe."""
    values: dict[str, Any] = {}
    for flag, key in _FLAGS.items():
        value = flags.get(flag)
        if value is None:
            continue
        *folders, last = key.split(".")
        part = values
        for folder in folders:
            part = part.setdefault(folder, {})
        part[last] = str(value) if isinstance(value, Path | StrEnum) else value
    return values


def _recipe(name: str | None, values: dict[str, Any], overrides: Sequence[str] | None) -> Recipe:
    """Return the recipe from a file or a shipped name, then flags, then `--set`."""
    from compressor.presets import find
    from compressor.recipe import build, load

    if name is None:
        return build(values, overrides or (), base=Path.cwd())
    return load(find(name), overrides or (), values=values)


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


def _tell(quiet: bool) -> Tell:
    from compressor.progress import Tell

    return Tell(quiet=quiet)


def _show(result: Result | Metrics, *, as_json: bool) -> None:
    if as_json:
        typer.echo(result.model_dump_json(indent=2))
        return
    from rich.console import Console

    from compressor import report

    console = Console(width=None if sys.stdout.isatty() else 160, highlight=False)
    if not isinstance(result, report.Result):
        console.print(report.single(result))
        return
    console.print(report.summary(result))
    if result.gates:
        console.print(report.gates(result.gates))


def _show_facts(facts: dict[str, Any], indent: str = "") -> None:
    for key, value in facts.items():
        if isinstance(value, dict) and value:
            typer.echo(f"{indent}{key}:")
            _show_facts(value, indent + "  ")
        else:
            typer.echo(f"{indent}{key}: {value if isinstance(value, str) else json.dumps(value)}")


def main() -> None:
    """Run the command line; a user's mistake becomes one sentence, a hint and an exit code."""
    try:
        app()
    except (CompressError, ExporterError) as error:
        typer.echo(f"error: {error.message}", err=True)
        if error.hint:
            typer.echo(f"hint: {error.hint}", err=True)
        if os.environ.get("COMPRESS_DEBUG"):
            raise
        sys.exit(error.exit_code)
