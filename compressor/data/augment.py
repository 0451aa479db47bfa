"""Random crop and flip of a whole batch at once, the same on a CPU and a GPU, and the step from bytes to floats."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from compressor.data.photo import Photo
from compressor.recipe.schema.augment import Augment


@dataclass(frozen=True)
class Augmentation:
    """Each image is moved by up to `pad` pixels either way, black coming in, and mirrored half of the time.

    `photo` is done before, to each image where it is read.
    """

    pad: int = 0
    flip: bool = False
    photo: Photo | None = None

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Return what happens to each of `count` images: `[3, count]` int64, rows `top`, `left`, `mirrored`.

        The generator lives on the CPU, so that every device sees the same crops.
        """
        corners = torch.randint(0, 2 * self.pad + 1, (2, count), generator=generator)
        mirrored = torch.randint(0, 2, (1, count), generator=generator) * int(self.flip)
        return torch.cat([corners, mirrored])

    def apply(self, images: Tensor, moves: Tensor) -> Tensor:
        """Return the moved images, `[B, H, W, C]` uint8 as they came; `moves` `[3, B]` as drawn, on the CPU.

        `top` and `left` are the corner of the crop within the padded image: `pad` leaves an image where it is.
        """
        if len(images) == 0:
            return images
        top, left, mirrored = moves
        if self.pad:
            images = _crop(images, top.to(images.device), left.to(images.device), self.pad)
        if self.flip:
            # The mirrored ones are appended, and each image picks its own or its mirrored self. Their places are found
            # on the CPU, so that a GPU need not be waited for.
            places = mirrored.nonzero().squeeze(1)
            picks = torch.arange(len(images)).index_copy(0, places, len(images) + torch.arange(len(places)))
            turned = images.index_select(0, places.to(images.device)).flip(2)
            images = torch.cat([images, turned]).index_select(0, picks.to(images.device))
        return images


def chosen(
    config: Augment,
    usual: Literal["crop", "crop-flip"],
    height: int,
    width: int,
    *,
    train_size: tuple[int, int] | None = None,
) -> Augmentation:
    """Return the augmentation of a recipe: crops are by 4 pixels of 32, as usual for CIFAR, and in proportion.

    Args:
        usual: what `auto` is.
        train_size: height and width of a photo's crops, where they are not the images'.
    """
    kind = usual if config.kind == "auto" else config.kind
    photo = Photo(
        size=train_size or (height, width),
        scale=config.scale if kind == "photo" else None,
        jitter=config.jitter,
        rand_augment=config.rand_augment,
    )
    pad = 0 if kind in ("none", "photo") else max(1, round(min(height, width) / 8))
    return Augmentation(pad, flip=kind in ("crop-flip", "photo"), photo=photo if photo.changes else None)


def to_pixels(images: Tensor) -> Tensor:
    """Return `[B, H, W, C]` uint8 as `[B, C, H, W]` float32 in `[0, 1]`, channels last in memory.

    The divisor is a tensor: by a plain number, a GPU multiplies with the rounded reciprocal, and differs from a CPU.
    """
    pixels = images.permute(0, 3, 1, 2).to(torch.float32)
    return pixels.div_(torch.full((), 255.0, device=images.device))


def _crop(images: Tensor, top: Tensor, left: Tensor, pad: int) -> Tensor:
    """Cut one window of the original size out of each zero-padded image.

    In `[B, H, W, C]` memory a row of a window is one run of `W * C` bytes, so a crop copies rows, not pixels: all runs
    of that length are seen as the overlapping rows of one matrix, and the wanted ones are picked.
    """
    count, height, width, channels = images.shape
    tall, wide = height + 2 * pad, width + 2 * pad
    padded = images.new_zeros(count, tall, wide, channels)
    padded[:, pad : pad + height, pad : pad + width] = images
    runs = padded.view(-1).as_strided((count * tall * wide - width + 1, width * channels), (channels, 1))
    corner = (torch.arange(count, device=images.device) * tall + top) * wide + left  # [B]
    picked = corner[:, None] + torch.arange(height, device=images.device) * wide  # [B, H]
    return runs[picked].view(count, height, width, channels)
