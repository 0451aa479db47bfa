"""A graph in OpenVINO's own form, an IR, and an ONNX file read as one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from exporters import onnx
from exporters.errors import ArtifactRejected
from exporters.openvino import SUFFIXES
from exporters.openvino.runtime import core, package, reason

SUFFIX = SUFFIXES[0]
# Where we keep what is ours in an IR: the metadata, as a JSON object, and the SHA-256 of the weights.
METADATA, HASH = ["compress", "metadata"], ["compress", "weights_sha256"]


@dataclass(frozen=True)
class Graph:
    """A graph that was read, and the metadata of its file."""

    model: Any  # openvino.Model
    metadata: Mapping[str, str]


def read(path: Path) -> Graph:
    """Read a graph by OpenVINO's own reader, after seeing that it names no files elsewhere.

    Raises:
        ArtifactRejected: the file is absent, neither an IR nor ONNX, or its weights are not beside it.
        RuntimeMissing: OpenVINO is not installed.
    """
    if path.suffix != SUFFIX:
        metadata = {entry.key: entry.value for entry in onnx.read(path).metadata_props}
        return Graph(_model(path), metadata)
    _expect_pair(path)
    model = _model(path)
    weights = weights_of(path)
    if model.has_rt_info(HASH) and _text(model, HASH) != hashlib.sha256(weights.read_bytes()).hexdigest():
        raise ArtifactRejected(_not_its_weights(path), hint="copy both files again, or export again")
    try:
        stored = json.loads(_text(model, METADATA)) if model.has_rt_info(METADATA) else {}
    except json.JSONDecodeError:
        stored = None
    if not isinstance(stored, dict) or not all(isinstance(value, str) for value in stored.values()):
        raise ArtifactRejected(f"{path} has metadata that are not a JSON object of texts", hint="export it again")
    return Graph(model, stored)


def weights_of(path: Path) -> Path:
    """Return where the weights of an IR are."""
    return path.with_suffix(".bin")


def _expect_pair(path: Path) -> None:
    """Refuse what is no IR before OpenVINO tries all its other formats on it, some of which print."""
    if not path.is_file():
        raise ArtifactRejected(f"cannot read {path}: no such file")
    if not package().frontend.FrontEndManager().load_by_framework("ir").supported(str(path)):
        raise ArtifactRejected(
            f"{path} is not an OpenVINO IR, or is cut short", hint="give the .xml file that an export wrote"
        )
    if not weights_of(path).is_file():
        raise ArtifactRejected(
            f"{path} needs the file {weights_of(path).name!r} beside it", hint="an IR is two files: copy both"
        )


def _model(path: Path) -> Any:
    try:
        # Weights mapped into memory would change, or end the process, when the file is written anew.
        return core().read_model(str(path), config={"ENABLE_MMAP": False})
    except RuntimeError as error:
        if "bin file" in str(error):
            raise ArtifactRejected(_not_its_weights(path), hint="copy both files again, or export again") from error
        raise ArtifactRejected(f"OpenVINO refuses {path}: {reason(error)}") from error


def _not_its_weights(path: Path) -> str:
    return f"{weights_of(path)} does not hold the weights of {path.name}: it is cut short, damaged or of another export"


def _text(model: Any, place: list[str]) -> str:
    text: str = model.get_rt_info(place).astype(str)
    return text
