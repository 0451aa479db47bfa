"""What a recipe may say. Each class is a section; what fields cannot express, a validator below them checks."""

from itertools import pairwise
from pathlib import Path
from typing import Annotated, Literal, Self, get_args

from pydantic import (
    AfterValidator,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from compressor.errors import UsageError
from compressor.methods import AnyMethod, Config
from compressor.methods.bss import BSS

Format = Literal["onnx", "trt", "trt-rtx", "openvino"]
FORMATS: tuple[str, ...] = get_args(Format)


def refusal(message: str, *, key: str = "", hint: str = "") -> PydanticCustomError:
    """Return an error to raise in a validator: `message` goes on after the dotted name, `key` is relative to it."""
    return PydanticCustomError("recipe", "{message}", {"message": message, "key": key, "hint": hint})


def _distinct(sizes: tuple[float, ...]) -> tuple[float, ...]:
    if len(set(sizes)) < len(sizes):
        raise refusal("must not name the same value twice")
    return sizes


def _listed(numbers: tuple[float, ...]) -> str:
    return "[" + ", ".join(f"{number:g}" for number in numbers) + "]"


Fraction = Annotated[float, Field(ge=0, le=1)]
Points = Annotated[float, Field(ge=0, le=100)]
Percentile = Annotated[float, Field(gt=0, lt=100)]


class Data(Config):
    """Where images come from. `name` is `digits`, `cifar10`, ... or `folder:PATH`; empty means: as the teacher says."""

    name: Annotated[str, Field(min_length=1, json_schema_extra={"format": "data-name"})] | None = Field(
        default=None,
        description="digits, cifar10, cifar100, mnist, fashion_mnist or folder:PATH; null: as the teacher says",
    )
    root: Path | None = Field(
        default=None, description="folder with the files of a named data set; looked up when not given"
    )
    validation: Annotated[int, Field(ge=0)] | Annotated[float, Field(gt=0, lt=1)] = Field(
        default=0.1, description="training images held out: a count, or a fraction of the training split"
    )
    test: Annotated[float, Field(gt=0, lt=1)] = Field(
        default=0.2, description="fraction that becomes the test split when the data has none of its own"
    )
    batch_size: PositiveInt = Field(default=256, description="training images a step")
    image_size: PositiveInt | None = Field(
        default=None, description="height and width; required for images of mixed sizes"
    )
    channels: Literal[1, 3] | None = Field(
        default=None, description="convert a folder's images to grey (1) or colour (3); required for mixed ones"
    )
    augment: Literal["auto", "none", "crop", "crop-flip"] = Field(
        default="auto", description="auto: crop-flip for photographs, crop for digits and characters"
    )
    workers: NonNegativeInt = Field(default=2, description="loading processes, for data that is streamed")


class Teacher(Config):
    """A trained checkpoint, or the folder of a run that trained one."""

    checkpoint: Path = Field(description="a checkpoint, or the folder of a run")
    arch: str | None = Field(default=None, description="only when the checkpoint fits several architectures")
    classes: PositiveInt | None = Field(default=None, description="only when the checkpoint does not say")
    normalize: Literal["given", "auto"] = Field(
        default="given", description="auto: use the usual mean and std that fit best, when the data's own fit badly"
    )
    mean: tuple[float, ...] | None = Field(default=None, description="per channel, for pixels in [0, 1]")
    std: tuple[PositiveFloat, ...] | None = Field(default=None, description="per channel, for pixels in [0, 1]")

    @model_validator(mode="after")
    def _normalisation_is_whole(self) -> Self:
        if (self.mean is None) != (self.std is None):
            raise refusal("mean and std must be given together")
        if self.mean is not None and self.std is not None and len(self.mean) != len(self.std):
            raise refusal(f"mean has {len(self.mean)} channels and std has {len(self.std)}")
        return self


class Student(Config):
    """`resnet20`, `torchvision/mobilenet_v3_small`, `timm/NAME` or `package.module:factory`."""

    arch: Annotated[str, Field(min_length=1)] = Field(
        description="resnet20, torchvision/NAME, timm/NAME or package.module:factory"
    )
    init: Path | None = Field(default=None, description="weights to start from")


class Schedule(Config):
    """Learning rate over the epochs. `at` holds epochs, or fractions of all epochs when below 1."""

    kind: Literal["constant", "steps", "cosine"] = "steps"
    at: tuple[PositiveFloat, ...] = Field(
        default=(0.5, 0.75), description="of steps: epochs, or fractions of all epochs when below 1"
    )
    gamma: Annotated[float, Field(gt=0, lt=1)] = Field(default=0.1, description="of steps: factor at each")
    warmup: NonNegativeFloat = Field(default=0.0, description="epochs of linear warm-up from zero")


class Training(Config):
    """The optimiser and its loop."""

    epochs: PositiveInt = 80
    optimizer: Literal["sgd", "adamw"] = "sgd"
    lr: PositiveFloat = Field(default=0.1, description="highest learning rate")
    momentum: Annotated[float, Field(ge=0, lt=1)] = Field(default=0.9, description="of sgd")
    nesterov: bool = Field(default=False, description="of sgd")
    weight_decay: NonNegativeFloat = 1e-4
    schedule: Schedule = Schedule()
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    channels_last: bool = True
    compile: bool = False
    clip_norm: PositiveFloat | None = Field(default=None, description="largest norm of all gradients together")
    ema: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        default=None, description="decay of an averaged copy to report"
    )

    @model_validator(mode="after")
    def _schedule_fits_into_the_epochs(self) -> Self:
        schedule = self.schedule
        if schedule.warmup >= self.epochs:
            raise refusal(
                f"must be less than train.epochs, {self.epochs}, got {schedule.warmup:g}",
                key="schedule.warmup",
            )
        if schedule.kind == "steps":
            begins = [step * self.epochs if step < 1 else step for step in schedule.at]
            if any(later <= earlier for earlier, later in pairwise(begins)):
                raise refusal(f"must increase, got {_listed(schedule.at)}", key="schedule.at")
            if begins and begins[-1] >= self.epochs:
                raise refusal(
                    f"must be less than train.epochs, {self.epochs}, got {_listed(schedule.at)}",
                    key="schedule.at",
                    hint="fractions such as [0.5, 0.75] go with any number of epochs",
                )
        return self

    @model_validator(mode="after")
    def _nesterov_has_momentum(self) -> Self:
        if self.nesterov and (self.optimizer != "sgd" or self.momentum == 0):
            raise refusal("needs optimizer sgd and a momentum above 0", key="nesterov")
        return self


class Export(Config):
    """One file to write."""

    format: Format = "onnx"
    precision: Literal["fp32", "fp16", "bf16", "int8"] = "fp32"
    opset: PositiveInt = Field(default=20, description="ONNX operator set")
    batch: Annotated[tuple[PositiveInt, ...], Field(min_length=3, max_length=3)] = Field(
        default=(1, 8, 32), description="smallest, usual and largest batch of an engine"
    )

    @field_validator("batch")
    @classmethod
    def _grows(cls, batch: tuple[int, ...]) -> tuple[int, ...]:
        if list(batch) != sorted(batch):
            raise refusal("must be the smallest, the usual and the largest batch, in this order")
        return batch


class Bench(Config):
    """How latency is measured."""

    batch_sizes: Annotated[tuple[PositiveInt, ...], Field(min_length=1), AfterValidator(_distinct)] = (1, 32)
    percentiles: Annotated[tuple[Percentile, ...], Field(min_length=1), AfterValidator(_distinct)] = (50, 90, 99)
    warmup_s: NonNegativeFloat = 0.2
    duration_s: PositiveFloat = 1.0
    min_iterations: PositiveInt = 30
    threads: PositiveInt | None = Field(default=None, description="of one inference; null: the runtime's own choice")


class Validate(Config):
    """How much is spent on measures beyond accuracy."""

    boundary_samples: NonNegativeInt = Field(default=256, description="images walked to the teacher's boundary")
    attack_samples: NonNegativeInt = Field(default=256, description="images for the FGSM and PGD accuracies")
    epsilon: Annotated[float, Field(gt=0, le=1)] = Field(default=8 / 255, description="largest change of a pixel, of 1")


class PerBatch(Config):
    """A bound at one batch size."""

    batch: PositiveInt = 1
    max: PositiveFloat


class Gates(Config):
    """Promises. Accuracies and drops are in points (0 to 100), agreements and errors are fractions."""

    max_accuracy_drop: NonNegativeFloat | None = None
    min_top1: Points | None = None
    min_agreement: Fraction | None = None
    min_boundary_agreement: Fraction | None = None
    max_class_drop: NonNegativeFloat | None = None
    max_parity_error: NonNegativeFloat | None = None
    p50_ms: PerBatch | None = None
    p99_ms: PerBatch | None = None
    min_speedup: PositiveFloat | None = None
    max_size_mb: PositiveFloat | None = None
    min_robust_top1: Points | None = None
    max_ece: Fraction | None = None
    undecided: Literal["pass", "fail"] = Field(default="pass", description="a drop the test set is too small to prove")


class Recipe(Config):
    """One run: a student, from a teacher and data, by a method; what is exported, measured and promised."""

    recipe: Literal[1] = Field(default=1, description="version of this format")
    name: Annotated[str, Field(max_length=100, pattern=r"^\w[\w.+-]*$")] = Field(
        default="run", description="of the run's folder: letters, digits and . _ + -"
    )
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    device: str = Field(default="auto", description="auto, cpu, cuda, cuda:1, ...")
    data: Data = Data()
    teacher: Teacher | None = None
    student: Student
    method: AnyMethod = BSS()
    train: Training = Training()
    export: tuple[Export, ...] = (Export(),)
    validation: Validate = Field(default=Validate(), alias="validate")
    bench: Bench = Bench()
    gates: Gates = Gates()

    @field_validator("export")
    @classmethod
    def _exports_differ(cls, exports: tuple[Export, ...]) -> tuple[Export, ...]:
        files = [f"{export.format} {export.precision}" for export in exports]
        twice = [file for file in files if files.count(file) > 1]
        if twice:
            raise refusal(f"lists {twice[0]} twice, and both would be the same file")
        return exports


def require_runnable(recipe: Recipe) -> None:
    """See that a recipe names all that a run needs: flags may fill what a shared recipe leaves open.

    Raises:
        UsageError: no teacher for a method that learns from one, or no data set and no teacher to tell it.
    """
    if recipe.method.needs.teachers and recipe.teacher is None:
        raise UsageError(
            f"method {recipe.method.kind} learns from a teacher, and the recipe names none",
            hint="--teacher FILE, or teacher: {checkpoint: FILE} in the recipe",
        )
    if recipe.data.name is None and recipe.teacher is None:
        raise UsageError(
            "the recipe names no data set, and no teacher that could tell it",
            hint="--data cifar10, --data folder:PATH, or data: {name: ...} in the recipe",
        )
