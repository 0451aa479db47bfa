"""The fp32 graph and the images: what is expected of them, and how the graph is made ready."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, version_converter

from exporters.borders import Names
from exporters.errors import ArtifactRejected, ExportFailed
from exporters.onnx.graph import serialised
from exporters.precision import weights_by_type
from exporters.quantize.tools import STANDARD, constants_of, quantising
from exporters.quiet import first_line

_OPSET, _IR_VERSION = 13, 7  # the first with one scale per channel
_SLACK = 1e-3  # of pixels beyond [0, 1], as resizing leaves them
_QUANTISED = frozenset({"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "QLinearConv", "QLinearMatMul"})


def store_constants(model: ModelProto) -> None:
    """Store what nodes of their own hold, as some exporters write weights and scales, beside the nodes, in place."""
    graph = model.graph
    held = [node for node in graph.node if node.op_type == "Constant" and node.attribute[0].name == "value"]
    for node in held:
        tensor = graph.initializer.add()
        tensor.CopyFrom(node.attribute[0].t)
        tensor.name = node.output[0]
        graph.node.remove(node)


def expect_fp32(source: Path, model: ModelProto) -> None:
    if any(node.op_type in _QUANTISED for node in model.graph.node):
        raise ArtifactRejected(f"{source} is quantised already", hint="quantise the fp32 graph that it was made of")
    foreign = sorted({f"{node.domain}.{node.op_type}" for node in model.graph.node if node.domain not in STANDARD})
    if foreign:
        raise ArtifactRejected(
            f"{source} has operators that are not ONNX's own: {', '.join(foreign)}",
            hint="they come from an optimiser, such as ONNX Runtime's: give the file that it was made from",
        )
    constants = constants_of(model)
    types = {value.type.tensor_type.elem_type for value in model.graph.input if value.name not in constants}
    if TensorProto.UINT8 in types:
        raise ArtifactRejected(
            f"{source} takes uint8 pixels, INT8 is made of a graph that takes float32",
            hint="quantise first, then convert the input to uint8",
        )
    lower = sorted(set(weights_by_type(model)) - {"fp32"})
    if lower or TensorProto.FLOAT16 in types:
        raise ArtifactRejected(
            f"{source} computes in {(lower or ['fp16'])[0]}, INT8 is made of an fp32 graph",
            hint="export it with precision fp32",
        )


def expect_pixels(source: Path, images: NDArray[np.float32], input_shape: tuple[int, int, int]) -> None:
    if images.dtype != np.float32 or images.ndim != 4:
        raise ValueError(f"calibration images are float32 [N, C, H, W], not {images.dtype} {images.shape}")
    if len(images) == 0:
        raise ArtifactRejected(
            "there are no calibration images", hint="INT8 needs images like those of later use, 128 to 512 are usual"
        )
    if images.shape[1:] != input_shape:
        given, wanted = ("x".join(map(str, shape)) for shape in (images.shape[1:], input_shape))
        raise ArtifactRejected(f"the calibration images are {given}, {source} takes {wanted}")
    low, high = float(images.min()), float(images.max())
    if not (low >= -_SLACK and high <= 1 + _SLACK):
        raise ArtifactRejected(
            f"the calibration images have pixels from {low:.4g} to {high:.4g}, not in [0, 1]",
            hint="give the pixels themselves: mean and standard deviation belong inside the graph",
        )


def prepared(source: Path, model: ModelProto, folder: Path) -> ModelProto:
    """Return the graph with its shapes inferred, its constants folded, and a name for each node."""
    from onnxruntime.quantization import quant_pre_process
    from onnxruntime.quantization.quant_utils import load_model_with_shape_infer

    onnx.load_external_data_for_model(model, str(source.parent))
    model = _raised(source, model)
    weights = constants_of(model)
    for value in [value for value in model.graph.input if value.name in weights]:  # else they may be overridden
        model.graph.input.remove(value)
    plain, folded = folder / "plain.onnx", folder / "folded.onnx"
    plain.write_bytes(serialised(model))
    with quantising(source):
        quant_pre_process(plain, folded, skip_symbolic_shape=True)
        ready: ModelProto = load_model_with_shape_infer(folded)
    _name(ready)
    _part_biases(ready)
    _flatten_biases(ready)
    return ready


def _raised(source: Path, model: ModelProto) -> ModelProto:
    """Return the graph in an opset that has one scale per channel."""
    opset = next(entry.version for entry in model.opset_import if entry.domain in STANDARD)
    if opset < _OPSET:
        try:
            model = version_converter.convert_version(model, _OPSET)
        except RuntimeError as error:
            raise ExportFailed(
                f"{source} is written in opset {opset}, INT8 needs {_OPSET}, and it cannot be raised: "
                f"{first_line(error)}",
                hint=f"export it with opset {_OPSET} or later",
            ) from error
    model.ir_version = max(model.ir_version, _IR_VERSION)
    return model


def _name(model: ModelProto) -> None:
    """Give each node a name: layers are chosen, kept and reported by name."""
    taken = {node.name for node in model.graph.node}
    for index, node in enumerate(model.graph.node):
        if not node.name:
            node.name = next(name for step in itertools.count(index) if (name := f"{node.op_type}_{step}") not in taken)
            taken.add(node.name)


def _part_biases(model: ModelProto) -> None:
    """Give each layer a bias of its own: ONNX Runtime's quantiser parts them under names that may be taken."""
    names = Names(model.graph)
    constants = constants_of(model)
    seen: set[str] = set()
    for node in model.graph.node:
        bias = node.input[2] if node.op_type in ("Conv", "Gemm") and len(node.input) > 2 else ""
        if bias in constants and bias in seen:
            node.input[2] = names.fresh(f"{bias}_of_{node.name}")
            copy = model.graph.initializer.add()
            copy.CopyFrom(constants[bias])
            copy.name = node.input[2]
        seen.add(bias)


def _flatten_biases(model: ModelProto) -> None:
    """Store `[1, N]` biases of matrix products as `[N]`: they get one scale per channel along their only axis."""
    constants = constants_of(model)
    for node in model.graph.node:
        if node.op_type == "Gemm" and len(node.input) > 2 and node.input[2] in constants:
            bias = constants[node.input[2]]
            if list(bias.dims[:-1]) == [1]:
                del bias.dims[0]
