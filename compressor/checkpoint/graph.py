"""An ONNX classifier from elsewhere, as a network: it answers and has no gradients."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from compressor.checkpoint.network import Network
from compressor.errors import InputRejected, UsageError
from compressor.files import sha256
from compressor.models import Normalized
from exporters import Runner, onnx

_OURS = "compress.exporter_version"  # in the metadata of a file that this project wrote: it takes pixels in [0, 1]


class Graph(nn.Module):
    """A runner in the place of a module: images `[B, C, H, W]` to logits `[B, K]`, on the CPU."""

    def __init__(self, runner: Runner) -> None:
        super().__init__()
        self.runner = runner

    def forward(self, images: Tensor) -> Tensor:
        return torch.from_numpy(self.runner(images.detach().cpu().contiguous().numpy())).to(images.device)

    def __deepcopy__(self, _memo: object) -> Graph:
        return self  # a session holds no state of its own, and cannot be copied


def open_graph(path: Path, *, mean: Sequence[float] | None = None, std: Sequence[float] | None = None) -> Network:
    """Open an ONNX classifier; without `mean` and `std` it is not stated how its images are normalised.

    Raises:
        ArtifactRejected: it is not an ONNX classifier.
        UsageError: `mean` and `std` do not fit its channels or each other.
        InputRejected: it takes bytes, so that there is nothing to normalise outside.
    """
    runner = onnx.load(path)
    channels = runner.input_shape[0]
    if (mean is None) != (std is None):
        raise UsageError("--mean and --std go together")
    if mean is not None and std is not None:
        if not len(mean) == len(std) == channels or min(std) <= 0:
            raise UsageError(f"--mean and --std need {channels} values each, std above zero, one a channel of {path}")
        if _OURS in runner.metadata:
            raise UsageError(f"{path} was exported by compress: mean and std are inside", hint="leave them out")
    if runner.pixels == "uint8" and _OURS not in runner.metadata and mean is not None:
        raise InputRejected(f"{path} takes bytes, so its normalisation is inside", hint="leave out --mean and --std")
    shape = "x".join(map(str, runner.input_shape))
    stated = mean is not None or _OURS in runner.metadata or runner.pixels == "uint8"
    mean, std = tuple(mean or [0.0] * channels), tuple(std or [1.0] * channels)
    return Network(
        module=Normalized(Graph(runner), mean, std).eval(),
        arch=None,
        classes=runner.classes,
        class_names=None,
        input_shape=runner.input_shape,
        mean=mean,
        std=std,
        stated=stated,
        data=None,
        parameters=sum(runner.census.values()),
        path=path,
        sha256=sha256(path),
        summary=f"{runner.precision} ONNX, {runner.classes} classes, images of {shape}",
        called=path.name,
    )
