"""What one step of training or measuring is given: images, as every network of this project takes them."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """Images as every network of this project takes them.

    `images` are `[B, C, H, W]` float32 in `[0, 1]`, not normalised; `labels` `[B]` int64; `indices` `[B]` int64 count
    the samples of the training split from 0, so that a method can remember something about each sample.
    `views` are further augmentations of the same images, `needs.views - 1` of them, each like `images`, which are the
    first. `unlabelled` `[U, C, H, W]` is a second stream, where the data has one. `taught` are the logits `[B, K]` of
    each teacher on `images`, where they were asked beforehand. A method that declares `needs.data` False is given
    batches of zero images, and `wanted` says how many it is to make of its own.

    Of processes that train together each is given its part of a batch of `total` images: `weight` is what a mean over
    the part counts beside the others' parts, 1 where all are alike and on average. A method's losses need not know.
    """

    images: Tensor
    labels: Tensor
    indices: Tensor
    unlabelled: Tensor | None = None
    views: tuple[Tensor, ...] = ()
    taught: tuple[Tensor, ...] = ()
    weight: float = 1.0
    total: int | None = None
    wanted: int = 0

    @property
    def size(self) -> int:
        """Images of the whole batch, in all processes: those that are here, or those to be made."""
        return (len(self.images) or self.wanted) if self.total is None else self.total
