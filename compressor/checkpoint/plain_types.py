"""Plain data types that training scripts save beside weights: read as what they hold, none of them imported.

Each name in a pickle that is allowed here is answered by a stand-in of ours, which keeps the values and nothing more:
no code of NumPy, OmegaConf or a user's package runs, whatever the file says.
"""

import datetime
import decimal
import struct
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

_FORMATS = {
    "f8": "d", "f4": "f", "f2": "e", "i8": "q", "i4": "i", "i2": "h", "i1": "b", "u8": "Q", "u4": "I", "u2": "H",
    "u1": "B", "b1": "?",
}  # fmt: skip


class Settings(dict[Any, Any]):
    """Stands for an object that only has attributes, or a dictionary by another name."""

    def __new__(cls, *_arguments: object) -> "Settings":
        return super().__new__(cls)

    def __init__(self, *arguments: object) -> None:
        super().__init__()
        for argument in arguments:
            if isinstance(argument, dict | list):
                self.update(argument)

    def __setstate__(self, state: object) -> None:
        parts = state if isinstance(state, tuple) else (state,)
        for part in parts:
            if isinstance(part, dict):
                self.update(part)


class Opaque:
    """Stands for a value that is not looked into: a type, an array, an entry of a settings library."""

    def __new__(cls, *_arguments: object) -> "Opaque":
        return super().__new__(cls)

    def __init__(self, *arguments: object) -> None:
        self.arguments = arguments

    def __setstate__(self, state: object) -> None:
        self.state = state


class _NumberType:
    """Stands for `numpy.dtype`: the kind and size of a number, such as `f8`, and its byte order."""

    def __new__(cls, *_arguments: object) -> "_NumberType":
        return super().__new__(cls)

    def __init__(self, name: object = "", *_flags: object) -> None:
        self.name, self.order = name, "<"

    def __setstate__(self, state: object) -> None:
        if isinstance(state, tuple) and len(state) > 1 and state[1] == ">":
            self.order = ">"


def _number(kind: object, raw: object = b"") -> object:
    """Return a scalar of NumPy as Python's number."""
    if isinstance(kind, _NumberType) and kind.name in _FORMATS and isinstance(raw, bytes):
        return struct.unpack(kind.order + _FORMATS[str(kind.name)], raw)[0]
    return raw if isinstance(raw, str | bytes) else "a number of NumPy"


def _bytes(text: object, _encoding: object = "latin1") -> bytes:
    """Return bytes that an old protocol wrote as text."""
    return str(text).encode("latin1")


def _path(*parts: object) -> str:
    return "/".join(map(str, parts)).replace("//", "/")


def _text(value: object = "", *_others: object) -> str:
    return str(value)


# Their names, by module.
_SETTINGS = {
    "argparse": ["Namespace"],
    "types": ["SimpleNamespace"],
    "omegaconf.dictconfig": ["DictConfig"],
    "omegaconf.base": ["Metadata", "ContainerMetadata"],
    "yacs.config": ["CfgNode"],
    "easydict": ["EasyDict"],
    "addict.addict": ["Dict"],
    "munch": ["Munch"],
    "ml_collections.config_dict.config_dict": ["ConfigDict"],
    "pytorch_lightning.utilities.parsing": ["AttributeDict"],
    "lightning.pytorch.utilities.parsing": ["AttributeDict"],
    "lightning_fabric.utilities.data": ["AttributeDict"],
    "lightning.fabric.utilities.data": ["AttributeDict"],
}
_OPAQUE = {
    "numpy": ["ndarray"],
    "numpy.core.multiarray": ["_reconstruct"],
    "numpy._core.multiarray": ["_reconstruct"],
    "omegaconf.listconfig": ["ListConfig"],
    "omegaconf.nodes": ["AnyNode", "StringNode", "IntegerNode", "FloatNode", "BooleanNode"],
    "typing": ["Any"],
    "pandas._libs.tslibs.timestamps": ["_unpickle_timestamp"],
}
_TYPES = [int, float, str, bool, list, dict, tuple, set, frozenset, complex, bytearray, bytes, range, slice, object]
_DATES = [datetime.datetime, datetime.date, datetime.time, datetime.timedelta, datetime.timezone]
_PATHS = ["PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath", "Path"]


def stand_ins() -> list[Callable[..., Any] | tuple[Callable[..., Any], str]]:
    """Return what answers each allowed name of a pickle, as `torch.serialization.safe_globals` takes it."""
    return [(made, name) for name, made in by_name().items()]


def by_name() -> dict[str, Callable[..., Any]]:
    """Return the stand-in of each name, `module.name`."""
    found: list[tuple[Callable[..., Any], str]] = [
        (_default_dict, "collections.defaultdict"),
        (_bytes, "_codecs.encode"),
        (_NumberType, "numpy.dtype"),
        (_number, "numpy.core.multiarray.scalar"),
        (_number, "numpy._core.multiarray.scalar"),
        (decimal.Decimal, "decimal.Decimal"),
        (_text, "torch.torch_version.TorchVersion"),
    ]
    found += [(Settings, f"{module}.{name}") for module, names in _SETTINGS.items() for name in names]
    found += [(Opaque, f"{module}.{name}") for module, names in _OPAQUE.items() for name in names]
    found += [(_path, f"{module}.{name}") for module in ("pathlib", "pathlib._local") for name in _PATHS]
    found += [(kind, f"datetime.{kind.__name__}") for kind in _DATES]
    found += [(kind, f"{module}.{kind.__name__}") for kind in _TYPES for module in ("builtins", "__builtin__")]
    return {name: made for made, name in found}


def _default_dict(*_arguments: object) -> OrderedDict[Any, Any]:
    return OrderedDict()
