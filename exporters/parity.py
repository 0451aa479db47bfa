"""Do two runners say the same: errors of the logits, changed decisions, and what is too much at each precision."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from exporters import Runner
from exporters.errors import ArtifactRejected
from exporters.feeding import LEAST

BATCH_SIZES = (1, 2, 7)


@dataclass(frozen=True)
class Parity:
    """How far the logits `[N, K]` of a candidate are from those of a reference.

    A logit that is not finite on either side is infinitely far off, and its image counts as decided differently.
    """

    max_error: float  # largest absolute difference of a logit
    mean_error: float  # mean absolute difference
    relative_error: float  # max_error in units of the reference's spread, its standard deviation over all logits
    agreement: float  # fraction of images with the same top class, in [0, 1]
    samples: int
    worst: int  # index of the image with the largest error
    flips: tuple[float, ...]
    """One number for each image whose top class changed: how far the reference's top logit was above the logit of the
    class that the candidate chose, in units of the spread, largest first. Near 0, the image lay on a boundary."""

    def decisive(self, tolerance: float) -> int:
        """Count the flips that cannot be excused as ties: the reference was surer than `tolerance` spreads."""
        return sum(gap > tolerance for gap in self.flips)


@dataclass(frozen=True)
class Limits:
    """What a healthy artifact stays within."""

    max_error: float  # in units of the spread; a changed decision is a tie where the reference's gap is below it
    min_agreement: float  # fraction of images whose top class is the same, or changed in a tie


# Measured on trained CIFAR-10 ResNets of 20 to 56 layers, healthy: fp32 2e-6, fp16 0.01, bf16 0.12, int8 0.2 to 0.55;
# between logarithms of probabilities no more.
# The nearest mistake, the wrong one of two usual sets of mean and std: 0.8 to 1.0.
LIMITS: dict[str, Limits] = {
    "fp32": Limits(max_error=1e-3, min_agreement=1.0),
    "fp16": Limits(max_error=0.03, min_agreement=0.999),
    "bf16": Limits(max_error=0.25, min_agreement=0.99),
    "int8": Limits(max_error=0.75, min_agreement=0.97),
}


def compare(reference: NDArray[np.float32], candidate: NDArray[np.float32]) -> Parity:
    """Compare two arrays of logits `[N, K]` of the same images.

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
    errors = np.where(finite[:, None], np.abs(expected - found), np.inf)
    rows = np.arange(len(expected))
    gaps = expected.max(axis=1) - expected[rows, found.argmax(axis=1)]  # [N], 0 where the decision is the same
    changed = (expected.argmax(axis=1) != found.argmax(axis=1)) | ~finite
    flips = [_ratio(gap, spread) for gap in np.where(finite, gaps, np.inf)[changed]]
    return Parity(
        max_error=float(errors.max()),
        mean_error=float(errors.mean()),
        relative_error=_ratio(errors.max(), spread),
        agreement=float(1 - changed.mean()),
        samples=len(expected),
        worst=int(errors.max(axis=1).argmax()),
        flips=tuple(sorted(flips, reverse=True)),
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
    see the images rounded to 1/255; where one returns probabilities, the logarithms of probabilities are compared.
    """
    if "uint8" in (runner.pixels, reference.pixels):
        images = np.divide(np.rint(images * 255), 255, dtype=np.float32)
    alike = _log_probabilities if "probabilities" in (runner.output, reference.output) else np.asarray
    sizes = sorted({size for size in batch_sizes if size < len(images)} | {len(images)})
    return {
        size: compare(alike(_logits(reference, images, size)), alike(_logits(runner, images, size))) for size in sizes
    }


def _logits(runner: Runner, images: NDArray[np.float32], size: int) -> NDArray[np.float32]:
    return np.concatenate([runner(images[start : start + size]) for start in range(0, len(images), size)])


def _log_probabilities(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return what the logarithms of the softmax are, and at the least, as where probabilities are stored in fp32."""
    with np.errstate(invalid="ignore"):  # of what is not finite; `compare` finds it
        shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
        logs = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    floored: NDArray[np.float32] = np.maximum(logs, LEAST).astype(np.float32)
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
    decisive = parity.decisive(limit.max_error)
    if 1 - decisive / parity.samples < limit.min_agreement:
        return (
            f"{decisive} of {parity.samples} images are decided differently, although the reference is not near a tie"
        )
    return None
