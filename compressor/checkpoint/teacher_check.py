"""Does the teacher know this data? Wrong normalisation, shuffled classes and wrong sizes, found before training.

Accuracies are percent. One choice is called clearly better than another only when it is so by more than `MARGIN` points
and by more than `SIGMAS` standard errors of the paired difference.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Literal, Protocol

import torch
from scipy.optimize import linear_sum_assignment  # type: ignore[import-untyped]  # comes with scikit-learn
from torch import Tensor

from compressor.batch import Batch
from compressor.checkpoint.match import fitted, in_other_form
from compressor.checkpoint.network import Network, Shape
from compressor.data import NORMALISATIONS
from compressor.errors import InputRejected

MARGIN = 3.0
SIGMAS = 3.0
_SCREENED = 128  # images on which every usual normalisation is tried; the best two see all of them
_SMALL = 64 * 64  # pixels of an image up to which `limit` images are cheap
_BATCH = 128

Statistics = tuple[tuple[float, ...], tuple[float, ...]]
_PHRASES = {
    "imagenet": "with ImageNet's normalisation",
    "cifar10": "with CIFAR-10's normalisation",
    "cifar100": "with CIFAR-100's normalisation",
    "mnist": "with MNIST's normalisation",
    "fashion_mnist": "with Fashion-MNIST's normalisation",
    "0.5": "with mean and std 0.5",
    "none": "without normalisation",
    "bytes": "with pixels of 0 to 255",
}


class Split(Protocol):
    """Labelled images in batches; with a seed, in an order that the seed decides."""

    def __len__(self) -> int: ...

    def batches(self, batch_size: int, *, seed: int | None = None) -> Iterator[Batch]: ...


class Data(Protocol):
    """What is asked of a data set; `compressor.data.Dataset` is one."""

    @property
    def name(self) -> str: ...
    @property
    def source(self) -> str: ...
    @property
    def classes(self) -> tuple[str, ...]: ...
    @property
    def input_shape(self) -> Shape: ...
    @property
    def mean(self) -> tuple[float, ...]: ...
    @property
    def std(self) -> tuple[float, ...]: ...
    @property
    def validation(self) -> Split: ...
    @property
    def test(self) -> Split: ...


@dataclass(frozen=True)
class Checked:
    """The teacher under the normalisation to use, on the data's device and for its image size.

    `top1` is its accuracy on the images that were tried, `sentence` one line to print.
    """

    network: Network
    top1: float
    sentence: str


@dataclass(frozen=True)
class _Tried:
    """What the teacher says of the images `[N]` under one normalisation, `phrase` as it follows a number."""

    phrase: str
    statistics: Statistics
    predictions: Tensor
    labels: Tensor

    @property
    def right(self) -> Tensor:
        return self.predictions == self.labels

    @property
    def top1(self) -> float:
        return 100 * self.right.float().mean().item()

    def reordered(self, classes: int) -> Tensor:
        """Which images `[N]` are right after the best re-ordering of the classes, found on the other half of them."""
        half = torch.arange(len(self.labels)) % 2 == 0
        right = torch.zeros(len(self.labels), dtype=torch.bool)
        for seen in (half, ~half):
            order = best_order(self.predictions[seen], self.labels[seen], classes)
            right[~seen] = apply_order(order, self.predictions[~seen]) == self.labels[~seen]
        return right

    def score(self, classes: int) -> int:
        """Right images in the class order that suits: a shuffled order must not hide the right normalisation."""
        return max(int(self.right.sum()), int(self.reordered(classes).sum()))


def check_teacher(
    network: Network, dataset: Data, *, normalize: Literal["given", "auto"] = "given", limit: int = 2000
) -> Checked:
    """Evaluate the teacher on test images (else validation images) and settle how its images are normalised.

    What the file, the recipe or a flag states is used, else the published normalisation of a data set that has a name;
    when the usual others are clearly better, they are used with `auto` and lead to an error otherwise. Where nothing is
    stated, the best of them is used.

    Args:
        limit: images to evaluate on; fewer where images are large.

    Raises:
        InputRejected: classes, channels or image size do not fit; another architecture with the same tensors, or
            another normalisation, is clearly better; the classes look shuffled; the teacher does no better than
            guessing; or there are no images to try.
    """
    network = fitted(network, dataset)
    named_order(network, dataset.classes)
    split, kind = (dataset.test, "test") if len(dataset.test) else (dataset.validation, "validation")
    height, width = dataset.input_shape[1:]
    count = min(len(split), max(256, min(limit, limit * _SMALL // (height * width))))
    if count == 0:
        raise InputRejected(f"{dataset.name} has no test or validation images to try {network.called} on")

    given = _given(network, dataset)
    options = dict([given] if given else []) | _usual(dataset)
    tried = _try(network, given and given[0], options, split, count)

    images = f"of {count:,} {kind} images"
    other = in_other_form(network)
    if other is not None:
        _refuse_other_form(network, tried, other, _try(other, given and given[0], options, split, count), images)
    _refuse_shuffled(network, tried, dataset.classes, images)
    _refuse_guessing(network, tried, images)
    if given is None:
        return _best(network, tried, images)
    return _settled(network, tried, images, automatic=normalize == "auto")


def _given(network: Network, dataset: Data) -> tuple[str, Statistics] | None:
    if network.stated:
        return "with the given normalisation", (network.mean, network.std)
    if dataset.source in NORMALISATIONS:  # published; those of a folder are only measured
        return f"with {dataset.name}'s own normalisation", (dataset.mean, dataset.std)
    return None


def _usual(dataset: Data) -> dict[str, Statistics]:
    """Return the normalisations worth trying, for as many channels as the data has."""
    channels = dataset.input_shape[0]
    found = {"with the data's own normalisation": (dataset.mean, dataset.std)}
    for name, (mean, std) in NORMALISATIONS.items():
        same = len({*mean}) == 1 and len({*std}) == 1
        if len(mean) == channels or (same and name in {"0.5", "none", "bytes"}):
            found[_PHRASES.get(name, f"with {name}'s normalisation")] = (
                (mean, std) if len(mean) == channels else (mean[:1] * channels, std[:1] * channels)
            )
    return found


def _try(
    network: Network, given: str | None, options: Mapping[str, Statistics], split: Split, count: int
) -> list[_Tried]:
    """Return what the teacher says under the given normalisation, then the best other one, or else the best two."""
    screened = _predict(network, options, split, min(_SCREENED, max(1, count // 4)))
    ranked = sorted(screened, key=lambda tried: -tried.score(network.classes))
    names = [tried.phrase for tried in ranked if tried.phrase != given]
    finalists = names[:2] if given is None else [given, *names[:1]]
    return _predict(network, {name: options[name] for name in finalists}, split, count)


def _predict(network: Network, options: Mapping[str, Statistics], split: Split, count: int) -> list[_Tried]:
    """Return what the teacher says of the first `count` images of a fixed random order, in the order of `options`.

    Of normalisations that are the same, the first is tried.
    """
    kept = {phrase: pair for at, (phrase, pair) in enumerate(options.items()) if pair not in [*options.values()][:at]}
    networks = [network.normalised(*statistics).module for statistics in kept.values()]
    said: list[list[Tensor]] = [[] for _ in networks]
    labels: list[Tensor] = []
    with torch.no_grad():
        for batch in _first(split, count):
            labels.append(batch.labels.cpu())
            for module, parts in zip(networks, said, strict=True):
                parts.append(module.to(batch.images.device)(batch.images).argmax(dim=1).cpu())
    true = torch.cat(labels)
    return [
        _Tried(phrase, statistics, torch.cat(parts), true)
        for (phrase, statistics), parts in zip(kept.items(), said, strict=True)
    ]


def _first(split: Split, count: int) -> Iterator[Batch]:
    left = count
    for batch in split.batches(min(_BATCH, count), seed=0):
        images = batch.images[:left]
        yield Batch(images, batch.labels[:left], batch.indices[:left])
        left -= len(images)
        if left <= 0:
            return


def _settled(network: Network, tried: Sequence[_Tried], images: str, *, automatic: bool) -> Checked:
    """Keep the given normalisation, the first, unless another is clearly better."""
    given = tried[0]
    other = max(tried, key=lambda one: one.top1)  # the given one, if they are equal
    if not _clearly_better(other.right, given.right):
        aside = f" ({other.top1:.1f} % {other.phrase})" if other.top1 > given.top1 else ""
        return _checked(network, given, f"right on {given.top1:.1f} % {images} {given.phrase}{aside}")
    both = f"{given.top1:.1f} % {images} {given.phrase}, on {other.top1:.1f} % {other.phrase}"
    if automatic:
        return _checked(network, other, f"right on {both}; using that")
    mean, std = ([float(f"{value:.4g}") for value in values] for values in other.statistics)
    same = (
        f"teacher.mean {mean} and teacher.std {std} in a recipe"
        if network.path.suffix != ".onnx"
        else f"--mean {','.join(map(str, mean))} --std {','.join(map(str, std))}"
    )
    raise InputRejected(
        f"{network.called} is right on {both}",
        hint=f"--normalize auto uses the better one; so does {same}",
    )


def _best(network: Network, tried: Sequence[_Tried], images: str) -> Checked:
    best, *others = sorted(tried, key=lambda one: -one.top1)
    second = f"; next {others[0].top1:.1f} % {others[0].phrase}" if others else ""
    return _checked(
        network, best, f"right on {best.top1:.1f} % {images} {best.phrase}, the best (none is stated){second}"
    )


def _checked(network: Network, tried: _Tried, sentence: str) -> Checked:
    return Checked(network.normalised(*tried.statistics), tried.top1, sentence)


def _refuse_other_form(
    network: Network, tried: Sequence[_Tried], other: Network, others: Sequence[_Tried], images: str
) -> None:
    ours, theirs = (max(each, key=lambda one: one.top1) for each in (tried, others))
    if _clearly_better(theirs.right, ours.right):
        raise InputRejected(
            f"{network.called} is right on {ours.top1:.1f} % {images} as {network.arch}, "
            f"on {theirs.top1:.1f} % as {other.arch}, which has the same tensors",
            hint=f"--teacher-arch {other.arch}, or leave it out: its BatchNorm tells which of them was trained",
        )


def _refuse_shuffled(network: Network, tried: Sequence[_Tried], names: Sequence[str], images: str) -> None:
    classes = network.classes
    best = max(tried, key=lambda one: one.score(classes))
    right = best.reordered(classes)
    if not _clearly_better(right, best.right):
        return
    order = best_order(best.predictions, best.labels, classes)
    moved = [(k, names[true]) for k, true in enumerate(order.tolist()) if k != true]
    listed = ", ".join(f"{k} is {name!r}" for k, name in moved[:6]) + (", ..." if len(moved) > 6 else "")
    raise InputRejected(
        f"the order of the classes looks shuffled: {network.called} is right on {best.top1:.1f} % {images} as it is, "
        f"on {100 * right.float().mean().item():.1f} % with its classes re-ordered",
        hint=f"give the data's classes the order that {network.called} was trained with: its class {listed}",
    )


def _refuse_guessing(network: Network, tried: Sequence[_Tried], images: str) -> None:
    best = max(tried, key=lambda one: one.top1)
    share = best.labels.bincount().max().item() / len(best.labels)  # what always saying the commonest class would get
    if best.top1 <= 100 * (share + SIGMAS * sqrt(share * (1 - share) / len(best.labels))):
        raise InputRejected(
            f"{network.called} is right on {best.top1:.1f} % {images} at best, "
            f"hardly more than guessing ({100 * share:.1f} %)",
            hint="it was probably trained on other data, or its training failed: give the data it was trained on",
        )


def _clearly_better(one: Tensor, other: Tensor) -> bool:
    """Compare two sets of right answers `[N]` to the same images."""
    gained, lost = int((one & ~other).sum()), int((other & ~one).sum())
    return 100 * (gained - lost) / len(one) > MARGIN and gained - lost > SIGMAS * sqrt(gained + lost)


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
        hint="order the data's classes as the teacher has them: " + ", ".join(theirs[:10]),
    )
