"""The order of the classes: does the teacher's agree with the data's?"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from scipy.optimize import linear_sum_assignment  # type: ignore[import-untyped]  # comes with scikit-learn
from torch import Tensor

from compressor.checkpoint.network import Network, device_of
from compressor.models import Normalized, Selected


def best_order(predictions: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Return the true class `[K]` that each predicted class stands for, one to one, so that most images are right.

    A class that was never seen keeps its place where it can.
    """
    counts = torch.zeros(classes * classes).index_add_(0, predictions * classes + labels, torch.ones(len(labels)))
    gains = counts.view(classes, classes) + 0.5 / classes * torch.eye(classes)  # less than one image, in all
    return torch.from_numpy(linear_sum_assignment(gains.numpy(), maximize=True)[1])


def apply_order(order: Tensor, predictions: Tensor) -> Tensor:
    """Return what predictions `[N]` mean in an order `[K]` of `best_order`."""
    return order[predictions]


def covers(network: Network, names: Sequence[str]) -> bool:
    """Whether a network's file names all of the data's classes, in whatever order and among others."""
    return network.class_names is not None and set(names) <= set(network.class_names)


def by_names(network: Network, names: Sequence[str]) -> tuple[Network, str]:
    """Return a network that answers for the data's classes in their order, and a note of what was chosen, or `""`.

    Only names in its file are gone by. Where they are not all of the data's, it stays as it is.
    """
    theirs = network.class_names
    if theirs is None or theirs == tuple(names) or not covers(network, names):
        return network, ""
    order = [theirs.index(name) for name in names]
    assert isinstance(network.module, Normalized)
    chosen = Selected(network.module.network, order).to(device_of(network.module))
    module = Normalized(chosen, network.mean, network.std, bgr=network.bgr).eval().to(device_of(network.module))
    more = len(theirs) > len(names)
    note = f"by their names, {len(names)} of its {len(theirs)} classes are used" if more else "its classes are put"
    note += "" if more else " in the data's order by their names"
    return replace(network, module=module, classes=len(names), class_names=tuple(names)), note
