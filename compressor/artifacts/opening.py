"""Any file that classifies images, opened the same way: a checkpoint, a student of ours, an exported artifact."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from compressor import checkpoint
from compressor.artifacts.formats import exporter_of, format_of, opened_by, provider_of
from compressor.data import Dataset
from compressor.errors import EnvironmentMissing, InputRejected, UsageError
from compressor.files import sha256
from exporters import Runner, onnx
from exporters.pytorch import TorchRunner


def open_artifact(
    path: Path,
    *,
    device: torch.device,
    format_: str | None = None,
    provider: str | None = None,
    threads: int | None = None,
    cuda_graph: bool = False,
    data: Dataset | None = None,
) -> Runner:
    """Open a file as a runner on `device`, by its suffix; what no exporter writes is read as a checkpoint.

    Args:
        format_: of the file, where it is known or the user names it: what a plug-in wrote is opened by nothing else.
        provider: what runs an ONNX file, instead of the device's own: `cpu`, `cuda`, `tensorrt` or `openvino`.
        data: a checkpoint that does not say how its images are normalised gets what suits these best, as a teacher
            would.

    Raises:
        UsageError: `provider` goes with ONNX files only.
        EnvironmentMissing, InputRejected: as `Exporter.load`, or as a checkpoint is refused.
    """
    format_ = format_ or format_of(path)
    if provider is not None and format_ != onnx.FORMAT:
        raise UsageError(f"--provider chooses what runs an ONNX file, and {path.name} is none")
    if format_ is None:
        network = checkpoint.load_network(path)
        if data is not None and not network.stated:
            network = checkpoint.check_teacher(network, data).network
        return torch_runner(network, device=device, threads=threads, cuda_graph=cuda_graph)
    if not path.is_file():
        raise InputRejected(f"no such file: {path}")
    if device.index:
        raise EnvironmentMissing(
            f"exported files run on the first GPU, not on {device}",
            hint=f"CUDA_VISIBLE_DEVICES={device.index} makes it the first",
        )
    if provider is not None and opened_by(provider, path.suffix):  # another format's runtime, wherever that runs
        format_, provider = provider, None
    on = provider or provider_of(format_, device.type)
    return exporter_of(format_).load(path, provider=on, threads=threads, cuda_graph=cuda_graph)


def torch_runner(
    network: checkpoint.Network, *, device: torch.device, threads: int | None = None, cuda_graph: bool = False
) -> TorchRunner:
    """Return a network as PyTorch runs it, in single precision."""
    return TorchRunner(
        network.module,
        input_shape=network.input_shape,
        classes=network.classes,
        device=str(device),
        threads=threads,
        cuda_graph=cuda_graph,
        path=network.path,
    )


class Normalised:
    """A runner that takes normalised images, in the place of one that takes pixels in `[0, 1]`; see `Runner`.

    With `bgr`, the file takes blue first; `mean` and `std` have red first all the same.
    """

    def __init__(self, runner: Runner, mean: Sequence[float], std: Sequence[float], *, bgr: bool = False) -> None:
        self._runner = runner
        self._order = slice(None, None, -1 if bgr else 1)
        self._mean, self._std = (np.asarray(each, np.float32)[:, None, None] for each in (mean, std))  # [C, 1, 1]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._runner, name)

    def __call__(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        return self._runner(self._prepared(images))

    def prepare(self, images: NDArray[np.float32]) -> Callable[[], object]:
        return self._runner.prepare(self._prepared(images))

    def _prepared(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.ascontiguousarray(((images - self._mean) / self._std)[:, self._order])


def facts(runner: Runner, *, relative_to: Path | None = None) -> dict[str, Any]:
    """Return what a record says of an opened file whatever was measured: what it is, what ran it, hash and size."""
    if runner.path is None:
        raise ValueError("the runner has no file")
    return {
        **file_facts(runner.path, relative_to=relative_to),
        "format": runner.format,
        "precision": runner.precision,
        "provider": runner.provider,
    }


def file_facts(path: Path, companions: Sequence[Path] = (), *, relative_to: Path | None = None) -> dict[str, Any]:
    """Return path, hash and size of a file; the size includes the files that it cannot do without."""
    return {
        "path": located(path, relative_to),
        "sha256": sha256(path),
        "size_bytes": sum(each.stat().st_size for each in (path, *companions)),
    }


def located(path: Path, relative_to: Path | None) -> str:
    """Return a path as a record names it: relative to the run where it lies inside."""
    inside = relative_to is not None and path.resolve().is_relative_to(relative_to.resolve())
    return path.resolve().relative_to(relative_to.resolve()).as_posix() if inside and relative_to else str(path)
