"""An ONNX file as its graph, read without trusting where it says its weights are."""

from __future__ import annotations

from pathlib import Path

import onnx
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError, Message
from onnx import ModelProto, TensorProto

from exporters.errors import ArtifactRejected
from exporters.onnx.sizes import expect_bounded, expect_stored
from exporters.onnx.structure import order
from exporters.quiet import first_line

_POINTER = b"version https://git-lfs"


def read(path: Path) -> ModelProto:
    """Return the graph of an ONNX file, sorted, without weights stored elsewhere.

    Checked before any other tool sees it: where those weights would be read, that its nodes are whole and in an order
    that ends, and that nothing in it grows beyond measure.

    Raises:
        ArtifactRejected: the file is absent, no ONNX file, damaged, names weights outside its own folder, or would hang
            or fill the memory of who opens it; see `structure` and `sizes`.
    """
    hint = "give the .onnx file that an export wrote"
    try:
        str(path).encode()  # ONNX Runtime takes names in UTF-8 only
        model = onnx.load(path, load_external_data=False)
    except UnicodeEncodeError as error:
        raise ArtifactRejected(f"the name {str(path)!r} is not UTF-8", hint="rename the file") from error
    except DecodeError as error:
        with path.open("rb") as file:
            if file.read(len(_POINTER)) == _POINTER:
                raise ArtifactRejected(
                    f"{path} is a git-lfs pointer: the file itself was not downloaded",
                    hint="run `git lfs pull` in the repository it came from",
                ) from error
        raise ArtifactRejected(f"{path} is not an ONNX file, or is cut short", hint=hint) from error
    except OSError as error:
        raise ArtifactRejected(f"cannot read {path}: {(error.strerror or str(error)).lower()}") from error
    if not model.graph.node or not model.opset_import:
        raise ArtifactRejected(f"{path} is not an ONNX file, or is cut short", hint=hint)
    _expect_sound(path, model)
    return model


def _expect_sound(path: Path, model: ModelProto) -> None:
    """Check once, at the door, what checkers and runtimes take for granted. Bytes of anyone fail in any way."""
    try:
        _expect_typed(path, model)
        expect_stored(path, model)
        order(path, model)
        expect_bounded(path, model)
    except ArtifactRejected:
        raise
    except (Exception, MemoryError) as error:
        raise ArtifactRejected(f"{path} is damaged: {first_line(error)}", hint="copy or download it again") from error


def _expect_typed(path: Path, model: ModelProto) -> None:
    for value in (*model.graph.input, *model.graph.output):
        element = value.type.tensor_type.elem_type
        if element == TensorProto.UNDEFINED or element not in TensorProto.DataType.values():
            raise ArtifactRejected(f"{path} does not say of what type {value.name!r} is, or it is no tensor")
    if not _readable(model):
        raise ArtifactRejected(f"{path} is damaged: its text is not UTF-8")


def _readable(whole: Message) -> bool:
    """Whether each text in a message is one: those of damaged files come as bytes, and end tools that show them."""
    messages = [whole]
    while messages:
        for field, value in messages.pop().ListFields():
            values = [value] if isinstance(value, str | bytes | Message) else value
            if field.type == FieldDescriptor.TYPE_STRING and not all(isinstance(text, str) for text in values):
                return False
            if field.type == FieldDescriptor.TYPE_MESSAGE:
                messages.extend(values)
    return True
