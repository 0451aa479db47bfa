"""A checkpoint's bytes to named tensors, whatever they are wrapped in. Nothing in the file is executed."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from compressor.checkpoint import pickles
from compressor.checkpoint.formats import Format, damaged, sniff
from compressor.errors import InputRejected

# Keys under which training scripts save weights, the likeliest first. Averaged copies and teachers come last.
WRAPPERS = (
    "state_dict", "model_state_dict", "model_state", "model", "net", "network", "student", "classifier", "module",
    "weights", "params", "parameters", "model_ema", "state_dict_ema", "ema_state_dict", "ema", "teacher",
)  # fmt: skip
PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "network.", "backbone.", "student.")
_NOT_WEIGHTS = ("optim", "sched", "scaler", "rng", "loop", "callback", "hyper", "args", "config")
_DEPTH = 5  # deeper nesting is no checkpoint, and a pickled list may contain itself


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


@dataclass(frozen=True)
class Unwrapped:
    """`tensors` by name, the `wrapper` they were under (`state_dict`, `[0].model`, or empty), and what lay beside."""

    tensors: dict[str, Tensor]
    wrapper: str = ""
    metadata: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


class NoWeights(Exception):
    """There is no single set of named tensors; the message says what there is, to follow the file's name."""


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


def unwrap(content: object) -> Unwrapped:
    """Find the one mapping of names to tensors.

    Raises:
        NoWeights: there is none, or there are several and no usual name decides.
    """
    trail: list[str] = []
    metadata: dict[str, Any] = {}
    notes: list[str] = []
    while True:
        inner = _holders(content)
        if isinstance(content, Mapping):
            key, note = _choose(content, inner)
            metadata |= {str(name): plain(value) for name, value in content.items() if not _kept(name, value, key)}
            if note:
                notes.append(note)
            if key is None:
                return Unwrapped(_named_tensors(content), _joined(trail), metadata, tuple(notes))
        elif len(inner) == 1:
            key = next(iter(inner))
        else:
            raise NoWeights(_described(content, inner))
        trail.append(f"[{key}]" if isinstance(content, list | tuple) else str(key))
        content = inner[key]


def strip_prefixes(tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Remove `module.` and its like, as often as all names share one; return what was removed, outermost first."""
    removed: list[str] = []
    while tensors:
        shared = [prefix for prefix in PREFIXES if all(name.startswith(prefix) for name in tensors)]
        if not shared:
            break
        tensors = {name.removeprefix(shared[0]): tensor for name, tensor in tensors.items()}
        removed.append(shared[0])
    return tensors, tuple(removed)


def plain(value: object, depth: int = 3) -> Any:
    """Return a value as JSON can hold it; what cannot be, by the name of its type."""
    if isinstance(value, Tensor):
        number = value.numel() == 1 and not value.is_complex()
        return value.item() if number else f"tensor {tuple(value.shape)}"
    if isinstance(value, bool | int | float | str) or value is None:
        return value
    if depth and isinstance(value, Mapping) and len(value) <= 100:
        return {str(name): plain(inner, depth - 1) for name, inner in value.items()}
    if depth and isinstance(value, list | tuple) and len(value) <= 100:
        return [plain(inner, depth - 1) for inner in value]
    size = f" of {len(value)}" if isinstance(value, Mapping | list | tuple) else ""
    return type(value).__name__ + size


def _choose(content: Mapping[Any, Any], inner: dict[Any, Any]) -> tuple[Any, str | None]:
    """Return the key to go on with (None: the tensors are here) and a note where something else was left."""
    named = [name for name in WRAPPERS if name in inner]
    if named:
        left = ", ".join(repr(name) for name in named[1:])
        return named[0], f"took {named[0]!r}, not {left}" if left else None
    if any(isinstance(value, Tensor) for value in content.values()):
        return None, None
    likely = [name for name in inner if not any(word in str(name).lower() for word in _NOT_WEIGHTS)]
    if len(likely) == 1:
        return likely[0], None
    raise NoWeights(_described(content, {name: inner[name] for name in likely}))


def _holders(content: object, depth: int = _DEPTH) -> dict[Any, Any]:
    """Return the entries of a mapping, list or tuple in which there are mappings of names to tensors."""
    if isinstance(content, Mapping):
        entries = list(content.items())
    elif isinstance(content, list | tuple):
        entries = list(enumerate(content))
    else:
        return {}
    return {name: value for name, value in entries if depth and _holds(value, depth - 1)}


def _holds(value: object, depth: int) -> bool:
    if isinstance(value, Mapping) and any(isinstance(k, str) and isinstance(v, Tensor) for k, v in value.items()):
        return True
    return bool(_holders(value, depth))


def _named_tensors(content: Mapping[Any, Any]) -> dict[str, Tensor]:
    return {str(name): value.detach() for name, value in content.items() if isinstance(value, Tensor)}


def _kept(name: object, value: object, key: object) -> bool:
    return name == key if key is not None else isinstance(value, Tensor)


def _joined(trail: list[str]) -> str:
    return ".".join(trail).replace(".[", "[")


def _described(content: object, inner: dict[Any, Any]) -> str:
    if len(inner) > 1:
        return "holds several sets of weights (" + ", ".join(str(name) for name in list(inner)[:6]) + ")"
    if isinstance(content, Mapping):
        keys = ", ".join(str(name) for name in list(content)[:6]) or "nothing"
        return f"holds no weights, only {keys}"
    return f"holds no weights, only a {type(content).__name__}"
