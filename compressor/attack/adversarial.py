"""FGSM and PGD: images moved within a small distance to be decided wrongly."""

import torch
from torch import Tensor, nn

from compressor.attack.slope import as_found, ball, climb, loss, slope


def fgsm(network: nn.Module, images: Tensor, labels: Tensor, epsilon: float) -> Tensor:
    """Move every pixel by `epsilon` along the sign of the gradient of the cross entropy, within `[0, 1]`.

    The network is left as found. Source: Goodfellow et al., ICLR 2015.
    """
    return _raised(network, images, labels, [epsilon], ball(images, epsilon))


def pgd(
    network: nn.Module,
    images: Tensor,
    labels: Tensor,
    epsilon: float,
    *,
    generator: torch.Generator,
    steps: int = 10,
    step: float | None = None,
) -> Tensor:
    """Climb the cross entropy from a random start, within `epsilon` of each pixel and within `[0, 1]`.

    The network is left as found. `step` is `epsilon / 4` by default. Source: Madry et al., ICLR 2018.
    """
    bounds = ball(images, epsilon)
    noise = torch.rand(images.shape, generator=generator, device=generator.device).to(images.device)
    start = (images + epsilon * (2 * noise - 1)).clamp(*bounds)
    return _raised(network, start, labels, [epsilon / 4 if step is None else step] * steps, bounds)


def _raised(
    network: nn.Module, images: Tensor, labels: Tensor, lengths: list[float], bounds: tuple[Tensor, Tensor]
) -> Tensor:
    """Return the images after signed steps up the cross entropy."""
    with as_found(network):
        for moved in climb(images, lambda here: slope(network, here, loss(labels)).gradient, lengths, bounds):
            images = moved
    return images
