"""Where a graph is rounded when it is quantised: read off the quantised graph itself, for who trains for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, ValueInfoProto

from exporters.onnx.graph import serialised
from exporters.quantize.calibrated import Calibrated
from exporters.quantize.scheme import WEIGHTED
from exporters.quantize.tools import constants_of, quantising

# Operators whose results are some of the values that they are given: what is rounded stays so.
_MOVES = frozenset(
    {"Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Slice", "Split", "Pad", "MaxPool", "Relu"}
)


@dataclass(frozen=True)
class Place:
    """A tensor that is rounded. Those of one `owner`, which is the first of them, have one range.

    `read` tells that a layer with weights reads one of them, `moved` that nothing but moving made it of a rounded one.
    """

    tensor: str
    owner: str
    read: bool
    moved: bool


@dataclass(frozen=True)
class Places:
    """What is rounded in a graph. `values` are those of all tensors named here, on the images, in fp32.

    `layers` are the outputs of the layers whose weights are rounded. `pixels` is what the first convolution reads in
    place of normalised images, where the graph was rewritten so: the tensor, and its range, which spans all images.
    """

    activations: tuple[Place, ...]
    layers: tuple[str, ...]
    pixels: tuple[str, float, float] | None
    values: Mapping[str, NDArray[np.float32]]


def places_of(calibrated: Calibrated) -> Places:
    """Quantise all layers of a graph, and return where the result rounds and what the tensors are on the images."""
    found = _activations(calibrated.quantised(calibrated.nodes), calibrated.pixels)
    layers = tuple(node.output[0] for node in calibrated.nodes if node.op_type in WEIGHTED)
    pixels = next(((name, low, high) for name, (low, high) in calibrated.pixels.items()), None)
    wanted = {*layers, *(place.tensor for place in found)}
    return Places(found, layers, pixels, _values(calibrated, wanted))


def _activations(model: ModelProto, pixels: Mapping[str, object]) -> tuple[Place, ...]:
    constants = constants_of(model)
    producers = {output: node for node in model.graph.node for output in node.output}
    rounding = [n for n in model.graph.node if n.op_type == "QuantizeLinear" and n.input[0] not in constants]
    back = {n.input[0]: n.output[0] for n in model.graph.node if n.op_type == "DequantizeLinear"}
    by_scale: dict[str, list[str]] = {}
    for node in rounding:
        by_scale.setdefault(node.input[1], []).append(node.input[0])
    read_names = {node.input[0] for node in model.graph.node if node.op_type in WEIGHTED}
    read = {node.input[1] for node in rounding if back.get(node.output[0]) in read_names}
    places = []
    for node in rounding:
        tensor, scale = node.input[0], node.input[1]
        maker = producers.get(tensor)
        owner = by_scale[scale][0]
        moved = maker is not None and maker.op_type in _MOVES and tensor != owner
        if tensor not in pixels:
            places.append(Place(tensor, owner, scale in read, moved))
    return tuple(places)


def _values(calibrated: Calibrated, wanted: set[str]) -> dict[str, NDArray[np.float32]]:
    import onnxruntime

    model = ModelProto()
    model.CopyFrom(calibrated.model)
    taken = {value.name for value in (*model.graph.output, *model.graph.input)}
    names = sorted(wanted - {value.name for value in model.graph.input})
    model.graph.output.extend(ValueInfoProto(name=name) for name in names if name not in taken)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    with quantising(calibrated.source):
        session = onnxruntime.InferenceSession(serialised(model), options, providers=["CPUExecutionProvider"])
        arrays = session.run(names, {session.get_inputs()[0].name: calibrated.images})
    return dict(zip(names, arrays, strict=True)) | {
        value.name: calibrated.images for value in model.graph.input if value.name in wanted
    }
