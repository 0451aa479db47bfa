"""The images that INT8 ranges are read from: training images, and some on the boundary, where rounding matters most."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from compressor import checkpoint
from compressor.data import Dataset
from compressor.errors import InputRejected
from compressor.measure.hard_images import boundary_set
from compressor.measure.scores import first

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


def _walked(
    data: Dataset, network: checkpoint.Network | None, count: int, seed: int, device: torch.device
) -> NDArray[np.float32]:
    if network is None or count == 0:
        return np.zeros((0, *data.input_shape), np.float32)
    found = boundary_set(
        network.module, data.train, count=count, std=torch.tensor(network.std), seed=seed, device=device
    )
    return found.images
