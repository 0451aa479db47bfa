"""The order of the classes: does the teacher's agree with the data's?"""

from collections.abc import Sequence

import torch
from scipy.optimize import linear_sum_assignment  # type: ignore[import-untyped]  # comes with scikit-learn
from torch import Tensor

from compressor.checkpoint.network import Network
from compressor.errors import InputRejected


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


def named_order(network: Network, names: Sequence[str]) -> None:
    """Refuse a teacher whose file names the data's classes in another order.

    Raises:
        InputRejected: the names are the same and their order is not.
    """
    theirs = network.class_names
    if theirs is None or theirs == tuple(names) or sorted(theirs) != sorted(names):
        return
    at = next(k for k, (one, other) in enumerate(zip(theirs, names, strict=True)) if one != other)
    raise InputRejected(
        f"{network.called}'s classes have another order than the data's: its class {at} is {theirs[at]!r}, "
        f"the data's is {names[at]!r}",
        hint="--set data.class_order=FILE takes the teacher's, one name a line: " + ", ".join(theirs[:10]),
    )
