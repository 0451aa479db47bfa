"""How the samples of a batch relate to each other: what losses compare that do not look at a sample alone.

All of it is computed in at least float32, also where the networks run in half precision: these are small differences
of near numbers.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from compressor.methods.losses.protocol import wide


def pooled(outputs: Tensor) -> Tensor:
    """Return one vector for each sample, `[B, C]`: of maps `[B, C, ...]` the mean over their places."""
    return wide(outputs).flatten(2).mean(dim=2) if outputs.dim() > 2 else wide(outputs)


def cosines(vectors: Tensor) -> Tensor:
    """Return the cosine of each sample's vector `[B, D]` with each other one's, `[B, B]`; 0 for a vector of zeros."""
    return products(F.normalize(vectors, dim=1), F.normalize(vectors, dim=1))


def distances(vectors: Tensor) -> Tensor:
    """Return the Euclidean distance of each vector of `[B, D]` from each other one, `[B, B]`.

    From the differences and not from products of the vectors, which would lose the digits of small distances; where a
    distance is 0 so is its gradient.
    """
    return torch.cdist(vectors, vectors, compute_mode="donot_use_mm_for_euclid_dist")


def angles(vectors: Tensor) -> Tensor:
    """Return the cosine of the angle at each vector `j` of `[B, D]` between the ways to `i` and to `k`, `[B, B, B]`.

    Indexed `[j, i, k]`; 0 where one of the ways has no length.
    """
    ways = vectors.unsqueeze(0) - vectors.unsqueeze(1)  # [j, i, D]
    lengths = distances(vectors)
    ways = ways / lengths.masked_fill(lengths == 0, 1).unsqueeze(2)  # a way of length 0 keeps a finite gradient
    return products(ways, ways)


def products(a: Tensor, b: Tensor) -> Tensor:
    """Return the scalar product of each row of `a` `[..., N, D]` with each of `b` `[..., M, D]`, `[..., N, M]`."""
    with torch.autocast(a.device.type, enabled=False):
        return a @ b.transpose(-1, -2)
