"""The recipe: one frozen, strictly checked description of a run, from YAML, flags and `--set`.

Relative paths in a recipe are relative to its file. The resolved copy stored with a run has absolute paths and every
default written out, so it alone repeats the run.
"""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from compressor.methods import AnyMethod, Config
from compressor.methods.bss import BSS

Fraction = Annotated[float, Field(ge=0, le=1)]


class Data(Config):
    """Where images come from. `name` is `digits`, `cifar10`, ... or `folder:PATH`; empty means: as the teacher says."""

    name: str | None = None
    root: Path | None = Field(None, description="folder with the files of a named data set; looked up when not given")
    validation: Annotated[int, Field(ge=0)] | Annotated[float, Field(gt=0, lt=1)] = Field(
        0.1, description="training images held out: a count, or a fraction of the training split"
    )
    test: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.2, description="fraction that becomes the test split when the data has none of its own"
    )
    batch_size: PositiveInt = 128
    image_size: PositiveInt | None = Field(None, description="height and width; required for images of mixed sizes")
    augment: Literal["auto", "none", "crop", "crop-flip"] = Field(
        "auto", description="auto: crop-flip for photographs, crop for digits and characters"
    )
    workers: NonNegativeInt = Field(2, description="loading processes, for data that is streamed")


class Teacher(Config):
    """A trained checkpoint, or the folder of a run that trained one."""

    checkpoint: Path
    arch: str | None = Field(None, description="only when the checkpoint fits several architectures")
    classes: PositiveInt | None = None
    normalize: Literal["given", "auto"] = Field(
        "given", description="auto: use the usual mean and std that fit best, when the data's own fit badly"
    )
    mean: tuple[float, ...] | None = None
    std: tuple[PositiveFloat, ...] | None = None


class Student(Config):
    """`resnet20`, `torchvision/mobilenet_v3_small`, `timm/NAME` or `package.module:factory`."""

    arch: str
    init: Path | None = Field(None, description="weights to start from")


class Schedule(Config):
    """Learning rate over the epochs. `at` holds epochs, or fractions of all epochs when below 1."""

    kind: Literal["constant", "steps", "cosine"] = "steps"
    at: tuple[PositiveFloat, ...] = (0.5, 0.75)
    gamma: Annotated[float, Field(gt=0, lt=1)] = 0.1
    warmup: NonNegativeFloat = Field(0.0, description="epochs of linear warm-up from zero")


class Training(Config):
    epochs: PositiveInt = 80
    optimizer: Literal["sgd", "adamw"] = "sgd"
    lr: PositiveFloat = 0.1
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    nesterov: bool = False
    weight_decay: NonNegativeFloat = 1e-4
    schedule: Schedule = Schedule()
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    channels_last: bool = True
    compile: bool = False
    clip_norm: PositiveFloat | None = None
    ema: Annotated[float, Field(gt=0, lt=1)] | None = Field(None, description="decay of an averaged copy to report")


class Export(Config):
    format: str = "onnx"
    precision: Literal["fp32", "fp16", "bf16", "int8"] = "fp32"
    opset: PositiveInt = 20
    batch: tuple[PositiveInt, ...] = Field((1, 8, 32), description="smallest, usual and largest batch of an engine")


class Bench(Config):
    batch_sizes: tuple[PositiveInt, ...] = (1, 32)
    percentiles: tuple[Annotated[float, Field(gt=0, lt=100)], ...] = (50, 90, 99)
    warmup_s: NonNegativeFloat = 0.2
    duration_s: PositiveFloat = 1.0
    min_iterations: PositiveInt = 30
    threads: PositiveInt | None = None


class Validate(Config):
    boundary_samples: NonNegativeInt = Field(256, description="images walked to the teacher's boundary")
    attack_samples: NonNegativeInt = Field(256, description="images for the FGSM and PGD accuracies")
    epsilon: Annotated[float, Field(gt=0, le=1)] = Field(8 / 255, description="largest change of a pixel, of 1")


class PerBatch(Config):
    batch: PositiveInt = 1
    max: PositiveFloat


class Gates(Config):
    """Promises. Accuracies and drops are in points (0 to 100), agreements and errors are fractions."""

    max_accuracy_drop: NonNegativeFloat | None = None
    min_top1: Annotated[float, Field(ge=0, le=100)] | None = None
    min_agreement: Fraction | None = None
    min_boundary_agreement: Fraction | None = None
    max_class_drop: NonNegativeFloat | None = None
    max_parity_error: NonNegativeFloat | None = None
    p50_ms: PerBatch | None = None
    p99_ms: PerBatch | None = None
    min_speedup: PositiveFloat | None = None
    max_size_mb: PositiveFloat | None = None
    min_robust_top1: Annotated[float, Field(ge=0, le=100)] | None = None
    max_ece: Fraction | None = None


class Recipe(Config):
    recipe: Literal[1] = 1
    name: str = "run"
    seed: NonNegativeInt = 0
    device: str = "auto"
    data: Data = Data()
    teacher: Teacher | None = None
    student: Student
    method: AnyMethod = BSS()
    train: Training = Training()
    export: tuple[Export, ...] = (Export(),)
    validation: Validate = Field(Validate(), alias="validate")
    bench: Bench = Bench()
    gates: Gates = Gates()
