"""An ONNX file as its graph, read without trusting where it says its weights are."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError
from onnx import GraphProto, ModelProto, TensorProto

from exporters.errors import ArtifactRejected


def read(path: Path) -> ModelProto:
    """Return the graph of an ONNX file, without weights stored elsewhere, after checking where those would be read.

    Raises:
        ArtifactRejected: the file is absent, no ONNX file, or names weights outside its own folder.
    """
    hint = "give the .onnx file that an export wrote"
    try:
        str(path).encode()  # ONNX Runtime takes names in UTF-8 only
        model = onnx.load(path, load_external_data=False)
    except UnicodeEncodeError as error:
        raise ArtifactRejected(f"the name {str(path)!r} is not UTF-8", hint="rename the file") from error
    except DecodeError as error:
        raise ArtifactRejected(f"{path} is not an ONNX file, or is cut short", hint=hint) from error
    except OSError as error:
        raise ArtifactRejected(f"cannot read {path}: {(error.strerror or str(error)).lower()}") from error
    if not model.graph.node or not model.opset_import:
        raise ArtifactRejected(f"{path} is not an ONNX file, or is cut short", hint=hint)
    folder = path.parent.resolve()
    for tensor in _tensors(model.graph):
        if tensor.data_location == TensorProto.EXTERNAL:
            location = next((entry.value for entry in tensor.external_data if entry.key == "location"), "")
            if not (folder / location).resolve().is_relative_to(folder):  # also where it is absolute
                raise ArtifactRejected(
                    f"{path} takes the weights of {tensor.name!r} from {location!r}, outside its own folder",
                    hint="save the model as one file, or its data beside it",
                )
            if not (folder / location).is_file():
                raise ArtifactRejected(f"{path} needs the file {location!r} beside it")
    return model


def _tensors(graph: GraphProto) -> Iterator[TensorProto]:
    """All stored tensors, those inside nodes and their subgraphs included."""
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    for node in graph.node:
        for attribute in node.attribute:
            yield from (attribute.t, *attribute.tensors)
            for subgraph in (attribute.g, *attribute.graphs):
                yield from _tensors(subgraph)
