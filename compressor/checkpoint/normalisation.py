"""Which normalisation was a network trained with? Chosen by what it says of labelled images that are not the test's.

Candidates are ranked by their cross-entropy at the temperature that suits them best, so that the scale of the logits
does not decide: pixels of 0 to 255 make every network sure. Where accuracies cannot be told apart, the scale is the
only evidence left, and the lowest cross-entropy as it is decides; where that is none either, the data's own statistics.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import sqrt
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from compressor.batch import Batch
from compressor.checkpoint.class_order import apply_order, best_order
from compressor.checkpoint.network import Network


class Statistics(NamedTuple):
    """What is done to pixels in `[0, 1]`: one value a channel, red first, and whether the network takes blue first."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    bgr: bool = False


_SCREENED = 128  # images on which every candidate is tried
_FINALISTS = 4  # of them see all images, and the best in another class order, and the given one
_BATCH = 128
_Z = 1.96  # standard errors of a 95 % interval
_TEMPERATURES = torch.logspace(-2, 5, 64)


class Split(Protocol):
    """Labelled images in batches; with a seed, in an order that the seed decides."""

    def __len__(self) -> int: ...

    def batches(self, batch_size: int, *, seed: int | None = None) -> Iterator[Batch]: ...


@dataclass(frozen=True)
class Tried:
    """The logits `[N, K]` of images under one normalisation, and their labels; `phrase` follows a number."""

    phrase: str
    statistics: Statistics
    logits: Tensor
    labels: Tensor

    @cached_property
    def predictions(self) -> Tensor:
        return self.logits.argmax(dim=1)

    @property
    def right(self) -> Tensor:
        return self.predictions == self.labels

    @property
    def top1(self) -> float:
        """Percent."""
        return 100 * self.right.float().mean().item()

    @cached_property
    def nll(self) -> Tensor:
        """The negative log-likelihood `[N]` of the labels."""
        return F.cross_entropy(self.logits, self.labels, reduction="none")

    @cached_property
    def tempered(self) -> float:
        """The mean cross-entropy at the temperature that makes it least (Guo et al., ICML 2017, section 4.2)."""
        scale = self.logits.std().clamp_min(1e-12)  # temperatures in units of the logits' spread
        return min(F.cross_entropy(self.logits / (scale * t), self.labels).item() for t in _TEMPERATURES)

    @cached_property
    def reordered(self) -> Tensor:
        """Which images `[N]` are right after the best re-ordering of the classes, found on the other half of them."""
        half = torch.arange(len(self.labels)) % 2 == 0
        right = torch.zeros(len(self.labels), dtype=torch.bool)
        for seen in (half, ~half):
            order = best_order(self.predictions[seen], self.labels[seen], self.logits.shape[1])
            right[~seen] = apply_order(order, self.predictions[~seen]) == self.labels[~seen]
        return right


def try_all(
    network: Network, given: str | None, options: Mapping[str, Statistics], split: Split, count: int
) -> list[Tried]:
    """Return what the network says under the given normalisation, if any, and under the likeliest of `options`."""
    few = min(_SCREENED, count)
    screened = predict(network, options, split, few)
    swapped = {f"{name}, blue first (BGR)": options[name]._replace(bgr=True) for name in _likeliest(screened)}
    if len(next(iter(options.values())).mean) == 3:
        options = {**options, **swapped}
        screened += predict(network, swapped, split, few)
    reordered = max(screened, key=lambda one: int(one.reordered.sum())).phrase
    names = dict.fromkeys([*([given] if given else []), *_likeliest(screened), reordered])
    return predict(network, {name: options[name] for name in names}, split, count)


def _likeliest(screened: Sequence["Tried"]) -> list[str]:
    """Return the phrases of the finalists. The order of colours costs a network less than a wrong scale does."""
    return [one.phrase for one in sorted(screened, key=lambda one: one.tempered)][:_FINALISTS]


def predict(network: Network, options: Mapping[str, Statistics], split: Split, count: int) -> list[Tried]:
    """Return what the network says of the first `count` images of a fixed random order, in the order of `options`.

    Of normalisations that are the same, the first is tried.
    """
    kept = {phrase: pair for at, (phrase, pair) in enumerate(options.items()) if pair not in [*options.values()][:at]}
    networks = [network.normalised(*statistics).module for statistics in kept.values()]
    said: list[list[Tensor]] = [[] for _ in networks]
    labels: list[Tensor] = []
    with torch.no_grad():
        for batch in _first(split, count):
            labels.append(batch.labels.cpu())
            for module, logits in zip(networks, said, strict=True):
                logits.append(module.to(batch.images.device)(batch.images).float().cpu())
    true = torch.cat(labels)
    return [
        Tried(phrase, statistics, torch.cat(logits), true)
        for (phrase, statistics), logits in zip(kept.items(), said, strict=True)
    ]


def chosen(tried: Sequence[Tried], own: Statistics) -> Tried:
    """Return the likeliest normalisation; `own` are the statistics of the data."""
    best = min(tried, key=lambda one: one.tempered)
    alike = [one for one in tried if not _told_apart((one.right != best.right) * (one.right.float() * 2 - 1))]
    surest = min(alike, key=lambda one: one.nll.mean().item())
    equal = [one for one in alike if not _told_apart(one.nll - surest.nll)]
    return next((one for one in equal if one.statistics == own), surest)


def _told_apart(differences: Tensor) -> bool:
    """Whether the 95 % interval of the mean of paired differences `[N]` leaves zero out."""
    if not bool(differences.isfinite().all()):
        return True
    values = differences.double()
    return abs(values.sum().item()) > _Z * sqrt(len(values) * values.var(correction=0).item())


def _first(split: Split, count: int) -> Iterator[Batch]:
    left = count
    for batch in split.batches(min(_BATCH, count), seed=0):
        images = batch.images[:left]
        yield Batch(images, batch.labels[:left], batch.indices[:left])
        left -= len(images)
        if left <= 0:
            return
