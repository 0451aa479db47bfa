"""Whether the tensors of an ONNX graph have the sizes that they state, and grow to none that no machine holds."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
from onnx import (
    AttributeProto,
    FunctionProto,
    GraphProto,
    ModelProto,
    TensorProto,
    ValueInfoProto,
    helper,
    inliner,
    numpy_helper,
)

from exporters.errors import ArtifactRejected
from exporters.onnx.folding import fold_shapes
from exporters.onnx.structure import called, subgraphs
from exporters.quiet import first_line

_NUMBERS = 2**28  # of one tensor, for one image: 1 GiB in fp32
_SMALL = 64  # numbers of a constant that may be a shape
_LONGEST = 10_000  # numbers of a computed shape; ONNX's shape inference holds each in some 50 bytes
_FOLLOWED = {"Add", "Sub", "Mul", "Cast", "Concat", "Gather", "Slice", "Squeeze", "Unsqueeze", "Identity"}
_GROWS = {"Expand", "Tile", "ConstantOfShape", "Range", "Upsample", "Resize", "Pad", "OneHot"}
_REAL = {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE}
_HALF_BYTES = {TensorProto.INT4, TensorProto.UINT4, TensorProto.FLOAT4E2M1}


def expect_stored(path: Path, model: ModelProto) -> None:
    """See that each stored tensor has as many numbers as it states, beside the file or in it.

    Raises:
        ArtifactRejected: it has not, or names weights outside the file's own folder.
    """
    sparse = [*model.graph.sparse_initializer, *(tensor.sparse_tensor for tensor in _attributes(model))]
    for one in sparse:
        if math.prod(one.dims) > _NUMBERS:
            raise ArtifactRejected(f"{path} has a sparse tensor of {math.prod(one.dims):,} numbers")
    for tensor in _tensors(model):
        if tensor.data_type not in TensorProto.DataType.values() or min(tensor.dims, default=0) < 0:
            raise ArtifactRejected(f"the tensor {tensor.name!r} of {path} has no known type or shape")
        if tensor.data_location == TensorProto.EXTERNAL:
            _expect_beside(path, tensor)
        elif tensor.data_type not in (TensorProto.UNDEFINED, TensorProto.STRING) and not _complete(tensor):
            raise ArtifactRejected(f"{path} is damaged: {tensor.name!r} does not hold the numbers that it states")
        elif tensor.data_type in _REAL and np.isnan(numpy_helper.to_array(tensor)).any():
            raise ArtifactRejected(
                f"{path} has NaN in {tensor.name!r}: every answer would be NaN",
                hint="its training diverged, or the file is damaged: export an earlier checkpoint",
            )


def expect_bounded(path: Path, model: ModelProto) -> None:
    """See that no tensor grows beyond what a machine holds, for one image. Functions are finite, see `structure`.

    What its file does not store, and no image decides, a runtime may compute when it opens the file: its size must be
    known.

    Raises:
        ArtifactRejected: one does, or may.
    """
    bones = _bones(model)
    try:
        if bones.functions:
            bones = inliner.inline_local_functions(bones)
        fold_shapes(bones, _GROWS)
        bones = onnx.shape_inference.infer_shapes(bones, data_prop=_longest(bones.graph, {}) <= _LONGEST)
    except (onnx.shape_inference.InferenceError, RuntimeError, ValueError) as error:
        raise ArtifactRejected(f"{path} is not valid ONNX: {first_line(error)}") from error
    known: dict[str, int] = {}
    for value in _values(bones.graph):
        kind = value.type.tensor_type
        if not kind.HasField("shape"):
            continue
        sizes = [dim.dim_value if dim.HasField("dim_value") else 1 for dim in kind.shape.dim]
        if all(dim.HasField("dim_value") for dim in kind.shape.dim):
            known[value.name] = math.prod(sizes)
        if min(sizes, default=0) < 0 or math.prod(sizes) > _NUMBERS:
            raise ArtifactRejected(
                f"the tensor {value.name!r} of {path} would have the shape {sizes}, more than {_NUMBERS:,} numbers"
            )
    _expect_known(path, bones.graph, known)


def _longest(graph: GraphProto, lengths: dict[str, int]) -> int:
    """Return the most numbers that shape inference would follow as the values of one shape, noted in `lengths`."""
    lengths |= {tensor.name: math.prod(tensor.dims) for tensor in graph.initializer}
    longest = 0
    for node in graph.node:
        longest = max([longest, *(_longest(inner, lengths) for inner in subgraphs(node))])
        sizes = [lengths.get(name, 0) for name in node.input]
        if node.op_type in ("Constant", "Shape", "Size"):
            found = _SMALL
        elif node.op_type in _FOLLOWED:
            found = sum(sizes) if node.op_type == "Concat" else max(sizes, default=0)
        else:
            found = 0
        longest = max(longest, found)
        lengths |= dict.fromkeys(node.output, found)
    return longest


def _expect_known(path: Path, graph: GraphProto, known: dict[str, int]) -> None:
    """Refuse constants that grow to what cannot be told, and those that are together far more than what is stored."""
    stored = [value for value in graph.input if value.doc_string == _STORED]
    numbers = sum(math.prod(dim.dim_value for dim in value.type.tensor_type.shape.dim) for value in stored)
    made = _computed(path, graph, {value.name for value in graph.input} - {value.name for value in stored}, known)
    if made > max(_NUMBERS, 8 * numbers):
        raise ArtifactRejected(f"{path} makes {made:,} numbers out of constants, far more than it stores")


def _computed(path: Path, graph: GraphProto, fed: set[str], known: dict[str, int]) -> int:
    """Return how many numbers are made of constants alone; the tensors `fed` are made of images."""
    made, fed = 0, set(fed)
    for node in graph.node:
        within = list(subgraphs(node))
        for inner in within:
            made += _computed(path, inner, fed | {value.name for value in inner.input}, known)
        images = within or fed.intersection(node.input)
        told = not images or (node.input[0] in known and not fed.intersection(node.input[1:]))
        if node.op_type in _GROWS and told and any(name and name not in known for name in node.output):
            raise ArtifactRejected(f"the size of what the {node.op_type} {called(node)} of {path} makes cannot be told")
        if images:
            fed |= set(node.output)
            continue
        made += sum(known.get(name, 0) for name in node.output)
    return made


_STORED = "stored"
_USUAL = (1, 3, 224, 224)  # of images whose size is open: with one pixel, convolutions would leave less than none


def _bones(model: ModelProto) -> ModelProto:
    """Return a graph without its large weights and without what it claims of shapes, for batches of one image."""
    bones = ModelProto(ir_version=max(model.ir_version, 4), opset_import=model.opset_import, functions=model.functions)
    graph, source = bones.graph, model.graph
    graph.name = "bones"
    graph.node.extend(source.node)
    weights = {tensor.name for tensor in source.initializer}
    for value in source.input:
        if value.name not in weights:
            graph.input.append(value)
            dims = graph.input[-1].type.tensor_type.shape.dim
            for dim, usual in zip(dims, _USUAL if len(dims) == len(_USUAL) else [1] * len(dims), strict=True):
                if dim.dim_value <= 0:
                    dim.dim_value = usual
    for tensor in source.initializer:
        if math.prod(tensor.dims) <= _SMALL and tensor.data_location != TensorProto.EXTERNAL:
            graph.initializer.append(tensor)
        else:
            graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims, _STORED))
    for value in source.output:
        graph.output.append(helper.make_tensor_value_info(value.name, value.type.tensor_type.elem_type, None))
    domains = {entry.domain for entry in bones.opset_import}
    for domain in {node.domain for node in source.node} - domains - {"ai.onnx"}:
        bones.opset_import.append(helper.make_opsetid(domain, 1))
    return bones


def _values(graph: GraphProto) -> Iterator[ValueInfoProto]:
    yield from (*graph.value_info, *graph.output)
    yield from (value for value in graph.input if value.doc_string != _STORED)
    for node in graph.node:
        for inner in subgraphs(node):
            yield from _values(inner)


def _attributes(model: ModelProto) -> Iterator[AttributeProto]:
    """Yield the attributes of all nodes, in subgraphs and functions as well."""
    parts: list[GraphProto | FunctionProto] = [model.graph, *model.functions]
    while parts:
        part = parts.pop()
        for node in part.node:
            yield from node.attribute
            parts.extend(subgraphs(node))


def _tensors(model: ModelProto) -> Iterator[TensorProto]:
    """Yield all stored tensors, those of nodes, subgraphs and functions included."""
    graphs = [model.graph]
    for attribute in _attributes(model):
        yield from ((attribute.t,) if attribute.HasField("t") else ())
        yield from attribute.tensors
        graphs += [*((attribute.g,) if attribute.HasField("g") else ()), *attribute.graphs]
        for one in (attribute.sparse_tensor, *attribute.sparse_tensors):
            yield from (tensor for tensor in (one.values, one.indices) if tensor.data_type)
    for graph in graphs:
        yield from graph.initializer
        for sparse in graph.sparse_initializer:
            yield from (sparse.values, sparse.indices)


def _bytes(tensor: TensorProto) -> int:
    numbers: int = math.prod(tensor.dims)
    if tensor.data_type in _HALF_BYTES:
        return (numbers + 1) // 2
    return numbers * int(helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize)


def _complete(tensor: TensorProto) -> bool:
    if tensor.HasField("raw_data"):
        return bool(len(tensor.raw_data) == _bytes(tensor))
    numbers: int = math.prod(tensor.dims)
    complex_ = tensor.data_type in (TensorProto.COMPLEX64, TensorProto.COMPLEX128)
    field = getattr(tensor, helper.tensor_dtype_to_field(tensor.data_type))
    wanted = (numbers + 1) // 2 if tensor.data_type in _HALF_BYTES else numbers * (2 if complex_ else 1)
    return bool(len(field) == wanted)


def _expect_beside(path: Path, tensor: TensorProto) -> None:
    """Refuse weights that are not in a file of the same folder, or are cut short there."""
    stated = {entry.key: entry.value for entry in tensor.external_data}
    location, folder = stated.get("location", ""), path.parent.resolve()
    if "\0" in location or not (folder / location).resolve().is_relative_to(folder):  # also where it is absolute
        raise ArtifactRejected(
            f"{path} takes the weights of {tensor.name!r} from {location!r}, outside its own folder",
            hint="save the model as one file, or its data beside it",
        )
    if not (folder / location).is_file():
        raise ArtifactRejected(f"{path} needs the file {location!r} beside it")
    size = (folder / location).stat().st_size
    start, length = stated.get("offset", "0"), stated.get("length", str(_bytes(tensor)))
    if not (start.isdecimal() and length.isdecimal() and int(length) == _bytes(tensor)):
        raise ArtifactRejected(f"{path} is damaged: it does not say where in {location!r} {tensor.name!r} is")
    if int(start) + int(length) > size:
        raise ArtifactRejected(
            f"{path} needs more of {location!r} than there is", hint="copy it again, it is cut short"
        )
