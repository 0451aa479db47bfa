"""Shapes that a graph computes from constants alone, computed: some exporters write a border of 1 as ten nodes."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

_SMALL = 64  # numbers of a tensor that may be a shape
_NODES = 2_000  # at most, of one graph
_OPERATORS = frozenset(
    {"Cast", "Concat", "ConstantOfShape", "Gather", "Identity", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze"}
    | {"Add", "Sub", "Mul", "Div"}
)  # none of which makes more numbers than it is given, but for ConstantOfShape


def fold_shapes(model: ModelProto, growing: Collection[str]) -> None:
    """Store what the sizes of `growing` operators are, in place, where small constants decide them."""
    graph = model.graph
    known: dict[str, NDArray[Any]] = {}
    known |= {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer if _small(tensor.dims)}
    known |= {
        node.output[0]: numpy_helper.to_array(node.attribute[0].t)
        for node in graph.node
        if node.op_type == "Constant" and node.attribute[0].name == "value" and _small(node.attribute[0].t.dims)
    }
    deciding = _deciding(graph, growing)
    folded: dict[str, NDArray[Any]] = {}
    for node in graph.node:
        if len(folded) == _NODES:
            break
        if node.output[0] in deciding and node.op_type in _OPERATORS and all(name in known for name in node.input):
            value = _value(model, node, known)
            if value is not None and value.size <= _SMALL:
                folded[node.output[0]] = known[node.output[0]] = value
    left = [NodeProto.FromString(node.SerializeToString()) for node in graph.node if node.output[0] not in folded]
    del graph.node[:]
    graph.node.extend(left)
    graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in folded.items())


def _small(dims: Any) -> bool:
    return int(math.prod(dims)) <= _SMALL


def _deciding(graph: GraphProto, growing: Collection[str]) -> set[str]:
    """Return the tensors that lead to the size of what grows, and nowhere through images."""
    found: set[str] = set()
    for node in reversed(graph.node):  # sorted
        if found.intersection(node.output):
            found |= set(node.input)
        elif node.op_type in growing:
            found |= set(node.input[1:])
    return found


def _value(model: ModelProto, node: NodeProto, known: dict[str, NDArray[Any]]) -> NDArray[Any] | None:
    """Return what a node makes of constants, None if that is not to be computed."""
    feed = {name: known[name] for name in node.input}
    if node.op_type == "ConstantOfShape":
        shape = next(iter(feed.values()))
        if shape.size > _SMALL or (shape < 0).any() or math.prod(shape.tolist()) > _SMALL:
            return None
    values = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), None)
        for name, value in feed.items()
    ]
    single = helper.make_graph([node], "node", values, [helper.make_empty_tensor_value_info(node.output[0])])
    try:
        evaluator = ReferenceEvaluator(helper.make_model(single, opset_imports=model.opset_import))
        return np.asarray(next(iter(evaluator.run(None, feed))))
    except Exception:  # of a node that is not as it should be; who runs it will say
        return None
