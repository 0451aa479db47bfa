"""From a prepared recipe to a trained student in a run folder, resumable after any step."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from datetime import UTC, datetime

import torch

from compressor import checkpoint, models
from compressor.artifacts.opening import facts, torch_runner
from compressor.batch import Batch
from compressor.errors import InputRejected, Interrupted
from compressor.files import sha256
from compressor.inputs import Prepared
from compressor.machine.hardware import hardware, versions
from compressor.machine.interrupt import interruptible
from compressor.measure.evaluation import EvaluationSet, evaluate
from compressor.measure.scores import predict, score
from compressor.methods import Setting
from compressor.progress import Tell
from compressor.runs import manifest, record
from compressor.runs.folder import Run
from compressor.tracking import Trackers, tracking
from compressor.training.loop import TrainingState, fit
from exporters import Runner
from exporters.pytorch import TorchRunner


def new_state(prepared: Prepared) -> TrainingState:
    """Build student, objective and optimiser, the same for the same seed."""
    recipe, data, teacher = prepared.recipe, prepared.data, prepared.teacher
    torch.manual_seed(recipe.seed)
    student = prepared.new_student()
    setting = Setting(
        student=student,
        teachers=[each.module for each in prepared.teachers[: recipe.method.needs.most]],
        classes=len(data.classes),
        input_shape=data.input_shape,
        samples=len(data.train) if recipe.method.needs.data else 0,
        std=torch.tensor(data.std if teacher is None else teacher.std, device=prepared.device),
        device=prepared.device,
    )
    return TrainingState(
        student,
        recipe.method.build(setting),
        recipe.train,
        seed=recipe.seed,
        device=prepared.device,
        steps_per_epoch=prepared.source.steps,
    )


def train_student(prepared: Prepared, state: TrainingState, folder: Run, tell: Tell) -> record.Result:
    """Train to the last epoch, write the student, and put it beside its teacher on the test split.

    Raises:
        Interrupted: by a signal; the state was saved first.
        Diverged: a loss term is NaN or infinite; the last finished epoch was saved.
    """
    with tracking(prepared.recipe, folder, tell) as trackers:
        _epochs(prepared, state, folder, tell, trackers)
        written = _write(prepared, state, folder)
        result = _earlier_record(prepared, folder) or _first_record(prepared, written, folder)
        result.write(folder.folder)
        manifest.write(folder, result)
        trackers.result(result)
    return result


def _epochs(prepared: Prepared, state: TrainingState, folder: Run, tell: Tell, trackers: Trackers) -> None:
    """Run the epochs that are left; after each: validate, log, save."""
    recipe = prepared.recipe
    best = max((row["validation_top1"] or 0.0 for row in folder.epochs()), default=0.0)
    with (
        interruptible() as stop,
        tell.training(
            epochs=recipe.train.epochs,
            batches=state.steps_per_epoch,
            images=prepared.source.images,
            done=state.epoch,
        ) as shown,
    ):

        def batches(epoch: int, start: int) -> Iterator[Batch]:
            for number, batch in enumerate(prepared.source.batches(epoch, start), start):
                if stop.requested:
                    raise Interrupted("interrupted")
                shown.advance(len(batch.images), epoch=epoch, batch=number, losses=state.losses.means())
                yield batch

        try:
            for epoch in fit(state, batches):
                top1 = _validation_top1(prepared, state)
                row = {
                    "epoch": epoch.number,
                    "losses": dict(epoch.losses),
                    "lr": epoch.lr,
                    "validation_top1": top1,
                    "seconds": epoch.seconds,
                    "images_per_s": epoch.images_per_second,
                }
                folder.log_epoch(row)
                trackers.epoch(row)
                shown.epoch(
                    epoch.number,
                    epoch.losses,
                    top1=top1,
                    images_per_s=epoch.images_per_second,
                    seconds=epoch.seconds,
                )
                checkpoint.save_state(folder.last, state.state_dict())
                if top1 is not None and top1 > best:
                    best = top1
                    weights = _normalised(state).network.state_dict()
                    checkpoint.save_weights(folder.best, weights, epoch=epoch.number, validation_top1=top1)
        except Interrupted:
            checkpoint.save_state(folder.last, state.state_dict())
            raise Interrupted(
                f"interrupted in epoch {state.epoch + 1} of {recipe.train.epochs}; the state is saved",
                hint=f"compress distill --resume {shlex.quote(str(folder.folder))}",
            ) from None


def _normalised(state: TrainingState) -> models.Normalized:
    network = state.reported()
    assert isinstance(network, models.Normalized)
    return network


def _validation_top1(prepared: Prepared, state: TrainingState) -> float | None:
    if len(prepared.data.validation) == 0:
        return None
    classes = len(prepared.data.classes)
    network = TorchRunner(
        state.reported(), input_shape=prepared.data.input_shape, classes=classes, device=str(prepared.device)
    )
    return score(predict(network, prepared.data.validation)).top1


def _write(prepared: Prepared, state: TrainingState, folder: Run) -> checkpoint.Network:
    """Write the student with all that is needed to use it, and read it back as anyone will."""
    recipe, data, teacher = prepared.recipe, prepared.data, prepared.teacher
    network = _normalised(state)
    checkpoint.save_student(
        folder.student,
        network.network,
        arch=recipe.student.arch,
        classes=len(data.classes),
        class_names=data.classes,
        input_shape=data.input_shape,
        mean=network.mean.flatten().tolist(),
        std=network.std.flatten().tolist(),
        data=data.source,
        metrics={"validation_top1": folder.epochs()[-1]["validation_top1"]},
        teacher_sha256=None if teacher is None else teacher.sha256,
        recipe_name=recipe.name,
    )
    return checkpoint.load_network(folder.student, arch=recipe.student.arch)


def _earlier_record(prepared: Prepared, folder: Run) -> record.Result | None:
    """Return the record that is there, with all that was measured since, where it is of this student and these data."""
    try:
        earlier = record.read(folder.folder)
    except InputRejected:
        return None
    same = earlier.student.sha256 == sha256(folder.student)
    return earlier if same and earlier.data.fingerprint == prepared.data.fingerprint else None


def _first_record(prepared: Prepared, student: checkpoint.Network, folder: Run) -> record.Result:
    """Return the record of a run that was trained and not yet validated, exported or timed."""
    recipe, data, device = prepared.recipe, prepared.data, prepared.device
    evaluation, teacher = EvaluationSet(data), None
    if prepared.teacher is not None:
        runner = torch_runner(prepared.teacher, device=device)
        evaluation = EvaluationSet(data, predict(runner, data.test))
        teacher = network_record(prepared.teacher, runner, folder).model_copy(
            update=evaluate(runner, evaluation, teacher=True)
        )
    runner = torch_runner(student, device=device)
    evaluated = network_record(student, runner, folder).model_copy(update=evaluate(runner, evaluation))
    rows = folder.epochs()
    best = max(rows, key=lambda row: row["validation_top1"] or -1.0)
    return record.Result(
        name=recipe.name,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        recipe_sha256=sha256(folder.recipe),
        data=record.Data(
            source=data.source,
            fingerprint=data.fingerprint,
            classes=len(data.classes),
            train=len(data.train),
            validation=len(data.validation),
            test=len(data.test),
        ),
        training=record.Training(
            method=recipe.method.kind,
            seed=recipe.seed,
            epochs=recipe.train.epochs,
            seconds=sum(row["seconds"] for row in rows),
            validation_top1=rows[-1]["validation_top1"],
            best_validation_top1=best["validation_top1"],
            best_epoch=best["epoch"] if best["validation_top1"] is not None else None,
        ),
        teacher=teacher,
        student=evaluated,
        versions=versions(),
        hardware=hardware(),
    )


def network_record(network: checkpoint.Network, runner: Runner, folder: Run) -> record.Network:
    """Return what is known of a PyTorch network before anything is measured."""
    return record.Network(
        **facts(runner, relative_to=folder.folder),
        arch=network.arch,
        classes=network.classes,
        input_shape=network.input_shape,
        parameters=network.parameters,
        macs=None if network.arch is None else models.macs(network.module, network.input_shape),
    )
