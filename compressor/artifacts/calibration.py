"""The images that INT8 ranges are read from: training images, and some on the boundary, where rounding matters most.

Or images that the network's own statistics make, where none of the training may be looked at.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from compressor import checkpoint
from compressor.artifacts.synthetic import synthetic_images
from compressor.data import Dataset
from compressor.errors import InputRejected
from compressor.measure.hard_images import boundary_set
from compressor.measure.scores import first
from compressor.recipe import Calibration

MOST_SYNTHETIC = 128  # more of them take long to make, and do no more for ranges
SHARE = 0.25  # of boundary supporting samples, where a network is at hand and nothing else is asked for


def calibration_images(
    data: Dataset,
    network: checkpoint.Network | None,
    *,
    samples: int,
    boundary: float | None,
    seed: int,
    device: torch.device,
) -> tuple[NDArray[np.float32], int]:
    """Return images `[N, C, H, W]` in `[0, 1]` of the training split, and how many of them lie on the boundary.

    There are `samples` of them, or as many as the split has; labels are not used but to know where an image starts.

    Args:
        network: whose boundary is walked to; None when there is no network with gradients.
        boundary: share of boundary samples in `[0, 1]`; None means `SHARE` with a network, and none without. Fewer come
            where fewer images cross the boundary, and plain ones take their place.
        seed: decides which images, and which way they walk.

    Raises:
        InputRejected: the training split is empty, or boundary samples are asked for without a network.
    """
    total = min(samples, len(data.train))
    if total == 0:
        raise InputRejected(
            f"{data.source} has no training images to calibrate INT8 with", hint="--data names data with a train split"
        )
    if boundary is not None and boundary > 0 and network is None:
        raise InputRejected(
            "boundary samples for the calibration need a network with gradients, and an ONNX file has none",
            hint="--teacher FILE gives the network it came from, or set calibration.boundary to 0",
        )
    share = boundary if boundary is not None else SHARE if network is not None else 0.0
    walked = _walked(data, network, round(share * total), seed, device)
    plain = [images.cpu().numpy() for images, _ in first(data.train, total - len(walked), 256, seed=seed)]
    return np.concatenate([*plain, walked]), len(walked)


def wanted_images(
    wanted: Calibration,
    data: Dataset | None,
    network: checkpoint.Network | None,
    *,
    walks: checkpoint.Network | None,
    seed: int,
    device: torch.device,
) -> tuple[NDArray[np.float32], int]:
    """Return the images that a target asks for, and how many of them lie on the boundary.

    Args:
        network: what is quantised, where it has gradients.
        walks: whose boundary is walked to.

    Raises:
        InputRejected: there are no data, or no network that could make images.
    """
    if wanted.images == "synthetic":
        if network is None:
            raise InputRejected(
                "synthetic images are made from the BatchNorm of a network, and an ONNX file has it folded away",
                hint="--teacher FILE gives the network it came from",
            )
        made = synthetic_images(
            network.module, network.input_shape, network.classes, samples=min(wanted.samples, MOST_SYNTHETIC), seed=seed
        )
        return made, 0
    if data is None:
        raise InputRejected("INT8 needs images to calibrate with", hint="--data folder:PATH, never random ones")
    return calibration_images(data, walks, samples=wanted.samples, boundary=wanted.boundary, seed=seed, device=device)


def _walked(
    data: Dataset, network: checkpoint.Network | None, count: int, seed: int, device: torch.device
) -> NDArray[np.float32]:
    if network is None or count == 0:
        return np.zeros((0, *data.input_shape), np.float32)
    found = boundary_set(
        network.module, data.train, count=count, std=torch.tensor(network.std), seed=seed, device=device
    )
    return found.images
