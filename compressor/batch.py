"""What one step of training or measuring is given: images, as every network of this project takes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Mixed:
    """What each image of a batch is mixed with: the label of the other image, `[B]` int64, and the image's own share,
    `[B]` float32 in `[0, 1]`, of the two.
    """

    labels: Tensor
    share: Tensor


@dataclass(frozen=True)
class Batch:
    """Images as every network of this project takes them.

    `images` are `[B, C, H, W]` float32 in `[0, 1]`, not normalised; `labels` `[B]` int64; `indices` `[B]` int64 count
    the samples of the training split from 0, so that a method can remember something about each sample.
    `views` are further augmentations of the same images, `needs.views - 1` of them, each like `images`, which are the
    first. `unlabelled` `[U, C, H, W]` is a second stream, where the data has one. `taught` are the logits `[B, K]` of
    each teacher on `images`, where they were asked beforehand. A method that declares `needs.data` False is given
    batches of zero images, and `wanted` says how many it is to make of its own.

    `mixed`: each image is mixed of two (mixup, CutMix), and `labels` and `indices` are those of the first.

    Of processes that train together each is given its part of a batch of `total` images: `weight` is what a mean over
    the part counts beside the others' parts, 1 where all are alike and on average. A method's losses need not know.
    """

    images: Tensor
    labels: Tensor
    indices: Tensor
    unlabelled: Tensor | None = None
    views: tuple[Tensor, ...] = ()
    taught: tuple[Tensor, ...] = ()
    mixed: Mixed | None = None
    weight: float = 1.0
    total: int | None = None
    wanted: int = 0

    @property
    def size(self) -> int:
        """Images of the whole batch, in all processes: those that are here, or those to be made."""
        return (len(self.images) or self.wanted) if self.total is None else self.total

    @property
    def true_labels(self) -> Tensor | None:
        """The labels, where an image has one: None where images are mixed of two."""
        return self.labels if self.mixed is None else None

    def placed(self, device: torch.device, *, channels_last: bool) -> Batch:
        """Return the batch on a device, images in the memory layout of the networks."""
        layout = torch.channels_last if channels_last else torch.preserve_format

        def images(tensor: Tensor) -> Tensor:
            return tensor.to(device, non_blocking=True, memory_format=layout)

        def plain(tensor: Tensor) -> Tensor:
            return tensor.to(device, non_blocking=True)

        mixed = self.mixed
        return replace(
            self,
            images=images(self.images),
            labels=plain(self.labels),
            indices=plain(self.indices),
            unlabelled=None if self.unlabelled is None else images(self.unlabelled),
            views=tuple(map(images, self.views)),
            mixed=None if mixed is None else Mixed(plain(mixed.labels), plain(mixed.share)),
        )

    def parts(self, count: int) -> Sequence[Batch]:
        """Return the batch in at most `count` parts that follow each other, with two images each or more.

        BatchNorm has no variance of one image. The parts differ by one image at most, and their weights add up to
        `weight`, so that the sum of a mean over each is the mean over all.
        """
        here = len(self.images) or self.wanted
        fewest = here if self.unlabelled is None else min(here, len(self.unlabelled))
        count = max(1, min(count, fewest // 2))
        if count == 1:
            return [self]

        def cut(tensor: Tensor) -> Sequence[Tensor]:
            return tensor.tensor_split(count)

        wanted = [len(each) for each in cut(torch.arange(self.wanted))]
        unlabelled = [None] * count if self.unlabelled is None else cut(self.unlabelled)
        views, taught = (list(zip(*map(cut, each), strict=True)) or [()] * count for each in (self.views, self.taught))
        mixed: Sequence[Mixed | None] = [None] * count
        if self.mixed is not None:
            mixed = [Mixed(*each) for each in zip(cut(self.mixed.labels), cut(self.mixed.share), strict=True)]
        whole = zip(cut(self.images), cut(self.labels), cut(self.indices), strict=True)
        return [
            replace(
                self,
                images=images,
                labels=labels,
                indices=indices,
                unlabelled=unlabelled[place],
                views=views[place],
                taught=taught[place],
                mixed=mixed[place],
                weight=self.weight * (len(images) or wanted[place]) / here,
                total=self.size,
                wanted=wanted[place],
            )
            for place, (images, labels, indices) in enumerate(whole)
        ]
