"""Where a training takes its batches from. Each batch is a function of epoch and number alone, so that runs resume."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice

import torch
from torch import Tensor

from compressor.batch import Batch

# (epoch, start), both from 0 -> the batches of that epoch from number `start` on.
Batches = Callable[[int, int], Iterable[Batch]]


@dataclass(frozen=True)
class Source:
    """The batches of a training, how many make an epoch, and how many images those are about."""

    batches: Batches
    steps: int
    images: int


def empty_batches(steps: int, input_shape: tuple[int, int, int], wanted: int, *, total: int | None = None) -> Source:
    """Return epochs of `steps` batches without an image, for methods that make `wanted` of their own in each.

    Of processes that train together each makes its part of `total`.
    """

    def batches(_epoch: int, start: int) -> Iterator[Batch]:
        for _ in range(start, steps):
            none = torch.zeros(0, dtype=torch.int64)
            yield Batch(torch.zeros(0, *input_shape), none, none, wanted=wanted, total=total)

    return Source(batches, steps, steps * (wanted if total is None else total))


def in_epochs_of(steps: int, source: Source) -> Source:
    """Return the batches of a source in epochs of `steps`: it begins again whenever it ends."""

    def batches(epoch: int, start: int) -> Iterator[Batch]:
        number, first = divmod(epoch * steps + start, source.steps)
        left = steps - start
        while left > 0:
            for batch in islice(source.batches(number, first), left):
                left -= 1
                yield batch
            number, first = number + 1, 0

    return Source(batches, steps, round(source.images * steps / source.steps))


def with_unlabelled(labelled: Source, passes: Callable[[int, int], Iterable[Tensor]], passed: int) -> Source:
    """Return the labelled batches with a second stream beside them, which begins again whenever it ends.

    Args:
        passes: (number, start) -> the batches of images of one pass through the stream from `start` on, both from 0.
        passed: batches in a pass.
    """

    def stream(step: int) -> Iterator[Tensor]:
        number, start = divmod(step, passed)
        while True:
            yield from passes(number, start)
            number, start = number + 1, 0

    def batches(epoch: int, start: int) -> Iterator[Batch]:
        images = stream(epoch * labelled.steps + start)
        for batch in labelled.batches(epoch, start):
            yield replace(batch, unlabelled=next(images))

    return replace(labelled, batches=batches)
