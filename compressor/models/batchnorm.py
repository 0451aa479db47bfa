"""What BatchNorm remembers, and how far it is from what its layers are given.

Images are made that bring about what a network remembers, and residual and dense networks whose weights fit alike are
told apart by it. A running mean is the average input that a layer had in training. Fed with noise, and normalising by
the batch, a network of the right form shows nearly these averages again, since every layer's input then has the mean
and the variance it was trained with. Where the shortcuts differ from training, the averages are far off: in mean square
about thirtyfold on published checkpoints. No image is needed. Kinds of pooling are not told apart like this: noise has
other maxima than images.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

IMAGES = 16


def misfits(networks: Sequence[nn.Module], input_shape: tuple[int, int, int]) -> list[float] | None:
    """Return how far each network's averages are from those remembered, over the layers in which the networks differ.

    The networks hold the same weights on the CPU and have the same layers. The distance of a mean is squared and in
    units of the running variance. None when there is nothing to tell: no running means, never trained, or no
    layer that differs. Changes the networks: give it some to throw away.
    """
    distances = torch.stack([_distances(network, input_shape) for network in networks])  # [N, layers]
    differ = ~distances.isclose(distances[0], rtol=1e-3).all(dim=0)
    if not differ.any():
        return None
    return [float(value) for value in distances[:, differ].mean(dim=1)]


def trained(network: nn.Module) -> bool:
    """Whether a BatchNorm layer remembers other means than those it begins with."""
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    return any(norm.running_mean is not None and bool(norm.running_mean.any()) for norm in norms)


class Passed(NamedTuple):
    """What a layer was given in a pass, and what it remembers: means and variances of each channel, `[C]`."""

    mean: Tensor
    variance: Tensor
    known_mean: Tensor
    known_variance: Tensor
    eps: float

    @property
    def mean_gap(self) -> Tensor:
        """The squared distance of the means, in units of the variance that is remembered, `[C]`."""
        return (self.mean - self.known_mean).square() / (self.known_variance + self.eps)


def remembering(network: nn.Module) -> list[_BatchNorm]:
    """Return the BatchNorm layers of a network that have running statistics."""
    return [each for each in network.modules() if isinstance(each, _BatchNorm) and each.running_mean is not None]


@contextmanager
def watched(layers: Sequence[_BatchNorm]) -> Iterator[list[Passed]]:
    """Yield a list that gets what the layers are given in the passes of this block, with gradients."""
    passed: list[Passed] = []

    def note(layer: nn.Module, inputs: Any) -> None:
        assert isinstance(layer, _BatchNorm)
        assert layer.running_mean is not None
        assert layer.running_var is not None
        # A layer in training moves its running statistics in this very pass: they are copied.
        values = inputs[0].float().transpose(0, 1).flatten(1)  # [C, N]
        variance, mean = torch.var_mean(values, dim=1, correction=0)
        passed.append(Passed(mean, variance, layer.running_mean.clone(), layer.running_var.clone(), layer.eps))

    handles = [layer.register_forward_pre_hook(note) for layer in layers]
    try:
        yield passed
    finally:
        for handle in handles:
            handle.remove()


def _distances(network: nn.Module, input_shape: tuple[int, int, int]) -> Tensor:
    if not trained(network):
        return torch.zeros(1)
    layers = remembering(network)
    network.eval()
    for layer in layers:
        layer.train()
    noise = torch.randn(IMAGES, *input_shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad(), watched(layers) as passed:
        network(noise)
    return torch.stack([each.mean_gap.mean() for each in passed])
