"""What walks to the boundary came to, in six numbers."""

from typing import NamedTuple

import torch
from torch import Tensor

from compressor.attack.boundary import CROSSED, THIRD, BoundarySamples


class WalkSummary(NamedTuple):
    """Scalar tensors on the device of the walks, so that a training that logs them need not wait; NaN without walks.

    A median of an even number is the lower of the two in the middle.
    """

    crossed: Tensor  # fraction of walks that ended in their target
    third: Tensor  # fraction that ended in a third class
    gap: Tensor  # median of how far the base lies above the best other class at the end, in logits: below 0 is past
    length: Tensor  # median distance from start to end, in normalised units
    change: Tensor  # median of the largest change of a pixel, of 1
    steps: Tensor  # mean number of steps


def summarise(images: Tensor, samples: BoundarySamples, base: Tensor, *, scale: Tensor) -> WalkSummary:
    """Return what came of the walks `samples` that began at `images` `[B, C, H, W]` in the classes `base` `[B]`.

    The gap is to the best other class and not to the target, since a walk may leave its class elsewhere: a sample lies
    on the boundary of its base class where this gap is 0.
    """
    if len(images) == 0:
        return WalkSummary(*samples.logits.new_full((6,), torch.nan).unbind())
    way = (samples.images - images).flatten(2)  # [B, C, H * W]
    normalised = way / scale.to(way).view(1, -1, 1)
    others = samples.logits.scatter(1, base.unsqueeze(1), -torch.inf).amax(dim=1)
    gaps = samples.logits.gather(1, base.unsqueeze(1)).squeeze(1) - others
    return WalkSummary(
        crossed=(samples.crossed == CROSSED).to(gaps.dtype).mean(),
        third=(samples.crossed == THIRD).to(gaps.dtype).mean(),
        gap=gaps.median(),
        length=normalised.flatten(1).norm(dim=1).median(),
        change=way.abs().amax(dim=(1, 2)).median(),
        steps=samples.steps.to(gaps.dtype).mean(),
    )
