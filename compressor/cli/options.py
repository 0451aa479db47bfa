"""What users may type: the options that several commands share, and the recipe that flags add up to."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from compressor.errors import UsageError

if TYPE_CHECKING:
    from compressor.pipeline import Normalisation
    from compressor.recipe import Override, Recipe


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


class Input(StrEnum):
    float32 = "float32"
    uint8 = "uint8"


class Output(StrEnum):
    logits = "logits"
    probabilities = "probabilities"


class Quantization(StrEnum):
    cpu = "cpu"
    trt = "trt"


class Stage(StrEnum):
    train = "train"
    export = "export"
    validate = "validate"
    bench = "bench"
    report = "report"


class Provider(StrEnum):
    cpu = "cpu"
    cuda = "cuda"
    tensorrt = "tensorrt"
    openvino = "openvino"


def _named(data: str | None) -> str | None:
    """Refuse what a shell variable that is not set leaves of `--data "$DATA"`."""
    if data == "":
        raise UsageError("--data is empty", hint="--data cifar10, or --data folder:PATH")
    return data


RecipeOption = Annotated[str | None, typer.Option("--recipe", "-r", help="A recipe file, or a name from `recipes ls`.")]
Teacher = Annotated[Path | None, typer.Option(help="Teacher: a checkpoint, or the folder of a run.")]
TeacherArch = Annotated[str | None, typer.Option(help="Teacher architecture, when its file fits several.")]
NumClasses = Annotated[int | None, typer.Option(help="Teacher classes, when they cannot be found out.")]
NormalizeOption = Annotated[
    Normalize | None, typer.Option(help="auto: take the usual mean and std that fit the teacher best.")
]
Data = Annotated[
    str | None,
    typer.Option(callback=_named, help="digits, cifar10, cifar100, mnist, fashion_mnist or folder:PATH."),
]
ImageSize = Annotated[int | None, typer.Option(min=1, help="Height and width, for images of mixed sizes.")]
Epochs = Annotated[int | None, typer.Option(help="Passes over the training images.")]
Lr = Annotated[float | None, typer.Option(help="Learning rate.")]
BatchSize = Annotated[int | None, typer.Option("--batch-size", "-b", help="Training images a step.")]
Seed = Annotated[int | None, typer.Option(help="Seed of initial weights, order, crops and attack targets.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, ... or auto.")]
ProviderOption = Annotated[
    Provider | None, typer.Option("--provider", help="What runs an ONNX file, instead of the device's own.")
]
TrainPrecision = Annotated[Precision | None, typer.Option(help="Arithmetic of training.")]
Name = Annotated[str | None, typer.Option(help="Name of the run: runs/NAME-1, runs/NAME-2, ...")]
Out = Annotated[Path | None, typer.Option("--out", "-o", help="Run folder, instead of runs/NAME-n.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what the run folder holds.")]
Resume = Annotated[Path | None, typer.Option(help="Go on with this run; everything else comes from its recipe.")]
Set = Annotated[list[str] | None, typer.Option("--set", help="Override a recipe key: a.b=c. May be repeated.")]
Gate = Annotated[
    list[str] | None, typer.Option("--gate", help="A promise: min_top1=90, p99_ms.max=5, ... May be repeated.")
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but the result.")]
Target = Annotated[Path | None, typer.Argument(help="A run folder or an artifact; the latest run when left out.")]
Mean = Annotated[str | None, typer.Option(help="Of an ONNX file's images, a channel each: 0.485,0.456,0.406.")]
Std = Annotated[str | None, typer.Option(help="Of an ONNX file's images, a channel each: 0.229,0.224,0.225.")]
Threads = Annotated[
    int | None, typer.Option(min=1, help="Threads of one inference; the runtime's own choice when left out.")
]

# parameter of a command, whose option is named alike -> recipe key
_KEYS = {
    "teacher": "teacher.checkpoint",
    "teacher_arch": "teacher.arch",
    "num_classes": "teacher.classes",
    "normalize": "teacher.normalize",
    "arch": "student.arch",
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
    "baseline": "gates.baseline",
    "batch_sizes": "bench.batch_sizes",
    "duration": "bench.duration_s",
    "threads": "bench.threads",
    "transfers": "bench.transfers",
    "cuda_graph": "bench.cuda_graph",
    "memory": "bench.memory",
}


def changes(parameters: Mapping[str, Any]) -> list[Override]:
    """Return what a command's parameters change in a recipe: its flags, then `--set`, then `--gate`."""
    from compressor.recipe import Override

    places = {name: tuple(key.split(".")) for name, key in _KEYS.items()}
    typed = [(name, place) for name, place in places.items() if parameters.get(name) is not None]
    flags = [flag(name, parameters[name], place) for name, place in typed]
    return [*flags, *map(Override.typed, parameters.get("set_") or ()), *_promises(parameters.get("gate"))]


def flag(parameter: str, value: Any, place: tuple[str | int, ...]) -> Override:
    """Return what one option changes in a recipe."""
    from compressor.recipe import Override

    return Override(place, value, f"--{parameter.replace('_', '-')}", said=len(place))


def _promises(gates: Sequence[str] | None) -> list[Override]:
    """Return what `--gate` changes in a recipe."""
    from compressor.recipe import Override

    found = []
    for gate in gates or ():
        text = gate if "=" in gate else f"{gate}="
        promise = Override.typed(text, "--gate", example="min_top1=90", below=("gates",))
        if promise.value is None:  # so that a shell variable that is not set takes no promise back
            raise UsageError(f"--gate {gate} has no limit", hint="--gate min_top1=90")
        found.append(promise)
    return found


def gate_names(typed: Sequence[Override]) -> set[str]:
    """Return the gates that were promised."""
    return {str(override.place[1]) for override in typed if override.place[0] == "gates"}


def normalisation_of(mean: str | None, std: str | None, normalize: Normalize | None) -> Normalisation:
    """Return what the user says of an ONNX file's images."""
    from compressor.pipeline import Normalisation

    return Normalisation(_numbers("--mean", mean), _numbers("--std", std), (normalize or Normalize.given).value)


def _numbers(flag: str, text: str | None) -> tuple[float, ...] | None:
    if text is None:
        return None
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise UsageError(
            f"{flag} takes numbers with commas between, not {text!r}", hint=f"{flag} 0.5,0.5,0.5"
        ) from None


def recipe_of(name: str | None, overrides: Sequence[Override]) -> Recipe:
    """Return the recipe from a file, a shipped name or nothing, changed by what was typed.

    All of it is the user's own, so the plug-ins that it names are imported.
    """
    from compressor.cli.presets import find
    from compressor.recipe import build, load

    if name is None:
        return build({"name": _name(overrides)}, overrides, base=Path.cwd())
    return load(find(name), overrides, trusted=True)


def _name(overrides: Sequence[Override]) -> str:
    """Return what to call a run that was not given a name: its student and its method, fit for a folder."""
    typed = {override.place: override.value for override in overrides}
    arch, method = typed.get(("student", "arch"), "run"), typed.get(("method", "kind"), "bss")
    return re.sub(r"[^a-z0-9._-]+", "-", f"{arch}-{method}".lower()).lstrip("._-")
