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
    from compressor.recipe import Recipe


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
    "baseline": "gates.baseline",
}


def values_of(flags: Mapping[str, Any]) -> dict[str, Any]:
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


def gate_overrides(gates: Sequence[str] | None) -> list[str]:
    """Return what `--gate` says as `--set` would."""
    for gate in gates or ():
        if "=" not in gate:
            raise UsageError(f"--gate {gate} has no limit", hint="--gate min_top1=90")
    return [f"gates.{gate.strip()}" for gate in gates or ()]


def gate_names(gates: Sequence[str] | None) -> set[str]:
    """Return the gates that `--gate` names."""
    return {re.split("[.=]", gate.strip())[0] for gate in gates or ()}


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


def recipe_of(name: str | None, values: dict[str, Any], overrides: Sequence[str] | None) -> Recipe:
    """Return the recipe from a file or a shipped name, then flags, then `--set`."""
    from compressor.presets import find
    from compressor.recipe import build, load

    if name is None:
        return build({"name": _name(values)} | values, overrides or (), base=Path.cwd())
    return load(find(name), overrides or (), values=values)


def _name(values: Mapping[str, Any]) -> str:
    """Return what to call a run that was not given a name: its student and its method, fit for a folder."""
    arch, method = values.get("student", {}).get("arch", "run"), values.get("method", {}).get("kind", "bss")
    return re.sub(r"[^a-z0-9._-]+", "-", f"{arch}-{method}".lower())
