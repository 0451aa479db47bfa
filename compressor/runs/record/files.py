"""What a record holds of each file: teacher, student, artifacts; all but the first keys are null until measured."""

from collections.abc import Iterable
from typing import Literal

from pydantic import BaseModel, ConfigDict

from compressor.machine.hardware import NOISY


class Record(BaseModel):
    """A part of a record, which cannot be changed and has no key but its own."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Timing(Record):
    """What one batch size costs. Every sample is in `bench.json` beside the record."""

    p50: float
    p90: float
    p95: float
    p99: float
    mean: float
    median_ci: tuple[float, float] | None
    images_per_s: float
    iterations: int
    threads: int | None
    transfers: bool
    cuda_graph: bool = False
    other_load: float | None
    clock_mhz: float | None = None
    gpu_clock_mhz: float | None = None
    gpu_slow_downs: tuple[str, ...] = ()
    gpu_shared: bool | None = None
    energy_j: float | None = None
    memory_mb: float | None = None
    peak_memory_mb: float | None = None
    gpu_memory_mb: float | None = None

    @property
    def disturbed(self) -> str | None:
        """What may have made the times longer than the file alone would need."""
        load = self.other_load or 0.0
        if load > NOISY:
            return f"other processes used {load:.0%} of the CPU meanwhile"
        return "another process was on the GPU meanwhile" if self.gpu_shared else None


class Parity(Record):
    """Distance of an artifact's logits from those of what it was exported from."""

    max_error: float
    mean_error: float
    relative_error: float
    rms_error: float | None = None
    pixel_error: float | None = None
    agreement: float
    samples: int
    batch_sizes: tuple[int, ...]


class Metrics(Record):
    """What was measured of one file; all accuracies on the same test split."""

    path: str
    format: str
    precision: str
    provider: str | None
    sha256: str
    size_bytes: int
    samples: int | None = None
    top1: float | None = None
    top1_ci: tuple[float, float] | None = None
    top5: float | None = None
    target_top1: float | None = None
    target_top1_ci: tuple[float, float] | None = None
    ece: float | None = None
    nll: float | None = None
    agreement: float | None = None
    boundary_agreement: float | None = None
    made_agreement: dict[str, float] | None = None
    accuracy_drop: float | None = None
    accuracy_drop_ci: tuple[float, float] | None = None
    worst_class_drop: float | None = None
    teacher_mistakes_fixed: float | None = None
    new_mistakes: float | None = None
    confidence_drop: float | None = None
    confidence_spread: float | None = None
    confidence_changed: float | None = None
    confidence_kappa: float | None = None
    confidence_preserved: bool | None = None
    class_accuracy: dict[str, float | None] | None = None
    class_change: dict[str, float | None] | None = None
    fgsm_top1: float | None = None
    pgd_top1: float | None = None
    autoattack_top1: float | None = None
    magsim: float | None = None
    angsim: float | None = None
    similarity_walks: int | None = None
    latency_ms: dict[str, Timing] | None = None

    @property
    def agreed(self) -> str:
        """On what share of the images that were made it decides as its teacher, by their kind, in words."""
        shares = [f"{100 * share:.1f} % of {kind}" for kind, share in (self.made_agreement or {}).items()]
        return ", ".join(shares)

    @property
    def label(self) -> str:
        """What to call the file beside others."""
        return f"{self.format} {self.precision}"

    def timing(self, batch: str) -> Timing | None:
        """Return what a batch size costs, where it was timed."""
        return (self.latency_ms or {}).get(batch)


class Network(Metrics):
    """The teacher or the student, as PyTorch runs it."""

    arch: str | None
    classes: int
    input_shape: tuple[int, int, int]
    parameters: int | None
    macs: int | None
    quantized: str | None = None

    @property
    def label(self) -> str:
        """See `Metrics.label`; the bits are told where it was trained to be rounded."""
        return super().label + (f", {self.quantized}" if self.quantized else "")

    @property
    def guesses(self) -> bool:
        """Whether it may be guessing: the interval of its accuracy holds one class's share, or it knows one alone."""
        by_class = [accuracy for accuracy in (self.class_accuracy or {}).values() if accuracy is not None]
        one_alone = len(by_class) > 1 and sorted(by_class) == [*[0.0] * (len(by_class) - 1), 100.0]
        return one_alone or (self.top1_ci is not None and self.top1_ci[0] <= 100 / self.classes)


class Calibration(Record):
    """How a file was quantised. `images` are what its ranges come from: `training`, `synthetic`, or `trained` with it.

    `simulated` is set where no runtime computes in so few bits, and floating point rounds in their place.
    """

    recipe: str
    method: str
    samples: int
    boundary: int
    kept_fp32: tuple[str, ...]
    drop: float | None
    images: Literal["training", "synthetic", "trained"] = "training"
    simulated: str | None = None


class Artifact(Metrics):
    """An exported file. Without a `provider` it was built here and could not be run here; `note` says why."""

    input: str = "float32"
    output: str = "logits"
    companions: tuple[str, ...] = ()
    census: dict[str, int] = {}
    calibration: Calibration | None = None
    parity: Parity | None = None
    note: str | None = None
    teacher_ms: dict[str, float] | None = None

    @property
    def label(self) -> str:
        """See `Metrics.label`; what it takes, returns and was quantised by is told where it is not the usual."""
        unusual = [each for each in (self.input, self.output) if each not in ("float32", "logits")]
        if self.format == "onnx" and self.calibration is not None and self.calibration.recipe != "cpu":
            unusual.append(self.calibration.recipe)
        if self.calibration is not None and self.calibration.simulated is not None:
            unusual.append(f"{self.calibration.simulated} simulated")
        return " ".join([super().label, *unusual])


def speed_up(file: Metrics, reference: Metrics, batch: str) -> float | None:
    """Return how many times shorter the median latency of a file is than that of a reference.

    None where one of them was not timed at the batch size, or they ran on different devices: then the ratio is the
    devices', not the files'.
    """
    ours, theirs = file.timing(batch), reference.timing(batch)
    if ours is None or theirs is None or file.provider != reference.provider:
        return None
    return theirs.p50 / ours.p50


def batches(files: Iterable[Metrics]) -> list[str]:
    """Return the batch sizes that any of the files was timed at, as keys of `latency_ms`, the smallest first."""
    return sorted({batch for file in files for batch in file.latency_ms or {}}, key=int)
