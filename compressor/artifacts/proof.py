"""The proof of an exported file: it answers as the network it was made from, where that is hardest."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray

from compressor import checkpoint
from compressor.data import Dataset, Split
from compressor.errors import InputRejected
from compressor.inputs import Inputs
from compressor.measure.hard_images import boundary_between, boundary_set
from compressor.measure.scores import Predictions, predict, score
from compressor.runs import record
from exporters import Runner, parity
from exporters.errors import ExportFailed

IMAGES = 256
NOISE = 16  # images of noise, the first of a proof

_ADVICE = {
    "int8": "--max-drop 1 keeps the layers in fp32 that suffer most, until the file is proved; "
    "--set calibration.method=auto tries other ranges",
    "fp16": "try --precision fp32",
    "bf16": "try --precision fp16",
}


class NotProved(ExportFailed):
    """An exported file that does not answer as its source does."""


def proof_images(inputs: Inputs, student: checkpoint.Network, *, seed: int) -> NDArray[np.float32]:
    """Return what an export must answer as the network does: noise, test images, and images on the boundary.

    A wrong rounding flips the class on the boundary first. It is the teacher's where that
    has gradients, else the student's own.
    """
    data = inputs.data
    network = inputs.walkable or student
    boundary = boundary_set(
        network.module,
        data.test,
        count=IMAGES // 2,
        std=torch.tensor(network.std),
        seed=seed,
        device=inputs.device,
    )
    return np.concatenate([_noise(data.input_shape, seed), _seen(data, seed), boundary.images])


def graph_images(reference: Runner, data: Dataset | None, *, seed: int) -> NDArray[np.float32]:
    """Return the same for a reference without gradients, whose boundary is found by bisection; with data if any."""
    noise = _noise(reference.input_shape, seed)
    real = noise if data is None else _seen(data, seed)
    boundary = boundary_between(reference, real, count=IMAGES // 2, seed=seed)
    return np.concatenate([noise, *([] if data is None else [real]), boundary])


def _noise(shape: tuple[int, int, int], seed: int) -> NDArray[np.float32]:
    return np.random.default_rng(seed).random((NOISE, *shape), dtype=np.float32)


def _seen(data: Dataset, seed: int) -> NDArray[np.float32]:
    images: NDArray[np.float32] = next(iter(data.test.batches(IMAGES, seed=seed))).images.cpu().numpy()
    return images


def prove(
    candidate: Runner,
    reference: Runner,
    images: NDArray[np.float32],
    *,
    rounded: bool = False,
    limits: Mapping[str, parity.Limits] = parity.LIMITS,
) -> record.Parity:
    """Compare an exported file with what it was made from at several batch sizes, on the images of a proof.

    What INT8 makes of noise is not asked: its ranges are those of real images, and noise may lie far outside.

    Args:
        rounded: both round their activations, whatever they compute in. Where a sum lies between two levels, the last
            bit of a float decides, and layer upon layer more of them differ: what is allowed to INT8 is allowed.
        limits: how far apart they may be, by precision.

    Raises:
        NotProved: they do not say the same.
    """
    precision = "int8" if rounded else candidate.precision
    if precision == "int8" and reference.precision != "int8":
        images = images[NOISE:]
    found = parity.check(candidate, reference, images)
    for size, each in found.items():
        problem = parity.verdict(each, precision, limits=limits)
        if problem is not None:
            raise NotProved(
                f"the exported file does not answer as its source does at batch {size}: {problem}",
                hint="the file was not kept; " + _ADVICE.get(candidate.precision, "try another --opset"),
            )
    worst = max(found.values(), key=lambda each: each.max_error)
    return record.Parity(
        max_error=worst.max_error,
        mean_error=worst.mean_error,
        relative_error=worst.relative_error,
        rms_error=worst.rms_error,
        pixel_error=worst.pixel_error,
        agreement=min(each.agreement for each in found.values()),
        samples=len(images),
        batch_sizes=tuple(found),
    )


def accuracy_drop(reference: Runner, data: Callable[[], Dataset]) -> Callable[[Runner], float]:
    """Return what measures how many points of top-1 a runner loses on the validation split.

    It raises InputRejected where nothing is held out for validation, since the test split is not for decisions. The
    data are opened, and the reference is asked, at the first call only.
    """

    @cache
    def expected() -> tuple[Split, Predictions]:
        split = data().validation
        if len(split) == 0:
            raise InputRejected(
                "max_drop is measured on held-out validation images, and there are none",
                hint="--set data.validation=0.1",
            )
        return split, predict(reference, split)

    def drop(runner: Runner) -> float:
        split, before = expected()
        found = score(predict(runner, split), teacher=before).drop
        assert found is not None
        return found

    return drop
