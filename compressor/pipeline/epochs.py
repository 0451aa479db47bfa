"""The host of the training loop: what happens between its epochs. Validate, log, save, and stop where a signal asks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from compressor import checkpoint, models
from compressor.batch import Batch
from compressor.data import Shard
from compressor.errors import Interrupted
from compressor.inputs import Prepared
from compressor.machine.interrupt import interruptible
from compressor.measure.scores import correct, predict
from compressor.methods import Setting
from compressor.pipeline.teachers import frozen_teachers
from compressor.progress import Tell
from compressor.runs.folder import Run, resume_command
from compressor.tracking import Trackers
from compressor.training.distributed import Lost
from compressor.training.loop import Epoch, TrainingState, fit
from exporters.pytorch import TorchRunner


def new_state(prepared: Prepared) -> TrainingState:
    """Build student, objective and optimiser, the same for the same seed."""
    recipe, data, teacher = prepared.recipe, prepared.data, prepared.teacher
    torch.manual_seed(recipe.seed)
    student = prepared.new_student()
    setting = Setting(
        student=student,
        teachers=frozen_teachers(prepared),
        classes=len(data.classes),
        input_shape=data.input_shape,
        samples=len(data.train) if recipe.method.needs.data else 0,
        std=torch.tensor(data.std if teacher is None else teacher.std, device=prepared.device),
        device=prepared.device,
        gather=prepared.group.gather,
        mean=torch.tensor(data.mean if teacher is None else teacher.mean, device=prepared.device),
    )
    return TrainingState(
        student,
        recipe.method.build(setting),
        recipe.train,
        seed=recipe.seed,
        device=prepared.device,
        steps_per_epoch=prepared.source.steps,
        group=prepared.group,
    )


def reported(state: TrainingState) -> models.Normalized:
    """Return the network to validate and to keep."""
    network = state.reported()
    assert isinstance(network, models.Normalized)
    return network


def run_epochs(prepared: Prepared, state: TrainingState, run: Run, tell: Tell, trackers: Trackers) -> None:
    """Run the epochs that are left. Of processes that train together all validate, and the first alone writes.

    What is saved is in an order that a kill at any point leaves whole: the row of an epoch, the best weights, then the
    state to resume from, which says how many rows count.

    Raises:
        Interrupted: by a signal to any of the processes; the state was saved first. Or one of them is gone, or did not
            answer in time; the last finished epoch was saved.
        Diverged: a loss term is NaN or infinite; the last finished epoch was saved.
    """
    recipe, group = prepared.recipe, prepared.group
    best = max((row["validation_top1"] or 0.0 for row in run.epochs()), default=0.0)
    warned = False
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
                if group.any(stop.requested):
                    raise Interrupted("interrupted")
                shown.advance(batch.size, epoch=epoch, batch=number, losses=state.losses.means())
                yield batch

        try:
            for epoch in fit(state, batches):
                top1, saved = _validation_top1(prepared, state), state.state_dict()
                if not group.leads:
                    continue
                row = _row(epoch, top1)
                run.log_epoch(row)
                trackers.epoch(row)
                shown.epoch(
                    epoch.number,
                    epoch.losses,
                    top1=top1,
                    images_per_s=epoch.images_per_second,
                    seconds=epoch.seconds,
                )
                for sentence in state.objective.warnings(epoch.notes):
                    tell(f"warning: {sentence}")
                if top1 is not None and top1 > best:
                    best = top1
                    weights = reported(state).network.state_dict()
                    checkpoint.save_weights(run.best, weights, epoch=epoch.number, validation_top1=top1)
                checkpoint.save_state(run.last, saved)
                warned = _warn(state, epoch, tell, already=warned)
            if group.any(
                stop.requested
            ):  # after the last batch: nothing is left to train, and yet an end was asked for
                raise Interrupted("interrupted")
        except Lost as lost:
            kept = f"; the state after epoch {state.epoch} is saved" if state.epoch else ""
            raise Interrupted(f"{lost.message}{kept}", hint=resume_command(run.folder)) from lost
        except Interrupted:
            saved = state.state_dict()
            if group.leads:
                checkpoint.save_state(run.last, saved)
            where = min(state.epoch + 1, recipe.train.epochs)
            raise Interrupted(
                f"interrupted in epoch {where} of {recipe.train.epochs}; the state is saved",
                hint=resume_command(run.folder),
            ) from None


def _warn(state: TrainingState, epoch: Epoch, tell: Tell, *, already: bool) -> bool:
    """Say what the objective warns of after an epoch, unless the epoch before had `already`; return whether it does."""
    found = list(state.objective.warnings(epoch.notes))
    for sentence in found if not already else ():
        tell(f"warning: epoch {epoch.number}: {sentence}")
    return bool(found)


def _row(epoch: Epoch, top1: float | None) -> dict[str, Any]:
    """Return what `metrics.jsonl` keeps of an epoch."""
    return {
        "epoch": epoch.number,
        "losses": dict(epoch.losses),
        "notes": dict(epoch.notes),
        "lr": epoch.lr,
        "validation_top1": top1,
        "seconds": epoch.seconds,
        "images_per_s": epoch.images_per_second,
    }


def _validation_top1(prepared: Prepared, state: TrainingState) -> float | None:
    split, group = prepared.data.validation, prepared.group
    if len(split) == 0:
        return None
    classes = len(prepared.data.classes)
    network = TorchRunner(
        state.reported(), input_shape=prepared.data.input_shape, classes=classes, device=str(prepared.device)
    )
    part = split.part(Shard(group.rank, group.world))
    right = int(correct(predict(network, part)).sum()) if len(part) else 0
    return 100 * sum(group.each(right)) / len(split)
