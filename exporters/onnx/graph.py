"""An ONNX graph: read whole, cleaned of where it was made, and written as one file that says what it is."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import onnx
from onnx import ModelProto

from exporters.borders import Borders, find
from exporters.errors import ArtifactRejected, ExportFailed
from exporters.files import write_whole
from exporters.onnx.reading import read
from exporters.precision import precision_of, weights_by_type
from exporters.quiet import first_line

# Raised when the meaning of the file or of its `compress.` metadata changes.
EXPORTER_VERSION = "2"
LARGEST = 2**31 - 1  # bytes of one message, protobuf's limit


def whole(path: Path) -> ModelProto:
    """Return the graph of a file with the weights that are stored beside it.

    Raises:
        ArtifactRejected: see `read`, or the weights beside it cannot be read.
    """
    model = read(path)
    _fill(model, path)
    return model


def _fill(model: ModelProto, path: Path) -> None:
    """Read the weights that are stored beside a file."""
    try:
        onnx.load_external_data_for_model(model, str(path.parent))
    except (onnx.checker.ValidationError, OSError, ValueError) as error:
        raise ArtifactRejected(f"cannot read the weights beside {path}: {first_line(error)}") from error


def opset_of(model: ModelProto) -> int:
    """Return the version of ONNX's own operators that a graph uses."""
    versions: dict[str, int] = {imported.domain: imported.version for imported in model.opset_import}
    return versions.get("", versions.get("ai.onnx", 0))


def clean(model: ModelProto) -> None:
    """Remove everything that tells where a graph was made, in place, and see that it is valid ONNX.

    Raises:
        ExportFailed: it is not valid.
    """
    sign(model)
    model.ClearField("metadata_props")
    model.graph.name = "classifier"
    if model.ByteSize() > LARGEST:  # more than the checker takes: a draft, and what is made of it is checked
        return
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportFailed(f"the graph is not valid ONNX: {first_line(error)}") from error


def sign(model: ModelProto) -> None:
    """Put our name in place of the tools', and remove their notes: the tracer stores stack traces in each node."""
    graph = model.graph
    model.producer_name, model.producer_version, model.doc_string = "compress", EXPORTER_VERSION, ""
    for part in (graph, *graph.node, *graph.initializer, *graph.input, *graph.output, *graph.value_info):
        part.doc_string = ""
        part.ClearField("metadata_props")


def write(model: ModelProto, path: Path, metadata: Mapping[str, str], *, draft: bool = False) -> None:
    """Write a clean graph with `metadata`, over which stands what is found in the graph; a draft as `write_draft` does.

    Raises:
        ArtifactRejected: it is no image classifier.
        ExportFailed: it is larger than 2 GB, SOURCE_DATE_EPOCH is no time, or the folder cannot be written to.
    """
    _describe(model, find(path, model), metadata)
    if draft:
        write_draft(model, path)
    else:
        write_whole(path, serialised(model))


def serialised(model: ModelProto) -> bytes:
    """Return the bytes of a graph, the same for the same graph.

    Raises:
        ExportFailed: they would be more than 2 GB.
    """
    expect_one_file(model)
    content: bytes = model.SerializeToString(deterministic=True)
    return content


def expect_one_file(model: ModelProto) -> None:
    """Refuse a graph that is too large for one file, and for most tools.

    Raises:
        ExportFailed: it has more than 2 GB.
    """
    if model.ByteSize() > LARGEST:
        raise ExportFailed(
            "the graph is larger than 2 GB, the most one ONNX file can hold", hint="--precision fp16 halves it"
        )


def write_draft(model: ModelProto, path: Path, *, beside: Path | None = None) -> None:
    """Write a graph for further use here; weights beyond what one file holds lie in another beside it.

    Args:
        beside: the file it was read from, without the weights stored beside that: they come along.

    Raises:
        ArtifactRejected: those weights cannot be read.
        ExportFailed: the folder cannot be written to, or the disk is full.
    """
    if beside is not None:
        _fill(model, beside)
    if model.ByteSize() <= LARGEST:
        write_whole(path, serialised(model))
        return
    try:
        onnx.save_model(model, str(path), save_as_external_data=True, location=f"{path.name}.data", size_threshold=1024)
    except OSError as error:
        raise ExportFailed(f"cannot write {path}: {first_line(error)}", hint="free some space") from error


def _describe(model: ModelProto, borders: Borders, metadata: Mapping[str, str]) -> None:
    """Store what is known of a graph, over what others say of it."""
    own = {
        "compress.precision": precision_of(weights_by_type(model)),
        "compress.input_shape": json.dumps(borders.input_shape),
        "compress.exporter_version": EXPORTER_VERSION,
        "compress.pixels": borders.pixels,
        "compress.output": borders.returns,
        **_created(),
    }
    for key, value in sorted({**metadata, **own}.items()):
        model.metadata_props.add(key=key, value=value)


def _created() -> dict[str, str]:
    """Source: https://reproducible-builds.org/specs/source-date-epoch"""
    given = os.environ.get("SOURCE_DATE_EPOCH")
    if given is None:
        return {}
    try:
        return {"compress.created": datetime.fromtimestamp(int(given), UTC).isoformat()}
    except (ValueError, OverflowError, OSError) as error:
        raise ExportFailed(
            f"SOURCE_DATE_EPOCH is {given!r}, not a number of seconds since 1970", hint="unset SOURCE_DATE_EPOCH"
        ) from error
