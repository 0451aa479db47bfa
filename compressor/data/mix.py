"""Images that are mixed of two, mixup and CutMix: what teacher and student both see, with the labels of both."""

import math
import random
from dataclasses import dataclass

import torch
from torch import Tensor

Box = tuple[int, int, int, int]  # top, bottom, left, right: rows and columns from, up to


@dataclass(frozen=True)
class Mix:
    """How the images of a batch are mixed, each with the next one; both parameters are those of a Beta, 0 for never.

    Where both are given, each batch is mixed in one of the two ways, as likely.

    Source: mixup, Zhang et al. (ICLR 2018, arXiv:1710.09412); CutMix, Yun et al. (ICCV 2019, arXiv:1905.04899),
    section 3.1. As in both authors' code one share is drawn for a whole batch.
    """

    mixup: float = 0.0
    cutmix: float = 0.0

    def draw(self, generator: torch.Generator, height: int, width: int) -> "Mixture":
        """Return what is done to a batch; all chance is that of the generator."""
        chance = random.Random(int(torch.randint(2**62, (), generator=generator)))
        pastes = self.cutmix > 0 and (self.mixup == 0 or chance.random() < 0.5)
        alpha = self.cutmix if pastes else self.mixup
        share = chance.betavariate(alpha, alpha)
        if not pastes:
            return Mixture(share)
        return pasting(share, chance.random(), chance.random(), height, width)


@dataclass(frozen=True)
class Mixture:
    """The part of each image that stays its own, in `[0, 1]`, and the box that is the other's; None: a blend."""

    share: float
    box: Box | None = None

    def apply(self, images: Tensor, others: Tensor) -> Tensor:
        """Return images `[B, C, H, W]` mixed with others of the same shape; `images` are not changed."""
        if self.box is None:
            return self.share * images + (1 - self.share) * others
        top, bottom, left, right = self.box
        mixed = images.clone()
        mixed[:, :, top:bottom, left:right] = others[:, :, top:bottom, left:right]
        return mixed


def pasting(share: float, down: float, across: float, height: int, width: int) -> Mixture:
    """Return the mixture by a box with `1 - share` of the area, its centre at `down` and `across`, of 1.

    Where it reaches beyond the image it is cut off, and the share is that of the pixels that stay.
    """
    half = math.sqrt(1 - share) / 2
    top, bottom = (min(max(round((down + side) * height), 0), height) for side in (-half, half))
    left, right = (min(max(round((across + side) * width), 0), width) for side in (-half, half))
    return Mixture(1 - (bottom - top) * (right - left) / (height * width), (top, bottom, left, right))
