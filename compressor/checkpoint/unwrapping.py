"""The weights inside what a checkpoint holds: under a wrapper, in a list of one, with prefixed names."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

# Keys under which training scripts save weights, the likeliest first. Averaged copies and teachers come last.
WRAPPERS = (
    "state_dict", "model_state_dict", "model_state", "model", "net", "network", "student", "classifier", "module",
    "weights", "params", "parameters", "model_ema", "state_dict_ema", "ema_state_dict", "ema", "teacher",
)  # fmt: skip
PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "network.", "backbone.", "student.")
_NOT_WEIGHTS = ("optim", "sched", "scaler", "rng", "loop", "callback", "hyper", "args", "config")
_DEPTH = 5  # deeper nesting is no checkpoint, and a pickled list may contain itself


@dataclass(frozen=True)
class Unwrapped:
    """`tensors` by name, the `wrapper` they were under (`state_dict`, `[0].model`, or empty), and what lay beside."""

    tensors: dict[str, Tensor]
    wrapper: str = ""
    metadata: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


class NoWeights(Exception):
    """There is no single set of named tensors; the message says what there is, to follow the file's name."""


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
