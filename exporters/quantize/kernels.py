"""The same classifier in operators that CPUs compute fast in integers.

Two places of a usual classifier have no fast integer kernel. Its first convolution reads one or three channels, where
the kernels for VNNI read four at a time, and stands behind a mean and a standard deviation that are computed in fp32.
And a shortcut that strides and adds empty channels (He et al., CVPR 2016, section 4.2, option A) leaves the 8 bits,
since ONNX Runtime has no integer `Pad` between two scales.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, helper, numpy_helper

_LANES = 4  # channels that an integer kernel reads at a time
_LEVELS = 255
_ALL = 2**31 - 1  # what exporters write for the end of a slice of unknown size
_AFFINE = ("Sub", "Add", "Div", "Mul")


class _Graph:
    """A graph with its constants, producers and consumers at hand, and names that are still free."""

    def __init__(self, graph: GraphProto) -> None:
        self.graph = graph
        self.constants = {tensor.name: tensor for tensor in graph.initializer}
        self.producers = {output: node for node in graph.node for output in node.output}
        self.consumers: dict[str, list[NodeProto]] = {}
        for node in graph.node:
            for name in node.input:
                self.consumers.setdefault(name, []).append(node)
        self.taken = {*self.constants, *self.producers, *(value.name for value in graph.input)}

    def array(self, name: str) -> NDArray[Any] | None:
        """Return the constant of this name, None if it is computed."""
        return numpy_helper.to_array(self.constants[name]) if name in self.constants else None

    def only_consumer(self, name: str) -> NodeProto | None:
        """Return the one node that reads a tensor, None where there are several or none."""
        nodes = self.consumers.get(name, [])
        return nodes[0] if len(nodes) == 1 else None

    def image(self, name: str) -> list[int] | None:
        """Return C, H and W of a tensor, None if it has other axes or they are not known."""
        for value in (*self.graph.input, *self.graph.value_info):
            if value.name == name:
                sizes = [dim.dim_value for dim in value.type.tensor_type.shape.dim][1:]
                return sizes if len(sizes) == 3 and min(sizes) > 0 else None
        return None

    def constant(self, name: str, values: NDArray[Any] | np.float32) -> str:
        name = self.fresh(name)
        self.graph.initializer.append(numpy_helper.from_array(np.asarray(values), name))
        return name

    def tensor(self, name: str, like: str, channels: int) -> str:
        """Declare a tensor of the shape of another but for its channels."""
        name = self.fresh(name)
        known = next(value for value in (*self.graph.input, *self.graph.value_info) if value.name == like)
        value = self.graph.value_info.add()
        value.CopyFrom(known)
        value.name = name
        value.type.tensor_type.shape.dim[1].dim_value = channels
        return name

    def fresh(self, name: str) -> str:
        while name in self.taken:
            name += "_"
        return name

    def replace(self, old: Sequence[NodeProto], new: Sequence[NodeProto]) -> None:
        """Put nodes in the place of the last of others."""
        gone, last = {node.output[0] for node in old}, old[-1].output[0]
        nodes: list[NodeProto] = []
        for node in self.graph.node:
            nodes += new if node.output[0] == last else [] if node.output[0] in gone else [node]
        self.graph.ClearField("node")
        self.graph.node.extend(nodes)


def suit_cpu(model: ModelProto) -> dict[str, tuple[float, float]]:
    """Rewrite what CPUs have no fast integer kernels for, in place; the fp32 results change by rounding only.

    Returns the range of the pixels that the first convolution then reads, by the name of the tensor; nothing where the
    graph does not begin as usual. It spans all images, and pixels of 8 bits lie on its 256 levels: nothing is rounded.
    """
    _convolve_shortcuts(_Graph(model.graph))
    return _absorb_normalisation(_Graph(model.graph))


class _Beginning(NamedTuple):
    """A graph that computes `scale * pixels + shift` per channel, then convolves."""

    pixels: str
    nodes: list[NodeProto]  # the affine ones, then the convolution
    weight: NDArray[np.float64]  # [O, C, kh, kw]
    scale: NDArray[np.float64]  # [C]
    shift: NDArray[np.float64]  # [C]


def _absorb_normalisation(graph: _Graph) -> dict[str, tuple[float, float]]:
    """Let the first convolution read centred pixels and a channel of ones, which carries what the mean adds.

    A border of zeros behind a normalisation is the mean pixel, another one in each channel. That the channel of ones
    ends at the border as well makes it so. The centre is the level next to the mean, where a zero point can be.
    """
    found = _beginning(graph)
    if found is None:
        return {}
    mean = float(np.mean(-found.shift / found.scale))
    centre = min(max(round(mean * _LEVELS), 0), _LEVELS - 1) / _LEVELS
    one = 1 - centre  # the brightest level
    shift = found.scale * centre + found.shift
    ones = (found.weight * shift[:, None, None]).sum(axis=1, keepdims=True) / one
    convolution = found.nodes[-1]
    channels = found.weight.shape[1]
    added = _LANES - channels % _LANES
    nothing = np.zeros_like(ones).repeat(added - 1, axis=1)
    weight = np.concatenate([found.weight * found.scale[:, None, None], ones, nothing], axis=1, dtype=np.float32)

    name, current, new = convolution.name, found.pixels, []
    if centre:
        current = graph.tensor(f"{name}_centred", found.pixels, channels)
        minus = graph.constant(f"{name}_centre", np.float32(centre))
        new += [helper.make_node("Sub", [found.pixels, minus], [current], name=current)]
    widened = graph.tensor(f"{name}_pixels", found.pixels, channels + added)
    pads = graph.constant(f"{name}_added", np.array([0, 0, 0, 0, 0, added, 0, 0], np.int64))
    bright = graph.constant(f"{name}_one", np.float32(one))
    new += [
        helper.make_node("Pad", [current, pads, bright], [widened], name=widened),
        _with_inputs(convolution, [widened, graph.constant(f"{name}_weight", weight), *convolution.input[2:]]),
    ]
    graph.replace(found.nodes, new)
    return {widened: (-centre, one)}


def _beginning(graph: _Graph) -> _Beginning | None:
    pixels = graph.graph.input[0].name
    image = graph.image(pixels)
    if image is None:
        return None
    channels, current, nodes = image[0], pixels, []
    scale, shift = np.ones(channels), np.zeros(channels)
    while (node := graph.only_consumer(current)) is not None:
        nodes.append(node)
        if node.op_type == "Conv":
            weight = graph.array(node.input[1])
            if weight is None or weight.shape[1] != channels:
                return None  # not constant, or in groups
            return _Beginning(pixels, nodes, weight.astype(np.float64), scale, shift)
        operand = _per_channel(graph, node, current, channels)
        if operand is None:
            return None
        if node.op_type in ("Sub", "Add"):
            shift = shift + (operand if node.op_type == "Add" else -operand)
        else:
            factor = operand if node.op_type == "Mul" else 1 / operand
            scale, shift = scale * factor, shift * factor
        current = node.output[0]
    return None


def _per_channel(graph: _Graph, node: NodeProto, current: str, channels: int) -> NDArray[np.float64] | None:
    """Return the constant `[C]` of an affine node, None if it is another node."""
    others = [name for name in node.input if name != current]
    swapped = node.op_type in ("Sub", "Div") and node.input[0] != current
    if node.op_type not in _AFFINE or len(others) != 1 or swapped:
        return None
    values = graph.array(others[0])
    if values is None or values.shape not in ((), (1,), (channels, 1, 1), (1, channels, 1, 1), (1, 1, 1), (1, 1, 1, 1)):
        return None
    operand = np.broadcast_to(values.astype(np.float64).reshape(-1), (channels,))
    usable = np.isfinite(operand) & ((operand != 0) | (node.op_type in ("Sub", "Add")))
    return operand if usable.all() else None


def _convolve_shortcuts(graph: _Graph) -> None:
    """Make each shortcut that strides and adds empty channels a convolution with ones and zeros."""
    for pad in [node for node in graph.graph.node if node.op_type == "Pad"]:
        image, added = graph.image(pad.input[0]), _added_channels(graph, pad)
        if image is None or added is None:
            continue
        nodes, stride = [pad], [1, 1]
        while (node := graph.producers.get(nodes[0].input[0])) is not None and (step := _strides(graph, node)):
            if graph.only_consumer(node.output[0]) is None:
                break
            nodes.insert(0, node)
            stride = [stride[0] * step[0], stride[1] * step[1]]
        given = nodes[0].input[0]
        weight = np.pad(np.eye(image[0], dtype=np.float32), (added, (0, 0)))[:, :, None, None]
        inputs = [given, graph.constant(f"{pad.name}_identity", weight)]
        convolution = helper.make_node("Conv", inputs, pad.output, name=pad.name, kernel_shape=[1, 1], strides=stride)
        graph.replace(nodes, [convolution])


def _added_channels(graph: _Graph, pad: NodeProto) -> tuple[int, int] | None:
    """Return how many empty channels a Pad adds before and after, None if it does anything else."""
    mode = next((attribute.s for attribute in pad.attribute if attribute.name == "mode"), b"constant")
    pads = graph.array(pad.input[1])
    value = graph.array(pad.input[2]) if len(pad.input) > 2 and pad.input[2] else np.zeros(1)
    axes = graph.array(pad.input[3]) if len(pad.input) > 3 and pad.input[3] else np.arange(4)  # of [N, C, H, W]
    if mode != b"constant" or pads is None or value is None or value.any() or axes is None:
        return None
    by_axis = dict.fromkeys(range(4), (0, 0))
    for axis, before, after in zip(axes.tolist(), *pads.reshape(2, -1).tolist(), strict=True):
        by_axis[axis % 4] = (before, after)
    elsewhere = any(any(by_axis[axis]) for axis in (0, 2, 3))
    return None if elsewhere or min(by_axis[1]) < 0 else by_axis[1]


def _strides(graph: _Graph, node: NodeProto) -> tuple[int, int] | None:
    """Return the steps of a Slice over rows and columns from the first to the last, None if it is another node."""
    if node.op_type != "Slice":
        return None
    image = graph.image(node.input[0])
    values = [graph.array(name) for name in node.input[1:]]
    if image is None or any(value is None for value in values):
        return None
    starts, ends, *rest = [value.tolist() for value in values if value is not None]
    axes = rest[0] if rest else list(range(len(starts)))
    steps = rest[1] if len(rest) > 1 else [1] * len(starts)
    by_axis = {2: 1, 3: 1}
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        axis %= 4
        size = image[axis - 1] if axis else _ALL
        whole = start == 0 and end >= size and step > 0
        if not whole or (axis not in by_axis and step != 1):
            return None
        if axis in by_axis:
            by_axis[axis] = step
    return by_axis[2], by_axis[3]


def _with_inputs(node: NodeProto, inputs: Iterable[str]) -> NodeProto:
    changed = NodeProto()
    changed.CopyFrom(node)
    changed.ClearField("input")
    changed.input.extend(inputs)
    return changed
