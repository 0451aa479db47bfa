"""Rounding to few levels, as a QuantizeLinear and a DequantizeLinear do it, with gradients: who trains rounds alike.

Source: Jacob et al., CVPR 2018 (arXiv:1712.05877), section 2.1, for scale and zero point; Bengio et al. 2013
(arXiv:1308.3432) for the gradient that passes straight through.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor


class Grid(NamedTuple):
    """The levels `scale * (n - zero)` for the whole numbers n from `least` to `most`."""

    scale: Tensor  # [], or one a channel
    zero: Tensor  # a whole number, as a float
    least: int
    most: int


def grid(low: Tensor, high: Tensor, bits: int, *, symmetric: bool) -> Grid:
    """Return the levels that span a range and hold 0: `2 ** bits` of them, or one less around 0 if symmetric."""
    low, high = low.double().clamp(max=0), high.double().clamp(min=0)
    if symmetric:
        high = torch.maximum(-low, high)
        low, least, most = -high, 1 - 2 ** (bits - 1), 2 ** (bits - 1) - 1
    else:
        least, most = 0, 2**bits - 1
    scale = (high - low) / (most - least)
    empty = scale < torch.finfo(torch.float32).tiny
    scale = torch.where(empty, 1.0, scale)
    zero = torch.where(empty, 0.0, torch.round(least - low / scale)) if not symmetric else torch.zeros_like(scale)
    return Grid(scale.float(), zero.float(), least, most)


def weight_grid(weight: Tensor, bits: int) -> Grid:
    """Return the levels of a weight `[O, ...]`: symmetric, one scale for each of its outputs."""
    largest = weight.detach().abs().amax(dim=tuple(range(1, weight.ndim)), keepdim=True)
    return grid(-largest, largest, bits, symmetric=True)


def rounded(values: Tensor, levels: Grid) -> Tensor:
    """Return the nearest levels, ties to even. The gradient is 1 within the range and 0 beyond it."""
    result: Tensor = _Rounded.apply(values, levels)
    return result


class _Rounded(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, levels: Grid) -> Tensor:
        numbers = torch.round(values.float() / levels.scale) + levels.zero
        ctx.save_for_backward((numbers >= levels.least) & (numbers <= levels.most))
        nearest = (numbers.clamp(levels.least, levels.most) - levels.zero) * levels.scale
        return nearest.to(values.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (inside,) = ctx.saved_tensors
        return gradients[0] * inside, None
