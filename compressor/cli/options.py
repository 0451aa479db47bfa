"""What users may type: the options that several commands share, and the recipe that they add up to.

A group is a frozen dataclass of options; `command.laid_out` makes a command's parameter of that type into the options.
An option that stands for a recipe key has that key beside it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args, get_type_hints

import typer

from compressor.choices import DATA, ChannelOrder, Normalize, Provider, TrainPrecision
from compressor.errors import UsageError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    from compressor.pipeline import Normalisation
    from compressor.recipe import Data as DataConfig
    from compressor.recipe import Override, Recipe


@dataclass(frozen=True)
class Key:
    """The recipe key that an option sets, such as `train.epochs` or `export.0.format`; `read` takes the option apart.

    `read` is given the option and its text, to refuse what it cannot be.
    """

    name: str
    read: Callable[[str, str], Any] | None = None

    @property
    def place(self) -> tuple[str | int, ...]:
        return tuple(int(part) if part.isdecimal() else part for part in self.name.split("."))


def _named(data: str | None) -> str | None:
    """Refuse what a shell variable that is not set leaves of `--data "$DATA"`."""
    if data == "":
        raise UsageError("--data is empty", hint="--data cifar10, or --data folder:PATH")
    return data


def _bits(option: str, text: str) -> dict[str, int]:
    found = re.fullmatch(r"w([2-8])a([2-8])", "w8a8" if text.lower() == "int8" else text.lower())
    if found is None:
        raise UsageError(
            f"{option} takes int8, or the bits of weights and activations from 2 to 8, not {text!r}",
            hint=f"{option} int8, {option} w4a4",
        )
    return {"weights": int(found[1]), "activations": int(found[2])}


def sides(option: str, text: str) -> tuple[int, int]:
    """Return height and width as they are typed.

    Raises:
        UsageError: they are no size.
    """
    found = re.fullmatch(r"([1-9][0-9]*)(?:x([1-9][0-9]*))?", text.lower())
    if found is None:
        raise UsageError(f"{option} takes pixels, as height and width, not {text!r}", hint=f"{option} 224 or 240x320")
    return int(found[1]), int(found[2] or found[1])


RecipeOption = Annotated[str | None, typer.Option("--recipe", "-r", help="A recipe file, or a name from `recipes ls`.")]
Teacher = Annotated[
    Path | None, typer.Option(help="Teacher: a checkpoint, or the folder of a run."), Key("teacher.checkpoint")
]
TeacherArch = Annotated[
    str | None, typer.Option(help="Teacher architecture, when its file fits several."), Key("teacher.arch")
]
TeacherWeights = Annotated[
    str | None,
    typer.Option(help="Which of several sets of weights in the teacher's file, by its key."),
    Key("teacher.weights"),
]
NormalizeOption = Annotated[
    Normalize | None,
    typer.Option(help="auto: take the usual mean and std that fit the teacher best."),
    Key("teacher.normalize"),
]
ChannelOrderOption = Annotated[
    ChannelOrder | None,
    typer.Option(help="Of what an ONNX file takes; bgr: blue first. --mean and --std have red first all the same."),
]
OutputName = Annotated[str | None, typer.Option(help="Of an ONNX file with several outputs: the one with the logits.")]
Student = Annotated[
    str | None, typer.Option(help="resnet20, torchvision/NAME, timm/NAME, pkg.mod:make."), Key("student.arch")
]
Init = Annotated[Path | None, typer.Option(help="Weights to start from, instead of random ones."), Key("student.init")]
Quantize = Annotated[
    str | None,
    typer.Option(help="Learn through the rounding of the export: int8, or bits such as w4a4."),
    Key("student.quantize", _bits),
]
Data = Annotated[
    str | None,
    typer.Option(callback=_named, help=f"{DATA}."),
    Key("data.name"),
]
ImageSize = Annotated[
    str | None,
    typer.Option(help="Height and width, for images of mixed sizes: 224, or 240x320."),
    Key("data.image_size", sides),
]
CacheFolder = Annotated[
    Path | None,
    typer.Option("--cache", help="Folder where decoded images are kept, so that later runs need not decode them."),
    Key("data.cache"),
]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, ... or auto."), Key("device")]
ProviderOption = Annotated[
    Provider | None, typer.Option("--provider", help="What runs an ONNX file, instead of the device's own.")
]
FormatOption = Annotated[
    str | None,
    typer.Option("--format", "-f", help="Of a file that your own exporter wrote: package.module:name."),
]
Allow = Annotated[
    list[str] | None,
    typer.Option(help="Code that the run may import, package.module:name: a stored recipe alone imports none."),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what the run folder holds.")]
Resume = Annotated[Path | None, typer.Option(help="Go on with this run; everything else comes from its recipe.")]
Devices = Annotated[
    int | None,
    typer.Option(
        min=1, help="Processes of this machine that train together, each on a GPU, or on its share of the CPU."
    ),
]
Set = Annotated[list[str] | None, typer.Option("--set", help="Override a recipe key: a.b=c. May be repeated.")]
Gate = Annotated[
    list[str] | None, typer.Option("--gate", help="A promise: min_top1=90, p99_ms.max=5, ... May be repeated.")
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but the result.")]
Target = Annotated[Path | None, typer.Argument(help="A run folder or an artifact; the latest run when left out.")]


@dataclass(frozen=True)
class TeacherOptions:
    """Who teaches, and what its file does not say."""

    teacher: Teacher = None
    teacher_arch: TeacherArch = None
    num_classes: Annotated[
        int | None, typer.Option(help="Teacher classes, when they cannot be found out."), Key("teacher.classes")
    ] = None
    teacher_weights: TeacherWeights = None
    normalize: NormalizeOption = None


@dataclass(frozen=True)
class DataOptions:
    """Which images, and how large."""

    data: Data = None
    image_size: ImageSize = None
    cache: CacheFolder = None


@dataclass(frozen=True)
class TrainingOptions:
    """How a network is trained, and on what beside the images of `--data`."""

    epochs: Annotated[int | None, typer.Option(help="Passes over the training images."), Key("train.epochs")] = None
    lr: Annotated[float | None, typer.Option(help="Learning rate."), Key("train.lr")] = None
    batch_size: Annotated[
        int | None, typer.Option("--batch-size", "-b", help="Training images a step."), Key("data.batch_size")
    ] = None
    labels: Annotated[int | None, typer.Option(help="Use the labels of so many images alone."), Key("data.labels")] = (
        None
    )
    unlabelled: Annotated[
        str | None, typer.Option(help="Images without labels: folder:PATH or a data set."), Key("data.unlabelled")
    ] = None
    target: Annotated[
        str | None, typer.Option(help="Domain to adapt to: folder:PATH or a data set."), Key("data.target")
    ] = None
    precision: Annotated[
        TrainPrecision | None, typer.Option(help="Arithmetic of training."), Key("train.precision")
    ] = None
    device: Device = None


@dataclass(frozen=True)
class FolderOptions:
    """Where what is made is kept."""

    name: Annotated[str | None, typer.Option(help="Name of the run: runs/NAME-1, runs/NAME-2, ..."), Key("name")] = None
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Folder to write, instead of the one in runs/.")] = (
        None
    )
    overwrite: Overwrite = False


@dataclass(frozen=True)
class RunOptions(FolderOptions):
    """Where one training is kept, and what its chance begins with."""

    seed: Annotated[
        int | None, typer.Option(help="Seed of initial weights, order, crops and attack targets."), Key("seed")
    ] = None


@dataclass(frozen=True)
class ImageOptions(DataOptions):
    """The images of a single artifact: which ones, and how an ONNX file from elsewhere wants them normalised."""

    mean: Annotated[str | None, typer.Option(help="Of an ONNX file's images, a channel each: 0.485,0.456,0.406.")] = (
        None
    )
    std: Annotated[str | None, typer.Option(help="Of an ONNX file's images, a channel each: 0.229,0.224,0.225.")] = None
    normalize: NormalizeOption = None
    channel_order: ChannelOrderOption = None
    output_name: OutputName = None

    def source(self) -> DataConfig:
        """Return where the images come from."""
        from compressor import recipe

        return recipe.Data(
            name=self.data,
            image_size=None if self.image_size is None else sides("--image-size", self.image_size),
            cache=self.cache,
        )

    def normalisation(self) -> Normalisation:
        """Return what the user says of an ONNX file's images."""
        from compressor.pipeline import Normalisation

        return Normalisation(
            _numbers("--mean", self.mean),
            _numbers("--std", self.std),
            self.normalize or "given",
            self.channel_order or "rgb",
            self.output_name,
        )


def given(*groups: DataclassInstance) -> dict[str, Any]:
    """Return the options of the groups that were typed, and their values."""
    return {_option(field.name): value for group in groups for field, value in _typed(group)}


def changes(
    *groups: DataclassInstance, set_: Sequence[str] | None = None, gate: Sequence[str] | None = None
) -> list[Override]:
    """Return what the typed options change in a recipe: those that stand for a key, then `--set`, then `--gate`."""
    from compressor.recipe import Override

    return [*_keyed(groups), *map(Override.typed, set_ or ()), *_promises(gate)]


def gate_names(typed: Sequence[Override]) -> set[str]:
    """Return the gates that were promised."""
    return {str(override.place[1]) for override in typed if override.place[0] == "gates"}


def recipe_of(name: str | None, overrides: Sequence[Override]) -> Recipe:
    """Return the recipe from a file, a shipped name or nothing, changed by what was typed.

    All of it is the user's own, so the plug-ins that it names are imported.
    """
    from compressor.presets import find
    from compressor.recipe import build, load

    if name is None:
        return build({"name": _name(overrides)}, overrides, base=Path.cwd())
    return load(find(name), overrides, trusted=True)


def _typed(group: DataclassInstance) -> Iterator[tuple[Any, Any]]:
    """Yield the fields that have another value than when nothing is typed, and their values."""
    for field in fields(group):
        value = getattr(group, field.name)
        if value != field.default:
            yield field, value


def _keyed(groups: Sequence[DataclassInstance]) -> Iterator[Override]:
    """Yield what the options that stand for a recipe key change."""
    from compressor.recipe import Override

    for group in groups:
        hints = get_type_hints(type(group), include_extras=True)
        for field, value in _typed(group):
            option = _option(field.name)
            for key in (each for each in get_args(hints[field.name]) if isinstance(each, Key)):
                read = value if key.read is None else key.read(option, value)
                yield Override(key.place, read, option, said=len(key.place))


def _option(parameter: str) -> str:
    """`batch_size` is typed as `--batch-size`, and `input_`, which Python has taken, as `--input`."""
    return f"--{parameter.rstrip('_').replace('_', '-')}"


def _promises(gates: Sequence[str] | None) -> Iterator[Override]:
    """Yield what `--gate` changes in a recipe."""
    from compressor.recipe import Override

    for gate in gates or ():
        text = gate if "=" in gate else f"{gate}="
        promise = Override.typed(text, "--gate", example="min_top1=90", below=("gates",))
        if promise.value is None:  # so that a shell variable that is not set takes no promise back
            raise UsageError(f"--gate {gate} has no limit", hint="--gate min_top1=90")
        yield promise


def _numbers(flag: str, text: str | None) -> tuple[float, ...] | None:
    if text is None:
        return None
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise UsageError(
            f"{flag} takes numbers with commas between, not {text!r}", hint=f"{flag} 0.5,0.5,0.5"
        ) from None


def _name(overrides: Sequence[Override]) -> str:
    """Return what to call a run that was not given a name: its student and its method, fit for a folder."""
    typed = {override.place: override.value for override in overrides}
    arch, method = typed.get(("student", "arch"), "run"), typed.get(("method", "kind"), "bss")
    return re.sub(r"[^a-z0-9._-]+", "-", f"{arch}-{method}".lower()).lstrip("._-")
