"""A split: labelled images that come in batches, each batch a function of seed, epoch and batch number alone."""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from compressor.batch import Batch
from compressor.data.augment import Augmentation, to_pixels


class Source(Protocol):
    """Where the bytes of images are, by row: held on the device, or read from files as they are asked for."""

    def fetch(self, batches: Iterable[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield, for each batch of rows `[B]`, its images and which of the rows they are.

        Images are `[R, H, W, C]` uint8 on the device; the places `[R]` int64 on the CPU count within the batch and are
        fewer than `B` only where a file turned out to be damaged.
        """
        ...


@dataclass(frozen=True, eq=False)
class Held:
    """Images in memory on one device, `[N, H, W, C]` uint8. Splits share them: a split is only a list of rows."""

    images: Tensor

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of an image."""
        _, height, width, channels = self.images.shape
        return channels, height, width

    def fetch(self, batches: Iterable[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        for rows in batches:
            yield self.images.index_select(0, rows.to(self.images.device)), torch.arange(len(rows))


@dataclass(frozen=True)
class Shard:
    """The part of every batch that process `rank`, from 0, takes of `world` processes that train together.

    A batch of less than two images a process is given whole to each: BatchNorm has no variance of one image.
    """

    rank: int = 0
    world: int = 1

    def of(self, places: Tensor) -> Tensor:
        """Return this part of the places in a batch. The parts follow each other, and differ by one place at most."""
        return places.tensor_split(self.world)[self.rank] if self.shares(len(places)) else places

    def shares(self, count: int) -> bool:
        """Whether a batch of so many images is shared out."""
        return count >= 2 * self.world

    def weight(self, count: int) -> float:
        """Return what a mean over this part of a batch counts beside the other parts, 1 on average."""
        return len(self.of(torch.arange(count))) * self.world / count if self.shares(count) else 1.0


@dataclass(frozen=True, eq=False)
class Split:
    """Labelled images in a fixed order.

    `rows` `[N]` int64 are their places in the source, on the CPU; `labels` `[N]` int64 are on `device`.
    """

    source: Source
    rows: Tensor
    labels: Tensor
    augmentation: Augmentation
    device: torch.device

    def __len__(self) -> int:
        return len(self.rows)

    def part(self, shard: Shard) -> "Split":
        """Return the images that one of several processes measures on: those of all are the split."""
        taken = slice(shard.rank, None, shard.world)
        return replace(self, rows=self.rows[taken], labels=self.labels[taken])

    def batches(
        self,
        batch_size: int,
        *,
        epoch: int = 0,
        seed: int | None = None,
        augment: bool = False,
        drop_last: bool = False,
        start: int = 0,
        views: int = 1,
        shard: Shard = Shard(),
    ) -> Iterator[Batch]:
        """Yield the batches of one epoch on the device, from batch number `start` on.

        Args:
            seed: None keeps the order. With a seed, order and augmentation follow from it, the epoch and the batch's
                number alone, so that `start=k` yields what batch `k` and later ones would have been.
            augment: crop and flip as the recipe says; needs a seed.
            views: how many augmentations of each image; the first is what one alone would be.
            shard: the part of each batch of `batch_size` that is yielded. All shards yield equally many batches, which
                side by side are those of one process; where the last batch has too few images, each has all of it.

        A batch's `indices` count the images of this split from 0. A batch is smaller than asked where it is the last,
        or where a streamed file cannot be decoded.
        """
        if augment and seed is None:
            raise ValueError("augmentation is random and needs a seed")
        if views > 1 and not augment:
            raise ValueError("several views of an image differ by their augmentation alone")
        order = torch.arange(len(self))
        if seed is not None:
            order = torch.randperm(len(self), generator=_generator(seed, epoch, "order"))
        stop = len(self) - len(self) % batch_size if drop_last else len(self)
        picks = [order[at : at + batch_size] for at in range(start * batch_size, stop, batch_size)]
        parts = [shard.of(torch.arange(len(picked))) for picked in picks]
        fetched = self.source.fetch(self.rows[picked[part]] for picked, part in zip(picks, parts, strict=True))
        for number, (picked, part, (images, read)) in enumerate(zip(picks, parts, fetched, strict=True), start):
            places = part[read]
            indices = picked[places].to(self.device)
            weight, total = shard.weight(len(picked)), len(picked)
            if not augment:
                yield Batch(to_pixels(images), self.labels[indices], indices, weight=weight, total=total)
                continue
            first, *further = (
                to_pixels(self._augmented(images, len(picked), places, _generator(seed, epoch, number, *view)))
                for view in [(), *((each,) for each in range(1, views))]
            )
            yield Batch(first, self.labels[indices], indices, views=tuple(further), weight=weight, total=total)

    def _augmented(self, images: Tensor, count: int, places: Tensor, generator: torch.Generator) -> Tensor:
        """Return the images at `places` of a batch of `count`, moved; what is drawn does not depend on the places."""
        return self.augmentation.apply(images, self.augmentation.draw(count, generator)[:, places])


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """An image classification task: three splits and what a network must know about them.

    `mean` and `std` hold one value a channel, in pixels of `[0, 1]`. `source` is the name as given, with an absolute
    path. `unlabelled` is the second stream, whose labels, if any, are not used; `target` are labelled images of another
    domain, to score the end result by and nothing else. `fingerprint` tells whether two runs saw the same images under
    the same labels in the same splits and streams; it goes by names, sizes and labels, not by pixels. `notes` are
    sentences to print: what was decided, skipped or left out.
    """

    name: str
    source: str
    classes: tuple[str, ...]
    input_shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    train: Split
    validation: Split
    test: Split
    fingerprint: str
    unlabelled: Split | None = None
    target: Split | None = None
    notes: tuple[str, ...] = ()


def _generator(*parts: object) -> torch.Generator:
    """Return a CPU generator whose seed is a digest of `parts`, so that neighbouring seeds have nothing in common."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:4], "big"))  # the generator takes 32 bits in
