"""Whether the nodes of an ONNX graph can be what they are: complete, in an order, and of an end.

Runtimes and checkers take these for granted, and die or hang where they do not hold. What is walked here may come from
anyone, so nothing is followed before it is known to end.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import onnx
from onnx import AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, TensorProto, numpy_helper

from exporters.errors import ArtifactRejected

_NODES = 200_000  # stored in one file; the largest classifiers have some thousands
_DEPTH = 16  # of graphs within nodes, and of functions within functions
_STEPS = 1_000_000  # nodes run for one image, where functions and loops are counted as often as they run
_SETS_OF_NODES = GraphProto | FunctionProto


def order(path: Path, model: ModelProto) -> None:
    """Sort the nodes of a graph, its subgraphs and its functions in place, after seeing that each of them is whole.

    Nodes that are in an order already stay where they are.

    Raises:
        ArtifactRejected: a node lacks its inputs or its value, reads what nothing makes or what is made of itself; two
            tensors have one name; there are too many nodes, or too many steps once functions and loops are unrolled.
    """
    opset = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), None)
    graphs = [*_within(path, model.graph), *(part for one in model.functions for part in _within(path, one))]
    if sum(len(part.node) for part in graphs) > _NODES:
        raise ArtifactRejected(f"{path} has more than {_NODES:,} nodes")
    for part in graphs:
        for node in part.node:
            _expect_whole(path, node, opset)
    _sort(path, model.graph, frozenset())
    for function in model.functions:
        _sort(path, function, frozenset())
    steps = _Steps(path, model).of(model.graph, 0)
    if steps > _STEPS:
        raise ArtifactRejected(f"{path} runs more than {_STEPS:,} nodes for one image: its functions or loops multiply")


def called(node: NodeProto) -> str:
    """Return how a node is named in a sentence."""
    return repr(node.name or next(filter(None, node.output), node.op_type))


def subgraphs(node: NodeProto) -> Iterator[GraphProto]:
    """Yield the graphs that a node holds: the branches of an If, the body of a Loop."""
    for attribute in node.attribute:
        yield from ((attribute.g,) if attribute.HasField("g") else ())
        yield from attribute.graphs


def _within(path: Path, whole: _SETS_OF_NODES) -> Iterator[_SETS_OF_NODES]:
    """Yield a graph and all graphs within it."""
    level: list[_SETS_OF_NODES] = [whole]
    for _ in range(_DEPTH):
        yield from level
        level = [inner for part in level for node in part.node for inner in subgraphs(node)]
        if not level:
            return
    raise ArtifactRejected(f"{path} has graphs within graphs, more than {_DEPTH} deep")


def _expect_whole(path: Path, node: NodeProto, opset: int | None) -> None:
    """Refuse a node that lacks what its operator always has. What ONNX does not know, its runtime will judge."""
    if not any(node.output):
        raise ArtifactRejected(f"the node {called(node)} of {path} makes nothing")
    if node.op_type == "Constant" and (len(node.attribute) != 1 or node.attribute[0].type == AttributeProto.UNDEFINED):
        raise ArtifactRejected(f"the Constant {called(node)} of {path} has no value")
    if not onnx.defs.has(node.op_type):
        return
    try:
        schema = onnx.defs.get_schema(node.op_type, opset or onnx.defs.onnx_opset_version(), "")
    except onnx.defs.SchemaError:  # of a later opset
        return
    single = onnx.defs.OpSchema.FormalParameterOption.Single
    needed = [index for index, one in enumerate(schema.inputs) if one.option == single]
    if len(node.input) < schema.min_input or not all(node.input[index] for index in needed):
        raise ArtifactRejected(
            f"the {node.op_type} {called(node)} of {path} has {len(node.input)} inputs, and takes at least "
            f"{schema.min_input}"
        )
    stated = {attribute.name for attribute in node.attribute}
    missing = next((name for name, one in schema.attributes.items() if one.required and name not in stated), None)
    if missing is not None and node.domain in ("", "ai.onnx"):
        raise ArtifactRejected(f"the {node.op_type} {called(node)} of {path} does not state its {missing!r}")


def _sort(path: Path, part: _SETS_OF_NODES, outer: frozenset[str]) -> None:
    """Sort the nodes of a graph, and of those within it, which also see the tensors `outer`."""
    makers: dict[str, int] = {}
    given = _given(part)
    for index, node in enumerate(part.node):
        for name in filter(None, node.output):
            if name in makers or name in given:
                raise ArtifactRejected(f"{path} has two tensors of the name {name!r}")
            makers[name] = index
    seen = outer | given | makers.keys()
    waits = []  # for each node, those that come before it
    for node in part.node:
        before = set()
        for name in _read(node):
            if name in makers:
                before.add(makers[name])
            elif name not in seen:
                raise ArtifactRejected(f"the node {called(node)} of {path} reads {name!r}, which nothing makes")
        waits.append(before)
    outputs = part.output if isinstance(part, FunctionProto) else [value.name for value in part.output]
    lost = next((name for name in outputs if name not in seen), None)
    if lost is not None:
        raise ArtifactRejected(f"nothing makes the output {lost!r} of {path}")
    sequence = _sequence(path, part, waits)
    if sequence != list(range(len(part.node))):
        nodes = [part.node[index] for index in sequence]
        copies = [NodeProto.FromString(node.SerializeToString()) for node in nodes]
        del part.node[:]
        part.node.extend(copies)
    for node in part.node:
        for inner in subgraphs(node):
            _sort(path, inner, seen)


def _given(part: _SETS_OF_NODES) -> frozenset[str]:
    """Return the tensors that a graph has before its first node runs."""
    if isinstance(part, FunctionProto):
        return frozenset(part.input)
    sparse = {tensor.values.name for tensor in part.sparse_initializer}
    return frozenset({value.name for value in (*part.input, *part.initializer)} | sparse)


def _read(node: NodeProto) -> set[str]:
    """Return the tensors that a node reads, those that the graphs within it read from outside included."""
    read = set(filter(None, node.input))
    for part in subgraphs(node):
        inside = {value.name for value in part.output}.union(*map(_read, part.node))
        read |= inside - _given(part) - {name for inner in part.node for name in inner.output}
    return read


def _sequence(path: Path, part: _SETS_OF_NODES, waits: list[set[int]]) -> list[int]:
    """Return the nodes in the nearest order in which each comes after those that it waits for."""
    after: dict[int, list[int]] = {}
    for index, before in enumerate(waits):
        for earlier in before:
            after.setdefault(earlier, []).append(index)
    missing = [len(before) for before in waits]
    if all(earlier < index for index, before in enumerate(waits) for earlier in before):
        return list(range(len(waits)))
    ready = [index for index in reversed(range(len(waits))) if not missing[index]]
    found = []
    while ready:
        index = ready.pop()
        found.append(index)
        for later in reversed(after.get(index, [])):
            missing[later] -= 1
            if not missing[later]:
                ready.append(later)
    if len(found) < len(waits):
        node = part.node[next(index for index, count in enumerate(missing) if count)]
        raise ArtifactRejected(f"{path} has a cycle: the node {called(node)} waits for what is made of its own output")
    return found


class _Steps:
    """How many nodes run, functions and loops unrolled."""

    def __init__(self, path: Path, model: ModelProto) -> None:
        self.path = path
        self.functions = {(one.domain, one.name, one.overload): one for one in model.functions}
        self.known: dict[tuple[str, str, str], int] = {}
        if len(self.functions) < len(model.functions):
            raise ArtifactRejected(f"{path} has two functions of one name")

    def of(self, part: _SETS_OF_NODES, depth: int) -> int:
        if depth > _DEPTH:
            raise ArtifactRejected(f"{self.path} has functions that call themselves, or more than {_DEPTH} deep")
        constants = {} if isinstance(part, FunctionProto) else {tensor.name: tensor for tensor in part.initializer}
        for node in part.node:
            if node.op_type == "Constant" and node.attribute[0].HasField("t"):
                constants[node.output[0]] = node.attribute[0].t
        return sum(self._of_node(node, constants, depth) for node in part.node)

    def _of_node(self, node: NodeProto, constants: dict[str, TensorProto], depth: int) -> int:
        inner = sum(self.of(part, depth + 1) for part in subgraphs(node))
        key = (node.domain, node.op_type, node.overload)
        if key in self.functions:
            if key not in self.known:
                self.known[key] = self.of(self.functions[key], depth + 1)
            inner += self.known[key]
        return 1 + inner * (self._trips(node, constants) if node.op_type == "Loop" else 1)

    def _trips(self, node: NodeProto, constants: dict[str, TensorProto]) -> int:
        tensor = constants.get(node.input[0])
        if tensor is None:
            raise ArtifactRejected(
                f"the Loop {called(node)} of {self.path} does not say how often it runs",
                hint="export the network with the number of rounds fixed",
            )
        return max(int(numpy_helper.to_array(tensor).item()), 1)
