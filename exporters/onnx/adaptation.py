"""A classifier as other tools write it, changed into the one form that the rest takes: NCHW, of one size, logits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from exporters.borders import FLOATING, Names, ending, inputs, rename
from exporters.errors import ArtifactRejected
from exporters.onnx.graph import write_draft
from exporters.onnx.reading import read
from exporters.onnx.structure import subgraphs

_COLOURS = (1, 3)
_TO_NHWC, _TO_NCHW = [0, 2, 3, 1], [0, 3, 1, 2]
Sizes = tuple[int | None, int | None, int | None]


def adapt(
    source: Path, path: Path, *, image: tuple[int, int, int] | None = None, output: str | None = None
) -> tuple[str, ...] | None:
    """Write the classifier `source` to `path` in the form that runners and exporters take, or nothing: it has that.

    A second softmax and a sigmoid at the end are taken off: the classes keep their order. One logit z becomes 0 and z.

    Args:
        image: C, H, W of an image, for what the graph leaves open.
        output: which of several outputs are the logits.

    Returns:
        Sentences on what was changed; None where nothing was, and nothing was written.

    Raises:
        ArtifactRejected: `source` cannot be read, or has no such output.
    """
    model = read(source)
    notes = [
        *_only(source, model.graph, output),
        *_channels_first(model.graph),
        *_of_one_size(model, image),
        *([] if _ours(model) else _without_squashing(model.graph)),
        *_as_two_classes(model.graph),
    ]
    if not notes:
        return None
    write_draft(model, path, beside=source)
    return tuple(notes)


def _ours(model: ModelProto) -> bool:
    """Whether a file says that this project wrote it: then it returns what it was exported to return."""
    return any(entry.key == "compress.exporter_version" for entry in model.metadata_props)


def stated_shape(path: Path) -> Sizes:
    """Return C, H, W of the images of an ONNX file, None for what it leaves open; its first convolution may tell C.

    Raises:
        ArtifactRejected: it cannot be read.
    """
    graph = read(path).graph
    given = inputs(graph)
    dims = _dims(given[0]) if len(given) == 1 else []
    if len(dims) != 4:
        return None, None, None
    last = dims[3] in _COLOURS and dims[1] not in _COLOURS
    channels, height, width = (dims[3], dims[1], dims[2]) if last else (dims[1], dims[2], dims[3])
    return channels or _convolved(graph), height or None, width or None


def _convolved(graph: GraphProto) -> int | None:
    """Return how many channels the first convolution reads, where that is a usual number of an image."""
    weights = {tensor.name: tensor for tensor in graph.initializer}
    first = next((node for node in graph.node if node.op_type == "Conv" and node.input[1] in weights), None)
    group = next((each.i for each in first.attribute if each.name == "group"), 1) if first is not None else 0
    channels = weights[first.input[1]].dims[1] * group if first is not None else 0
    return channels if channels in _COLOURS else None


def _dims(value: ValueInfoProto) -> list[int]:
    """Return the sizes of a tensor, 0 for those that are open."""
    return [max(dim.dim_value, 0) for dim in value.type.tensor_type.shape.dim]


def _only(source: Path, graph: GraphProto, output: str | None) -> list[str]:
    """Leave the output that is wanted, and what it is made of."""
    names = [value.name for value in graph.output]
    if output is None or names == [output]:
        return []
    if output not in names:
        raise ArtifactRejected(f"{source} has no output {output!r}", hint=f"its outputs: {', '.join(names)}")
    wanted = graph.output[names.index(output)]
    kept = ValueInfoProto.FromString(wanted.SerializeToString())
    del graph.output[:]
    graph.output.append(kept)
    needed, nodes = {output}, []
    for node in reversed(graph.node):  # sorted, as they were read
        if needed.intersection(node.output):
            nodes.append(NodeProto.FromString(node.SerializeToString()))
            needed |= _reads(node)
    del graph.node[:]
    graph.node.extend(reversed(nodes))
    return [f"its output {output!r} is taken for the logits"]


def _reads(node: NodeProto) -> set[str]:
    return set(node.input).union(*(_reads(inner) for part in subgraphs(node) for inner in part.node))


def _channels_first(graph: GraphProto) -> list[str]:
    """Let a graph of floating-point pixels with the channels last take them first."""
    given = inputs(graph)
    dims = _dims(given[0]) if len(given) == 1 else []
    element = given[0].type.tensor_type.elem_type if given else TensorProto.UNDEFINED
    if len(dims) != 4 or element not in FLOATING or dims[3] not in _COLOURS or dims[1] in _COLOURS:
        return []
    value = given[0]
    old = value.name
    readers = [node for node in graph.node if old in node.input]
    if all(_permutation(node) == _TO_NCHW for node in readers):  # which undo what is not done then
        for node in readers:
            node.op_type = "Identity"
            node.ClearField("attribute")
    else:
        names = Names(graph)
        last = names.fresh(f"{old}_channels_last")
        rename(graph, {old: last})
        value.name = old
        first = helper.make_node("Transpose", [old], [last], name=names.fresh(f"to_{last}"), perm=_TO_NHWC)
        nodes = [first, *graph.node]
        graph.ClearField("node")
        graph.node.extend(nodes)
    shape = value.type.tensor_type.shape
    sizes = [shape.dim[index] for index in _TO_NCHW]
    moved = [type(dim).FromString(dim.SerializeToString()) for dim in sizes]
    del shape.dim[:]
    shape.dim.extend(moved)
    return ["it takes images with the channels last; here they come first"]


def _permutation(node: NodeProto) -> list[int] | None:
    if node.op_type != "Transpose":
        return None
    return next((list(attribute.ints) for attribute in node.attribute if attribute.name == "perm"), None)


def _of_one_size(model: ModelProto, image: tuple[int, int, int] | None) -> list[str]:
    """Fix what the graph leaves open of its images. Files of ours say the size in their metadata."""
    given = inputs(model.graph)
    if image is None or len(given) != 1 or any(entry.key == "compress.input_shape" for entry in model.metadata_props):
        return []
    value = given[0]
    dims = value.type.tensor_type.shape.dim
    uint8 = value.type.tensor_type.elem_type == TensorProto.UINT8
    wanted = (*image[1:], image[0]) if uint8 else image
    if len(dims) != 4 or min(_dims(value)[1:]) > 0:
        return []
    for dim, size in zip(list(dims)[1:], wanted, strict=True):
        if dim.dim_value <= 0:
            dim.dim_value = size
    return [f"it takes images of any size; here of {'x'.join(str(dim.dim_value) for dim in list(dims)[1:])}"]


def _without_squashing(graph: GraphProto) -> list[str]:
    """Take off what follows the logits and keeps their order, but for one softmax, which is known everywhere."""
    notes = []
    while (node := ending(graph, graph.output[0].name)) is not None:
        before = ending(graph, node.input[0]) if node.op_type == "Softmax" else None
        if node.op_type == "Sigmoid":
            notes.append("the sigmoid at its end is taken off: what stands before it are the logits")
        elif before is not None and before.op_type in ("Softmax", "Sigmoid"):
            twice = "a second softmax" if before.op_type == "Softmax" else "a softmax behind a sigmoid"
            notes.append(f"{twice} at its end is taken off: the classes keep their order")
        else:
            break
        node.op_type = "Identity"
        node.ClearField("attribute")
    return notes


def _as_two_classes(graph: GraphProto) -> list[str]:
    """Make of one logit z, as of a binary classifier, the logits 0 and z, which have the same probabilities."""
    value = graph.output[0]
    if len(graph.output) != 1 or _dims(value)[1:] != [1]:
        return []
    names = Names(graph)
    inner = names.fresh(f"{value.name}_inner")
    outer = value.name
    rename(graph, {outer: inner})
    value.name = outer
    element = np.dtype(helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type))
    zero, none = names.fresh(f"{outer}_zero"), names.fresh(f"{outer}_none")
    graph.initializer.append(numpy_helper.from_array(np.zeros((), element), zero))
    graph.node.append(helper.make_node("Mul", [inner, zero], [none], name=names.fresh(f"to_{none}")))
    graph.node.append(helper.make_node("Concat", [none, inner], [outer], name=names.fresh(f"to_{outer}"), axis=1))
    value.type.tensor_type.shape.dim[1].dim_value = 2
    return ["its one logit z is taken as two classes with the logits 0 and z"]
