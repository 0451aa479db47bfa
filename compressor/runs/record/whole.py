"""The record of a run as one: its data, its training, its files and its promises."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from compressor.files import write_text
from compressor.runs.record.files import Artifact, Metrics, Network, Record, speed_up

NAME = "result.json"
TEACHER, STUDENT = "teacher", "student"

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
    autoattack_samples: int | None = None
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
