"""The inner step that all attacks share: which way up, by the pixels, and one signed step after the other.

Enter `as_found` once around a whole attack, not around each step.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Value = Callable[[Tensor], Tensor]  # logits [B, K] to one number an image, [B]


@contextmanager
def as_found(network: nn.Module) -> Iterator[None]:
    """Ask `network` as it will be used, in eval mode and with fixed parameters, and restore every flag afterwards."""
    training = [module for module in network.modules() if module.training]
    trainable = [parameter for parameter in network.parameters() if parameter.requires_grad]
    try:
        for module in training:
            module.training = False  # not eval(), which networks override
        for parameter in trainable:
            parameter.requires_grad_(False)  # saves the weights' half of each backward pass
        yield
    finally:
        for module in training:
            module.training = True
        for parameter in trainable:
            parameter.requires_grad_(True)


class Slope(NamedTuple):
    """What a network says of `B` images, and which way up a value of it is from each; none has a graph."""

    logits: Tensor  # [B, K]
    value: Tensor  # [B]
    gradient: Tensor  # [B, C, H, W] of the value, by the pixels


def slope(network: nn.Module, images: Tensor, value: Value) -> Slope:
    """Return the gradient of each image's own value; no parameter gains a `.grad`.

    Under autocast the network runs in its precision; logits, value and gradient have the dtype of `images`, or that in
    which `value` computes.
    """
    with torch.enable_grad():
        images = images.detach().requires_grad_()
        logits = network(images).to(images.dtype)
        values = value(logits)
        (gradient,) = torch.autograd.grad(values.sum(), images)
    return Slope(logits.detach(), values.detach(), gradient)


def gap(above: Tensor, below: Tensor) -> Value:
    """Return how far the logit of one class lies above that of another, as a value; both are classes `[B]`."""
    ends = torch.stack((above, below), dim=1)

    def value(logits: Tensor) -> Tensor:
        both = logits.gather(1, ends)  # [B, 2]
        return both[:, 0] - both[:, 1]

    return value


def loss(labels: Tensor) -> Value:
    """Return the cross entropy with `labels` `[B]`, as a value."""
    # In float64, else the loss of a confident network is exactly zero, and an attack looks weaker than it is.
    return lambda logits: F.cross_entropy(logits.double(), labels, reduction="none")


def divergence(taught: Tensor) -> Value:
    """Return `KL(taught || logits)` from fixed logits `[B, K]` to the network's, as a value; in float64 as `loss`."""
    return lambda logits: _divergence(taught, logits)


def apart(logits: Tensor) -> Tensor:
    """Return `KL(second || first)` of the two halves of `[B, 2K]`: a value of two networks' logits side by side."""
    first, second = logits.chunk(2, dim=1)
    return _divergence(second, first)


def _divergence(taught: Tensor, logits: Tensor) -> Tensor:
    log_p, log_q = taught.double().log_softmax(dim=1), logits.double().log_softmax(dim=1)
    return F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(dim=1)


def ball(images: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
    """Return the lowest and the highest pixels within `epsilon` of `images` and within `[0, 1]`."""
    return (images - epsilon).clamp(0, 1), (images + epsilon).clamp(0, 1)


def climb(
    images: Tensor, way: Callable[[Tensor], Tensor], lengths: Iterable[float], bounds: tuple[Tensor, Tensor]
) -> Iterator[Tensor]:
    """Yield the images after each signed step: every pixel moves by a length along the sign of `way`, within bounds.

    Args:
        way: images to a direction, of the same shape, in which to go; asked once a step, where the images then are.
        lengths: of the steps, in pixels.
    """
    for length in lengths:
        images = (images + length * way(images).sign().to(images.dtype)).clamp(*bounds)
        yield images
