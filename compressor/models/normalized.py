"""The wrappers around a network: mean, std and the order of colours before it, a choice among its classes behind."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Selected(nn.Module):
    """Some of a network's classes, in another order: `network(images)[:, order]`."""

    order: Tensor

    def __init__(self, network: nn.Module, order: Sequence[int]) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("order", torch.tensor(order), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network(images)
        return logits.index_select(1, self.order)


class Normalized(nn.Module):
    """`network((images - mean) / std)`: takes pixels `[B, C, H, W]` in `[0, 1]`, which the network itself need not.

    `mean` and `std` hold one value a channel and are buffers that no checkpoint carries: they are metadata. Images,
    mean and std are in the order red, green, blue; with `bgr` the network is given the channels the other way round.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, mean: Sequence[float], std: Sequence[float], *, bgr: bool = False) -> None:
        super().__init__()
        if len(mean) != len(std) or not all(value > 0 for value in std):
            raise ValueError(f"mean {tuple(mean)} and std {tuple(std)} need one value a channel, std above zero")
        self.network = network
        self.bgr = bgr
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(1, -1, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        normalised = (images - self.mean) / self.std
        logits: Tensor = self.network(normalised.flip(1) if self.bgr else normalised)
        return logits
