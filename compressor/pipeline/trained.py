"""What a training leaves: the student's file, and the first record of the run, beside its teacher on the test split."""

from __future__ import annotations

from datetime import UTC, datetime

import torch

from compressor import checkpoint, models
from compressor.artifacts.opening import facts, torch_runner
from compressor.choices import NOTHING
from compressor.errors import InputRejected
from compressor.files import sha256
from compressor.inputs import Prepared
from compressor.machine.hardware import hardware, versions
from compressor.measure.evaluation import EvaluationSet, evaluate
from compressor.measure.made import MadeImages, keep_generated, kept_count, made_images, read_generated
from compressor.measure.scores import Predictions, predict
from compressor.methods import Objective
from compressor.models.quantised import Quantised
from compressor.pipeline.finished_run import FinishedRun
from compressor.runs import record
from compressor.runs.folder import Run
from exporters import Runner


def write_student(prepared: Prepared, network: models.Normalized, run: Run) -> checkpoint.Network:
    """Write the student with all that is needed to use it, and read it back as anyone will."""
    recipe, data, teacher = prepared.recipe, prepared.data, prepared.teacher
    checkpoint.save_student(
        run.student,
        network.network,
        arch=recipe.student.arch,
        classes=len(data.classes),
        class_names=data.classes,
        input_shape=data.input_shape,
        mean=network.mean.flatten().tolist(),
        std=network.std.flatten().tolist(),
        data=data.source if data.source != NOTHING else None if teacher is None else teacher.data,
        metrics={"validation_top1": run.epochs()[-1]["validation_top1"]},
        teacher_sha256=None if teacher is None else teacher.sha256,
        recipe_name=recipe.name,
        quantized=network.described() if isinstance(network, Quantised) else None,
    )
    return checkpoint.load_network(run.student, arch=recipe.student.arch)


def first_record(prepared: Prepared, student: checkpoint.Network, run: Run) -> FinishedRun:
    """Return a run that was trained and not yet exported, validated on hard images or timed.

    A record that is there already, with all that was measured since, is kept where it is of this student and data.
    """
    earlier = _earlier(prepared, run)
    if earlier is not None:
        return FinishedRun(run, prepared, student, earlier)
    recipe, data = prepared.recipe, prepared.data
    opened = {"teacher": prepared.teacher, "student": student}
    runners = {name: torch_runner(each, device=prepared.device) for name, each in opened.items() if each is not None}
    predictions: dict[str, Predictions] = {}
    if len(data.test):
        predictions = {name: predict(runner, data.test) for name, runner in runners.items()}
    made = made_of(prepared, run, runners.get("teacher"))
    evaluation = EvaluationSet(data, predictions.get("teacher"), made=made)
    networks: dict[str, record.Network] = {}
    for name, runner in runners.items():
        network = opened[name]
        assert network is not None
        measured = evaluate(runner, evaluation, teacher=name == "teacher", said=predictions.get(name))
        networks[name] = _network(network, runner, run).model_copy(update=measured)
    result = record.Result(
        name=recipe.name,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        recipe_sha256=sha256(run.recipe),
        data=record.Data(
            source=data.source,
            fingerprint=data.fingerprint,
            classes=len(data.classes),
            train=len(data.train),
            validation=len(data.validation),
            test=len(data.test),
            unlabelled=None if data.unlabelled is None else len(data.unlabelled),
            target=recipe.data.target,
            target_test=None if data.target is None else len(data.target),
            made=evaluation.sizes["made"],
        ),
        training=_training(prepared, run),
        teacher=networks.get("teacher"),
        student=networks["student"],
        versions=versions(),
        hardware=hardware(),
    )
    return FinishedRun(run, prepared, student, result, predictions)


def write_generated(prepared: Prepared, objective: Objective, run: Run) -> None:
    """Keep images of what the method made its own by; a method without a generator leaves none."""
    generator = torch.Generator(prepared.device).manual_seed(prepared.recipe.seed)
    images = objective.images(kept_count(prepared.data.input_shape), generator)
    if images is not None:
        keep_generated(images, run.generated)


def made_of(prepared: Prepared, run: Run, teacher: Runner | None) -> MadeImages | None:
    """Return what the run's generator made; where there are no test images either, noise."""
    generated = read_generated(run.generated, prepared.data.input_shape)
    if prepared.teacher is None or teacher is None or (generated is None and len(prepared.data.test)):
        return None
    return made_images(prepared.teacher, generated, teacher, seed=prepared.recipe.seed, device=prepared.device)


def _earlier(prepared: Prepared, run: Run) -> record.Result | None:
    try:
        earlier = record.read(run.folder)
    except InputRejected:
        return None
    same = earlier.student.sha256 == sha256(run.student)
    return earlier if same and earlier.data.fingerprint == prepared.data.fingerprint else None


def _training(prepared: Prepared, run: Run) -> record.Training:
    recipe, rows = prepared.recipe, run.epochs()
    best = max(rows, key=lambda row: row["validation_top1"] or -1.0)
    return record.Training(
        method=recipe.method.kind,
        seed=recipe.seed,
        epochs=recipe.epochs,
        stages=tuple(
            record.Part(method=part.method.kind, epochs=part.train.epochs, frozen=part.train.freeze)
            for part in (recipe.parts if recipe.stages else ())
        ),
        seconds=sum(row["seconds"] for row in rows),
        validation_top1=rows[-1]["validation_top1"],
        best_validation_top1=best["validation_top1"],
        best_epoch=best["epoch"] if best["validation_top1"] is not None else None,
    )


def _network(network: checkpoint.Network, runner: Runner, run: Run) -> record.Network:
    """Return what is known of a PyTorch network before anything is measured."""
    quantised = network.module if isinstance(network.module, Quantised) else None
    plain = network.module if quantised is None else quantised.plain()
    return record.Network(
        **facts(runner, relative_to=run.folder),
        arch=network.arch,
        classes=network.classes,
        input_shape=network.input_shape,
        parameters=network.parameters,
        quantized=None if quantised is None else quantised.plan.title,
        macs=None if network.arch is None else models.macs(plain, network.input_shape),
    )
