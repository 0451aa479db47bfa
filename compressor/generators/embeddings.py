"""Superposed class embeddings: codes of images between classes, and the soft labels that go with them.

Source: Qimera (Choi et al., NeurIPS 2021, arXiv:2111.02625), section 3.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Superposition(NamedTuple):
    """Which classes each image is to be between: `classes` `[B, J]` int64, `weights` `[B, J]` of sum 1."""

    classes: Tensor
    weights: Tensor

    def labels(self, classes: int) -> Tensor:
        """Return the share of each class in each image, `[B, K]` of sum 1; a class that was drawn twice has both."""
        shares = torch.zeros(len(self.classes), classes, device=self.weights.device)
        return shares.scatter_add(1, self.classes, self.weights)


def superposition(count: int, mixed: int, classes: int, generator: torch.Generator) -> Superposition:
    """Draw `mixed` classes for each of `count` images, with replacement, weighed by the softmax of `N(0, I)`.

    One class alone, `mixed=1`, has the weight 1.
    """
    device = generator.device
    drawn = torch.randint(classes, (count, mixed), generator=generator, device=device)
    weights = torch.randn(count, mixed, generator=generator, device=device).softmax(dim=1)
    return Superposition(drawn, weights)


class ClassEmbeddings(nn.Module):
    """The code of an image: `sum_j weight_j map(norm(embedding of class_j + noise_scale * noise_j))`, `[B, D]`.

    `norm` makes the features of each code mean 0 and variance 1. The map is a linear layer without a bias where
    `disentangle` is set, else none.

    Args:
        initial: embeddings to start from `[K, D]`, such as the teacher's last weights; None draws them from `N(0, 1)`.
    """

    def __init__(
        self,
        classes: int,
        length: int,
        *,
        noise_scale: float = 1.0,
        disentangle: bool = False,
        initial: Tensor | None = None,
    ) -> None:
        super().__init__()
        start = torch.randn(classes, length) if initial is None else initial.detach().clone().float()
        if start.shape != (classes, length):
            raise ValueError(f"embeddings are {tuple(start.shape)}, not {(classes, length)}")
        self.vectors = nn.Parameter(start)
        self.noise_scale = noise_scale
        self.map = nn.Linear(length, length, bias=False) if disentangle else nn.Identity()

    def forward(self, drawn: Superposition, noise: Tensor) -> Tensor:
        """Return the codes `[B, D]` for noise `[B, J, D]`, one vector for each class of each image."""
        codes = self.vectors[drawn.classes] + self.noise_scale * noise  # [B, J, D]
        mapped: Tensor = self.map(F.layer_norm(codes, codes.shape[-1:]))
        return (drawn.weights[..., None] * mapped).sum(dim=1)
