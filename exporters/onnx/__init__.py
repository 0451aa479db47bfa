"""ONNX: a network as one self-contained file, the file changed into the form that is wanted, and that run.

A file that leaves here maps `input`, pixels in `[0, 1]` or uint8, to `logits` or `probabilities`, has its batch size
free unless it came with a fixed one, and bears no trace of the machine it was made on. In that of a network, mean and
standard deviation are inside, and BatchNorm is folded into the convolutions.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from exporters import Built, Engine
from exporters.borders import find
from exporters.errors import ExportFailed
from exporters.files import write_whole
from exporters.onnx.conversion import PRECISIONS, convert
from exporters.onnx.graph import EXPORTER_VERSION, serialised, whole, write
from exporters.onnx.reading import read
from exporters.onnx.runner import OnnxRunner, load
from exporters.onnx.tracing import trace
from exporters.precision import precision_of, weights_by_type

if TYPE_CHECKING:
    from torch import nn

__all__ = [
    "EXPORTER_VERSION",
    "PRECISIONS",
    "QUANTIZATION",
    "SUFFIX",
    "OnnxRunner",
    "build",
    "census",
    "convert",
    "export",
    "load",
    "read",
    "require",
]

SUFFIX = ".onnx"
QUANTIZATION: Literal["cpu", "trt"] = "cpu"


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
    path = folder / f"{stem}.{precision}{SUFFIX}"
    write_whole(path, serialised(model))
    return Built(path=path, format="onnx", precision=precision, census=counts)


def census(path: Path) -> dict[str, int]:
    """Count the weights of a file by the type they are computed in; see `precision.weights_by_type`."""
    return weights_by_type(read(path))
