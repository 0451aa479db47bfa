"""Calibration without data: noise is changed until a network sees in it the statistics of its training images.

Each BatchNorm remembers the mean and the variance of what it was given in training. Images that bring about the same
ones, in all layers at once, drive the activations to the ranges of real images.

Source: Cai et al., CVPR 2020 (arXiv:2001.00281), section 3.1; Yin et al., CVPR 2020 (arXiv:1912.08795), equation 4, for
the classes that the images are drawn to. Here each distance is in units of the layer's own variance.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from compressor.errors import InputRejected

STEPS = 100
BATCH = 64  # images whose statistics are matched together
RATE = 0.05  # of Adam, in units of a pixel
CLASS_WEIGHT = 0.1  # of the cross entropy against the statistics


def synthetic_images(
    network: nn.Module, input_shape: tuple[int, int, int], classes: int, *, samples: int, seed: int, steps: int = STEPS
) -> NDArray[np.float32]:
    """Return images `[samples, C, H, W]` in `[0, 1]` made from the statistics that a network remembers.

    Args:
        network: pixels in `[0, 1]` to logits `[B, classes]`; it is left as it was found, in evaluation mode.

    Raises:
        InputRejected: it has no BatchNorm with statistics.
    """
    norms = [each for each in network.modules() if isinstance(each, _BatchNorm) and each.running_mean is not None]
    if not norms:
        raise InputRejected(
            "synthetic images are made from the statistics in a network's BatchNorm layers, and this one has none",
            hint="--calibration training, with the data that it was trained on",
        )
    device = norms[0].running_mean.device if norms[0].running_mean is not None else torch.device("cpu")
    generator = torch.Generator().manual_seed(seed)
    network.eval()
    made = []
    for start in range(0, samples, BATCH):
        count = min(BATCH, samples - start)
        noise = torch.rand(BATCH, *input_shape, generator=generator).to(device)
        wanted = torch.randint(classes, (BATCH,), generator=generator).to(device)
        made.append(_matched(network, norms, noise, wanted, steps)[:count].cpu().numpy())
    return np.concatenate(made)


def _matched(network: nn.Module, norms: list[_BatchNorm], images: Tensor, wanted: Tensor, steps: int) -> Tensor:
    images.requires_grad_()
    optimizer = torch.optim.Adam([images], lr=RATE)
    with _watched(norms) as distances:
        for _ in range(steps):
            distances.clear()
            with torch.enable_grad():
                logits: Tensor = network(images)
                loss = torch.stack(distances).mean() + CLASS_WEIGHT * F.cross_entropy(logits, wanted)
                (images.grad,) = torch.autograd.grad(loss, images)
            optimizer.step()
            with torch.no_grad():
                images.clamp_(0, 1)
    return images.detach()


@contextmanager
def _watched(norms: list[_BatchNorm]) -> Iterator[list[Tensor]]:
    """Collect, for each layer that a pass goes through, how far its batch is from what the layer remembers."""
    distances: list[Tensor] = []
    handles = [norm.register_forward_pre_hook(_compare(distances)) for norm in norms]
    try:
        yield distances
    finally:
        for handle in handles:
            handle.remove()


def _compare(distances: list[Tensor]) -> Callable[[nn.Module, Any], None]:
    def hook(norm: nn.Module, given: Any) -> None:
        assert isinstance(norm, _BatchNorm)
        assert norm.running_mean is not None
        assert norm.running_var is not None
        values: Tensor = given[0].transpose(0, 1).flatten(1)  # [C, N]
        variance, mean = torch.var_mean(values, dim=1, correction=0)
        known = norm.running_var + norm.eps
        off = (mean - norm.running_mean).square() / known + ((variance + norm.eps).sqrt() / known.sqrt() - 1).square()
        distances.append(off.mean())

    return hook
