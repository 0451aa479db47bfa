"""Where to look: lines from an image that lead across a boundary, by gradients where there are any.

No line counts as a find by itself: `search` asks the artifacts along it.
"""

from __future__ import annotations

from contextlib import ExitStack

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from compressor.attack import BoundaryAttack, as_found
from compressor.attack.slope import ball, climb, gap, slope
from compressor.checkpoint.network import device_of
from compressor.difference.sides import PairLogits, Side, ask
from compressor.measure.scores import Floats, Labels

# More steps than for training: a walk that does not arrive finds nothing.
WALK = BoundaryAttack(steps=20)
REACH = 2.0  # of the way to the boundary of one artifact: a line goes on beyond it, to meet that of the other
PUSHES, FIRST_PUSH, SHRINK = 12, 0.25, 0.8  # steps of `pull_apart`: the first in `epsilon`, the others each smaller
LEVEL = 0.25  # spreads: two margins closer than about this are raised together
NEIGHBOURS = 4


def walk(side: Side, images: Floats, base: Labels, target: Labels, std: Tensor) -> tuple[Floats, Floats]:
    """Walk to the guide's boundary towards `target`: return where it was met, and as much again beyond, in the box."""
    if side.guide is None:
        raise ValueError("a walk needs gradients")
    device = device_of(side.guide)
    placed, start, goal = (torch.from_numpy(each).to(device) for each in (images, base, target))
    met = WALK(side.guide, placed, start, goal, scale=std.to(device)).images.cpu().contiguous().numpy()
    return met, np.clip(images + REACH * (met - images), 0, 1).astype(np.float32)


def pull_apart(
    stays: Side,
    leaves: Side,
    images: Floats,
    base: Labels,
    target: Labels,
    *,
    epsilon: float,
    spreads: tuple[float, float],
) -> Floats:
    """Attack the difference itself: one artifact is to keep `base` and the other to take `target`, within `epsilon`.

    Signed gradient steps of falling length raise the smaller of two margins, `margin_stays(base)` and
    `margin_leaves(target)`, or both where they are about level; of all images on the way the one where it is largest is
    returned. The margins are the artifacts' own, the gradients those of their guides; a side without one is only
    watched.

    Args:
        epsilon: the largest change of a pixel; pixels are in `[0, 1]`.
        spreads: of the logits of `stays` and `leaves`, the unit of the margins.
    """
    now, best = images, images.copy()
    answers = ask(stays, leaves, now, spreads)
    kept, taken = _margins(answers, base, target)
    surest = np.minimum(kept, taken)

    def pull(here: Tensor) -> Tensor:
        weight = 1 / (1 + np.exp(np.clip((kept - taken) / LEVEL, -50, 50)))  # [M] how much `stays` is in need
        hold = _unit_slope(stays, here, base, _runner_up(answers.a, base))
        lead = _unit_slope(leaves, here, target, _runner_up(answers.b, target))
        return _spread_out(weight) * hold + _spread_out(1 - weight) * lead

    start = torch.from_numpy(images)
    lengths = [epsilon * FIRST_PUSH * SHRINK**push for push in range(PUSHES)]
    with ExitStack() as found:
        for guide in (stays.guide, leaves.guide):
            if guide is not None:
                found.enter_context(as_found(guide))
        for moved in climb(start, pull, lengths, ball(start, epsilon)):
            now = moved.numpy()
            answers = ask(stays, leaves, now, spreads)
            kept, taken = _margins(answers, base, target)
            better = np.minimum(kept, taken) > surest
            best[better], surest[better] = now[better], np.minimum(kept, taken)[better]
    return best


def neighbours(images: Floats, base: Labels) -> list[Floats]:
    """Return, for each image, the images of other classes nearest to it: far ends of lines that need no gradients.

    Each of the at most `NEIGHBOURS` arrays is `[N, C, H, W]`; an image without a neighbour of another class gets
    itself.
    """
    flat = images.reshape(len(images), -1).astype(np.float64)
    squares = (flat**2).sum(axis=1)
    distance = squares[:, None] + squares[None, :] - 2 * flat @ flat.T
    distance[base[:, None] == base[None, :]] = np.inf
    nearest = np.argsort(distance, axis=1, kind="stable")[:, :NEIGHBOURS]
    reachable = np.isfinite(np.take_along_axis(distance, nearest, axis=1))
    own = np.arange(len(images))[:, None]
    return [images[column] for column in np.where(reachable, nearest, own).T]


def likely_targets(answers: PairLogits, base: Labels) -> Labels:
    """Return the class, other than `base`, that both artifacts together hold most likely: the boundary that is near."""
    ours, theirs = answers.probabilities
    return _runner_up(ours + theirs, base)


def _runner_up(scores: NDArray[np.float32] | NDArray[np.float64], base: Labels) -> Labels:
    others = scores.copy()
    others[np.arange(len(base)), base] = -np.inf
    return np.asarray(others.argmax(axis=1))


def _margins(answers: PairLogits, base: Labels, target: Labels) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """How far `stays` puts `base`, and `leaves` puts `target`, above its other classes: `[M]` each, in spreads."""
    rows, (one, other) = np.arange(len(base)), answers.spreads
    kept = answers.a[rows, base] - answers.a[rows, _runner_up(answers.a, base)]
    taken = answers.b[rows, target] - answers.b[rows, _runner_up(answers.b, target)]
    return kept.astype(np.float64) / (one or 1.0), taken.astype(np.float64) / (other or 1.0)


def _unit_slope(side: Side, images: Tensor, up: Labels, down: Labels) -> Tensor:
    """Return the unit gradients `[M, C, H, W]` of `logit[up] - logit[down]`, float64; zero without a guide."""
    if side.guide is None:
        return torch.zeros_like(images, dtype=torch.float64)
    device = device_of(side.guide)
    ends = (torch.from_numpy(each).to(device) for each in (up, down))
    gradient = slope(side.guide, images.to(device), gap(*ends)).gradient.cpu().double()
    lengths = gradient.square().sum(dim=(1, 2, 3), keepdim=True).sqrt()
    return gradient / lengths.clamp_min(torch.finfo(torch.float64).tiny)


def _spread_out(weight: NDArray[np.float64]) -> Tensor:
    return torch.from_numpy(weight).view(-1, 1, 1, 1)
