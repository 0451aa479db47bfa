"""The averaged copy of a student."""

from itertools import chain

from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


def follow(average: nn.Module, student: nn.Module, *, decay: float, step: int) -> None:
    """Move the averaged copy towards the student, BatchNorm statistics included; counters are copied.

    The decay rises to the recipe's as `(1 + step) / (10 + step)`, so that short runs forget the initial weights.
    """
    decay = min(decay, (1 + step) / (10 + step))
    averaged = list(chain(average.parameters(), average.buffers()))
    current = list(chain(student.parameters(), student.buffers()))
    pairs = [(a.detach(), c.detach()) for a, c in zip(averaged, current, strict=True)]
    smooth = [pair for pair in pairs if pair[0].is_floating_point()]
    get_ema_multi_avg_fn(decay)([a for a, _ in smooth], [c for _, c in smooth], 0)
    for counter, value in pairs:
        if not counter.is_floating_point():
            counter.copy_(value)
