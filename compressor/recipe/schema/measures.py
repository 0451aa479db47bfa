"""What a recipe measures, and what it promises of that."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import (
    AfterValidator,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from compressor.methods import Config
from compressor.methods.protocol import refusal
from compressor.recipe.schema.numbers import Fraction, Percentile, Points


def _distinct(sizes: tuple[float | None, ...]) -> tuple[float | None, ...]:
    if len(set(sizes)) < len(sizes):
        raise refusal("must not name the same value twice")
    return sizes


ThreadCounts = Annotated[tuple[PositiveInt | None, ...], Field(min_length=1), AfterValidator(_distinct)]


class Bench(Config):
    """How latency is measured."""

    batch_sizes: Annotated[tuple[PositiveInt, ...], Field(min_length=1), AfterValidator(_distinct)] = (1, 32)
    percentiles: Annotated[tuple[Percentile, ...], Field(min_length=1), AfterValidator(_distinct)] = (50, 90, 99)
    warmup_s: NonNegativeFloat = 0.2
    duration_s: PositiveFloat = 1.0
    min_iterations: PositiveInt = 30
    threads: PositiveInt | ThreadCounts | None = Field(
        default=None, description="of one inference, or several numbers to try; null: the runtime's own choice"
    )
    transfers: bool = Field(default=False, description="whether copies between host and device are timed too")
    cuda_graph: bool = Field(default=False, description="replay one recorded CUDA graph; refused on a CPU")
    memory: bool = Field(default=False, description="start a process for each file to see what memory it needs")

    @property
    def thread_counts(self) -> tuple[int | None, ...]:
        """The numbers of threads to measure with; None: the runtime's own choice."""
        return self.threads if isinstance(self.threads, tuple) else (self.threads,)

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
    autoattack_samples: NonNegativeInt = Field(
        default=0, description="images for the accuracy under AutoAttack, seconds each; needs compressor[robust]"
    )
    epsilon: Annotated[float, Field(gt=0, le=1)] = Field(default=8 / 255, description="largest change of a pixel, of 1")
    similarity_images: NonNegativeInt = Field(
        default=32, description="images walked in teacher and student, to compare their boundaries (MagSim, AngSim)"
    )
    confidence_tolerance: Annotated[float, Field(gt=0, le=1)] = Field(
        default=0.1, description="confidence that an image may lose more or less than the others"
    )
    confidence_share: Annotated[float, Field(gt=0, le=1)] = Field(
        default=0.05, description="of the images, a fraction, that may differ by as much as the tolerance"
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
    max_confidence_spread: Fraction | None = None
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
