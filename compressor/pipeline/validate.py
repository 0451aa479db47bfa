"""The third stage: every file of a run, or one artifact, is measured on the same images."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from compressor.artifacts.opening import facts, file_facts, open_artifact, torch_runner
from compressor.errors import InputRejected
from compressor.inputs import open_inputs
from compressor.machine.devices import choose_device
from compressor.measure.evaluation import evaluate, evaluation_set
from compressor.measure.made import read_generated
from compressor.measure.predictions import FilePredictions, StoredPredictions
from compressor.measure.scores import predict
from compressor.pipeline.finished_run import FinishedRun, open_run
from compressor.pipeline.foreign import open_foreign
from compressor.pipeline.identity import stage_inputs
from compressor.pipeline.normalisation import UNSTATED, Normalisation
from compressor.progress import Tell
from compressor.recipe import Data, Override, Teacher, Validate
from compressor.runs import record
from compressor.runs.folder import copied, find
from compressor.runs.lock import working
from compressor.runs.stages import Stages


def validate(
    where: Path | None,
    tell: Tell,
    *,
    device: str | None = None,
    overrides: Sequence[Override] = (),
    allow: Sequence[str] = (),
    out: Path | None = None,
) -> record.Result:
    """Measure every file of a run on the same images, and judge the gates that are measured by now.

    Args:
        out: a folder for a copy of the run without its training states, which is measured in its place.
        overrides: of the run's recipe, for this call only.
        allow: code of the user's own that the run names and that may be imported.
    """
    folder = find(where) if out is None else copied(find(where), out)
    with working(folder.folder):
        return validate_stage(open_run(folder, tell, device=device, overrides=overrides, allow=allow), tell).result


def validate_file(
    path: Path,
    data: Data,
    teacher: Teacher | None,
    tell: Tell,
    *,
    device: str | None = None,
    format_: str | None = None,
    provider: str | None = None,
    normalisation: Normalisation = UNSTATED,
) -> record.Metrics:
    """Examine one artifact on `data`, and against a teacher where there is one.

    Args:
        format_: an exporter of the user's own, where the file is its.
    """
    config, seed, chosen = Validate(), 0, choose_device(device or "auto")
    with ExitStack() as kept:
        if path.suffix == ".onnx" and path.is_file() and format_ is None:
            foreign = kept.enter_context(open_foreign(path, data, teacher, tell, device=chosen, given=normalisation))
            inputs = foreign.known_inputs()
            runner = foreign.normalised(open_artifact(foreign.path, device=chosen, provider=provider))
        else:
            unheld = data.model_copy(update={"validation": 0})
            inputs = open_inputs(unheld, [teacher] if teacher else [], tell, device=chosen, examine=True)
            runner = open_artifact(path, device=chosen, format_=format_, provider=provider, data=inputs.data)
        if runner.classes != len(inputs.data.classes):
            raise InputRejected(
                f"{path} has {runner.classes} classes, {inputs.data.source} has {len(inputs.data.classes)}",
                hint="--data names the data that it was trained for",
            )
        taught = None if inputs.teacher is None else torch_runner(inputs.teacher, device=inputs.device)
        evaluation = evaluation_set(inputs, config, teacher_runner=taught, student=None, seed=seed)
        tell(f"validating {path}: {evaluation.sentence}")
        return record.Metrics(**{**facts(runner), **file_facts(path)}, **evaluate(runner, evaluation))


def validate_stage(opened: FinishedRun, tell: Tell) -> FinishedRun:
    """Measure every file of an open run, note it, and keep what each said of every image."""
    prepared, result = opened.prepared, opened.result
    files = opened.files(tell)
    known = opened.predictions
    evaluation = evaluation_set(
        prepared,
        prepared.recipe.validation,
        teacher_runner=files.get("teacher"),
        student=opened.student,
        seed=prepared.recipe.seed,
        taught=known.get("teacher"),
        generated=read_generated(opened.folder.generated, prepared.data.input_shape),
    )
    tell(f"validating {len(files)} files: {evaluation.sentence}")
    predictions: dict[str, FilePredictions] = {}

    def evaluated(file: record.Named) -> dict[str, Any]:
        name = file.name
        if name not in files:
            return {}
        teacher = name == record.TEACHER
        if len(evaluation.data.test) == 0:
            return {"provider": files[name].provider, **evaluate(files[name], evaluation, teacher=teacher)}
        said = evaluation.teacher if teacher else known.get(name)
        said = said or predict(files[name], evaluation.data.test)
        predictions[name] = FilePredictions.of(said, file.metrics.sha256)
        measures = evaluate(files[name], evaluation, teacher=teacher, said=said)
        return {"provider": files[name].provider, **measures}

    with Stages(opened.folder).doing("validate", stage_inputs("validate", opened)):
        opened = replace(opened, result=result.mapped(evaluated))
        opened = opened.noting(data=result.data.model_copy(update=evaluation.sizes))
        if predictions:
            stored = StoredPredictions(fingerprint=evaluation.data.fingerprint, files=predictions)
            stored.write(opened.folder.predictions)
        return opened.saved()
