"""What one step of training or measuring is given: images, as every network of this project takes them."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """Images as every network of this project takes them.

    `images` are `[B, C, H, W]` float32 in `[0, 1]`, not normalised; `labels` `[B]` int64; `indices` `[B]` int64 count
    the samples of the training split from 0, so that a method can remember something about each sample.
    `views` are further augmentations of the same images, `needs.views - 1` of them, each like `images`, which are the
    first. `unlabelled` `[U, C, H, W]` is a second stream, where the data has one. A method that declares `needs.data`
    False is given batches of zero images.
    """

    images: Tensor
    labels: Tensor
    indices: Tensor
    unlabelled: Tensor | None = None
    views: tuple[Tensor, ...] = ()
