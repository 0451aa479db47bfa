"""What a student is trained on: the batches of the labelled images, of a second stream beside them, or of nothing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from torch import Tensor

from compressor.batch import Batch
from compressor.data import Dataset, Mix, Shard, Split
from compressor.errors import UsageError
from compressor.recipe import Recipe
from compressor.training.sources import Source, empty_batches, in_epochs_of, with_unlabelled


def source_of(recipe: Recipe, data: Dataset, shard: Shard) -> Source:
    """Return the batches of a training, of which this process sees its shard.

    Args:
        recipe: one of a single stage, with the size of a step, and of an epoch where there are no data.

    Raises:
        UsageError: the method learns from unlabelled images and none is left.
    """
    needs, size = recipe.method.needs, recipe.data.batch_size
    assert size is not None
    if not needs.data:
        assert recipe.train.steps_per_epoch is not None
        part = len(range(size)[shard.rank :: shard.world])
        return empty_batches(recipe.train.steps_per_epoch, data.input_shape, part, total=size)
    labelled = _labelled(data, recipe, size, shard)
    if recipe.train.steps_per_epoch is not None:
        labelled = in_epochs_of(recipe.train.steps_per_epoch, labelled)
    if not (needs.unlabelled or needs.target):
        return labelled
    stream = data.unlabelled
    if stream is None or len(stream) == 0:
        raise UsageError(
            f"all {len(data.train):,} training images keep their labels, and none is left to be unlabelled",
            hint="set data.labels lower, or name others with --unlabelled folder:PATH",
        )
    return _with_unlabelled(labelled, stream, recipe.data.unlabelled_batch or size, recipe.seed, shard)


def _labelled(data: Dataset, recipe: Recipe, size: int, shard: Shard) -> Source:
    """Return the training split, augmented and in as many views as the method compares.

    A last batch of a single image is dropped: BatchNorm has no variance of one.
    """
    samples = len(data.train)
    one_left = samples > size > 1 and samples % size == 1
    wanted = recipe.data.augment
    mix = Mix(wanted.mixup, wanted.cutmix) if wanted.mixes else None

    def batches(epoch: int, start: int) -> Iterator[Batch]:
        return data.train.batches(
            size,
            epoch=epoch,
            seed=recipe.seed,
            augment=True,
            drop_last=one_left,
            start=start,
            views=recipe.method.needs.views,
            mix=mix,
            shard=shard,
        )

    steps = samples // size if one_left else -(-samples // size)
    return Source(batches, steps, min(steps * size, samples))


def _with_unlabelled(labelled: Source, stream: Split, size: int, seed: int, shard: Shard) -> Source:
    """Return the batches with a stream beside them, always whole batches where it has enough."""
    size = min(size, len(stream))
    seed += 2**32  # beyond all seeds of recipes: images that are in both streams come at different times

    def passes(number: int, start: int) -> Iterable[Tensor]:
        batches = stream.batches(size, epoch=number, seed=seed, augment=True, drop_last=True, start=start, shard=shard)
        return (batch.images for batch in batches)

    return with_unlabelled(labelled, passes, len(stream) // size)
