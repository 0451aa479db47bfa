"""A checkpoint's bytes to named tensors. Nothing in the file is executed."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from compressor.checkpoint import pickles
from compressor.checkpoint.formats import Format, damaged, sniff
from compressor.checkpoint.unwrapping import NoWeights, Unwrapped, strip_prefixes, unwrap
from compressor.errors import InputRejected


@dataclass(frozen=True)
class Tensors:
    """Named tensors of one network, on the CPU.

    `wrapper` is where in the file they were, `prefixes` what all their names began with, outermost first; `metadata`
    is what lay beside them, as JSON can hold it; `notes` says what was decided.
    """

    tensors: dict[str, Tensor]
    format: Format
    metadata: dict[str, Any]
    wrapper: str = ""
    prefixes: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def read_tensors(path: Path) -> Tensors:
    """Read the weights of a checkpoint, whatever they are wrapped in.

    Raises:
        InputRejected: the file is absent, foreign, damaged or a pickle with code, holds no single set of weights, or a
            weight is NaN or infinite.
    """
    found = open_tensors(path)
    for name, tensor in found.tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            bad = int((~torch.isfinite(tensor)).sum())
            raise InputRejected(
                f"{path} has NaN or infinite weights: {bad} of {tensor.numel()} in {name}",
                hint="its training diverged: take an earlier checkpoint",
            )
    return found


def open_tensors(path: Path) -> Tensors:
    """As `read_tensors`, whatever values the weights have."""
    format_ = sniff(path)
    if format_ is Format.SAFETENSORS:
        found = Unwrapped(*_safetensors(path))
    elif format_ in {Format.TORCH, Format.PICKLE}:
        found = _unwrapped(path, pickles.load(path, format_))
    else:
        raise InputRejected(
            f"{path} is a {format_.value}: it holds a whole network, not weights for another one",
            hint="give it as the teacher, without --teacher-arch",
        )
    if not found.tensors:
        raise InputRejected(f"{path} holds no weights", hint="save the network's state_dict()")
    tensors, prefixes = strip_prefixes(found.tensors)
    return Tensors(tensors, format_, found.metadata, found.wrapper, prefixes, found.notes)


def _safetensors(path: Path) -> tuple[dict[str, Tensor], str, dict[str, Any]]:
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, "", dict(file.metadata() or {})  # noqa: SIM118 - no mapping
    except (SafetensorError, OSError) as error:
        damaged(path, error)


def _unwrapped(path: Path, content: object) -> Unwrapped:
    try:
        return unwrap(content)
    except NoWeights as nothing:
        raise InputRejected(f"{path} {nothing}", hint="save the network's state_dict() alone") from None
