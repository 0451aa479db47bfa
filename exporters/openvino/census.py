"""How many weights are computed in which type: in a graph, and in the kernels that a CPU was given for it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from math import prod
from typing import Any

# OpenVINO's name of a type -> ours.
NAMES = {"f32": "fp32", "f16": "fp16", "bf16": "bf16", "f64": "fp64", "i8": "int8", "u8": "int8"}
SAME_VALUES = {"Reshape", "Transpose", "Squeeze", "Unsqueeze"}  # operators that only arrange numbers anew

_FLOATING = ("fp32", "fp16", "bf16")
# The operators that do nearly all of a classifier's arithmetic, in a graph and in a compiled one.
_WEIGHTED = {
    "Convolution",
    "GroupConvolution",
    "ConvolutionBackpropData",
    "GroupConvolutionBackpropData",
    "MatMul",
    "Deconvolution",
    "FullyConnected",
}
_LEVELS = 256


def weights_by_type(model: Any) -> dict[str, int]:
    """Count the weights of convolutions and matrix products by the type they are computed in, as `precision` does."""
    counts: Counter[str] = Counter()
    constant = _constants(model)
    for data, weights in _products(model, constant):
        rounded = _is_quantised(data, constant) and _is_quantised(weights, constant)
        counts["int8" if rounded else _type(weights)] += prod(weights.get_shape())
    return dict(counts) or {kind: count for kind, count in constants_by_type(model).items() if kind in _FLOATING}


def weights_by_kernel(compiled: Any) -> dict[str, int]:
    """Count the same weights by the type of the data that come to them: in that, the CPU's kernels compute.

    What OpenVINO calls the precision of a node is the narrower of data and weights, though it may expand the weights.
    """
    counts: Counter[str] = Counter()
    model = compiled.get_runtime_model()
    for data, weights in _products(model, _constants(model)):
        counts[_type(data)] += prod(weights.get_shape())
    return dict(counts)


def constants_by_type(model: Any) -> dict[str, int]:
    """Count the numbers that a graph stores by the type they are stored in."""
    counts: Counter[str] = Counter()
    for node in model.get_ordered_ops():
        if node.get_type_name() == "Constant":
            counts[_type(node.output(0))] += prod(node.get_output_shape(0))
    return dict(counts)


def _products(model: Any, constant: set[str]) -> Iterator[tuple[Any, Any]]:
    """Yield the data and the weights of each operator that has weights."""
    for node in model.get_ordered_ops():
        if _kind(node) in _WEIGHTED:
            first, second = node.input_value(0), node.input_value(1)
            fixed = [each.get_node().get_name() in constant for each in (first, second)]
            if fixed == [False, True]:
                yield first, second
            elif fixed == [True, False]:
                yield second, first


def _constants(model: Any) -> set[str]:
    """Return the names of all nodes that do not depend on the input."""
    found: set[str] = set()
    for node in model.get_ordered_ops():
        sources = [each.get_node().get_name() for each in node.input_values()]
        if _kind(node) in ("Constant", "Const") or (sources and found.issuperset(sources)):
            found.add(node.get_name())
    return found


def _kind(node: Any) -> str:
    """Return the operator of a node, be it of a graph or of what the CPU made of it."""
    facts = node.get_rt_info()
    name: str = facts["layerType"].astype(str) if "layerType" in facts else node.get_type_name()
    return name


def _is_quantised(value: Any, constant: set[str]) -> bool:
    """Whether a tensor was rounded to 8 bits just before it is used: an integer, less an offset, times a scale."""
    node = value.get_node()
    while True:
        kind = node.get_type_name()
        if kind == "FakeQuantize":
            return bool(node.get_attributes()["levels"] <= _LEVELS)
        if kind == "Convert" and _type(node.input_value(0)) == "int8":
            return True
        scaled = kind in ("Multiply", "Subtract") and node.input_value(1).get_node().get_name() in constant
        if not scaled and kind not in {*SAME_VALUES, "Convert"}:
            return False
        node = node.input_value(0).get_node()


def _type(value: Any) -> str:
    kind: str = value.get_element_type().to_string()
    return NAMES.get(kind, kind)
