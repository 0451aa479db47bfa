"""The state of a training that can be resumed: tensors and plain values, written whole or not at all."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from compressor.checkpoint import pickles
from compressor.checkpoint.formats import Format, sniff
from compressor.errors import InputRejected
from compressor.files import replacing

_KIND = "compressor training state"
_VERSION = 1


def save_state(path: Path, state: dict[str, Any]) -> None:
    """Write `state`: tensors, numbers, texts, and lists and dicts of them."""
    _save(path, {"kind": _KIND, "version": _VERSION, "state": state})


def save_weights(path: Path, weights: Mapping[str, Tensor], **facts: float) -> None:
    """Write a plain checkpoint as anyone has them: the weights under `state_dict`, and numbers beside them."""
    _save(path, {"state_dict": dict(weights), **facts})


def load_state(path: Path) -> dict[str, Any]:
    """Read what `save_state` wrote, on the CPU.

    Raises:
        InputRejected: the file is absent, damaged, or not a training state of this version.
    """
    if sniff(path) is not Format.TORCH:
        raise _foreign(path)
    content = pickles.load(path, Format.TORCH)
    if not isinstance(content, dict) or content.get("kind") != _KIND:
        raise _foreign(path)
    if content.get("version") != _VERSION:
        raise InputRejected(
            f"{path} is a training state of version {content.get('version')}, not {_VERSION}",
            hint="resume it with the version of compress that wrote it",
        )
    state: dict[str, Any] = content["state"]
    return state


def _save(path: Path, content: dict[str, Any]) -> None:
    written = io.BytesIO()
    torch.save(content, written)
    with replacing(path) as temporary:
        temporary.write_bytes(written.getvalue())


def _foreign(path: Path) -> InputRejected:
    return InputRejected(
        f"{path} is not a training state that can be resumed", hint="--resume takes the folder of a run"
    )
