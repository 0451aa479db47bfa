"""ONNX: a network as one self-contained file, the file changed into the form that is wanted, and that run.

A file that leaves here maps `input`, pixels in `[0, 1]` or uint8, to `logits` or `probabilities`, has its batch size
free unless it came with a fixed one, and bears no trace of the machine it was made on. In that of a network, mean and
standard deviation are inside, and BatchNorm is folded into the convolutions.
"""

from __future__ import annotations

import copy
import io
import json
import logging
import os
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import onnx
from google.protobuf.message import EncodeError
from onnx import ModelProto, ValueInfoProto, version_converter

from exporters import Built, Engine, Output, Pixels
from exporters.borders import Borders, find, rebuild, softmax
from exporters.errors import ArtifactRejected, ExportFailed, RuntimeMissing
from exporters.files import write_whole
from exporters.ort import OnnxRunner, load, read
from exporters.precision import lower, precision_of, weights_by_type

if TYPE_CHECKING:
    from torch import nn

__all__ = [
    "PRECISIONS",
    "QUANTIZATION",
    "SUFFIX",
    "OnnxRunner",
    "build",
    "census",
    "convert",
    "export",
    "load",
    "require",
]

SUFFIX = ".onnx"
QUANTIZATION: Literal["cpu", "trt"] = "cpu"
PRECISIONS = ("fp32", "fp16", "bf16")
# Raised when the meaning of the file or of its `compress.` metadata changes.
EXPORTER_VERSION = "2"
_EXAMPLE_BATCH = 2  # with 1, tracing may take the batch size for a constant
_LARGEST_FILE = 2**31 - 1  # protobuf's limit
_BF16_OPSET = 22  # the first in which convolutions take bf16
# What holds for one file only, and would be wrong in what is made of it.
_NOT_INHERITED = {"compress.created", "compress.input"}


def export(network: nn.Module, path: Path, *, input_shape: tuple[int, int, int], opset: int = 20) -> None:
    """Write `network` to `path` as one fp32 ONNX file, in inference mode; the network itself is not touched.

    The graph takes `input`, float32 `[batch, C, H, W]`, and returns `logits` `[batch, K]`. The same weights give the
    same bytes.

    Raises:
        ExportFailed: an operator has no ONNX form, the opset is not offered, the file would exceed 2 GB, or the graph
            is not what it should be.
        RuntimeMissing: onnxscript is not installed.
    """
    model, classes = _trace(network, input_shape, opset)
    _anonymise(model)
    _expect_valid(model)
    _expect(model, opset=opset, output=classes, input_shape=input_shape)
    _describe(model, find(path, model), {})
    write_whole(path, _serialised(model))


def convert(
    source: Path,
    path: Path,
    *,
    precision: str | None = None,
    pixels: Pixels = "float32",
    output: Output = "logits",
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write the classifier in the ONNX file `source`, ours or not, to `path` in the form that is wanted.

    The result is one file that takes `input` and returns `logits` or `probabilities`, whatever the names in `source`,
    and float32 unless `pixels` are uint8, whatever the precision. A softmax that `source` ends with is taken off for
    logits. The same source and arguments give the same bytes; a time is stored, as `compress.created`, only if the
    environment sets SOURCE_DATE_EPOCH.

    Args:
        precision: "fp32", "fp16" or "bf16"; None leaves it as it is, also INT8.
        pixels: "uint8": the file takes `[batch, H, W, C]` and divides by 255. Only for grey and RGB images.
        mean, std: one number a channel, of pixels in `[0, 1]`: the file computes `(pixels - mean) / std` first, for a
            graph that expects such input.
        metadata: stored over what `source` stores, under `compress.precision`, `compress.input_shape` (JSON),
            `compress.exporter_version`, `compress.pixels` and `compress.output`, which are found in the graph.

    Raises:
        ArtifactRejected: `source` is not a classifier of floating-point images, has such a border already, or its
            channels do not suit `pixels`, `mean` and `std`.
        ExportFailed: it cannot be given the precision, or the result is not valid ONNX.
    """
    model = _whole(source)
    borders = find(source, model)
    _expect_fitting(source, borders, pixels, output, mean, std)
    found = precision_of(weights_by_type(model))
    if precision is not None and precision != found:
        model = _lowered(source, model, found, precision)
    rebuild(model, borders, pixels=pixels, output=output, mean=mean, std=std)
    inherited = {entry.key: entry.value for entry in model.metadata_props if entry.key not in _NOT_INHERITED}
    _anonymise(model)
    _expect_valid(model)
    _describe(model, find(path, model), {**inherited, **(metadata or {})})
    write_whole(path, _serialised(model))


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
    model = _whole(source)
    find(source, model)
    counts = weights_by_type(model)
    if precision_of(counts) != precision:
        raise ExportFailed(
            f"{source} computes in {precision_of(counts)}, not in {precision}", hint="convert or quantise it first"
        )
    path = folder / f"{stem}.{precision}{SUFFIX}"
    write_whole(path, _serialised(model))
    return Built(path=path, format="onnx", precision=precision, census=counts)


def census(path: Path) -> dict[str, int]:
    """Count the weights of a file by the type they are computed in; see `precision.weights_by_type`."""
    return weights_by_type(read(path))


def _whole(path: Path) -> ModelProto:
    """Return the graph of a file with the weights that are stored beside it."""
    model = read(path)
    try:
        onnx.load_external_data_for_model(model, str(path.parent))
    except (onnx.checker.ValidationError, OSError, ValueError) as error:
        raise ArtifactRejected(f"cannot read the weights beside {path}: {_first_line(error)}") from error
    return model


def _expect_fitting(
    source: Path,
    borders: Borders,
    pixels: Pixels,
    output: Output,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
) -> None:
    """Refuse what would stand twice at an end, or does not suit the channels."""
    if borders.pixels == "uint8":
        raise ArtifactRejected(
            f"{source} takes uint8 pixels already", hint="start from the file that takes floating-point pixels"
        )
    if output == "probabilities" and borders.returns == "probabilities":
        raise ArtifactRejected(
            f"{source} returns probabilities already", hint="start from the file that returns logits"
        )
    channels = borders.input_shape[0]
    if pixels == "uint8" and channels not in (1, 3):
        raise ArtifactRejected(f"{source} takes {channels} channels, and uint8 pixels are grey or RGB")
    for name, values in (("mean", mean), ("std", std)):
        if values is None:
            continue
        if len(values) != channels:
            raise ArtifactRejected(
                f"{source} takes {channels} channels, and the {name} has {len(values)}",
                hint="give one number a channel",
            )
        if not np.isfinite(values).all() or (name == "std" and min(values) <= 0):
            wanted = "positive numbers" if name == "std" else "finite numbers"
            raise ArtifactRejected(f"a {name} consists of {wanted}, not {list(values)}")


def _lowered(source: Path, model: ModelProto, found: str, precision: str) -> ModelProto:
    if precision not in PRECISIONS:
        raise ExportFailed(f"ONNX graphs are not converted to {precision!r}", hint=f"known: {', '.join(PRECISIONS)}")
    if found != "fp32":
        raise ExportFailed(
            f"{source} computes in {found}, and only fp32 is lowered to {precision}",
            hint="start from the fp32 file",
        )
    if precision == "bf16":
        model = _for_bf16(source, model)
    lower(model, precision)
    return model


def _for_bf16(source: Path, model: ModelProto) -> ModelProto:
    opset = _opset(model)
    if opset >= _BF16_OPSET:
        return model
    try:
        with _quiet():
            return version_converter.convert_version(model, _BF16_OPSET)
    except (version_converter.ConvertError, RuntimeError, ValueError) as error:
        raise ExportFailed(
            f"bf16 needs opset {_BF16_OPSET}, and {source} cannot be taken there from opset {opset}: "
            f"{_first_line(error)}",
            hint=f"export it with --opset {_BF16_OPSET}",
        ) from error


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


def _describe(model: ModelProto, borders: Borders, metadata: Mapping[str, str]) -> None:
    """Store what is known of a graph, over what others say of it."""
    own = {
        "compress.precision": precision_of(weights_by_type(model)),
        "compress.input_shape": json.dumps(borders.input_shape),
        "compress.exporter_version": EXPORTER_VERSION,
        "compress.pixels": borders.pixels,
        "compress.output": borders.returns,
        **_created(),
    }
    for key, value in sorted({**metadata, **own}.items()):
        model.metadata_props.add(key=key, value=value)


def _created() -> dict[str, str]:
    """Source: https://reproducible-builds.org/specs/source-date-epoch"""
    given = os.environ.get("SOURCE_DATE_EPOCH")
    if given is None:
        return {}
    try:
        return {"compress.created": datetime.fromtimestamp(int(given), UTC).isoformat()}
    except (ValueError, OverflowError, OSError) as error:
        raise ExportFailed(
            f"SOURCE_DATE_EPOCH is {given!r}, not a number of seconds since 1970", hint="unset SOURCE_DATE_EPOCH"
        ) from error


def _serialised(model: ModelProto) -> bytes:
    try:
        content: bytes = model.SerializeToString(deterministic=True)
    except (EncodeError, ValueError) as error:
        raise ExportFailed("the graph is larger than 2 GB, the most one ONNX file can hold") from error
    return content


def _expect_valid(model: ModelProto) -> None:
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportFailed(f"the graph is not valid ONNX: {_first_line(error)}") from error


def _expect(model: ModelProto, *, opset: int, output: int, input_shape: tuple[int, int, int]) -> None:
    written = _opset(model)
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
    computed = precision_of(weights_by_type(model))
    if computed != "fp32":
        raise ExportFailed(f"the exported graph computes in {computed}, not in fp32")
    if softmax(model.graph) is not None:
        raise ExportFailed(
            "the network ends with a softmax, and a classifier returns logits", hint="take it off the network's forward"
        )


def _opset(model: ModelProto) -> int:
    versions: dict[str, int] = {imported.domain: imported.version for imported in model.opset_import}
    return versions.get("", versions.get("ai.onnx", 0))


def _dims(value: ValueInfoProto) -> list[int | str]:
    return [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
