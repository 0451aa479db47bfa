"""Which nodes a runtime wants in 8 bits: the layers, and the followers that pass 8 bits on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from onnx import ModelProto, NodeProto, TensorProto

from exporters.quantize.tools import constants_of

Recipe = Literal["cpu", "trt"]
Method = Literal["minmax", "entropy", "percentile"]
RECIPES: tuple[str, ...] = get_args(Recipe)
METHODS: tuple[Method, ...] = get_args(Method)

WEIGHTED = frozenset({"Conv", "Gemm", "MatMul"})


@dataclass(frozen=True)
class Range:
    """What the levels of an activation span, and how many bits tell them apart."""

    low: float
    high: float
    bits: int = 8


@dataclass(frozen=True)
class Scheme:
    """How a runtime wants its graph."""

    layers: frozenset[str]  # operators with ranges of their own
    followers: frozenset[str]  # operators that pass 8 bits on when they are given 8 bits
    symmetric: bool  # int8 around zero; else uint8 with a zero point
    options: Mapping[str, Any]


SCHEMES: dict[str, Scheme] = {
    # ONNX Runtime and OpenVINO on CPUs: unsigned activations, signed weights, everything in between in 8 bits too.
    "cpu": Scheme(
        layers=frozenset(
            {"Conv", "Gemm", "MatMul", "Add", "Mul", "Concat", "GlobalAveragePool", "LeakyRelu", "Sigmoid"}
        ),
        followers=frozenset(
            {"Relu", "Clip", "MaxPool", "AveragePool", "Pad", "Slice", "Split"}
            | {"Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose"}
        ),
        symmetric=False,
        options={},
    ),
    # TensorRT: all symmetric, a bias in fp32, weights quantised in the graph. NVIDIA's rule for the places: the inputs
    # of layers with weights, not their outputs, and of a sum one operand, so that the other's layer absorbs the sum.
    "trt": Scheme(
        layers=frozenset({"Conv", "Gemm", "MatMul", "Add"}),
        followers=frozenset(),
        symmetric=True,
        options={
            "ActivationSymmetric": True,
            "WeightSymmetric": True,
            "QuantizeBias": False,
            "AddQDQPairToWeight": True,
            "OpTypesToExcludeOutputQuantization": ["Conv", "Gemm", "MatMul"],
        },
    ),
}


def layers(model: ModelProto, scheme: Scheme) -> list[NodeProto]:
    """Return the nodes that the scheme can quantise.

    Sums and products with a constant are left alone: in one scale for a whole tensor, a mean or a bias is ruined. So
    are the residual sums of attention networks, whose few huge channels leave the others no levels (Bondarenko et al.,
    EMNLP 2021); their LayerNorm and softmax are in no scheme.
    """
    constants = constants_of(model)
    attention = any(node.op_type == "LayerNormalization" for node in model.graph.node)
    values = [*model.graph.value_info, *model.graph.output]
    floats = {value.name for value in values if value.type.tensor_type.elem_type == TensorProto.FLOAT}

    def fits(node: NodeProto) -> bool:
        if node.op_type not in scheme.layers or node.output[0] not in floats:
            return False
        if attention and node.op_type == "Add":
            return False
        if node.op_type not in WEIGHTED:
            return not constants.keys() & set(node.input)
        data, *given = filter(None, node.input)
        weights = [list(constants[name].dims) for name in given if name in constants]
        if data in constants or len(weights) < len(given):
            return False
        if node.op_type == "Conv":
            return True
        transposed = any(attribute.name == "transB" and attribute.i for attribute in node.attribute)
        return len(weights[0]) == 2 and weights[1:] in ([], [weights[0][:1] if transposed else weights[0][1:]])

    return [node for node in model.graph.node if fits(node)]


def followers(model: ModelProto, chosen: Sequence[NodeProto], scheme: Scheme) -> list[str]:
    """Return the names of the nodes that pass on what the chosen layers have quantised."""
    names = {node.name for node in chosen}
    quantised = {name for node in chosen for name in (node.input[0], *node.output)}
    quantised |= {name for node in chosen if node.op_type not in WEIGHTED for name in node.input}
    followers = []
    for node in model.graph.node:
        if node.op_type in scheme.followers and node.name not in names and node.input[0] in quantised:
            followers.append(node.name)
            quantised.update(node.output)
    return followers


def computed_first(model: ModelProto, names: Iterable[str]) -> str:
    order = {output: index for index, node in enumerate(model.graph.node) for output in node.output}
    return min(names, key=lambda name: order.get(name, -1))
