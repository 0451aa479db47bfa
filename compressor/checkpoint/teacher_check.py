"""Does the teacher know this data? Wrong normalisation, shuffled classes and wrong sizes, found before training.

All of it is decided on validation or training images. The test images only state how good the teacher is.

Accuracies are percent. One choice is called clearly better than another only when it is so by more than `MARGIN` points
and by more than `SIGMAS` standard errors of the paired difference.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import sqrt
from typing import Literal, Protocol

from torch import Tensor

from compressor import models
from compressor.checkpoint.class_order import best_order, by_names
from compressor.checkpoint.match import fitted, in_other_form
from compressor.checkpoint.network import Network, Shape
from compressor.checkpoint.normalisation import Split, Statistics, Tried, chosen, predict, try_all
from compressor.data import NORMALISATIONS
from compressor.errors import InputRejected

MARGIN = 3.0
SIGMAS = 3.0
_GOOD = 0.5  # of the way from guessing to all right: what a re-ordering of the classes must reach to be believed
_ENOUGH = 500  # validation images to choose on; with fewer, training images are taken
_SMALL = 64 * 64  # pixels of an image up to which `limit` images are cheap

OWN = "with the data's own normalisation"
_PHRASES = {
    "imagenet": "with ImageNet's normalisation",
    "cifar10": "with CIFAR-10's normalisation",
    "cifar10-pixels": "with CIFAR-10's normalisation (std of all pixels)",
    "cifar100": "with CIFAR-100's normalisation",
    "mnist": "with MNIST's normalisation",
    "fashion_mnist": "with Fashion-MNIST's normalisation",
    "0.5": "with mean and std 0.5",
    "none": "without normalisation",
    "bytes": "with pixels of 0 to 255",
}
_CENTRED = ("imagenet", "cifar10", "cifar100")  # whose mean alone is taken off bytes, as Caffe and Keras do


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
    def train(self) -> Split: ...
    @property
    def validation(self) -> Split: ...
    @property
    def test(self) -> Split: ...


@dataclass(frozen=True)
class Checked:
    """The teacher under the normalisation to use, on the data's device and for its image size.

    `top1` is its accuracy on the test images (else on those that it was chosen on), `sentence` one line to print.
    """

    network: Network
    top1: float
    sentence: str


def check_teacher(
    network: Network, dataset: Data, *, normalize: Literal["given", "auto"] = "given", limit: int = 2000
) -> Checked:
    """Settle on validation (else training) images how the teacher's images are normalised; state its test accuracy.

    What the file, the recipe or a flag states is used, else the published normalisation of a data set that has a name;
    when the usual others are clearly better, they are used with `auto` and lead to an error otherwise. Where nothing is
    stated, the likeliest of them is used.

    Args:
        limit: test images to evaluate on; half as many decide; fewer where images are large.

    Raises:
        InputRejected: classes, channels or image size do not fit; another architecture with the same tensors, or
            another normalisation, is clearly better; the classes look shuffled; the teacher does no better than
            guessing, or gives probabilities; or there are no images to try.
    """
    network = fitted(network, dataset)
    other = in_other_form(network)
    network, mapped = by_names(network, dataset.classes)
    split, kind = _choosing(dataset)
    count = _count(split, limit // 2, dataset.input_shape)
    if count == 0:
        raise InputRejected(f"{dataset.name} has no images to try {network.called} on")

    given = _given(network, dataset)
    options = dict([given] if given else []) | _usual(dataset)
    tried = _believable(try_all(network, given and given[0], options, split, count), given and given[0])
    _refuse_probabilities(network, tried)

    images = f"of {count:,} {kind} images"
    if other is not None:
        other, _ = by_names(other, dataset.classes)
        _refuse_other_form(network, tried, other, try_all(other, given and given[0], options, split, count), images)
    _refuse_shuffled(network, tried, dataset, images)
    _refuse_guessing(network, tried, dataset, images)
    if given is None:
        best, why = _best(tried, dataset, images)
    else:
        best, why = _settled(network, tried, images, automatic=normalize == "auto")
    checked = _stated(network, best, why, dataset, limit, images)
    return replace(checked, sentence=f"{checked.sentence}; {mapped}") if mapped else checked


def _choosing(dataset: Data) -> tuple[Split, str]:
    if len(dataset.validation) >= min(_ENOUGH, len(dataset.train)):
        return dataset.validation, "validation"
    return dataset.train, "training"


def _count(split: Split, limit: int, shape: Shape) -> int:
    _, height, width = shape
    return min(len(split), max(256, min(limit, limit * _SMALL // (height * width))))


def _given(network: Network, dataset: Data) -> tuple[str, Statistics] | None:
    if network.stated:
        return "with the given normalisation", Statistics(network.mean, network.std, network.bgr)
    if dataset.source in NORMALISATIONS:  # published; those of a folder are only measured
        return f"with {dataset.name}'s own normalisation", Statistics(dataset.mean, dataset.std)
    return None


def _usual(dataset: Data) -> dict[str, Statistics]:
    """Return the normalisations worth trying, for as many channels as the data has."""
    channels = dataset.input_shape[0]
    found = {OWN: Statistics(dataset.mean, dataset.std)}
    for name, (mean, std) in NORMALISATIONS.items():
        same = len({*mean}) == 1 and len({*std}) == 1
        if len(mean) == channels or (same and name in {"0.5", "none", "bytes"}):
            found[_PHRASES.get(name, f"with {name}'s normalisation")] = (
                Statistics(mean, std) if len(mean) == channels else Statistics(mean[:1] * channels, std[:1] * channels)
            )
        if name in _CENTRED and len(mean) == channels:
            words = _PHRASES[name].removesuffix("'s normalisation").removeprefix("with ")
            found[f"with pixels of 0 to 255 less {words}'s mean"] = Statistics(mean, (1 / 255,) * channels)
    found["with pixels of 0 to 255 less the data's own mean"] = Statistics(dataset.mean, (1 / 255,) * channels)
    return found


def _believable(tried: Sequence[Tried], given: str | None) -> list[Tried]:
    """Leave out the unusual: blue first, or a mean without a std, is believed only where it makes a network good."""
    guessed = _commonest(tried[0].labels)

    def unusual(one: Tried) -> bool:
        return one.statistics.bgr or (any(one.statistics.mean) and set(one.statistics.std) == {1 / 255})

    good = 100 * (guessed + _GOOD * (1 - guessed))
    kept = [one for one in tried if one.phrase == given or not unusual(one) or one.top1 >= good]
    return kept or list(tried)


def _settled(network: Network, tried: Sequence[Tried], images: str, *, automatic: bool) -> tuple[Tried, str]:
    """Keep the given normalisation, the first, unless another is clearly better; say why, where there is a choice."""
    given = tried[0]
    other = max(tried, key=lambda one: one.top1)  # the given one, if they are equal
    if not _clearly_better(other.right, given.right):
        aside = f" ({other.top1:.1f} % {images} {other.phrase}, {given.top1:.1f} % so)"
        return given, aside if other.top1 > given.top1 else ""
    both = f"{given.top1:.1f} % {images} {given.phrase}, on {other.top1:.1f} % {other.phrase}"
    if automatic:
        return other, f" (on {both}; using that)"
    mean, std = ([float(f"{value:.4g}") for value in values] for values in other.statistics[:2])
    if network.path.suffix != ".onnx":
        same = f"teacher.mean {mean} and teacher.std {std} in a recipe"
        same += ", and teacher.channel_order bgr" if other.statistics.bgr else ""
    else:
        same = f"--mean {','.join(map(str, mean))} --std {','.join(map(str, std))}"
        same += " --channel-order bgr" if other.statistics.bgr else ""
    raise InputRejected(
        f"{network.called} is right on {both}",
        hint=f"--normalize auto uses the better one; so does {same}",
    )


def _best(tried: Sequence[Tried], dataset: Data, images: str) -> tuple[Tried, str]:
    best = chosen(tried, Statistics(dataset.mean, dataset.std))
    others = sorted((one for one in tried if one is not best), key=lambda one: one.tempered)
    second = f", next {others[0].top1:.1f} % {others[0].phrase}" if others else ""
    guessed = _commonest(best.labels)
    doubt = ""
    if best.right.float().mean().item() < guessed + _GOOD * (1 - guessed):
        doubt = "; that is little for images it was trained on: it may want them prepared in yet another way"
    return best, f" (none is stated; chosen by {best.top1:.1f} % {images}{second}{doubt})"


def _stated(network: Network, best: Tried, why: str, dataset: Data, limit: int, images: str) -> Checked:
    """State the accuracy on test images, which had no part in the choice."""
    count = _count(dataset.test, limit, dataset.input_shape) if len(dataset.test) else 0
    if count:
        (best,) = predict(network, {best.phrase: best.statistics}, dataset.test, count)
        images = f"of {count:,} test images"
    sentence = f"right on {best.top1:.1f} % {images} {best.phrase}{why}"
    return Checked(network.normalised(*best.statistics), best.top1, sentence)


def _refuse_probabilities(network: Network, tried: Sequence[Tried]) -> None:
    for one in tried:
        if not bool((one.logits >= 0).all()) or not bool(((one.logits.sum(dim=1) - 1).abs() < 1e-3).all()):
            return
    raise InputRejected(
        f"{network.called} answers with probabilities, at least 0 and of sum 1, where logits are needed",
        hint="--set teacher.answers=probabilities takes their logarithms; or export it without the softmax at its end",
    )


def _refuse_other_form(
    network: Network, tried: Sequence[Tried], other: Network, others: Sequence[Tried], images: str
) -> None:
    ours, theirs = (max(each, key=lambda one: one.top1) for each in (tried, others))
    if _clearly_better(theirs.right, ours.right):
        told = other.arch != models.twin(str(network.arch))
        raise InputRejected(
            f"{network.called} is right on {ours.top1:.1f} % {images} as {network.arch}, "
            f"on {theirs.top1:.1f} % as {other.arch}, which has the same tensors",
            hint=f"--teacher-arch {other.arch}"
            + (", or leave it out: its BatchNorm tells which of them was trained" if told else ""),
        )


def _refuse_shuffled(network: Network, tried: Sequence[Tried], dataset: Data, images: str) -> None:
    best = max(tried, key=lambda one: max(int(one.right.sum()), int(one.reordered.sum())))
    right = best.reordered
    guessed = _commonest(best.labels)
    if not _clearly_better(right, best.right) or right.float().mean().item() < guessed + _GOOD * (1 - guessed):
        return
    order = best_order(best.predictions, best.labels, network.classes)
    moved = [(k, dataset.classes[true]) for k, true in enumerate(order.tolist()) if k != true]
    listed = ", ".join(f"{k} is {name!r}" for k, name in moved[:6]) + (", ..." if len(moved) > 6 else "")
    told = _told_of_data(network, dataset)
    raise InputRejected(
        f"the order of the classes looks shuffled: {network.called} is right on {best.top1:.1f} % {images} as it is, "
        f"on {100 * right.float().mean().item():.1f} % with its classes re-ordered",
        hint=f"--set data.class_order=[...] gives the order that {network.called} was trained with (natural, a list, "
        f"or a file of names): its class {listed}" + (f"; but {told}" if told else ""),
    )


def _refuse_guessing(network: Network, tried: Sequence[Tried], dataset: Data, images: str) -> None:
    best = max(tried, key=lambda one: one.top1)
    share = _commonest(best.labels)
    if best.top1 <= 100 * (share + SIGMAS * sqrt(share * (1 - share) / len(best.labels))):
        raise InputRejected(
            f"{network.called} is right on {best.top1:.1f} % {images} at best, "
            f"hardly more than guessing ({100 * share:.1f} %)",
            hint=(
                _told_of_data(network, dataset)
                or "it was probably trained on other data, its last layer was not trained, or its training failed"
            )
            + ": give the data it was trained on",
        )


def _told_of_data(network: Network, dataset: Data) -> str:
    """Return what a file tells of other data than these that it was trained on, or `""`."""
    if network.data is not None and network.data != dataset.source:
        return f"its file says that it was trained on {network.data}"
    theirs = network.class_names or dataset.classes
    if set(theirs) & set(dataset.classes):
        return ""
    called = ", ".join(map(repr, theirs[:3])) + (", ..." if len(theirs) > 3 else "")
    return f"its file calls its classes {called}, none as {dataset.name} does"


def _commonest(labels: Tensor) -> float:
    """Return the share of the commonest class: what always saying it would get."""
    return labels.bincount().max().item() / len(labels)


def _clearly_better(one: Tensor, other: Tensor) -> bool:
    """Compare two sets of right answers `[N]` to the same images."""
    gained, lost = int((one & ~other).sum()), int((other & ~one).sum())
    return 100 * (gained - lost) / len(one) > MARGIN and gained - lost > SIGMAS * sqrt(gained + lost)
