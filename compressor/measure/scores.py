"""How good an artifact is, and how far it is from its teacher: every number from the artifact's own logits.

Accuracies and drops are in percent and points (0 to 100); agreements, calibration errors and confidences are fractions.
Equal logits are decided for the lower class, everywhere.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import sqrt
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from compressor.batch import Batch
from compressor.errors import InputRejected
from exporters import Runner

Z95 = 1.959963984540054  # two-sided 95 % quantile of the normal distribution
ECE_BINS = 15
CHANGED = 0.1  # difference of confidences that counts as a change

Floats = NDArray[np.float32]
Labels = NDArray[np.int64]


class Split(Protocol):
    """Labelled images in batches: in order, or in an order that `seed` alone decides."""

    def __len__(self) -> int: ...

    def batches(self, batch_size: int, *, seed: int | None = None) -> Iterator[Batch]: ...


@dataclass(frozen=True)
class Predictions:
    """What an artifact says of each image: finite `logits` `[N, K]` and the true `labels` `[N]`."""

    logits: Floats
    labels: Labels


@dataclass(frozen=True, kw_only=True)
class Scores:
    """What the logits are worth. The fields from `agreement` on are against a teacher, and None without one.

    `top1_interval` is Wilson's 95 % interval. `per_class` holds the accuracy of each class, None where the split has no
    image of it. `nll` is in nats, `ece` the expected calibration error.

    `drop` is the teacher's top-1 minus the artifact's, positive when something was lost, with the standard error and
    the 95 % interval of a paired comparison: `broken` images only the teacher gets right, `fixed` only the artifact.
    `class_change` is the artifact's accuracy minus the teacher's by class; `worst_class_drop` the largest loss among
    them, negative when every class gained.

    `teacher_mistakes_fixed` is the share of the teacher's mistakes that the artifact gets right, None where it makes
    none; `new_mistakes` the share of the teacher's right answers that the artifact gets wrong, None where there are
    none: eta_S and eta_F of Mishra and Sundaram, arXiv:2107.06993.

    The confidences are those in the teacher's class, as fractions, and their difference is the teacher's minus the
    artifact's on each image: `confidence_drop` is its mean, `confidence_spread` its standard deviation over the images
    (sigma of Vengertsev and Sherman, arXiv:2401.11365), `confidence_changed` the share of images where it is more than
    `CHANGED` in either direction.
    """

    samples: int
    top1: float
    top1_interval: tuple[float, float]
    top5: float | None  # None with five classes or fewer
    ece: float
    nll: float
    per_class: tuple[float | None, ...]
    agreement: float | None = None
    drop: float | None = None
    drop_error: float | None = None
    drop_interval: tuple[float, float] | None = None
    broken: int | None = None
    fixed: int | None = None
    class_change: tuple[float | None, ...] | None = None
    worst_class_drop: float | None = None
    teacher_mistakes_fixed: float | None = None
    new_mistakes: float | None = None
    confidence_drop: float | None = None
    confidence_spread: float | None = None
    confidence_changed: float | None = None


def predict(runner: Runner, split: Split, batch_size: int = 256, limit: int | None = None) -> Predictions:
    """Run an artifact over a split.

    Args:
        limit: score only this many images, drawn at random but the same for every artifact.

    Raises:
        InputRejected: the split is empty or has a label that the artifact has no class for, or the artifact fails.
    """
    wanted = len(split) if limit is None else min(limit, len(split))
    if wanted == 0:
        raise InputRejected("there are no images to evaluate on", hint="give a split or a limit above zero")
    logits, labels = [], []
    # A folder is sorted by class, so the first images would be of few classes: a limited sample is shuffled.
    for images, true in first(split, wanted, batch_size, seed=None if limit is None else 0):
        if int(true.max()) >= runner.classes:
            raise InputRejected(
                f"{_name(runner)} has {runner.classes} classes, but the data has the label {int(true.max())}",
                hint="evaluate it on the data set that it was trained for",
            )
        logits.append(infer(runner, images.cpu().numpy(), batch_size))
        labels.append(true.cpu().numpy())
    return Predictions(np.concatenate(logits), np.concatenate(labels))


def infer(runner: Runner, images: Floats, batch_size: int = 256) -> Floats:
    """Return the logits `[N, K]` of images `[N, C, H, W]`, run in batches.

    Raises:
        InputRejected: the artifact answers with NaN or infinity, or with another shape than it declares.
    """
    parts = []
    for start in range(0, len(images), batch_size):
        batch = images[start : start + batch_size]
        logits = runner(batch)
        if logits.shape != (len(batch), runner.classes):
            raise InputRejected(
                f"{_name(runner)} gives an output of shape {logits.shape} for {len(batch)} images and "
                f"{runner.classes} classes",
                hint="a classifier gives one row of logits an image",
            )
        if not np.isfinite(logits).all():
            raise InputRejected(
                f"{_name(runner)} gives logits that are NaN or infinite",
                hint="in half precision a network may overflow: export it as fp32, or look for NaN in its weights",
            )
        parts.append(logits)
    return np.concatenate(parts) if parts else np.zeros((0, runner.classes), np.float32)


def score(predictions: Predictions, *, teacher: Predictions | None = None) -> Scores:
    """Score predictions, and compare them with a teacher's on the same images.

    Source: Guo et al., ICML 2017, for the calibration error (15 bins of equal width, `(lower, upper]`); Wilson, JASA
    1927; Agresti and Min, Statistics in Medicine 2005, for the interval of the paired drop: half an image is added to
    each cell of the table, so that no disagreement at all still leaves the doubt that few images leave.

    Raises:
        InputRejected: teacher and artifact have different class counts.
    """
    own = _alone(predictions)
    if teacher is None:
        return own
    if predictions.logits.shape[1] != teacher.logits.shape[1]:
        raise InputRejected(
            f"the teacher has {teacher.logits.shape[1]} classes and the artifact {predictions.logits.shape[1]}",
            hint="compare networks that were trained for the same classes",
        )
    if not np.array_equal(predictions.labels, teacher.labels):
        raise ValueError("teacher and artifact were evaluated on different images")

    right, taught = correct(predictions), correct(teacher)
    samples = len(right)
    broken, fixed = int((taught & ~right).sum()), int((right & ~taught).sum())
    mistakes, difference = int((~taught).sum()), confidence_difference(predictions.logits, teacher.logits)
    change = _by_class(right.astype(int) - taught, predictions.labels, predictions.logits.shape[1])
    return replace(
        own,
        agreement=agreement(predictions.logits, teacher.logits),
        drop=100 * (broken - fixed) / samples,
        drop_error=100 * _paired_error(broken, fixed, samples),
        drop_interval=_paired_interval(broken, fixed, samples),
        broken=broken,
        fixed=fixed,
        class_change=change,
        worst_class_drop=max(-points for points in change if points is not None),
        teacher_mistakes_fixed=fixed / mistakes if mistakes else None,
        new_mistakes=broken / (samples - mistakes) if mistakes < samples else None,
        confidence_drop=float(difference.mean()),
        confidence_spread=float(difference.std()),
        confidence_changed=int((np.abs(difference) > CHANGED).sum()) / samples,
    )


def agreement(logits: Floats, others: Floats) -> float:
    """Return the fraction of images for which two sets of logits `[N, K]` decide for the same class."""
    return int((logits.argmax(axis=1) == others.argmax(axis=1)).sum()) / len(logits)


def correct(predictions: Predictions) -> NDArray[np.bool_]:
    """Return for which images the label's class has the highest logit, `[N]`."""
    right: NDArray[np.bool_] = predictions.logits.argmax(axis=1) == predictions.labels
    return right


def first(split: Split, wanted: int, batch_size: int, *, seed: int | None) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield images and labels until `wanted`, at least one, have come. No batch beyond these is loaded."""
    left = wanted
    for batch in split.batches(batch_size, seed=seed):
        yield batch.images[:left], batch.labels[:left]
        left -= len(batch.labels)
        if left <= 0:
            return


def _alone(predictions: Predictions) -> Scores:
    logits, labels = predictions.logits.astype(np.float64), predictions.labels
    samples, classes = logits.shape
    right = correct(predictions)
    own = logits[np.arange(samples), labels]  # [N]
    # The rank that argmax would give: classes strictly better, and equal ones with a lower number.
    tied_before = (logits == own[:, None]) & (np.arange(classes) < labels[:, None])
    rank = ((logits > own[:, None]) | tied_before).sum(axis=1)
    return Scores(
        samples=samples,
        top1=100 * int(right.sum()) / samples,
        top1_interval=wilson(int(right.sum()), samples),
        top5=100 * int((rank < 5).sum()) / samples if classes > 5 else None,
        ece=_calibration_error(confidence(logits), right),
        nll=float(-np.mean(_log_softmax(logits)[np.arange(samples), labels])),
        per_class=_by_class(right, labels, classes),
    )


def _log_softmax(logits: NDArray[Any]) -> NDArray[np.float64]:
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    result: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return result


def confidence(logits: NDArray[Any]) -> NDArray[np.float64]:
    """Return the highest probability of each row: `[N, K]` to `[N]`."""
    highest: NDArray[np.float64] = np.exp(_log_softmax(logits).max(axis=1))
    return highest


def confidence_difference(logits: NDArray[Any], taught: NDArray[Any]) -> NDArray[np.float64]:
    """Return the teacher's probability of its own top class minus the artifact's of the same class.

    Args:
        logits, taught: the artifact's and the teacher's, `[N, K]`; the result is `[N]`, in `(-1, 1)`.

    Source: Vengertsev and Sherman, arXiv:2401.11365.
    """
    theirs = taught.argmax(axis=1)
    ours: NDArray[np.float64] = np.exp(_log_softmax(logits)[np.arange(len(logits)), theirs])
    return confidence(taught) - ours


def spread_within(tolerance: float, share: float) -> float:
    """Return kappa, the largest standard deviation with which a difference is as good as the same everywhere.

    By Chebyshev's inequality, of images whose differences spread by at most `tolerance * sqrt(share)`, at most `share`
    (a fraction) differ from the mean by `tolerance` or more, however the differences are distributed.

    Source: that confidence is preserved where sigma <= kappa is of Vengertsev and Sherman, arXiv:2401.11365; this
    kappa is ours, theirs is derived from the losses of a training.
    """
    return tolerance * sqrt(share)


def _calibration_error(confidence: NDArray[np.float64], right: NDArray[np.bool_]) -> float:
    """Return the mean over images of |confidence - accuracy| of their bin."""
    bins = np.clip(np.ceil(confidence * ECE_BINS).astype(int) - 1, 0, ECE_BINS - 1)
    gaps = np.bincount(bins, weights=confidence - right, minlength=ECE_BINS)  # summed, so already weighted by size
    return float(np.abs(gaps).sum() / len(confidence))


def _by_class(values: NDArray[Any], labels: Labels, classes: int) -> tuple[float | None, ...]:
    """Return the mean of `values` in percent for each class, None for a class without images."""
    sizes = np.bincount(labels, minlength=classes)
    sums = np.bincount(labels, weights=values, minlength=classes)
    return tuple(100 * float(total) / int(size) if size else None for total, size in zip(sums, sizes, strict=True))


def wilson(right: int, samples: int) -> tuple[float, float]:
    """Return the 95 % interval, in percent, of a share of which `right` of `samples` images were seen.

    Source: Wilson, JASA 1927.
    """
    share, doubt = right / samples, Z95**2 / samples
    centre = (share + doubt / 2) / (1 + doubt)
    half = sqrt(share * (1 - share) * doubt + doubt**2 / 4) / (1 + doubt)
    return max(0.0, 100 * (centre - half)), min(100.0, 100 * (centre + half))


def _paired_error(broken: float, fixed: float, samples: float) -> float:
    """Return the standard error of `(broken - fixed) / samples`, as McNemar's table gives it."""
    return sqrt(broken + fixed - (broken - fixed) ** 2 / samples) / samples


def _paired_interval(broken: int, fixed: int, samples: int) -> tuple[float, float]:
    centre = (broken - fixed) / (samples + 2)
    half = Z95 * _paired_error(broken + 0.5, fixed + 0.5, samples + 2)
    return 100 * (centre - half), 100 * (centre + half)


def _name(runner: Runner) -> str:
    return runner.path.name if runner.path else f"the {runner.format} network"
