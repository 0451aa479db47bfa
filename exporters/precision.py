"""The precision of an ONNX graph: found in its nodes, and lowered from fp32 to fp16 or bf16.

The graph is the only witness. File names and metadata are claims.
"""

from __future__ import annotations

from collections import Counter
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from exporters.errors import ExportFailed

NAMES: dict[int, str] = {
    TensorProto.FLOAT: "fp32",
    TensorProto.DOUBLE: "fp64",
    TensorProto.FLOAT16: "fp16",
    TensorProto.BFLOAT16: "bf16",
    TensorProto.INT8: "int8",
    TensorProto.UINT8: "int8",
    TensorProto.FLOAT8E4M3FN: "fp8",
    TensorProto.FLOAT8E5M2: "fp8",
    TensorProto.INT4: "int4",
    TensorProto.UINT4: "int4",
}

# The inputs that hold data and weights, of the operators that do nearly all of a classifier's arithmetic.
_OPERANDS = {
    "Conv": (0, 1),
    "ConvTranspose": (0, 1),
    "Gemm": (0, 1),
    "MatMul": (0, 1),
    "ConvInteger": (0, 1),
    "MatMulInteger": (0, 1),
    "QLinearConv": (0, 3),
    "QLinearMatMul": (0, 3),
}
_SAME_VALUES = {"Identity", "Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze"}
_OTHER_TYPE = {"DequantizeLinear", "QuantizeLinear", "Cast"}
_QUANTISES = {
    "QuantizeLinear",
    "DequantizeLinear",
    "DynamicQuantizeLinear",
    "QLinearConv",
    "QLinearMatMul",
    "ConvInteger",
    "MatMulInteger",
}


class _Type(NamedTuple):
    element: int
    largest: float


_LOWER = {
    "fp16": _Type(TensorProto.FLOAT16, float(np.finfo(np.float16).max)),
    "bf16": _Type(TensorProto.BFLOAT16, (2 - 2**-7) * 2.0**127),
}
# Inputs that ONNX wants in fp32 whatever the data are: the region and the scales.
_ALWAYS_FP32 = {"Resize": (1, 2)}


def weights_by_type(model: ModelProto) -> dict[str, int]:
    """Count the weights of convolutions and matrix products by the type they are computed in, e.g. `{"int8": 270896}`.

    A weight counts as int8 only where its data are quantised as well: weights that are merely stored in eight bits
    count as the type they are expanded to. Without such operators, all weights are counted by the type they have.
    """
    graph = _Graph(model)
    counts: Counter[str] = Counter()
    for node in model.graph.node:
        if node.op_type in _OPERANDS:
            # A file from elsewhere may lack one, which its runtime will say.
            operands = [node.input[index] for index in _OPERANDS[node.op_type] if index < len(node.input)]
            weights = max(map(graph.stored, operands), default=0)
            if weights:
                counts[graph.computed_in(operands)] += weights
    if not counts:
        for tensor in model.graph.initializer:
            if tensor.data_type in (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE):
                counts[NAMES[tensor.data_type]] += int(np.prod(tensor.dims))
    return dict(counts)


def precision_of(counts: dict[str, int]) -> str:
    """Return the type of most weights: a network quantised but for a few sensitive layers is int8."""
    return max(counts, key=lambda name: counts[name]) if counts else "fp32"


class _Graph:
    """Look-ups by tensor name."""

    def __init__(self, model: ModelProto) -> None:
        self.graph = model.graph
        self.producers = {output: node for node in model.graph.node for output in node.output}

    @cached_property
    def types(self) -> dict[str, int]:
        """The element type of each tensor that the graph declares."""
        values = [*self.graph.value_info, *self.graph.input, *self.graph.output]
        declared: dict[str, int] = {value.name: value.type.tensor_type.elem_type for value in values}
        return declared | {name: tensor.data_type for name, tensor in self.constants.items()}

    @cached_property
    def constants(self) -> dict[str, TensorProto]:
        """What the graph stores beside its nodes, and in nodes of their own, as some exporters write all weights."""
        constants = {tensor.name: tensor for tensor in self.graph.initializer}
        for node in self.graph.node:
            if node.op_type == "Constant" and node.attribute[0].name == "value":
                constants[node.output[0]] = node.attribute[0].t
        return constants

    def origin(self, name: str) -> str:
        """Follow a tensor back through operators that only move values about."""
        while (node := self.producers.get(name)) is not None and node.op_type in _SAME_VALUES:
            name = node.input[0]
        return name

    def stored(self, name: str) -> int:
        """Return how many constants a tensor consists of, 0 if it depends on the input."""
        while (node := self.producers.get(name)) is not None and node.op_type in _SAME_VALUES | _OTHER_TYPE:
            name = node.input[0]
        return int(np.prod(self.constants[name].dims)) if name in self.constants else 0

    def quantised(self, name: str) -> str | None:
        """Return the type a tensor was quantised to just before it is used, None if it was not."""
        node = self.producers.get(self.origin(name))
        if node is None or node.op_type != "DequantizeLinear":
            return None
        before = self.producers.get(self.origin(node.input[0]))
        if before is not None and before.op_type == "QuantizeLinear":
            chosen = next((attribute.i for attribute in before.attribute if attribute.name == "output_dtype"), 0)
            implied = self.types.get(before.input[2], 0) if len(before.input) > 2 else TensorProto.UINT8
            return NAMES.get(chosen or implied)
        return NAMES.get(self.types.get(self.origin(node.input[0]), 0))

    def plain(self, name: str) -> str | None:
        """Return the type of the values as the operator sees them."""
        name = self.origin(name)
        node = self.producers.get(name)
        if node is not None and node.op_type == "DequantizeLinear":
            return NAMES.get(self.types.get(node.input[1], 0))  # values have the type of their scale
        if node is not None and node.op_type == "Cast":
            return NAMES.get(next((attribute.i for attribute in node.attribute if attribute.name == "to"), 0))
        return NAMES.get(self.types.get(name, 0))

    def computed_in(self, operands: list[str]) -> str:
        quantised = [self.quantised(name) for name in operands]
        if all(quantised):
            return str(quantised[-1])
        plain = [kind for kind in map(self.plain, reversed(operands)) if kind is not None]
        return plain[0] if plain else "unknown"


def lower(model: ModelProto, precision: str) -> None:
    """Lower a whole graph from fp32 to "fp16" or "bf16" in place, its inputs and outputs included.

    Lowering the finished graph, not the network, rounds each weight once, after BatchNorm has been folded in fp32.

    Raises:
        ExportFailed: a weight is too large for the type, or the graph is quantised or holds control flow.
    """
    graph = model.graph
    _expect_plain(model, precision)
    to = _LOWER[precision].element
    if precision == "bf16":
        _write_out_hard_swish(graph)
    _multiply_before_transposing(model)
    kept = {
        node.input[index]
        for node in graph.node
        for index in _ALWAYS_FP32.get(node.op_type, ())
        if index < len(node.input)
    }
    for tensor in graph.initializer:
        if tensor.name not in kept:
            _round(tensor, tensor.name, precision)
    for node in graph.node:
        if node.op_type in ("Constant", "ConstantOfShape"):
            _spell_out(node)
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.name == "to" and attribute.i == TensorProto.FLOAT:
                attribute.i = to
            elif attribute.type == AttributeProto.TENSOR and not kept.intersection(node.output):
                _round(attribute.t, node.output[0], precision)
    for value in (*graph.value_info, *graph.input, *graph.output):
        if value.type.tensor_type.elem_type == TensorProto.FLOAT and value.name not in kept:
            value.type.tensor_type.elem_type = to


def _expect_plain(model: ModelProto, precision: str) -> None:
    for node in model.graph.node:
        if node.op_type in _QUANTISES:
            raise ExportFailed(
                f"a quantised graph is not lowered to {precision} (node {node.name or node.output[0]!r})",
                hint=f"lower the graph that it was made from, or keep it without {precision}",
            )
        if any(attribute.HasField("g") or attribute.graphs for attribute in node.attribute) or model.functions:
            raise ExportFailed(
                f"the graph holds control flow or functions (node {node.name or node.output[0]!r}), which are not "
                f"lowered to {precision}",
                hint="simplify it first, or keep it in fp32",
            )


def _write_out_hard_swish(graph: GraphProto) -> None:
    """Write `HardSwish` as the two operators that define it: TensorRT takes it in fp16, but not in bf16."""
    nodes = []
    for node in graph.node:
        if node.op_type == "HardSwish":
            gate = f"{node.output[0]}_gate"
            nodes.append(helper.make_node("HardSigmoid", node.input, [gate], name=gate, alpha=1 / 6, beta=0.5))
            nodes.append(helper.make_node("Mul", [node.input[0], gate], node.output, name=node.name))
        else:
            nodes.append(node)
    graph.ClearField("node")
    graph.node.extend(nodes)


def _multiply_before_transposing(model: ModelProto) -> None:
    """Exchange a transpose that keeps the last axis and the product with a matrix behind it: the sums are the same.

    Where attention puts the batch second and its data are fp16, ONNX Runtime 1.31 fuses the two and dies of it.
    """
    graph = model.graph
    matrices = {name for name, tensor in _Graph(model).constants.items() if len(tensor.dims) == 2}
    producers = {output: node for node in graph.node for output in node.output}
    nodes: list[NodeProto] = []
    for node in graph.node:
        before = producers.get(node.input[0]) if node.op_type == "MatMul" and node.input[1] in matrices else None
        perm = _permutation(before)
        if before is None or perm[-1:] != [len(perm) - 1]:
            nodes.append(node)
            continue
        product = f"{node.output[0]}_product"
        last = helper.make_node("Transpose", [product], node.output, name=product, perm=perm)
        nodes += [helper.make_node("MatMul", [before.input[0], node.input[1]], [product], name=node.name), last]
        producers[node.output[0]] = last
    used = {name for node in nodes for name in node.input} | {value.name for value in graph.output}
    graph.ClearField("node")
    graph.node.extend(node for node in nodes if node.op_type != "Transpose" or node.output[0] in used)


def _permutation(node: NodeProto | None) -> list[int]:
    """Return the axes in the order that a Transpose states, nothing for other nodes."""
    stated = node.attribute if node is not None and node.op_type == "Transpose" else ()
    return [axis for attribute in stated for axis in attribute.ints]


def _spell_out(node: NodeProto) -> None:
    """Write a constant that ONNX knows to be fp32 without a tensor as a tensor, which can be rounded."""
    by_name = {attribute.name: attribute for attribute in node.attribute}
    if "value_float" in by_name:
        value = np.array(by_name["value_float"].f, np.float32)
    elif "value_floats" in by_name:
        value = np.array(by_name["value_floats"].floats, np.float32)
    elif node.op_type == "ConstantOfShape" and not by_name:
        value = np.zeros(1, np.float32)
    else:
        return
    node.ClearField("attribute")
    node.attribute.append(helper.make_attribute("value", numpy_helper.from_array(value)))


def _round(tensor: TensorProto, name: str, precision: str) -> None:
    if tensor.data_type != TensorProto.FLOAT:
        return
    values = numpy_helper.to_array(tensor)
    largest = _LOWER[precision].largest
    too_large = np.isfinite(values) & (np.abs(values) > largest)
    if too_large.any():
        raise ExportFailed(
            f"{name!r} holds {values[too_large][0]:.6g}, beyond {precision}'s largest number {largest:.6g}",
            hint="export with precision fp32",
        )
    halves = values.astype(np.float16) if precision == "fp16" else _bf16_bits(values)
    kind = _LOWER[precision].element
    tensor.CopyFrom(helper.make_tensor(tensor.name, kind, values.shape, halves.tobytes(), raw=True))


def _bf16_bits(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Return the upper halves of the numbers, rounded to nearest, ties to even."""
    bits = np.ascontiguousarray(values).view(np.uint32)
    rounded = (bits + (0x7FFF + ((bits >> 16) & 1))) >> 16
    return np.where(np.isnan(values), 0x7FC0, rounded).astype(np.uint16)
