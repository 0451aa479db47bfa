"""What BatchNorm remembers: residual and dense networks whose weights fit alike are told apart by their running means.

A running mean is the average input that a layer had in training. Fed with noise, and normalising by the batch, a
network of the right form shows nearly these averages again, since every layer's input then has the mean and the
variance it was trained with. Where the shortcuts differ from training, the averages are far off: in mean square about
thirtyfold on published checkpoints. No image is needed. Kinds of pooling are not told apart like this: noise has other
maxima than images.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

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


def _distances(network: nn.Module, input_shape: tuple[int, int, int]) -> Tensor:
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    if not trained(network):
        return torch.zeros(1)
    distances: list[Tensor] = []
    network.eval()
    for norm in norms:
        norm.train()
        norm.register_forward_pre_hook(_compare(distances))
    noise = torch.randn(IMAGES, *input_shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        network(noise)
    return torch.stack(distances)


def _compare(distances: list[Tensor]) -> Callable[[nn.Module, Any], None]:
    def hook(norm: nn.Module, inputs: Any) -> None:
        assert isinstance(norm, nn.BatchNorm2d)
        assert norm.running_mean is not None
        assert norm.running_var is not None
        gap = inputs[0].mean(dim=(0, 2, 3)) - norm.running_mean
        distances.append((gap.square() / (norm.running_var + norm.eps)).mean())

    return hook
