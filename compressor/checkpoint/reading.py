"""A checkpoint's bytes to named tensors, whatever they are wrapped in. Nothing in the file is executed."""

import datetime
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from compressor.checkpoint import pickles
from compressor.checkpoint.folding import NoWeights, folded, refuse_odd
from compressor.checkpoint.formats import Format, guarded, sniff
from compressor.checkpoint.pickles import WRAPPERS
from compressor.errors import InputRejected

PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "network.", "backbone.", "student.")
_KINDS = {"F64", "F32", "F16", "BF16", "I64", "I32", "I16", "I8", "U8", "BOOL", "U16", "U32", "U64"}  # of safetensors
_SHOWN = 3
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


def read_tensors(path: Path, *, weights: str | None = None) -> Tensors:
    """Read the weights of a checkpoint, whatever they are wrapped in.

    Args:
        weights: which of several sets, by the key or the first part of the names that they have in the file.

    Raises:
        InputRejected: the file is absent, foreign, damaged or a pickle with code, holds no single set of weights or no
            plain numbers, or a weight is NaN or infinite.
    """
    found = open_tensors(path, weights=weights)
    for name, tensor in found.tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            bad = int((~torch.isfinite(tensor)).sum())
            raise InputRejected(
                f"{path} has NaN or infinite weights: {bad} of {tensor.numel()} in {name}",
                hint="its training diverged: take an earlier checkpoint",
            )
    return found


def open_tensors(path: Path, *, weights: str | None = None) -> Tensors:
    """As `read_tensors`, whatever values the weights have."""
    format_ = sniff(path)
    content: object
    if format_ is Format.SAFETENSORS:
        content, metadata = _safetensors(path)
    elif format_ in {Format.TORCH, Format.PICKLE}:
        content, metadata = pickles.load(path, format_), dict[str, Any]()
    else:
        raise InputRejected(
            f"{path} is a {format_.value}: it holds a whole network, not weights for another one",
            hint="give it as the teacher, without --teacher-arch",
        )
    try:
        found = unwrap(content, weights)
        if not found.tensors:
            raise NoWeights("holds no weights")
        refuse_odd(found.tensors)
        tensors, folding = folded(found.tensors)
    except NoWeights as nothing:
        raise InputRejected(f"{path} {nothing}", hint=nothing.hint or "save the network's state_dict() alone") from None
    tensors, prefixes = strip_prefixes(tensors)
    return Tensors(tensors, format_, metadata | found.metadata, found.wrapper, prefixes, (*found.notes, *folding))


def _safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    with guarded(path), safe_open(path, framework="pt", device="cpu") as file:
        names = list(file.keys())
        kinds = {name: str(file.get_slice(name).get_dtype()) for name in names}
        odd = next((name for name, kind in kinds.items() if kind not in _KINDS), None)
        if odd is not None:
            raise InputRejected(
                f"{path} holds {odd} as numbers of the kind {kinds[odd]}, which are not computed with",
                hint="save the weights as float32, float16 or bfloat16",
            )
        return {name: file.get_tensor(name) for name in names}, dict(file.metadata() or {})


def unwrap(content: object, weights: str | None = None) -> Unwrapped:
    """Find the one mapping of names to tensors; `weights` is the key or first part of names that chooses among several.

    Raises:
        NoWeights: there is none, or there are several and neither `weights` nor a usual name decides.
    """
    trail: list[str] = []
    metadata: dict[str, Any] = {}
    notes: list[str] = []
    while True:
        inner = _holders(content)
        if isinstance(content, Mapping):
            key, note = _choose(content, inner, weights)
            weights = None if key is not None and key == weights else weights
            metadata |= {str(name): plain(value) for name, value in content.items() if not _kept(name, value, key)}
            if note:
                notes.append(note)
            if key is None:
                tensors = _named_tensors(content)
                if weights is not None:
                    tensors = _under(tensors, weights)
                    trail.append(weights)
                return Unwrapped(tensors, _joined(trail), metadata, tuple(notes))
        elif len(inner) == 1:
            key = next(iter(inner))
        else:
            raise NoWeights(_described(content, inner), hint=_several(inner))
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
    if isinstance(value, datetime.date | datetime.time | datetime.timedelta | Decimal):
        return str(value)
    if depth and isinstance(value, Mapping) and len(value) <= 100:
        return {str(name): plain(inner, depth - 1) for name, inner in value.items()}
    if depth and isinstance(value, list | tuple) and len(value) <= 100:
        return [plain(inner, depth - 1) for inner in value]
    size = f" of {len(value)}" if isinstance(value, Mapping | list | tuple) else ""
    return type(value).__name__ + size


def _choose(content: Mapping[Any, Any], inner: dict[Any, Any], weights: str | None) -> tuple[Any, str | None]:
    """Return the key to go on with (None: the tensors are here) and a note where other weights were left."""
    likely = [name for name in inner if not any(word in str(name).lower() for word in _NOT_WEIGHTS)]
    if weights is not None and weights in inner:
        return weights, None
    named = [name for name in WRAPPERS if name in inner]
    if named:
        others = [name for name in likely if name != named[0]]
        left = ", ".join(repr(name) for name in others[:_SHOWN])
        return named[0], f"took {named[0]!r}, not {left} (teacher.weights chooses)" if left and not weights else None
    if any(isinstance(value, Tensor) for value in content.values()):
        return None, None
    if len(likely) == 1:
        return likely[0], None
    options = {name: inner[name] for name in likely}
    raise NoWeights(_described(content, options), hint=_several(options))


def _several(inner: Mapping[Any, Any]) -> str | None:
    if len(inner) < 2:
        return None
    return f"--set teacher.weights={next(iter(inner))} takes the first of them"


def _under(tensors: dict[str, Tensor], first: str) -> dict[str, Tensor]:
    """Return the tensors whose names begin with `first`, without it."""
    found = {name.removeprefix(f"{first}."): tensor for name, tensor in tensors.items() if name.startswith(f"{first}.")}
    if not found:
        parts = ", ".join(dict.fromkeys(name.partition(".")[0] for name in tensors))
        raise NoWeights(f"holds no weights under {first!r}", hint=f"the names in it begin with {parts[:200]}")
    return found


def _holders(content: object, depth: int = _DEPTH, known: dict[tuple[int, int], bool] | None = None) -> dict[Any, Any]:
    """Return the entries of a mapping, list or tuple in which there are mappings of names to tensors."""
    known = {} if known is None else known  # what was looked into: a few objects may be nested into very many
    if isinstance(content, Mapping):
        entries = list(content.items())
    elif isinstance(content, list | tuple):
        entries = list(enumerate(content))
    else:
        return {}
    return {name: value for name, value in entries if depth and _holds(value, depth - 1, known)}


def _holds(value: object, depth: int, known: dict[tuple[int, int], bool]) -> bool:
    at = id(value), depth
    if at not in known:
        known[at] = isinstance(value, Mapping) and any(
            isinstance(k, str) and isinstance(v, Tensor) for k, v in value.items()
        )
        known[at] = known[at] or bool(_holders(value, depth, known))
    return known[at]


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
