"""The finished graph: its logits are not rounded, its runtime takes it, and its metadata tell what it is."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

import onnx
from onnx import ModelProto, TensorProto, numpy_helper

from exporters.errors import ExportFailed
from exporters.onnx.graph import sign
from exporters.quantize.tools import STANDARD, constants_of

_INTEGER = frozenset({"QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger", "DynamicQuantizeLinear"})


@dataclass(frozen=True)
class Quantized:
    """What a quantisation left. `census` and `layers` were found in the graph."""

    census: Mapping[str, int]  # weights by the type they are computed in, see `precision.weights_by_type`
    kept: tuple[str, ...]  # layers left in fp32, in graph order
    layers: tuple[str, ...]  # all layers that the recipe can quantise, in graph order
    samples: int  # calibration images
    recipe: str
    method: str
    drop: float | None = None  # points of accuracy lost, where a limit was set


def release_logits(model: ModelProto) -> None:
    """Take away the rounding of the logits, in front of a softmax too."""
    graph = model.graph
    producers = {output: node for node in graph.node for output in node.output}
    name = graph.output[0].name
    while name in producers and producers[name].op_type in ("Softmax", "LogSoftmax"):
        name = producers[name].input[0]
    second = producers.get(name)
    first = producers.get(second.input[0]) if second is not None and second.op_type == "DequantizeLinear" else None
    if second is None or first is None or first.op_type != "QuantizeLinear" or first.input[0] not in producers:
        return
    rounded = first.input[0]
    for names in (producers[rounded].output, *(node.input for node in graph.node)):
        for index, each in enumerate(names):
            if each == rounded:
                names[index] = name
    graph.node.remove(first)
    graph.node.remove(second)


def expect_symmetric(model: ModelProto) -> None:
    """Refuse what TensorRT would refuse: zero points other than zero, biases in int32, and operators in integers."""
    constants = constants_of(model)
    for node in model.graph.node:
        if node.op_type in _INTEGER:
            raise ExportFailed(
                f"{node.name or node.output[0]!r} is a {node.op_type}, and TensorRT takes QuantizeLinear and "
                "DequantizeLinear alone",
                hint="quantise the network in the QDQ format",
            )
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            zero_point = constants.get(node.input[2]) if len(node.input) > 2 else None
            if zero_point is None or zero_point.data_type != TensorProto.INT8:
                raise ExportFailed(f"{node.name or node.output[0]!r} is not in int8, which is all that TensorRT takes")
            if numpy_helper.to_array(zero_point).any():
                raise ExportFailed(
                    f"{node.name or node.output[0]!r} has a zero point other than 0, which TensorRT does not take"
                )


def describe(model: ModelProto, result: Quantized) -> None:
    """Write what the file is into its metadata, and take out the tools' own marks and what nothing uses."""
    graph = model.graph
    used = {name for node in graph.node for name in node.input}
    made = {name for node in graph.node for name in node.output}
    for unused in [tensor for tensor in graph.initializer if tensor.name not in used]:
        graph.initializer.remove(unused)
    for stale in [value for value in graph.value_info if value.name not in made]:
        graph.value_info.remove(stale)
    domains = {node.domain for node in graph.node} | set(STANDARD)
    for unneeded in [entry for entry in model.opset_import if entry.domain not in domains]:
        model.opset_import.remove(unneeded)
    sign(model)
    own = {
        "compress.precision": "int8",
        "compress.quantization": result.recipe,
        "compress.calibration": json.dumps({"samples": result.samples, "method": result.method}),
        "compress.kept_fp32": json.dumps(result.kept),
    }
    given = {entry.key: entry.value for entry in model.metadata_props if entry.value != "onnxruntime.quant"}
    onnx.helper.set_model_props(model, dict(sorted({**given, **own}.items())))
