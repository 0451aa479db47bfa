"""The scalars of an epoch, summed by name: loss terms, which must be finite, and what is noted beside them."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from compressor.errors import Diverged


class Losses:
    """The loss terms of one epoch. Values wait on the device until they are read, many in one transfer.

    Args:
        refuse: raise where a value is not finite; else it is left out of the means, as what is only noted may be.
    """

    def __init__(
        self, sums: Mapping[str, float] | None = None, counts: Mapping[str, float] | None = None, *, refuse: bool = True
    ) -> None:
        self.sums: dict[str, float] = dict(sums or {})
        self.counts: dict[str, float] = dict(counts or {})
        self.refuse = refuse
        self._unread: list[tuple[str, int, float, Tensor]] = []

    def add(self, terms: Mapping[str, Tensor], step: int, weight: float = 1.0) -> None:
        """Note the terms of an update of step `step`, from 0 over all epochs, and what they weigh in the means."""
        self._unread += [(name, step, weight, term.detach().float()) for name, term in terms.items()]

    def read(self, epoch: int) -> None:
        """Add what was noted to the sums. Waits for the device.

        Raises:
            Diverged: a value is NaN or infinite; the first is named, with its step. Reading again raises again.
        """
        values = torch.stack([value for *_, value in self._unread]).tolist() if self._unread else []
        for (name, step, *_), value in zip(self._unread, values, strict=True):
            if self.refuse and not math.isfinite(value):
                raise Diverged(
                    f"loss term {name!r} became {'NaN' if math.isnan(value) else 'infinite'} "
                    f"at step {step + 1} (epoch {epoch + 1})",
                    hint="lower --lr, or try --set train.clip_norm=1 or a warm-up",
                )
        for (name, _, weight, _), value in zip(self._unread, values, strict=True):
            if not math.isfinite(value):
                continue
            self.sums[name] = self.sums.get(name, 0.0) + weight * value
            self.counts[name] = self.counts.get(name, 0.0) + weight
        self._unread = []

    def means(self) -> dict[str, float]:
        """Return the mean of each term over the updates that had it."""
        return {name: total / self.counts[name] for name, total in self.sums.items()}
