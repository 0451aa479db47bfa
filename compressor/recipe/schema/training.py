"""How the student of a recipe is trained."""

from itertools import pairwise
from typing import Annotated, Literal, Self

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from compressor.choices import TrainPrecision
from compressor.methods import Config
from compressor.methods.protocol import refusal


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
        default=None, description="images begin again whenever they end; null: one pass over the labelled ones"
    )
    optimizer: Literal["sgd", "adamw"] = "sgd"
    lr: PositiveFloat = Field(default=0.1, description="highest learning rate")
    momentum: Annotated[float, Field(ge=0, lt=1)] = Field(default=0.9, description="of sgd")
    nesterov: bool = Field(default=False, description="of sgd")
    weight_decay: NonNegativeFloat = 1e-4
    schedule: Schedule = Schedule()
    accumulate: PositiveInt = Field(
        default=1, description="parts that a step's images are taken in, one after the other: the memory of one part"
    )
    precision: TrainPrecision = "fp32"
    channels_last: bool = True
    compile: bool | Literal["auto"] = Field(
        default=False,
        description="whether torch.compile makes code of student and teachers; auto: where that makes the training "
        "shorter, by steps that are timed and thrown away before the first (false in a comparison)",
    )
    teacher_runtime: Literal["torch", "onnxruntime", "openvino", "auto"] = Field(
        default="torch",
        description="what answers for the teacher where no gradient is asked for, on the CPU; auto: the fastest that "
        "is installed, measured once before the first step (torch in a comparison, whose cells must not differ in it)",
    )
    freeze: tuple[Annotated[str, Field(min_length=1)], ...] = Field(
        default=(), description="modules of the student, by their paths, that stay as they are, statistics included"
    )
    cache_teacher: bool = Field(
        default=False, description="ask the teachers once for each image, where images are not augmented"
    )
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


def _listed(numbers: tuple[float, ...]) -> str:
    return "[" + ", ".join(f"{number:g}" for number in numbers) + "]"
