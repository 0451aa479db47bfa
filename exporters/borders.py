"""The two ends of an ONNX classifier: found in its graph, and rebuilt to take and return what is wanted.

What stands at the ends is computed in fp32 whatever the precision of the graph between them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from exporters import Output, Pixels
from exporters.errors import ArtifactRejected

INPUT = "input"
FLOATING = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16)

# What may stand between a softmax and the output without changing what is returned.
_AFTER_SOFTMAX = {"Cast", "Dropout", "Identity", "Reshape", "Flatten", "Squeeze"}
_COLOURS = (1, 3)
_POOLED = [1, 1]  # height and width of logits [batch, classes, 1, 1], as convolutions leave them


@dataclass(frozen=True)
class Borders:
    """What a graph takes and returns."""

    input: str
    element: int  # TensorProto.DataType of the input
    batch: int | None  # None: any
    input_shape: tuple[int, int, int]  # C, H, W, whatever the layout
    pixels: Pixels
    output: str
    returns: Output


def find(path: Path, model: ModelProto) -> Borders:
    """Find what the graph of the file `path` takes and returns.

    Raises:
        ArtifactRejected: it does not take images in one of the two layouts of `Pixels`, or has several inputs or
            outputs.
    """
    given = inputs(model.graph)
    if len(given) != 1 or len(model.graph.output) != 1:
        several = ", ".join(value.name for value in model.graph.output)
        raise ArtifactRejected(
            f"{path} has {len(given)} inputs and {len(model.graph.output)} outputs, a classifier has one of each",
            hint=f"--output-name chooses one of {several}"
            if len(given) == 1 and several
            else "export the network in inference mode, from images to logits alone",
        )
    kind = given[0].type.tensor_type
    if kind.elem_type not in (*FLOATING, TensorProto.UINT8):
        raise ArtifactRejected(
            f"{path} takes {TensorProto.DataType.Name(kind.elem_type)} input, not images of floating-point pixels"
        )
    pixels: Pixels = "uint8" if kind.elem_type == TensorProto.UINT8 else "float32"
    batch, *sizes = [dim.dim_value for dim in kind.shape.dim] or [0]
    if len(sizes) != 3:
        raise ArtifactRejected(f"{path} takes input of rank {len(kind.shape.dim)}, not images [batch, C, H, W]")
    answer = model.graph.output[0].type.tensor_type
    shape = [dim.dim_value or dim.dim_param for dim in answer.shape.dim]
    if answer.elem_type not in FLOATING or (len(shape) not in (0, 2) and shape[2:] != _POOLED):
        raise ArtifactRejected(
            f"{path} returns {TensorProto.DataType.Name(answer.elem_type)} {_shown(shape)}, not logits "
            "[batch, classes]",
            hint="export the network up to its logits, without what chooses the class",
        )
    return Borders(
        input=given[0].name,
        element=kind.elem_type,
        batch=batch if batch > 0 else None,
        input_shape=_image(path, model, sizes, pixels),
        pixels=pixels,
        output=model.graph.output[0].name,
        returns="logits" if softmax(model.graph) is None else "probabilities",
    )


def inputs(graph: GraphProto) -> list[ValueInfoProto]:
    """Return the inputs that a caller gives; old files list the weights among them."""
    weights = {tensor.name for tensor in graph.initializer}
    return [value for value in graph.input if value.name not in weights]


def softmax(graph: GraphProto) -> NodeProto | None:
    """Return the softmax over the classes that the graph ends with, None if it returns logits."""
    node = ending(graph, graph.output[0].name)
    if node is None or node.op_type != "Softmax":
        return None
    axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), -1)
    return node if axis in (-1, 1) else None  # [batch, classes], or [batch, classes, 1, 1] before a Flatten


def ending(graph: GraphProto, name: str) -> NodeProto | None:
    """Return what last changed the values of a tensor, None where nothing did."""
    producers = {output: node for node in graph.node for output in node.output}
    node = producers.get(name)
    while node is not None and node.op_type in _AFTER_SOFTMAX:
        node = producers.get(node.input[0])
    return node


def _image(path: Path, model: ModelProto, sizes: list[int], pixels: Pixels) -> tuple[int, int, int]:
    """Return C, H, W of an image that the graph takes as `sizes`, of which those it leaves open are not positive."""
    last, first = sizes[2], sizes[0]
    if pixels == "uint8" and last not in _COLOURS:
        raise ArtifactRejected(
            f"{path} takes uint8 pixels {_shown(['batch', *sizes])}, not [batch, H, W, C] with 1 or 3 channels",
            hint="give a graph that takes uint8 NHWC or float NCHW",
        )
    if pixels == "float32" and last in _COLOURS and first not in _COLOURS:
        raise ArtifactRejected(
            f"{path} takes floating-point pixels {_shown(['batch', *sizes])}, with the channels last",
            hint="convert it to [batch, C, H, W] first, for example with tf2onnx --inputs-as-nchw",
        )
    shape = [last, *sizes[:2]] if pixels == "uint8" else sizes
    stored = next((entry.value for entry in model.metadata_props if entry.key == "compress.input_shape"), None)
    if min(shape) <= 0 and stored is not None:
        known = _stored(path, stored)
        shape = [size if size > 0 else known[index] for index, size in enumerate(shape)]
    if min(shape) <= 0:
        raise ArtifactRejected(
            f"{path} leaves the size of its images open",
            hint="--image-size N says it, or the data; or export it with fixed channels, height and width",
        )
    return shape[0], shape[1], shape[2]


def _shown(sizes: Sequence[int | str]) -> str:
    return f"[{', '.join(str(size or '?') for size in sizes)}]"


def _stored(path: Path, stored: str) -> list[int]:
    try:
        shape = json.loads(stored)
    except json.JSONDecodeError:
        shape = None
    if not (isinstance(shape, list) and len(shape) == 3 and all(isinstance(size, int) for size in shape)):
        raise ArtifactRejected(f"{path} has the metadata compress.input_shape {stored!r}, not [C, H, W]")
    return shape


class _Step(NamedTuple):
    """One node of a chain, whose second operand, if any, is a constant."""

    operator: str
    constant: NDArray[Any] | None = None
    attributes: Mapping[str, Any] = {}


def rebuild(
    model: ModelProto,
    borders: Borders,
    *,
    pixels: Pixels,
    output: Output,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    bgr: bool = False,
) -> None:
    """Give a graph that takes floating-point pixels the ends that are wanted, in place.

    It then takes `input`, float32 `[batch, C, H, W]` or uint8 `[batch, H, W, C]`, and returns float32 `logits` or
    `probabilities` `[batch, K]`, also where it returned `[batch, K, 1, 1]`. uint8 pixels are divided by 255; pixels
    become `(pixels - mean) / std` per channel, and with `bgr` the graph is given the blue ones first. For logits, a
    softmax at the end is taken off; for probabilities, there must be none. `borders` were found in the graph, whose
    types may have been lowered since.
    """
    graph = model.graph
    _release_weights(model)
    if output == "logits" and (last := softmax(graph)) is not None:
        last.op_type = "Identity"
        last.ClearField("attribute")
    given, returned = graph.input[0], graph.output[0]
    front = _front(given.type.tensor_type.elem_type, pixels, mean, std, bgr)
    classes = [dim.dim_value or dim.dim_param or "classes" for dim in returned.type.tensor_type.shape.dim][1:]
    back = _back(returned.type.tensor_type.elem_type, output, pooled=classes[1:] == _POOLED)

    names = Names(graph)
    inner = {
        name: names.fresh(f"{name}_inner") for name in sorted({INPUT, output, given.name, returned.name} & names.taken)
    }
    inner |= {} if front else {given.name: INPUT}
    inner |= {} if back else {returned.name: output}
    rename(graph, inner)
    before = _chain(graph, front, INPUT, inner[borders.input], names)
    after = _chain(graph, back, inner[borders.output], output, names)
    nodes = [*before, *graph.node, *after]
    graph.ClearField("node")
    graph.node.extend(nodes)

    batch: int | str = borders.batch or given.type.tensor_type.shape.dim[0].dim_param or "batch"
    channels, height, width = borders.input_shape
    image = [height, width, channels] if pixels == "uint8" else [channels, height, width]
    kind = TensorProto.UINT8 if pixels == "uint8" else TensorProto.FLOAT
    given.CopyFrom(helper.make_tensor_value_info(INPUT, kind, [batch, *image]))
    returned.CopyFrom(helper.make_tensor_value_info(output, TensorProto.FLOAT, [batch, *(classes[:1] or ["classes"])]))


def _front(
    element: int, pixels: Pixels, mean: Sequence[float] | None, std: Sequence[float] | None, bgr: bool
) -> list[_Step]:
    steps = []
    if pixels == "uint8":
        # TensorRT transposes no uint8, so the cast comes first. Half of the 256 values times 1/255 are not those
        # divided by 255, which the images are that a network is trained on.
        steps += [
            _Step("Cast", attributes={"to": TensorProto.FLOAT}),
            _Step("Transpose", attributes={"perm": [0, 3, 1, 2]}),
            _Step("Div", np.array(255, np.float32)),
        ]
    if mean is not None:
        steps.append(_Step("Sub", _per_channel(mean)))
    if std is not None:
        steps.append(_Step("Div", _per_channel(std)))
    if bgr:
        steps.append(_Step("Gather", np.array([2, 1, 0], np.int64), {"axis": 1}))
    if element != TensorProto.FLOAT:
        steps.append(_Step("Cast", attributes={"to": element}))
    return steps


def _back(element: int, output: Output, *, pooled: bool) -> list[_Step]:
    steps = [_Step("Flatten")] if pooled else []
    if element != TensorProto.FLOAT:
        steps.append(_Step("Cast", attributes={"to": TensorProto.FLOAT}))
    if output == "probabilities":
        steps.append(_Step("Softmax", attributes={"axis": -1}))
    return steps


def _per_channel(values: Sequence[float]) -> NDArray[np.float32]:
    return np.array(values, np.float32).reshape(-1, 1, 1)


def _chain(graph: GraphProto, steps: list[_Step], start: str, end: str, names: Names) -> list[NodeProto]:
    """Return the nodes that lead from the tensor `start` through the steps to the tensor `end`."""
    nodes = []
    current = start
    for step in steps:
        target = end if step is steps[-1] else names.fresh(f"{start}_{step.operator.lower()}")
        operands = [current]
        if step.constant is not None:
            operands.append(names.fresh(f"{target}_constant"))
            graph.initializer.append(numpy_helper.from_array(step.constant, operands[1]))
        name = names.fresh(f"to_{target}")
        nodes.append(helper.make_node(step.operator, operands, [target], name=name, **step.attributes))
        current = target
    return nodes


def _release_weights(model: ModelProto) -> None:
    """Take the weights off the inputs, where old files list them: a caller could replace them, so nothing is folded."""
    given = inputs(model.graph)
    model.graph.ClearField("input")
    model.graph.input.extend(given)
    model.ir_version = max(model.ir_version, 4)  # before it, all weights had to be inputs


class Names:
    """The names of a graph's tensors, and new ones that neither these nor its nodes have."""

    def __init__(self, graph: GraphProto) -> None:
        self.taken = {value.name for part in _parts(graph) for value in (*part.input, *part.output, *part.initializer)}
        self.taken |= {name for part in _parts(graph) for node in part.node for name in (*node.input, *node.output)}
        self.used = self.taken | {node.name for part in _parts(graph) for node in part.node}

    def fresh(self, wish: str) -> str:
        numbered = (f"{wish}_{number}" for number in count(1))
        name = wish if wish not in self.used else next(name for name in numbered if name not in self.used)
        self.used.add(name)
        return name


def rename(graph: GraphProto, names: Mapping[str, str]) -> None:
    """Rename tensors wherever they appear, in subgraphs as well."""
    for part in _parts(graph):
        for node in part.node:
            node.input[:] = [names.get(name, name) for name in node.input]
            node.output[:] = [names.get(name, name) for name in node.output]
        for named in (*part.input, *part.output, *part.value_info, *part.initializer):
            named.name = names.get(named.name, named.name)


def _parts(graph: GraphProto) -> Iterator[GraphProto]:
    """A graph and all its subgraphs."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for subgraph in (*((attribute.g,) if attribute.HasField("g") else ()), *attribute.graphs):
                yield from _parts(subgraph)
