"""What a recipe may say. Each class is a section; what fields cannot express, a validator below them checks."""

import json
import re
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)

from compressor.choices import (
    DATA,
    EMBEDDED,
    FOLDER,
    OFFICIAL,
    ExportInput,
    ExportOutput,
    ExportPrecision,
    Normalize,
    Quantization,
    TrainPrecision,
)
from compressor.errors import UsageError, did_you_mean
from compressor.methods import AnyMethod, Config, Needs
from compressor.methods.bss import BSS
from compressor.methods.protocol import refusal
from compressor.plugins import PLUGIN, is_plugin
from exporters import EXPORTERS, PRECISIONS, Exporter, exporter

FORMATS = tuple(EXPORTERS)
ENGINES = tuple(name for name in FORMATS if exporter(name).COMPILED)


def _distinct(sizes: tuple[float, ...]) -> tuple[float, ...]:
    if len(set(sizes)) < len(sizes):
        raise refusal("must not name the same value twice")
    return sizes


def _listed(numbers: tuple[float, ...]) -> str:
    return "[" + ", ".join(f"{number:g}" for number in numbers) + "]"


def _known_format(name: str) -> str:
    if name in FORMATS or is_plugin(name):
        return name
    known, hint = ", ".join(map(repr, FORMATS)), did_you_mean(name, FORMATS) or ""
    raise refusal(f"must be {known} or package.module:name, got {json.dumps(name)}", hint=hint)


Format = Annotated[
    str,
    AfterValidator(_known_format),
    Field(json_schema_extra={"anyOf": [{"enum": list(FORMATS)}, {"pattern": PLUGIN}]}),
]
"""A name in `EXPORTERS`, or `package.module:name`: then the facts of the exporter are known when it is loaded."""
LARGEST_BATCH, SMALLEST_BATCH = 256, 16
LEAST_STEPS = 32  # of an epoch, where the size of a step is not given

# A user before the host of an address, or a key of its query or fragment that names a secret.
_SECRET = re.compile(
    r"^[^/?#]*:(//)?[^/?#]*@|[?&;#][^=&;]*(user|pass|pwd|token|secret|key|auth)[^=&;]*=", re.IGNORECASE
)
Fraction = Annotated[float, Field(ge=0, le=1)]
Points = Annotated[float, Field(ge=0, le=100)]
Percentile = Annotated[float, Field(gt=0, lt=100)]


class Data(Config):
    """Where images come from; without a name, from where the teacher says."""

    name: Annotated[str, Field(min_length=1, json_schema_extra={"format": "data-name"})] | None = Field(
        default=None,
        description=f"{DATA}; null: as the teacher says",
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
    batch_size: PositiveInt | None = Field(
        default=None,
        description=f"training images a step; null: {LARGEST_BATCH}, less for a set so small that an epoch would have "
        f"fewer than {LEAST_STEPS} steps, but at least {SMALLEST_BATCH}",
    )
    image_size: PositiveInt | None = Field(
        default=None, description="height and width; required for images of mixed sizes"
    )
    channels: Literal[1, 3] | None = Field(
        default=None, description="convert a folder's images to grey (1) or colour (3); required for mixed ones"
    )
    augment: Literal["auto", "none", "crop", "crop-flip"] = Field(
        default="auto", description="auto: crop-flip for photographs, crop for digits and characters"
    )
    class_order: Literal["natural"] | Path | Annotated[tuple[str, ...], Field(min_length=2)] | None = Field(
        default=None,
        description="natural (2 before 10), all names in their order, or a file of them; null: as the data have it, "
        "which for folders is the order of their names",
    )
    workers: NonNegativeInt = Field(default=2, description="loading processes, for data that is streamed")
    unlabelled: Annotated[str, Field(min_length=1, json_schema_extra={"format": "data-name"})] | None = Field(
        default=None,
        description="a second stream, for methods that use one: the name of a data set, whose training images it "
        "gives, or folder:PATH, all images below it",
    )
    unlabelled_batch: PositiveInt | None = Field(default=None, description="of those, a step; null: batch_size")

    @model_validator(mode="after")
    def _settings_have_an_effect(self) -> Self:
        for key, reason in self._idle():
            raise refusal(reason, key=key)
        return self

    def called(self, name: str) -> Self:
        """Return the section for the data set that was found out, such as the teacher's.

        Raises:
            UsageError: it says what has no effect on that set.
        """
        found = self.model_copy(update={"name": name})
        for key, reason in found._idle():
            raise UsageError(f"data.{key} {reason}", hint=f"leave data.{key} out")
        return found

    def step(self, images: int) -> int:
        """Return the size of a training step for so many training images: `batch_size`, or what fits them."""
        if self.batch_size is not None:
            return self.batch_size
        fits = max(1, images // LEAST_STEPS)
        return min(max(1 << (fits.bit_length() - 1), SMALLEST_BATCH), LARGEST_BATCH)

    def _idle(self) -> Iterator[tuple[str, str]]:
        """Yield the settings that have no effect on the set that is named, and why."""
        if self.unlabelled is None and self.unlabelled_batch is not None:
            yield "unlabelled_batch", "is for the stream data.unlabelled, and there is none"
        fields = type(self).model_fields
        given = {name for name in fields if getattr(self, name) != fields[name].default}
        folder = self.name is not None and self.name.startswith(FOLDER)
        if self.name in OFFICIAL and "test" in given:
            yield "test", f"is for data without a test split, and {self.name} has one"
        if (self.name == EMBEDDED or folder) and "root" in given:
            yield "root", f"is for the files of {', '.join(OFFICIAL)}, not {FOLDER if folder else EMBEDDED}"
        if self.name in (EMBEDDED, *OFFICIAL):
            for key in sorted(given & {"channels", "workers"}):
                yield key, f"is for {FOLDER}PATH, not {self.name}"


class Teacher(Config):
    """A trained checkpoint, or the folder of a run that trained one."""

    checkpoint: Path = Field(description="a checkpoint, or the folder of a run")
    arch: str | None = Field(default=None, description="only when the checkpoint fits several architectures")
    weights: Annotated[str, Field(min_length=1)] | None = Field(
        default=None, description="which of several sets of weights in the checkpoint, by its key: model_ema"
    )
    classes: PositiveInt | None = Field(default=None, description="only when the checkpoint does not say")
    normalize: Normalize = Field(
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
    steps_per_epoch: PositiveInt | None = Field(
        default=None, description="of methods without data; null: the batches of the data"
    )
    optimizer: Literal["sgd", "adamw"] = "sgd"
    lr: PositiveFloat = Field(default=0.1, description="highest learning rate")
    momentum: Annotated[float, Field(ge=0, lt=1)] = Field(default=0.9, description="of sgd")
    nesterov: bool = Field(default=False, description="of sgd")
    weight_decay: NonNegativeFloat = 1e-4
    schedule: Schedule = Schedule()
    precision: TrainPrecision = "fp32"
    channels_last: bool = True
    compile: bool = False
    clip_norm: PositiveFloat | None = Field(
        default=None, description="largest norm of all the student's gradients together"
    )
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
                hint="more epochs, or --set train.schedule.warmup=0",
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


class Calibration(Config):
    """The images that the ranges of INT8 are read from: of the training split, never augmented, never random."""

    samples: PositiveInt = 512
    boundary: Fraction | None = Field(
        default=None,
        description="share of boundary supporting samples; null: 0.25 where there is a network whose boundary can be "
        "walked to",
    )
    method: Literal["minmax", "entropy", "percentile"] = "minmax"


class Engine(Config):
    """How TensorRT builds. The profile is the target's `batch`."""

    workspace_mb: PositiveInt | None = Field(default=None, description="scratch memory in MiB; null: all there is")
    tf32: bool = Field(default=False, description="fp32 with the 10 bits of mantissa of TF32")
    optimization_level: Annotated[int, Field(ge=0, le=5)] = Field(
        default=3, description="5 builds longest, runs fastest"
    )
    hardware: Literal["this", "ampere+", "same-sm"] = Field(default="this", description="which GPUs may load the plan")
    version_compatible: bool = Field(default=False, description="newer minor versions of TensorRT may load the plan")
    timing_cache: Path | None = Field(default=None, description="a file that makes the next build faster")


class Export(Config):
    """One file to write."""

    format: Format = Field(default="onnx", description="or package.module:name, an exporter of your own")
    precision: ExportPrecision = Field(default="fp32", description="bf16 is experimental")
    opset: PositiveInt | None = Field(default=None, description="ONNX operator set; null: 20, for bf16 22")
    input: ExportInput = Field(
        default="float32", description="float32: NCHW in [0, 1]; uint8: NHWC, as an image decoder gives them"
    )
    output: ExportOutput = "logits"
    batch: Annotated[tuple[PositiveInt, ...], Field(min_length=3, max_length=3)] = Field(
        default=(1, 8, 32), description="smallest, usual and largest batch of an engine"
    )
    quantization: Quantization | None = Field(
        default=None, description="of int8: what ONNX Runtime and OpenVINO want, or TensorRT; null: as the format needs"
    )
    calibration: Calibration = Calibration()
    max_drop: NonNegativeFloat | None = Field(
        default=None, description="of int8: keep layers in fp32 until it is proved and loses no more points of top-1"
    )
    engine: Engine = Engine()

    @field_validator("batch")
    @classmethod
    def _grows(cls, batch: tuple[int, ...]) -> tuple[int, ...]:
        if list(batch) != sorted(batch):
            raise refusal("must be the smallest, the usual and the largest batch, in this order")
        return batch

    @model_validator(mode="after")
    def _settings_have_an_effect(self) -> Self:
        fields = type(self).model_fields
        given = {name for name in fields if getattr(self, name) != fields[name].default}
        if self.precision != "int8" and (idle := sorted(given & {"quantization", "calibration", "max_drop"})):
            raise refusal(f"is for precision int8, not {self.precision}", key=idle[0])
        found = self.misfit(exporter(self.format)) if self.format in EXPORTERS else None
        if found is not None:
            raise refusal(found[1], key=found[0])
        return self

    def misfit(self, exporter: Exporter) -> tuple[str, str] | None:
        """Return a setting that does not go with the exporter of `format`, and what is wrong with it; None: all do."""
        fields = type(self).model_fields
        idle = [name for name in ("batch", "engine") if getattr(self, name) != fields[name].default]
        if idle and not exporter.COMPILED:
            return idle[0], f"is for the formats {' and '.join(ENGINES)}, not {self.format}"
        if self.quantization not in (None, *exporter.QUANTIZATIONS):
            return "quantization", f"must be {' or '.join(exporter.QUANTIZATIONS)} for the format {self.format}"
        precisions = [each for each in PRECISIONS if any(each in p.precisions for p in exporter.PROVIDERS.values())]
        if self.precision not in precisions:
            return "precision", f"must be {' or '.join(precisions)} for the format {self.format}, got {self.precision}"
        return None

    @property
    def operators(self) -> int:
        """The ONNX operator set to write: bf16 convolutions came with 22."""
        return self.opset or (22 if self.precision == "bf16" else 20)

    @property
    def variant(self) -> str:
        """What sets the file apart from others of its format and precision, as a part of its name: `""` or `.uint8`."""
        usual = exporter(self.format).QUANTIZATIONS[0] if self.format in EXPORTERS else None
        unusual = None if self.quantization == usual else self.quantization
        parts = (self.input == "uint8" and "uint8", self.output == "probabilities" and "probabilities", unusual)
        return "".join(f".{part}" for part in parts if part)


class Bench(Config):
    """How latency is measured."""

    batch_sizes: Annotated[tuple[PositiveInt, ...], Field(min_length=1), AfterValidator(_distinct)] = (1, 32)
    percentiles: Annotated[tuple[Percentile, ...], Field(min_length=1), AfterValidator(_distinct)] = (50, 90, 99)
    warmup_s: NonNegativeFloat = 0.2
    duration_s: PositiveFloat = 1.0
    min_iterations: PositiveInt = 30
    threads: PositiveInt | None = Field(default=None, description="of one inference; null: the runtime's own choice")
    transfers: bool = Field(default=False, description="whether copies between host and device are timed too")
    cuda_graph: bool = Field(default=False, description="replay one recorded CUDA graph; refused on a CPU")
    memory: bool = Field(default=False, description="start a process for each file to see what memory it needs")

    @model_validator(mode="after")
    def _graphs_stay_on_the_device(self) -> Self:
        if self.transfers and self.cuda_graph:
            raise refusal(
                "does not go with transfers: a recorded graph begins and ends on the device", key="cuda_graph"
            )
        return self


class Validate(Config):
    """How much is spent on measures beyond accuracy."""

    boundary_samples: NonNegativeInt = Field(default=256, description="images walked to the teacher's boundary")
    attack_samples: NonNegativeInt = Field(default=256, description="images for the FGSM and PGD accuracies")
    epsilon: Annotated[float, Field(gt=0, le=1)] = Field(default=8 / 255, description="largest change of a pixel, of 1")
    similarity_images: NonNegativeInt = Field(
        default=32, description="images walked in teacher and student, to compare their boundaries (MagSim, AngSim)"
    )


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
    baseline: Path | None = Field(
        default=None, description="result.json of an earlier run, or its folder: what regressions are counted from"
    )
    max_top1_regression: NonNegativeFloat | None = Field(default=None, description="points below the baseline")
    max_agreement_regression: Fraction | None = Field(default=None, description="below the baseline, a fraction")
    max_latency_regression: NonNegativeFloat | None = Field(
        default=None, description="per cent above the baseline's median, at each batch size"
    )
    max_size_regression: NonNegativeFloat | None = Field(default=None, description="per cent above the baseline")
    undecided: Literal["pass", "fail"] | None = Field(
        default=None,
        description="what lies within its 95 % interval; null: differences that cannot be proven pass, limits on a "
        "value by itself are held against what was measured",
    )


class TensorBoard(Config):
    """Curves and parameters as event files, for `tensorboard --logdir`."""

    kind: Literal["tensorboard"] = "tensorboard"
    folder: Path | None = Field(default=None, description="of the event files; null: tensorboard/ in the run folder")


class MLflow(Config):
    """A run on an MLflow server. Passwords and tokens come from MLflow's own environment variables alone."""

    kind: Literal["mlflow"] = "mlflow"
    uri: Annotated[str, Field(min_length=1)] | None = Field(
        default=None, description="of the server, such as http://127.0.0.1:5000; null: $MLFLOW_TRACKING_URI"
    )
    experiment: Annotated[str, Field(min_length=1)] = "compress"
    register_as: Annotated[str, Field(min_length=1, pattern=r"^[^/:]+$")] | None = Field(
        default=None,
        alias="register",
        description="registered model that an ONNX file becomes a version of, where all gates hold",
    )
    file: Annotated[str, Field(min_length=1, pattern=r"^[^/]+\.onnx$")] | None = Field(
        default=None, description="the ONNX file to register, such as student.int8.onnx; null: the first"
    )

    @field_validator("uri")
    @classmethod
    def _holds_no_secret(cls, uri: str | None) -> str | None:
        if uri is not None and _SECRET.search(uri):
            raise refusal(
                "must not hold a user or a password",
                hint="export MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN; or the "
                "whole address as MLFLOW_TRACKING_URI",
                secret=True,
            )
        return uri

    @model_validator(mode="after")
    def _a_file_is_for_a_model(self) -> Self:
        if self.file is not None and self.register_as is None:
            raise refusal("is the file to register, and register names no model", key="file")
        return self


Tracking = Annotated[TensorBoard | MLflow, Field(discriminator="kind")]


class Recipe(Config):
    """One run: a student, from a teacher and data, by a method; what is exported, measured and promised."""

    recipe: Literal[1] = Field(default=1, description="version of this format")
    name: Annotated[str, Field(max_length=100, pattern=r"^\w[\w.+-]*$")] = Field(
        default="run", description="of the run's folder: letters, digits and . _ + -"
    )
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    device: str = Field(default="auto", description="auto, cpu, cuda, cuda:1, ...")
    data: Data = Data()
    teacher: Teacher | None = Field(default=None, description="the only teacher")
    teachers: tuple[Teacher, ...] = Field(
        default=(), description="several teachers, in place of teacher; results are compared with the first"
    )
    student: Student
    method: AnyMethod = BSS()
    train: Training = Training()
    export: tuple[Export, ...] = (Export(),)
    validation: Validate = Field(default=Validate(), alias="validate")
    bench: Bench = Bench()
    gates: Gates = Gates()
    tracking: tuple[Tracking, ...] = Field(default=(), description="where a run is told of, beside its folder")

    @model_validator(mode="after")
    def _teachers_are_said_once(self) -> Self:
        """Let `teachers` hold them all and `teacher` the first, whichever was written."""
        if self.teacher is not None and self.teachers and self.teacher != self.teachers[0]:
            raise refusal(
                "teacher and teachers are both given", hint="list all in teachers; the first is what is compared with"
            )
        self._keep_teachers(self.teachers or (() if self.teacher is None else (self.teacher,)))
        return self

    def _keep_teachers(self, teachers: tuple[Teacher, ...]) -> None:
        self.__dict__.update(teacher=teachers[0] if teachers else None, teachers=teachers)  # for the model is frozen

    @model_serializer(mode="wrap")
    def _one_teacher_by_itself(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Write `teacher` or `teachers`, as a recipe may have it."""
        values: dict[str, Any] = handler(self)
        values.pop("teacher" if len(self.teachers) > 1 else "teachers", None)
        return values

    def with_teachers(self, teachers: Sequence[Teacher]) -> Self:
        """Return the recipe with other teachers."""
        changed = self.model_copy()
        changed._keep_teachers(tuple(teachers))
        return changed

    @property
    def trains(self) -> str:
        """What to call the network that is trained: one without a teacher is no student."""
        return "network" if self.teacher is None else "student"

    @field_validator("export")
    @classmethod
    def _exports_differ(cls, exports: tuple[Export, ...]) -> tuple[Export, ...]:
        files = [f"{export.format} {export.precision}{export.variant.replace('.', ' ')}" for export in exports]
        twice = [file for file in files if files.count(file) > 1]
        if twice:
            raise refusal(f"lists {twice[0]} twice, and both would be the same file")
        return exports

    @field_validator("tracking")
    @classmethod
    def _trackers_differ(cls, trackers: tuple[Tracking, ...]) -> tuple[Tracking, ...]:
        kinds = [tracker.kind for tracker in trackers]
        twice = [kind for kind in kinds if kinds.count(kind) > 1]
        if twice:
            raise refusal(f"lists {twice[0]} twice")
        return trackers

    @model_validator(mode="after")
    def _what_is_registered_is_exported(self) -> Self:
        for index, tracker in enumerate(self.tracking):
            if (
                isinstance(tracker, MLflow)
                and tracker.register_as
                and "onnx" not in {each.format for each in self.export}
            ):
                raise refusal("needs an export of the format onnx", key=f"tracking.{index}.register")
        return self


def require_runnable(recipe: Recipe) -> None:
    """See that a recipe names all that a run needs, and nothing that its method has no use for.

    Flags may fill what a shared recipe leaves open.

    Raises:
        UsageError: teachers are missing or too many, there is no data set and no teacher to tell it, or the recipe has
            an unlabelled stream, views or steps that the method does not take, or lacks what it does.
    """
    needs, name = recipe.method.needs, f"method {recipe.method.kind}"
    _require_teachers(needs, name, len(recipe.teachers))
    if recipe.data.name is None and recipe.teacher is None:
        raise UsageError(
            "the recipe names no data set, and no teacher that could tell it",
            hint="--data cifar10, --data folder:PATH, or data: {name: ...} in the recipe",
        )
    if needs.unlabelled and recipe.data.unlabelled is None:
        raise UsageError(
            f"{name} learns from unlabelled images too, and the recipe names none",
            hint="--set data.unlabelled=folder:PATH",
        )
    if not needs.unlabelled and recipe.data.unlabelled is not None:
        raise UsageError(f"{name} has no use for unlabelled images", hint="leave out data.unlabelled")
    if needs.views > 1 and recipe.data.augment == "none":
        raise UsageError(
            f"{name} compares {needs.views} views of an image, and without augmentation they are the same",
            hint="--set data.augment=auto",
        )
    if needs.data and recipe.train.steps_per_epoch is not None:
        raise UsageError(
            f"{name} trains on data, whose batches are an epoch: train.steps_per_epoch has no meaning",
            hint="leave it out, or change data.batch_size",
        )
    if not needs.data and recipe.train.steps_per_epoch is None:
        raise UsageError(
            f"{name} trains without data, and the recipe does not say how many steps are an epoch",
            hint="--set train.steps_per_epoch=100",
        )


def _require_teachers(needs: Needs, name: str, given: int) -> None:
    if needs.teachers and not given:
        raise UsageError(
            f"{name} learns from {_teachers(needs.teachers)}, and the recipe names none",
            hint="--teacher FILE, or teacher: {checkpoint: FILE} in the recipe",
        )
    if given < needs.teachers:
        raise UsageError(
            f"{name} learns from {_teachers(needs.teachers)}, and the recipe names {given}",
            hint="teachers: [{checkpoint: FILE}, {checkpoint: FILE}] in the recipe",
        )
    if needs.most is not None and given > max(needs.most, 1):  # the first is what results are compared with
        most = f"{_teachers(needs.most)} at most" if needs.most > 1 else _teachers(needs.most)
        raise UsageError(f"{name} learns from {most}, and the recipe names {given}", hint="leave the others out")


def _teachers(count: int) -> str:
    return {0: "no teacher", 1: "a teacher"}.get(count, f"{count} teachers")
