"""Any file that classifies images, opened the same way: a checkpoint, a student of ours, an exported artifact."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from compressor import checkpoint
from compressor.data import Dataset
from compressor.errors import EnvironmentMissing, InputRejected, did_you_mean
from compressor.files import sha256
from exporters import EXPORTERS, Exporter, Runner, exporter
from exporters.pytorch import TorchRunner

# What a user may ask for and what it needs, although this version cannot build it.
_ABSENT = {
    "trt": ("TensorRT", "tensorrt"),
    "trt-rtx": ("TensorRT-RTX", "tensorrt_rtx"),
    "openvino": ("OpenVINO", "openvino"),
}
_SUFFIXES = {".onnx": "onnx", ".plan": "trt", ".engine": "trt", ".xml": "openvino"}


def exporter_of(format_: str) -> Exporter:
    """Return the exporter of a format.

    Raises:
        EnvironmentMissing: the format needs a runtime that this machine or this version does not have.
    """
    if format_ in _ABSENT:
        name, module = _ABSENT[format_]
        here = "is installed here, but" if find_spec(module) else "is not installed here, and"
        raise EnvironmentMissing(
            f"cannot make a {name} artifact: {name} {here} this version has no exporter for it",
            hint="compress export --format onnx writes a file that TensorRT, TensorRT-RTX and OpenVINO can read",
        )
    if format_ not in EXPORTERS:
        raise InputRejected(f"unknown format {format_!r}", hint=did_you_mean(format_, [*EXPORTERS, *_ABSENT]))
    return exporter(format_)


def open_artifact(
    path: Path, *, device: torch.device, threads: int | None = None, data: Dataset | None = None
) -> Runner:
    """Open a file as a runner on `device`, by its suffix; what no exporter writes is read as a checkpoint.

    A checkpoint that does not say how its images are normalised gets what suits `data` best, as a teacher would.
    """
    if path.suffix in _SUFFIXES:
        if not path.is_file():
            raise InputRejected(f"no such file: {path}")
        return exporter_of(_SUFFIXES[path.suffix]).load(path, provider=device.type, threads=threads)
    network = checkpoint.load_network(path)
    if data is not None and not network.stated:
        network = checkpoint.check_teacher(network, data).network
    return torch_runner(network, device=device, threads=threads)


def torch_runner(network: checkpoint.Network, *, device: torch.device, threads: int | None = None) -> TorchRunner:
    """Return a network as PyTorch runs it, in single precision."""
    return TorchRunner(
        network.module,
        input_shape=network.input_shape,
        classes=network.classes,
        device=str(device),
        threads=threads,
        path=network.path,
    )


def facts(runner: Runner, *, relative_to: Path | None = None) -> dict[str, Any]:
    """Return what a record says of a file whatever was measured: path, format, precision, provider, hash and size."""
    path = runner.path
    if path is None:
        raise ValueError("the runner has no file")
    inside = relative_to is not None and path.resolve().is_relative_to(relative_to.resolve())
    return {
        "path": path.resolve().relative_to(relative_to.resolve()).as_posix() if inside and relative_to else str(path),
        "format": runner.format,
        "precision": runner.precision,
        "provider": runner.provider,
        "sha256": sha256(path),
        "size_bytes": path.stat().st_size,
    }
