"""The two artifacts, and what makes two answers to the same image a difference: another decision, beyond rounding."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import nn

from compressor.measure.scores import Floats, Labels, infer
from exporters import Runner
from exporters.parity import LIMITS

# What float32 rounding explains, in spreads of the logits: the limit that an fp32 export of a network must hold.
TIE = LIMITS["fp32"].max_error
SURE = 0.8  # both probabilities from which on a difference is called confident

Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class Side:
    """One of the two artifacts. `guide` is a network whose gradients tell where its boundary is: itself or its source.

    The guide only says where to look. Every decision that is counted is the artifact's own.
    """

    runner: Runner
    guide: nn.Module | None = None


@dataclass(frozen=True)
class PairLogits:
    """The logits `[N, K]` of both artifacts on the same images.

    `spreads` are the standard deviations of each artifact's logits over the given images, the unit of `margins`.
    """

    a: Floats
    b: Floats
    spreads: tuple[float, float]

    def __len__(self) -> int:
        return len(self.a)

    def __getitem__(self, rows: NDArray[np.int64] | Flags) -> PairLogits:
        return PairLogits(self.a[rows], self.b[rows], self.spreads)

    @property
    def decisions(self) -> tuple[Labels, Labels]:
        """The class `[N]` that each decides for; equal logits are decided for the lower class."""
        return self.a.argmax(axis=1), self.b.argmax(axis=1)

    @property
    def differ(self) -> Flags:
        """Where the decisions differ, `[N]`, ties among them."""
        a, b = self.decisions
        return np.asarray(a != b)

    @property
    def margins(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """How far each puts its own choice above the other's, `[N]` in spreads: 0 where they agree."""
        a, b = self.decisions
        rows = np.arange(len(self))
        return (
            (self.a[rows, a] - self.a[rows, b]).astype(np.float64) / _unit(self.spreads[0]),
            (self.b[rows, b] - self.b[rows, a]).astype(np.float64) / _unit(self.spreads[1]),
        )

    @property
    def tied(self) -> Flags:
        """Where the decisions differ by no more than rounding: both have the two classes level."""
        ours, theirs = self.margins
        return np.asarray(self.differ & (ours + theirs <= TIE))

    @property
    def counted(self) -> Flags:
        """Where the decisions differ beyond rounding."""
        return self.differ & ~self.tied

    @property
    def confident(self) -> Flags:
        """Where they differ, and each is sure of its own decision."""
        ours, theirs = self.probabilities
        return np.asarray(self.counted & (np.minimum(ours.max(axis=1), theirs.max(axis=1)) >= SURE))

    @property
    def probabilities(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The softmax of each, `[N, K]`."""
        return softmax(self.a), softmax(self.b)


def ask(a: Side, b: Side, images: Floats, spreads: tuple[float, float]) -> PairLogits:
    """Ask both artifacts about the same images `[N, C, H, W]`, in the same batches."""
    return PairLogits(infer(a.runner, images), infer(b.runner, images), spreads)


def softmax(logits: Floats) -> NDArray[np.float64]:
    """Return the probabilities `[N, K]` of logits."""
    powers = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    result: NDArray[np.float64] = powers / powers.sum(axis=1, keepdims=True)
    return result


def _unit(spread: float) -> float:
    """Return the spread as a divisor: an artifact whose logits never vary has none."""
    return spread if spread > 0 else 1.0
