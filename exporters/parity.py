"""Do two runners say the same: errors of the logits, changed decisions, and what is too much at each precision.

Rounding to 8 bits makes errors as large as those of a slightly wrong mean or standard deviation, but not of that form.
So the errors are also held against how the reference itself answers to brighter pixels and to pixels of more contrast.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from exporters import Runner
from exporters.errors import ArtifactRejected
from exporters.feeding import LEAST, LEAST_FP16

_Alike = Callable[[NDArray[np.float32]], NDArray[np.float32]]
BATCH_SIZES = (1, 2, 7)


@dataclass(frozen=True)
class Parity:
    """How far the logits `[N, K]` of a candidate are from those of a reference.

    A logit that is not finite on either side is infinitely far off, and its image counts as decided differently.
    """

    max_error: float  # largest absolute difference of a logit
    mean_error: float  # mean absolute difference
    relative_error: float  # max_error in units of the reference's spread, its standard deviation over all logits
    rms_error: float  # root mean square difference, in the same units
    agreement: float  # fraction of images with the same top class, in [0, 1]
    samples: int
    worst: int  # index of the image with the largest error
    flips: tuple[float, ...]
    """One number for each image whose top class changed: how far the reference's top logit was above the logit of the
    class that the candidate chose, in units of the spread, largest first. Near 0, the image lay on a boundary."""
    pixel_error: float | None = None
    """How far off pixels would have to be, root mean square and in steps of 1/255, for the reference to err so itself;
    see `Response`. None where its response is not known."""

    def decisive(self, tolerance: float) -> int:
        """Count the flips that cannot be excused as ties: the reference was surer than `tolerance` spreads."""
        return sum(gap > tolerance for gap in self.flips)


@dataclass(frozen=True)
class Limits:
    """What a healthy artifact stays within."""

    max_error: float  # in units of the spread; a changed decision is a tie where the reference's gap is below it
    rms_error: float  # in units of the spread
    pixel_error: float  # in steps of 1/255
    min_agreement: float  # fraction of images whose top class is the same, or changed in a tie


# Measured on networks of all families, see docs/proof.md; between logarithms of probabilities hardly larger.
# INT8 hides another data set's mean or std from the first two limits, but not from the third.
LIMITS: dict[str, Limits] = {
    "fp32": Limits(max_error=1e-3, rms_error=1e-4, pixel_error=0.05, min_agreement=1.0),
    "fp16": Limits(max_error=0.03, rms_error=0.005, pixel_error=0.25, min_agreement=0.999),
    "bf16": Limits(max_error=0.25, rms_error=0.05, pixel_error=1.5, min_agreement=0.99),
    "int8": Limits(max_error=0.75, rms_error=0.12, pixel_error=2.0, min_agreement=0.97),
}

_PROBES = 128  # images, at most, on which the response of a reference is measured
_BRIGHTER, _CONTRAST = 4 / 255, 1 / 16  # how far pixels are moved for it: about as far as usual normalisations differ
# Spreads that the logits move when a channel goes from black to white; those of trained networks do by 0.6 to 11. What
# moves them less is lost in rounding, and a fit to rounding errors would find anything there.
_FAINT = 0.15


@dataclass(frozen=True)
class Response:
    """How a reference answers to other pixels: to each channel brighter, and to each with more contrast about its mean.

    `slopes` `[2C, M, K]` are the changes of its logits on the images `probes` `[M]`, by unit of change. A unit of
    brightness moves all pixels by 1; one of contrast moves those of a channel by `contrast` `[C]`, root mean square.
    """

    probes: NDArray[np.int64]
    slopes: NDArray[np.float64]
    contrast: NDArray[np.float64]

    def pixel_error(self, errors: NDArray[np.float64], spread: float) -> float:
        """Return how far off, in steps of 1/255, the pixels are whose change fits errors of logits `[N, K]` best.

        Least squares with a penalty on changes that move the logits by less than `_FAINT` spreads.
        """
        changes = len(self.slopes)
        slopes = self.slopes.reshape(changes, -1).T / spread  # [M * K, 2C]
        penalty = _FAINT * np.sqrt(len(slopes)) * np.eye(changes)
        wanted = np.concatenate([errors[self.probes].ravel() / spread, np.zeros(changes)])
        change, *_ = np.linalg.lstsq(np.concatenate([slopes, penalty]), wanted, rcond=None)
        moved = change.reshape(2, -1) * [np.ones_like(self.contrast), self.contrast]  # [2, C]
        return float(255 * np.sqrt((moved**2).sum(axis=0).mean()))


def compare(reference: NDArray[np.float32], candidate: NDArray[np.float32], response: Response | None = None) -> Parity:
    """Compare two arrays of logits `[N, K]` of the same images, whose reference answers to other pixels by `response`.

    Raises:
        ArtifactRejected: their shapes differ.
        ValueError: there are no images.
    """
    if reference.shape != candidate.shape:
        raise ArtifactRejected(
            f"the logits have the shape {list(candidate.shape)}, those of the reference {list(reference.shape)}"
        )
    if reference.ndim != 2 or reference.size == 0:
        raise ValueError(f"logits are [N, K] of at least one image, not {reference.shape}")
    finite = np.asarray(np.isfinite(reference).all(axis=1) & np.isfinite(candidate).all(axis=1))  # [N]
    expected, found = (
        np.where(finite[:, None], logits, 0).astype(np.float64) for logits in (reference, candidate)
    )  # [N, K]
    # Logits that never vary allow no error: any is infinitely many spreads.
    spread = float(expected[finite].std()) if finite.any() else 0.0
    signed = found - expected
    errors = np.where(finite[:, None], np.abs(signed), np.inf)
    rows = np.arange(len(expected))
    gaps = expected.max(axis=1) - expected[rows, found.argmax(axis=1)]  # [N], 0 where the decision is the same
    changed = (expected.argmax(axis=1) != found.argmax(axis=1)) | ~finite
    flips = [_ratio(gap, spread) for gap in np.where(finite, gaps, np.inf)[changed]]
    return Parity(
        max_error=float(errors.max()),
        mean_error=float(errors.mean()),
        relative_error=_ratio(errors.max(), spread),
        rms_error=_ratio(np.sqrt((errors**2).mean()), spread),
        agreement=float(1 - changed.mean()),
        samples=len(expected),
        worst=int(errors.max(axis=1).argmax()),
        flips=tuple(sorted(flips, reverse=True)),
        pixel_error=None if response is None or spread == 0 else response.pixel_error(signed, spread),
    )


def _ratio(amount: float, spread: float) -> float:
    if amount == 0:
        return 0.0
    return float(amount / spread) if spread > 0 else np.inf


def check(
    runner: Runner, reference: Runner, images: NDArray[np.float32], *, batch_sizes: Sequence[int] = BATCH_SIZES
) -> dict[int, Parity]:
    """Run the same images through both at each batch size and all at once; return the parity by batch size.

    Both runners are fed the same batches. The last batch of a size may be smaller. Where one takes uint8 pixels, both
    see the images rounded to 1/255; where one returns probabilities, the logarithms of probabilities are compared, none
    smaller than that of the smallest normal number of the type that they are stored in.
    """
    if "uint8" in (runner.pixels, reference.pixels):
        images = np.divide(np.rint(images * 255), 255, dtype=np.float32)
    least = max(_least(runner), _least(reference))
    if "probabilities" in (runner.output, reference.output):
        alike: _Alike = partial(_log_probabilities, least=least)
    else:
        alike = np.asarray
    response = _response(lambda probes: alike(_logits(reference, probes, len(probes))), images)
    sizes = sorted({size for size in batch_sizes if size < len(images)} | {len(images)})
    return {
        size: compare(alike(_logits(reference, images, size)), alike(_logits(runner, images, size)), response)
        for size in sizes
    }


def _response(answer: Callable[[NDArray[np.float32]], NDArray[np.float32]], images: NDArray[np.float32]) -> Response:
    """Measure the response by differences, on images evenly spaced, since those of a kind stand together."""
    places = np.linspace(0, len(images) - 1, min(len(images), _PROBES)).round().astype(np.int64)
    probes = images[places]
    before = answer(probes)
    slopes = []
    centred = probes - probes.mean(axis=(0, 2, 3), keepdims=True)
    for step, unit in ((_BRIGHTER, np.ones_like(probes)), (_CONTRAST, centred)):
        for channel in range(probes.shape[1]):
            moved = probes.copy()
            moved[:, channel] += np.float32(step) * unit[:, channel]
            with np.errstate(invalid="ignore"):  # of what is not finite; `compare` finds it
                slopes.append((answer(moved).astype(np.float64) - before) / step)
    return Response(places, np.where(np.isfinite(slopes), slopes, 0), centred.std(axis=(0, 2, 3), dtype=np.float64))


def _logits(runner: Runner, images: NDArray[np.float32], size: int) -> NDArray[np.float32]:
    return np.concatenate([runner(images[start : start + size]) for start in range(0, len(images), size)])


def _least(runner: Runner) -> float:
    """Return the smallest logarithm of a probability that a file can return: a sure fp16 softmax returns zeros."""
    return LEAST_FP16 if (runner.output, runner.precision) == ("probabilities", "fp16") else LEAST


def _log_probabilities(logits: NDArray[np.float32], least: float) -> NDArray[np.float32]:
    """Return what the logarithms of the softmax are, and `least` where they are below it."""
    with np.errstate(invalid="ignore"):  # of what is not finite; `compare` finds it
        shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
        logs = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    floored: NDArray[np.float32] = np.maximum(logs, least).astype(np.float32)
    return floored


def verdict(parity: Parity, precision: str, *, limits: Mapping[str, Limits] = LIMITS) -> str | None:
    """Return why these logits are not those of a healthy artifact of this precision, None if they are."""
    limit = limits[precision]
    if not np.isfinite(parity.max_error):
        return f"a logit of image {parity.worst} is not finite"
    if parity.relative_error > limit.max_error:
        return (
            f"the logits of image {parity.worst} are off by {parity.max_error:.4g}, {parity.relative_error:.2g} of the "
            f"reference's spread, more than the {limit.max_error:g} that {precision} explains"
        )
    if parity.pixel_error is not None and parity.pixel_error > limit.pixel_error:
        return (
            f"the logits are those of pixels that are {parity.pixel_error:.2g} steps of 1/255 off, more than the "
            f"{limit.pixel_error:g} that {precision} explains, as with another mean or standard deviation inside"
        )
    if parity.rms_error > limit.rms_error:
        return (
            f"the logits are off by {parity.rms_error:.2g} of the reference's spread, root mean square, more than the "
            f"{limit.rms_error:g} that {precision} explains"
        )
    decisive = parity.decisive(limit.max_error)
    if 1 - decisive / parity.samples < limit.min_agreement:
        return (
            f"{decisive} of {parity.samples} images are decided differently, although the reference is not near a tie"
        )
    return None
