"""The rounding of a quantised graph computed in floating point, for numbers of bits that no runtime computes in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, helper, numpy_helper

from exporters.quantize.calibrated import Calibrated
from exporters.quantize.scheme import SCHEMES, WEIGHTED, Range

if TYPE_CHECKING:
    from exporters.rounding import Grid


def simulated(calibrated: Calibrated, ranges: Mapping[str, Range], weights: int) -> ModelProto:
    """Return the graph with its weights at their levels, and with rounding between operators where `ranges` say so.

    Args:
        ranges: by tensor of `calibrated.model`.
        weights: bits of a weight.
    """
    model = ModelProto()
    model.CopyFrom(calibrated.model)
    graph = model.graph
    _round_weights(graph, {node.name for node in calibrated.nodes if node.op_type in WEIGHTED}, weights)
    symmetric = SCHEMES[calibrated.recipe].symmetric
    made = {output for node in graph.node for output in node.output}
    outputs = {value.name for value in graph.output}
    nodes: list[NodeProto] = []
    renamed: dict[str, str] = {}
    for name in [value.name for value in graph.input if value.name in ranges]:
        nodes += _rounding(graph, name, ranges[name], symmetric, renamed)
    for node in graph.node:
        for index, name in enumerate(node.input):
            node.input[index] = renamed.get(name, name)
        nodes.append(node)
        for name in node.output:
            if name in ranges and name in made and name not in outputs:
                nodes += _rounding(graph, name, ranges[name], symmetric, renamed)
    graph.ClearField("node")
    graph.node.extend(nodes)
    return model


def _round_weights(graph: GraphProto, layers: set[str], bits: int) -> None:
    from torch import from_numpy

    from exporters.rounding import rounded, weight_grid

    tensors = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.name not in layers:
            continue
        tensor = tensors[node.input[1]]
        weight = numpy_helper.to_array(tensor)
        outputs_last = node.op_type == "MatMul" or (
            node.op_type == "Gemm" and not any(each.name == "transB" and each.i for each in node.attribute)
        )
        ordered = from_numpy((weight.T if outputs_last else weight).copy())
        levels = rounded(ordered, weight_grid(ordered, bits)).numpy()
        tensor.CopyFrom(
            numpy_helper.from_array(np.ascontiguousarray(levels.T if outputs_last else levels), tensor.name)
        )


def _rounding(graph: GraphProto, name: str, wanted: Range, symmetric: bool, renamed: dict[str, str]) -> list[NodeProto]:
    """Return the operators that round a tensor, and note what its readers are to read."""
    levels = _grid(wanted, symmetric)
    scale, zero = float(levels.scale), float(levels.zero)
    values: dict[str, NDArray[np.float32]] = {
        "step": np.array(scale, np.float32),
        "least": np.array(levels.least - zero, np.float32),
        "most": np.array(levels.most - zero, np.float32),
    }
    for part, value in values.items():
        graph.initializer.append(numpy_helper.from_array(value, f"{name}_{part}"))
    steps, whole, cut, result = (f"{name}_{part}" for part in ("steps", "whole", "cut", "rounded"))
    renamed[name] = result
    return [
        helper.make_node("Div", [name, f"{name}_step"], [steps], name=steps),
        helper.make_node("Round", [steps], [whole], name=whole),
        helper.make_node("Clip", [whole, f"{name}_least", f"{name}_most"], [cut], name=cut),
        helper.make_node("Mul", [cut, f"{name}_step"], [result], name=result),
    ]


def _grid(wanted: Range, symmetric: bool) -> Grid:
    import torch

    from exporters.rounding import grid

    return grid(torch.tensor(wanted.low), torch.tensor(wanted.high), wanted.bits, symmetric=symmetric)
