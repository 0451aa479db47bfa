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
    """The code of an image: `sum_j weight_j map(norm(embedding of class_j + noise_scale * noise_j))`.

    `norm` makes the features of each code mean 0 and variance 1.

    Args:
        initial: the embeddings to begin with, `[K, D]`; they are learned.
        mapped: length of the codes after a linear layer without a bias; None leaves them as they are.
    """

    def __init__(self, initial: Tensor, *, noise_scale: float = 1.0, mapped: int | None = None) -> None:
        super().__init__()
        self.vectors = nn.Parameter(initial.detach().clone().float())
        self.noise_scale = noise_scale
        self.map = nn.Identity() if mapped is None else nn.Linear(initial.shape[1], mapped, bias=False)

    def forward(self, drawn: Superposition, noise: Tensor) -> Tensor:
        """Return the codes, `[B, D]` or as long as they are mapped to, for noise `[B, J, D]`, one for each class."""
        codes = self.vectors[drawn.classes] + self.noise_scale * noise  # [B, J, D]
        mapped: Tensor = self.map(F.layer_norm(codes, codes.shape[-1:]))
        return (drawn.weights[..., None] * mapped).sum(dim=1)
