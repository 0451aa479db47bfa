"""What a pickle would import, read from its opcodes. Nothing of it is imported, called or unpickled."""

import pickletools
import struct
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from pickle import UnpicklingError
from typing import IO, NoReturn

import torch

from compressor.checkpoint.formats import Format, damaged, mappable
from compressor.errors import InputRejected

# What torch.save itself writes for tensors; these names accuse nobody.
_HARMLESS = ("collections.OrderedDict", "torch._utils._rebuild_", "torch.Size", "torch.device", "torch.serialization.")
_PUSHES_TEXT = {"BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "UNICODE"}
_PICKLES_OF_TORCH = 4  # torch.save before 1.6: a magic number, the protocol, the machine, then the object
_SHOWN = 6

# What torch.load and its unpickler raise for files that are not whole, beside UnpicklingError.
_BROKEN = (RuntimeError, EOFError, ValueError, LookupError, AttributeError, TypeError, AssertionError, OSError)

WAY_OUT = (
    "where you trust the code that made it, save the weights alone: torch.save(model.state_dict(), 'weights.pt'); "
    "or export the model itself with torch.export.save or TorchScript"
)


def load(path: Path, format_: Format) -> object:
    """Return what torch.save or pickle wrote, on the CPU, if it is tensors, numbers, texts and containers of them.

    Raises:
        InputRejected: it holds code, which is named and was not run, or it is damaged.
    """
    try:
        with warnings.catch_warnings():
            # Said of every pickle that torch.save did not write; what matters is whether it loads.
            warnings.filterwarnings("ignore", message="Detected pickle protocol")
            # Mapped, a large file costs no memory until its tensors are copied into a network.
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mappable(path))
    except (UnpicklingError, struct.error, *_BROKEN) as error:
        names = unsafe_globals(path, format_)
        if names:
            _refuse(path, names)
        damaged(path, error)


def unsafe_globals(path: Path, format_: Format) -> list[str]:
    """Return the names of the classes and functions that unpickling would import or call, beyond those of tensors.

    Names that the pickle computes as it runs cannot be seen; it is not loaded either way.
    """
    if format_ is Format.TORCH:
        try:
            return _ordered(torch.serialization.get_unsafe_globals_in_checkpoint(path))
        except (RuntimeError, ValueError, IndexError, KeyError, UnpicklingError):
            return []  # not even its opcodes can be read: it is damaged, and the caller says so
    with path.open("rb") as file:
        found = {name for _ in range(_PICKLES_OF_TORCH) for name in _globals(file)}
    return _ordered(name for name in found if not _harmless(name))


def _refuse(path: Path, names: list[str]) -> NoReturn:
    rest = len(names) - _SHOWN
    listed = ", ".join(names[:_SHOWN]) + (f" and {rest} more" if rest > 0 else "")
    raise InputRejected(
        f"{path} was not loaded: it is a pickle that would run code, using {listed}",
        hint=WAY_OUT,
    )


def _globals(file: IO[bytes]) -> Iterator[str]:
    """Yield `module.name` for each import of the next pickle in `file`, leaving off where it makes no sense."""
    texts: list[str] = []  # what was pushed as text, latest last: STACK_GLOBAL takes two
    memo: dict[int, str] = {}
    try:
        for opcode, argument, _ in pickletools.genops(file):
            if opcode.name in {"GLOBAL", "INST"}:
                yield str(argument).replace(" ", ".", 1)
            elif opcode.name == "STACK_GLOBAL":
                yield ".".join(texts[-2:])
            elif opcode.name in _PUSHES_TEXT:
                texts.append(str(argument))
            elif opcode.name in {"MEMOIZE", "BINPUT", "LONG_BINPUT"} and texts:
                memo[len(memo) if argument is None else argument] = texts[-1]
            elif opcode.name in {"BINGET", "LONG_BINGET"} and argument in memo:
                texts.append(memo[argument])
    except (ValueError, UnicodeDecodeError, OverflowError):
        return


def _ordered(names: Iterable[str]) -> list[str]:
    """Sort names, foreign ones before torch's."""
    return sorted(names, key=lambda name: (name.startswith("torch."), name))


def _harmless(name: str) -> bool:
    return name.startswith(_HARMLESS) or (name.startswith("torch.") and name.endswith("Storage"))
