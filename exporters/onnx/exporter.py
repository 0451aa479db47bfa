"""A network, or a graph that is in its final form, written as an ONNX file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from exporters import Built, Engine
from exporters.borders import find
from exporters.errors import ExportFailed
from exporters.files import write_whole
from exporters.onnx import FORMAT, SUFFIXES
from exporters.onnx.graph import serialised, whole, write
from exporters.onnx.reading import read
from exporters.onnx.session import package
from exporters.onnx.tracing import trace
from exporters.precision import precision_of, weights_by_type

if TYPE_CHECKING:
    from torch import nn


def export(network: nn.Module, path: Path, *, input_shape: tuple[int, int, int], opset: int = 20) -> None:
    """Write `network` to `path` as one fp32 ONNX file, in inference mode; the network itself is not touched.

    The graph takes `input`, float32 `[batch, C, H, W]`, and returns `logits` `[batch, K]`. The same weights give the
    same bytes.

    Raises:
        ExportFailed: an operator has no ONNX form, the opset is not offered, the file would exceed 2 GB, or the graph
            is not what it should be.
        RuntimeMissing: onnxscript is not installed.
    """
    write(trace(network, input_shape, opset), path, {})


def require() -> None:
    """See `Exporter.require`. What writes ONNX is always here."""


def versions() -> dict[str, str | None]:
    """See `Exporter.versions`."""
    ort = package()
    from onnxruntime.capi import build_and_package_info as info

    return {"version": ort.__version__, "cuda": getattr(info, "cuda_version", "") or None}


def build(
    source: Path,
    folder: Path,
    stem: str,
    *,
    precision: str,
    engine: Engine,  # noqa: ARG001 an ONNX file is compiled by who loads it
) -> Built:
    """Copy `source` into `folder` under its name, with all its weights in it; see `Exporter.build`."""
    model = whole(source)
    find(source, model)
    counts = weights_by_type(model)
    if precision_of(counts) != precision:
        raise ExportFailed(
            f"{source} computes in {precision_of(counts)}, not in {precision}", hint="convert or quantise it first"
        )
    path = folder / f"{stem}.{precision}{SUFFIXES[0]}"
    write_whole(path, serialised(model))
    return Built(path=path, format=FORMAT, precision=precision, census=counts)


def census(path: Path) -> dict[str, int]:
    """Count the weights of a file by the type they are computed in; see `precision.weights_by_type`."""
    return weights_by_type(read(path))
