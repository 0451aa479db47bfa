"""Calibration without data: noise is changed until a network sees in it the statistics of its training images.

Each BatchNorm remembers the mean and the variance of what it was given in training. Images that bring about the same
ones, in all layers at once, drive the activations to the ranges of real images.

Source: Cai et al., CVPR 2020 (arXiv:2001.00281), section 3.1; Yin et al., CVPR 2020 (arXiv:1912.08795), equation 4, for
the classes that the images are drawn to. Here each distance is in units of the layer's own variance.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from compressor.errors import InputRejected
from compressor.models.batchnorm import Passed, remembering, watched

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
    norms = remembering(network)
    if not norms:
        raise InputRejected(
            "synthetic images are made from the statistics in a network's BatchNorm layers, and this one has none",
            hint="--calibration training, with the data that it was trained on",
        )
    device = next(network.parameters()).device
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
    with watched(norms) as passed:
        for _ in range(steps):
            passed.clear()
            with torch.enable_grad():
                logits: Tensor = network(images)
                loss = _distance(passed) + CLASS_WEIGHT * F.cross_entropy(logits, wanted)
                (images.grad,) = torch.autograd.grad(loss, images)
            optimizer.step()
            with torch.no_grad():
                images.clamp_(0, 1)
    return images.detach()


def _distance(passed: Sequence[Passed]) -> Tensor:
    """Return how far a pass is from what the layers remember, in units of each layer's own variance."""
    layers = []
    for each in passed:
        spread = ((each.variance + each.eps) / (each.known_variance + each.eps)).sqrt()
        layers.append((each.mean_gap + (spread - 1).square()).mean())
    return torch.stack(layers).mean()
