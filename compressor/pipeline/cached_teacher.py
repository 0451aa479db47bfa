"""What teachers say of the training images, asked once where the images are the same in every epoch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor, nn

from compressor.batch import Batch
from compressor.inputs import Prepared
from compressor.methods.kd import ask
from compressor.training.loop import autocast
from compressor.training.sources import Source


def with_teacher_logits(prepared: Prepared) -> Source:
    """Return the training batches; with `train.cache_teacher` each brings its teachers' logits (`Batch.taught`).

    These take four bytes a class, image and teacher on the training device. They are asked in the arithmetic of the
    training, so that what differs from asking each time is rounding alone.
    """
    source, recipe = prepared.source, prepared.recipe
    if not recipe.train.cache_teacher:
        return source
    teachers = prepared.teachers[: recipe.method.needs.most]
    kept = [_said(prepared, teacher.module) for teacher in teachers]

    def batches(epoch: int, start: int) -> Iterator[Batch]:
        for batch in source.batches(epoch, start):
            indices = batch.indices.to(prepared.device)
            yield replace(batch, taught=tuple(logits[indices] for logits in kept))

    return replace(source, batches=batches)


def _said(prepared: Prepared, teacher: nn.Module) -> Tensor:
    """Return a teacher's logits on all training images, `[N, K]`, by their index."""
    split, device = prepared.data.train, prepared.device
    logits = torch.zeros(len(split), len(prepared.data.classes), device=device)
    for batch in split.batches(prepared.batch_size, augment=False):
        with autocast(device, prepared.recipe.train.precision):
            answer = ask(teacher, batch.images.to(device))
        logits[batch.indices.to(device)] = answer
    return logits
