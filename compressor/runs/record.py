"""`result.json`: the one record of a run, documented field by field in docs/result.md.

Accuracies and drops are percent and points, agreements, ECE and errors fractions, times milliseconds. A value that was
not measured is null, never zero.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from compressor.errors import InputRejected
from compressor.files import write_text
from compressor.machine.hardware import NOISY
from compressor.runs.folder import resume_command

NAME = "result.json"
TEACHER, STUDENT = "teacher", "student"


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
    class_accuracy: dict[str, float | None] | None = None
    class_change: dict[str, float | None] | None = None
    fgsm_top1: float | None = None
    pgd_top1: float | None = None
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


Verdict = Literal["held", "broken", "undecided", "unmeasured"]


class Gate(Record):
    """One promise: `passed` is null when it is not measured, or undecided and that does not break it."""

    gate: str
    artifact: str
    limit: float
    value: float | None
    verdict: Verdict
    passed: bool | None
    detail: str


class Data(Record):
    """The images by split and stream, and how many served at the boundary and under attack; `epsilon` is of 1.

    `target_test` counts the labelled images of the target domain, `made` the images that nobody took, by kind: noise,
    generated, boundary.
    """

    source: str
    fingerprint: str
    classes: int
    train: int
    validation: int
    test: int
    unlabelled: int | None = None
    target: str | None = None
    target_test: int | None = None
    boundary_samples: int | None = None
    attack_samples: int | None = None
    made: dict[str, int] | None = None
    epsilon: float | None = None

    @property
    def measured(self) -> str:
        """The images that accuracies are of; where there are none, those that were made to stand in for them."""
        if self.test or not self.made:
            return f"{self.test:,} test images"
        return "no test images; made ones: " + ", ".join(f"{count:,} {kind}" for kind, count in self.made.items())


class Part(Record):
    """One stage of a training that has several; `frozen` modules of the student stayed as they were."""

    method: str
    epochs: int
    frozen: tuple[str, ...] = ()


class Training(Record):
    """How the student was trained; its accuracies are of the validation images."""

    method: str
    seed: int
    epochs: int
    stages: tuple[Part, ...] = ()
    seconds: float
    validation_top1: float | None
    best_validation_top1: float | None
    best_epoch: int | None


class Result(Record):
    """All that is known of a run. `passed` is null where there are no gates, or one waits for a measurement."""

    result: Literal[1] = 1
    name: str
    created: str
    recipe_sha256: str
    data: Data
    training: Training
    teacher: Network | None
    student: Network
    artifacts: tuple[Artifact, ...] = ()
    gates: tuple[Gate, ...] = ()
    passed: bool | None = None
    versions: dict[str, str]
    hardware: dict[str, str | int | float | list[str] | list[int] | None]

    def write(self, folder: Path) -> None:
        """Write `result.json` into a run folder, whole or not at all."""
        write_text(folder / NAME, self.model_dump_json(indent=2) + "\n")

    def files(self) -> tuple["Named", ...]:
        """Return teacher (where there is one), student and artifacts, each under its own name."""
        files = [] if self.teacher is None else [Named(TEACHER, TEACHER, self.teacher, self.teacher, None)]
        alone = "network" if self.teacher is None else STUDENT  # without a teacher it is nobody's student
        files.append(Named(STUDENT, alone, self.student, self.student, self.teacher))
        plain = [each.label for each in self.artifacts]
        for label, each in zip(plain, self.artifacts, strict=True):
            own = label if plain.count(label) == 1 else f"{label} ({Path(each.path).name})"
            files.append(Named(each.path, own, each, self.student, self.teacher))
        return tuple(files)

    def mapped(self, changes: Callable[["Named"], Mapping[str, Any]]) -> "Result":
        """Return the record with what is new of each file, by the keys of its metrics."""
        new = {file.name: file.metrics.model_copy(update=dict(changes(file))) for file in self.files()}
        artifacts = tuple(new[each.path] for each in self.artifacts)
        return self.model_copy(update={"teacher": new.get(TEACHER), "student": new[STUDENT], "artifacts": artifacts})


@dataclass(frozen=True)
class Named:
    """One file of a run.

    `name` is `teacher`, `student`, or the path of an artifact in the run folder; `label` says what it is in two words,
    unlike the others'. `network` is what it holds, `teacher` what it is compared with, None for the teacher itself.
    """

    name: str
    label: str
    metrics: Metrics
    network: Network
    teacher: Network | None

    @property
    def file_name(self) -> str:
        """`teacher`, `student`, or the artifact's file name."""
        return Path(self.name).name

    @property
    def teacher_ms(self) -> dict[str, float] | None:
        """What the teacher takes in the runtime of an artifact, by batch size."""
        return self.metrics.teacher_ms if isinstance(self.metrics, Artifact) else None

    def speed_up(self, batch: str) -> float | None:
        """Return how many times as fast as its teacher it is; see `speed_up`."""
        return None if self.teacher is None else speed_up(self.metrics, self.teacher, batch)

    def split(self, batch: str) -> tuple[float, float] | None:
        """Return of the speed-up what the runtime brings and what the network does, at this precision.

        The first is how many times as fast the teacher is in the file's runtime as in PyTorch, both in fp32; the second
        how many times as fast as that the file is. Their product is the speed-up.
        """
        total = self.speed_up(batch)
        teacher, timing = self.teacher_ms, self.metrics.timing(batch)
        if total is None or timing is None or teacher is None or batch not in teacher:
            return None
        network = teacher[batch] / timing.p50
        return total / network, network


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


def read(folder: Path) -> Result:
    """Return the record of a run folder.

    Raises:
        InputRejected: there is none, it is damaged, or it is of another schema.
    """
    if not (folder / NAME).is_file():
        raise InputRejected(
            f"{folder} has no {NAME}",
            hint=f"finish the run first: {resume_command(folder)}",
        )
    return read_file(folder / NAME)


def read_file(path: Path) -> Result:
    """Return the record in a file that is there.

    Raises:
        InputRejected: it cannot be read, is damaged, of another schema, or holds what no measurement gives.
    """
    try:
        result = Result.model_validate_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputRejected(f"cannot read {path}: {error.strerror}") from error
    except (ValidationError, UnicodeDecodeError) as error:
        problem = error.errors()[0] if isinstance(error, ValidationError) else {"loc": (), "msg": "not text"}
        where = ".".join(str(part) for part in problem["loc"]) or "the file"
        if problem["loc"] == ("result",):
            raise InputRejected(
                f"{path} is not a result record of schema 1: its schema is {problem['input']}"
            ) from None
        raise InputRejected(f"{path} is not a result record of schema 1: {where}: {problem['msg']}") from None
    impossible = next(_impossible(result), None)
    if impossible is not None:
        raise InputRejected(f"{path} holds what was never measured: {impossible}", hint="measure the run again")
    return result


_TIMES = ("p50", "p90", "p95", "p99", "mean", "images_per_s")
_RANGES = {
    **dict.fromkeys(("top1", "top5", "target_top1", "fgsm_top1", "pgd_top1"), (0.0, 100.0)),
    **dict.fromkeys(("ece", "agreement", "boundary_agreement", "teacher_mistakes_fixed", "new_mistakes"), (0.0, 1.0)),
    **dict.fromkeys(("confidence_spread", "confidence_changed"), (0.0, 1.0)),
    "confidence_drop": (-1.0, 1.0),
    **dict.fromkeys(("accuracy_drop", "worst_class_drop"), (-100.0, 100.0)),
    **dict.fromkeys(("size_bytes", "samples"), (1, inf)),
}


def _impossible(result: Result) -> Iterator[str]:
    """Yield what no measurement gives: a record may have been edited, and a gate would divide by it or hold by it."""
    for file in result.files():
        for key, (low, high) in _RANGES.items():
            value = getattr(file.metrics, key)
            if value is not None and not low <= value <= high:  # NaN is in no range
                yield f"{file.name}: {key} {value}"
        for batch, timing in (file.metrics.latency_ms or {}).items():
            if re.fullmatch("[1-9][0-9]{0,8}", batch) is None:
                yield f"{file.name}: {batch!r} is no batch size"
            times = {key: getattr(timing, key) for key in _TIMES} | dict(enumerate(timing.median_ci or ()))
            yield from (
                f"{file.name}: batch {batch}: {'median_ci' if isinstance(key, int) else key} {value}"
                for key, value in times.items()
                if not 0 < value < inf
            )
        for batch, value in (file.teacher_ms or {}).items():
            if not 0 < value < inf:
                yield f"{file.name}: batch {batch}: teacher_ms {value}"
