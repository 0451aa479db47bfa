"""The host of the training loop: what happens between its epochs. Validate, log, save, and stop where a signal asks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from compressor import checkpoint
from compressor.batch import Batch
from compressor.data import Shard
from compressor.errors import Interrupted
from compressor.inputs import Prepared
from compressor.machine.interrupt import interruptible
from compressor.measure.scores import correct, predict
from compressor.pipeline.staged import StagedTraining, reported
from compressor.progress import Tell
from compressor.runs.folder import Run, resume_command
from compressor.tracking import Trackers
from compressor.training.distributed import Lost
from compressor.training.loop import Epoch, TrainingState
from exporters.pytorch import TorchRunner


def run_epochs(training: StagedTraining, run: Run, tell: Tell, trackers: Trackers) -> None:
    """Run the epochs that are left, stage by stage. Of processes that train together all validate, the first writes.

    What is saved is in an order that a kill at any point leaves whole: the row of an epoch, the best weights, then the
    state to resume from, which says how many rows count. Where a stage is done, that state is all that the next one
    begins with.

    Raises:
        Interrupted: by a signal to any of the processes; the state was saved first. Or one of them is gone, or did not
            answer in time; the last finished epoch was saved.
        Diverged: a loss term is NaN or infinite; the last finished epoch was saved.
    """
    group, epochs = training.whole.group, training.whole.recipe.epochs
    best = max((row["validation_top1"] or 0.0 for row in run.epochs()), default=0.0)
    warned = False
    with (
        interruptible() as stop,
        tell.training(
            epochs=epochs,
            batches=training.state.steps_per_epoch,
            images=training.here.source.images,
            done=training.epoch,
        ) as shown,
    ):

        def batches(epoch: int, start: int) -> Iterator[Batch]:
            now = training.before + epoch
            for number, batch in enumerate(training.source.batches(now, start), start):
                if group.any(stop.requested):
                    raise Interrupted("interrupted")
                shown.advance(batch.size, epoch=now, batch=number, losses=training.state.losses.means())
                yield batch

        try:
            for epoch in training.fit(batches):
                top1, saved = _validation_top1(training.here, training.state), training.state_dict()
                if not group.leads:
                    continue
                row = _row(epoch, top1) | {"epoch": training.epoch, "stage": training.stage + 1}
                run.log_epoch(row)
                trackers.epoch(row)
                shown.epoch(
                    training.epoch,
                    epoch.losses,
                    top1=top1,
                    images_per_s=epoch.images_per_second,
                    seconds=epoch.seconds,
                )
                if top1 is not None and top1 > best:
                    best = top1
                    weights = reported(training.state).network.state_dict()
                    checkpoint.save_weights(run.best, weights, epoch=training.epoch, validation_top1=top1)
                checkpoint.save_state(run.last, saved)
                warned = _warn(training.state, epoch, tell, already=warned)
            # After the last batch nothing is left to train, and yet an end may have been asked for.
            if group.any(stop.requested):
                raise Interrupted("interrupted")
        except Lost as lost:
            kept = f"; the state after epoch {training.epoch} is saved" if training.epoch else ""
            raise Interrupted(f"{lost.message}{kept}", hint=resume_command(run.folder)) from lost
        except Interrupted:
            saved = training.state_dict()
            if group.leads:
                checkpoint.save_state(run.last, saved)
            where = min(training.epoch + 1, epochs)
            raise Interrupted(
                f"interrupted in epoch {where} of {epochs}; the state is saved",
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
