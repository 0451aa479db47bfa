"""The third stage: every file of a run, or one artifact, sits the same exam."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from compressor.artifacts.opening import facts, open_artifact, torch_runner
from compressor.errors import InputRejected
from compressor.inputs import open_inputs
from compressor.machine.devices import choose_device
from compressor.measure.grading import grade, set_exam
from compressor.measure.predictions import Answer, Answers
from compressor.measure.scores import predict
from compressor.pipeline.finished_run import Opened, open_run
from compressor.pipeline.foreign import UNSTATED, Normalisation, settle
from compressor.progress import Tell
from compressor.recipe import Data, Override, Teacher, Validate
from compressor.runs import record
from compressor.runs.folder import find, working

AnyMetrics = TypeVar("AnyMetrics", bound=record.Metrics)


def validate(
    where: Path | None, tell: Tell, *, device: str | None = None, overrides: Sequence[Override] = ()
) -> record.Result:
    """Give every file of a run the same exam, and judge the gates that are measured by now.

    Args:
        overrides: of the run's recipe, for this call only.
    """
    folder = find(where)
    with working(folder):
        return validate_stage(open_run(folder, tell, device=device, overrides=overrides), tell).result


def validate_file(
    path: Path,
    data: Data,
    teacher: Teacher | None,
    tell: Tell,
    *,
    device: str | None = None,
    provider: str | None = None,
    normalisation: Normalisation = UNSTATED,
) -> record.Metrics:
    """Examine one artifact on `data`, and against a teacher where there is one."""
    config, seed, chosen = Validate(), 0, choose_device(device or "auto")
    if path.suffix == ".onnx" and path.is_file():
        settled = settle(path, data, teacher, tell, device=chosen, given=normalisation)
        inputs = settled.known_inputs()
        runner = settled.normalised(open_artifact(path, device=chosen, provider=provider))
    else:
        inputs = open_inputs(data, teacher, tell, device=chosen, examine=True)
        runner = open_artifact(path, device=chosen, provider=provider, data=inputs.data)
    if runner.classes != len(inputs.data.classes):
        raise InputRejected(
            f"{path} has {runner.classes} classes, {inputs.data.source} has {len(inputs.data.classes)}",
            hint="--data names the data that it was trained for",
        )
    taught = None if inputs.teacher is None else torch_runner(inputs.teacher, device=inputs.device)
    exam = set_exam(inputs, config, teacher_runner=taught, student=None, seed=seed)
    tell(f"examining {path}: {exam.sentence}")
    return record.Metrics(**facts(runner), **grade(runner, exam))


def validate_stage(opened: Opened, tell: Tell) -> Opened:
    """Grade every file of an open run, note it, and keep what each said of every image."""
    prepared, result = opened.prepared, opened.result
    files = opened.files(tell)
    exam = set_exam(
        prepared,
        prepared.recipe.validation,
        teacher_runner=files.get("teacher"),
        student=opened.student,
        seed=prepared.recipe.seed,
    )
    tell(f"examining {len(files)} files: {exam.sentence}")

    answers: dict[str, Answer] = {}

    def graded(name: str, metrics: AnyMetrics) -> AnyMetrics:
        if name not in files:
            return metrics
        teacher = name == "teacher"
        said = exam.teacher if teacher and exam.teacher is not None else predict(files[name], exam.data.test)
        answers[name] = Answer.of(said, metrics.sha256)
        marks = grade(files[name], exam, teacher=teacher, said=said)
        return metrics.model_copy(update={"provider": files[name].provider, **marks})

    opened = opened.noting(
        teacher=result.teacher and graded("teacher", result.teacher),
        student=graded("student", result.student),
        artifacts=tuple(graded(artifact.path, artifact) for artifact in result.artifacts),
        data=result.data.model_copy(update=exam.sizes),
    )
    Answers(fingerprint=exam.data.fingerprint, files=answers).write(opened.folder.predictions)
    return opened.saved()
