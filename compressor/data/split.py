"""A split: labelled images that come in batches, each batch a function of seed, epoch and batch number alone."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from compressor.batch import Batch, Mixed
from compressor.data.augment import Augmentation, to_pixels
from compressor.data.mix import Mix, Mixture
from compressor.data.photo import Photo


class Source(Protocol):
    """Where the bytes of images are, by row: held on the device, or read from files as they are asked for."""

    def fetch(self, batches: Iterable[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield, for each batch of rows `[B]`, its images and which of the rows they are.

        Images are `[R, H, W, C]` uint8 on the device; the places `[R]` int64 on the CPU count within the batch and are
        fewer than `B` only where a file turned out to be damaged.
        """
        ...

    def changed(self, batches: Iterable[tuple[Tensor, Tensor]], photo: Photo) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield, for each batch of rows `[B]` and seeds `[V, B]`, V views `[V, R, H, W, C]` of its images, and places.

        Each view of an image is what `photo` makes of it by the seed, from all that its file shows where a part of it
        is cut out.
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

    def changed(self, batches: Iterable[tuple[Tensor, Tensor]], photo: Photo) -> Iterator[tuple[Tensor, Tensor]]:
        for rows, seeds in batches:
            pixels = self.images.index_select(0, rows.to(self.images.device)).cpu().numpy()
            views = [[photo(*each) for each in zip(pixels, view, strict=True)] for view in seeds.tolist()]
            yield torch.from_numpy(np.asarray(views)).to(self.images.device), torch.arange(len(rows))


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
        mix: Mix | None = None,
        shard: Shard = Shard(),
    ) -> Iterator[Batch]:
        """Yield the batches of one epoch on the device, from batch number `start` on.

        Args:
            seed: None keeps the order. With a seed, order and augmentation follow from it, the epoch and the batch's
                number alone, so that `start=k` yields what batch `k` and later ones would have been.
            augment: crop and flip as the recipe says; needs a seed.
            views: how many augmentations of each image; the first is what one alone would be.
            mix: blend each image with the next one of the whole batch, or paste a part of that; needs a seed. One whose
                next cannot be read stays as it is.
            shard: the part of each batch of `batch_size` that is yielded. All shards yield equally many batches, which
                side by side are those of one process; where the last batch has too few images, each has all of it.

        A batch's `indices` count the images of this split from 0. A batch is smaller than asked where it is the last,
        or where a streamed file cannot be decoded.
        """
        if (augment or mix is not None) and seed is None:
            raise ValueError("augmentation is random and needs a seed")
        if views > 1 and (not augment or mix is not None):
            raise ValueError("several views of an image differ by their augmentation alone")
        order = torch.arange(len(self))
        if seed is not None:
            order = torch.randperm(len(self), generator=_generator(seed, epoch, "order"))
        stop = len(self) - len(self) % batch_size if drop_last else len(self)
        picks = [order[at : at + batch_size] for at in range(start * batch_size, stop, batch_size)]
        parts = [shard.of(torch.arange(len(picked))) for picked in picks]
        asked = [
            part if mix is None else _with_next(part, len(picked)) for picked, part in zip(picks, parts, strict=True)
        ]
        drawn = [(seed, epoch, number) for number in range(start, start + len(picks))]
        read = self._read(picks, asked, drawn, views if augment else 0)
        for picked, part, places, chance, (pixels, found) in zip(picks, parts, asked, drawn, read, strict=True):
            places = places[found]
            own = places[: int(torch.isin(places, part).sum())]  # what is asked for beside them comes last
            indices = picked[own].to(self.device)
            weight, total = shard.weight(len(picked)), len(picked)
            batch = Batch(pixels[0], self.labels[indices], indices, views=pixels[1:], weight=weight, total=total)
            if mix is not None:
                batch = self._mixed(batch, picked, places, mix.draw(_generator(*chance, "mix"), *pixels[0].shape[2:]))
            yield batch

    def _read(
        self, picks: Sequence[Tensor], asked: Sequence[Tensor], drawn: Sequence[Sequence[object]], views: int
    ) -> Iterator[tuple[tuple[Tensor, ...], Tensor]]:
        """Yield the views of each batch, `[R, C, H, W]` in `[0, 1]`, and which of the places asked for they are of.

        What is drawn is drawn for a whole batch and does not depend on the places. No views: the image as it is.
        """
        rows = (self.rows[picked[places]] for picked, places in zip(picks, asked, strict=True))
        photo = self.augmentation.photo if views else None
        fetched: Iterator[tuple[Tensor, Tensor]]
        if photo is None:
            fetched = ((images[None], read) for images, read in self.source.fetch(rows))
        else:
            seeds = (
                _seeds(len(picked), chance, views)[:, places]
                for picked, places, chance in zip(picks, asked, drawn, strict=True)
            )
            fetched = self.source.changed(zip(rows, seeds, strict=True), photo)
        for picked, places, chance, (images, read) in zip(picks, asked, drawn, fetched, strict=True):
            count, here = len(picked), places[read]
            if not views:
                yield (to_pixels(images[0]),), read
                continue
            pixels = []
            for view in range(views):
                generator = _generator(*chance, *((view,) if view else ()))
                moves = self.augmentation.draw(count, generator)[:, here]
                pixels.append(to_pixels(self.augmentation.apply(images[view if photo is not None else 0], moves)))
            yield tuple(pixels), read

    def _mixed(self, batch: Batch, picked: Tensor, places: Tensor, mixture: Mixture) -> Batch:
        """Return the batch with each image mixed with the next one, of those at `places` of `picked`."""
        own = torch.arange(len(batch.labels))
        position = torch.full((len(picked),), -1)
        position[places] = torch.arange(len(places))
        partner = position[(places[own] + 1) % len(picked)]
        share = torch.where(partner < 0, 1.0, mixture.share)
        partner = torch.where(partner < 0, own, partner)
        others = batch.images.index_select(0, partner.to(self.device))
        labels = self.labels[picked[places[partner]].to(self.device)]
        images = mixture.apply(batch.images[: len(own)], others)
        return replace(batch, images=images, mixed=Mixed(labels, share.to(self.device)))


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """An image classification task: three splits and what a network must know about them.

    `mean` and `std` hold one value a channel, in pixels of `[0, 1]`. `source` is the name as given, with an absolute
    path. `unlabelled` is the second stream, whose labels, if any, are not used; `target` are labelled images of another
    domain, to score the end result by and nothing else. `fingerprint` tells whether two runs saw the same images under
    the same labels in the same splits and streams; it goes by names, sizes and labels, not by pixels. `notes` are
    sentences to print: what was decided, skipped or left out. `input_shape` is what networks are made for, measured
    with and exported at; `train_size` is the height and width of what is trained on, where that is another.
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
    train_size: tuple[int, int] | None = None
    notes: tuple[str, ...] = ()

    @property
    def train_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of an image that is trained on."""
        return self.input_shape if self.train_size is None else (self.input_shape[0], *self.train_size)


def _with_next(places: Tensor, count: int) -> Tensor:
    """Return places that follow each other in a batch of `count`, and the one after the last, where that is another."""
    following = (places[-1:] + 1) % count
    return places if bool(torch.isin(following, places).all()) else torch.cat([places, following])


def _seeds(count: int, chance: Sequence[object], views: int) -> Tensor:
    """Return what each view of each image of a batch is changed by, `[views, count]` int64."""
    drawn = [torch.randint(2**62, (count,), generator=_generator(*chance, "photo", view)) for view in range(views)]
    return torch.stack(drawn)


def _generator(*parts: object) -> torch.Generator:
    """Return a CPU generator whose seed is a digest of `parts`, so that neighbouring seeds have nothing in common."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:4], "big"))  # the generator takes 32 bits in
