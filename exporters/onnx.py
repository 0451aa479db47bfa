"""ONNX: one self-contained file out of a network, and that file run by ONNX Runtime.

A file holds a graph `input` `[batch, C, H, W]` to `logits` `[batch, K]` with the batch size free, pixels in `[0, 1]`,
mean and standard deviation inside, BatchNorm folded into the convolutions, and no trace of the machine it was made on.
"""

from __future__ import annotations

import copy
import io
import json
import logging
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING

import onnx
from google.protobuf.message import EncodeError
from onnx import ModelProto, ValueInfoProto

from exporters.errors import ExportFailed, RuntimeMissing
from exporters.files import write_whole
from exporters.ort import OnnxRunner, load, read
from exporters.precision import precision_of, to_fp16, weights_by_type

if TYPE_CHECKING:
    from torch import nn

__all__ = ["PRECISIONS", "SUFFIX", "OnnxRunner", "census", "export", "load"]

SUFFIX = ".onnx"
PRECISIONS = ("fp32", "fp16")
# Raised when the meaning of the file or of its `compress.` metadata changes.
EXPORTER_VERSION = "1"
_EXAMPLE_BATCH = 2  # with 1, tracing may take the batch size for a constant
_LARGEST_FILE = 2**31 - 1  # protobuf's limit


def export(
    network: nn.Module,
    path: Path,
    *,
    input_shape: tuple[int, int, int],
    precision: str = "fp32",
    metadata: Mapping[str, str] | None = None,
    opset: int = 20,
) -> None:
    """Write `network` to `path` as one ONNX file, in inference mode; the network itself is not touched.

    Inputs and outputs are fp32 at every precision. The same weights give the same bytes. `metadata` is stored beside
    `compress.precision`, `compress.input_shape` (JSON) and `compress.exporter_version`.

    Raises:
        ExportFailed: the precision or opset is not offered, an operator has no ONNX form, the file would exceed 2 GB,
            or the graph is not what it should be.
        RuntimeMissing: onnxscript is not installed.
    """
    if precision not in PRECISIONS:
        raise ExportFailed(f"the ONNX export does not offer {precision!r} yet", hint=f"known: {', '.join(PRECISIONS)}")
    model, classes = _trace(network, input_shape, opset)
    if precision == "fp16":
        to_fp16(model)
    _anonymise(model)
    own = {
        "compress.precision": precision,
        "compress.input_shape": json.dumps(input_shape),
        "compress.exporter_version": EXPORTER_VERSION,
    }
    for key, value in sorted({**(metadata or {}), **own}.items()):
        model.metadata_props.add(key=key, value=value)
    content = _serialised(model)
    _verify(model, opset=opset, output=classes, input_shape=input_shape, precision=precision)
    write_whole(path, content)


def census(path: Path) -> dict[str, int]:
    """Count the weights of a file by the type they are computed in; see `precision.weights_by_type`."""
    return weights_by_type(read(path))


def _trace(network: nn.Module, input_shape: tuple[int, int, int], opset: int) -> tuple[ModelProto, int]:
    """Return the raw graph of an untouched network's copy, and its number of classes."""
    import torch

    private = copy.deepcopy(network).to("cpu", torch.float32).eval().requires_grad_(False)
    size = sum(4 * tensor.numel() for tensor in private.state_dict().values())
    if size > _LARGEST_FILE:
        raise ExportFailed(f"the network has {size / 2**30:.1f} GiB of weights, and one ONNX file holds at most 2")
    example = torch.zeros(_EXAMPLE_BATCH, *input_shape)
    shape = "x".join(map(str, input_shape))
    try:
        with torch.no_grad():
            logits = private(example)
    except (RuntimeError, ValueError, IndexError, AssertionError) as error:
        raise ExportFailed(f"the network does not take images of {shape}: {_first_line(error)}") from error
    if not isinstance(logits, torch.Tensor) or logits.ndim != 2:
        found = list(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
        raise ExportFailed(f"a classifier returns logits [batch, classes], this network returns {found}")
    try:
        with _quiet():
            program = torch.onnx.export(
                private,
                (example,),
                dynamo=True,
                input_names=["input"],
                output_names=["logits"],
                opset_version=opset,
                dynamic_shapes=({0: "batch"},),
                external_data=False,
                verbose=False,
            )
    except ImportError as error:
        raise RuntimeMissing(
            f"the ONNX export needs the package {error.name}", hint="pip install onnx onnxscript"
        ) from error
    except torch.onnx.OnnxExporterError as error:
        raise _refusal(error) from error
    assert program is not None
    return program.model_proto, logits.shape[1]


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the tracer's and the optimiser's progress, advice and tracebacks off the user's terminal.

    What they report matters only when it is an error, and that is raised. Deprecations are between these packages.
    """
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            for category in (DeprecationWarning, FutureWarning):
                warnings.filterwarnings(
                    "ignore", category=category, module=r"(torch|onnx|onnxscript|onnx_ir|copyreg)\b"
                )
            yield
    finally:
        logging.disable(disabled)


def _refusal(error: BaseException) -> ExportFailed:
    chain = [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) is not None:
        chain.append(cause)
    text = "\n".join(map(str, chain))
    operator = re.search(r"OpOverload\(op='([^']+)'", text)
    node = re.search(r"translating node %(\w+)", text)
    if operator:
        where = f" (node {node[1]!r})" if node else ""
        return ExportFailed(
            f"the operator {operator[1]!r}{where} has no ONNX form", hint="replace it in the network's forward"
        )
    return ExportFailed(
        f"the network cannot be traced for ONNX: {_first_line(chain[-1])}",
        hint="its forward must not branch on pixel values or fix the batch size",
    )


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


def _anonymise(model: ModelProto) -> None:
    """Remove everything that tells of the source code: the tracer stores stack traces with file paths in each node."""
    model.producer_name = "compress"
    model.producer_version = EXPORTER_VERSION
    model.doc_string = ""
    model.ClearField("metadata_props")
    graph = model.graph
    graph.name = "classifier"
    for part in (graph, *graph.node, *graph.initializer, *graph.input, *graph.output, *graph.value_info):
        part.doc_string = ""
        part.ClearField("metadata_props")


def _serialised(model: ModelProto) -> bytes:
    try:
        content: bytes = model.SerializeToString(deterministic=True)
    except (EncodeError, ValueError) as error:
        raise ExportFailed("the graph is larger than 2 GB, the most one ONNX file can hold") from error
    return content


def _verify(model: ModelProto, *, opset: int, output: int, input_shape: tuple[int, int, int], precision: str) -> None:
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportFailed(f"the exported graph is not valid ONNX: {_first_line(error)}") from error
    written = {imported.domain: imported.version for imported in model.opset_import}[""]
    if written != opset:  # the converter gives up without an exception
        raise ExportFailed(
            f"opset {opset} was asked for, but the graph could only be written in opset {written}",
            hint="use an opset from 18 to 23",
        )
    shapes = [_dims(value) for value in (*model.graph.input, *model.graph.output)]
    expected: list[list[int | str]] = [["batch", *input_shape], ["batch", output]]
    if shapes != expected:
        raise ExportFailed(
            f"the exported graph maps {shapes[0]} to {shapes[-1]}, expected {expected[0]} to {expected[1]}",
            hint="the network's forward must not fix the batch size",
        )
    counts = weights_by_type(model)
    if counts and precision_of(counts) != precision:
        raise ExportFailed(f"the exported graph computes in {precision_of(counts)}, not in {precision}")


def _dims(value: ValueInfoProto) -> list[int | str]:
    return [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
