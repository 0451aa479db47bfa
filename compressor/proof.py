"""The proof of an exported file: it answers as the network it was made from, where that is hardest."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from compressor import checkpoint
from compressor.errors import ExportFailed
from compressor.prepare import Inputs
from compressor.report import record
from compressor.robustness import boundary_set
from exporters import Runner, parity

IMAGES = 256


def proof_images(inputs: Inputs, student: checkpoint.Network, *, seed: int) -> NDArray[np.float32]:
    """Return what an export must answer as the network does: noise, test images, and images on the boundary.

    A wrong rounding flips the class on the boundary first. It is the teacher's, or the student's own without one.
    """
    data = inputs.data
    noise = np.random.default_rng(seed).random((16, *data.input_shape), dtype=np.float32)
    network = inputs.teacher or student
    boundary = boundary_set(
        network.module,
        data.test,
        count=IMAGES // 2,
        std=torch.tensor(network.std),
        seed=seed,
        device=inputs.device,
    )
    seen = next(iter(data.test.batches(IMAGES, seed=seed))).images.cpu().numpy()
    return np.concatenate([noise, seen, boundary.images])


def prove(candidate: Runner, student: Runner, images: NDArray[np.float32]) -> record.Parity:
    """Compare an exported file with its network at several batch sizes.

    Raises:
        ExportFailed: they do not say the same.
    """
    found = parity.check(candidate, student, images)
    for size, each in found.items():
        problem = parity.verdict(each, candidate.precision)
        if problem is not None:
            raise ExportFailed(
                f"the exported file does not answer as the network does at batch {size}: {problem}",
                hint="the file was not kept; try another --opset, or --precision fp32",
            )
    worst = max(found.values(), key=lambda each: each.max_error)
    return record.Parity(
        max_error=worst.max_error,
        mean_error=worst.mean_error,
        relative_error=worst.relative_error,
        agreement=min(each.agreement for each in found.values()),
        samples=len(images),
        batch_sizes=tuple(found),
    )
