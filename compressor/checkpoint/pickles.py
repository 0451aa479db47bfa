"""What a pickle would import, read from its opcodes. Nothing of it is imported, called or unpickled."""

import io
import pickletools
import warnings
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import IO, Any, NoReturn

import torch

from compressor.checkpoint.formats import Format, guarded, mappable
from compressor.checkpoint.plain_types import by_name, stand_ins
from compressor.errors import InputRejected

# What torch.save itself writes for tensors; these names accuse nobody.
_HARMLESS = ("collections.OrderedDict", "torch._utils._rebuild_", "torch.Size", "torch.device", "torch.serialization.")
# Keys under which training scripts save weights, the likeliest first. Averaged copies and teachers come last.
WRAPPERS = (
    "state_dict", "model_state_dict", "model_state", "model", "net", "network", "student", "classifier", "module",
    "weights", "params", "parameters", "model_ema", "state_dict_ema", "ema_state_dict", "ema", "teacher",
)  # fmt: skip
_SKIPPED = {"PROTO", "FRAME", "MARK", "EMPTY_DICT", "BINPUT", "LONG_BINPUT", "MEMOIZE"}
_PUSHES_TEXT = {"BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "UNICODE"}
_PICKLES_OF_TORCH = 4  # torch.save before 1.6: a magic number, the protocol, the machine, then the object
_SHOWN = 6
_LOOKED_AT = 10_000  # operations of a pickle, until the key of the weights is found


def load(path: Path, format_: Format) -> object:
    """Return what torch.save or pickle wrote, on the CPU: tensors, plain data (`plain_types`) and containers of them.

    Raises:
        InputRejected: it holds code, which is named and was not run, or it is damaged.
    """
    mapped = mappable(path)
    with guarded(path), warnings.catch_warnings():
        # Torch warns of pickles that it did not write, and of tensors of kinds in beta; both are seen here anyway.
        warnings.simplefilter("ignore")
        try:
            with torch.serialization.safe_globals(stand_ins()):
                # Mapped, a large file costs no memory until its tensors are copied into a network.
                return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
        except Exception:
            names = unsafe_globals(path, format_)
            if names:
                _refuse(path, format_, names)
            raise


def unsafe_globals(path: Path, format_: Format) -> list[str]:
    """Return the names of the classes and functions that unpickling would import or call, beyond those of plain data.

    Names that the pickle computes as it runs cannot be seen; it is not loaded either way.
    """
    found = {name for content in _pickles(path, format_) for name in global_names(content)}
    return _ordered(name for name in found - by_name().keys() if not _harmless(name))


def way_out(path: Path, format_: Format) -> str:
    """Return two lines of Python that save the weights of this very file, for those who trust it."""
    place = "checkpoint.state_dict()"
    for content in _pickles(path, format_):
        place = _place(content) or place
    return (
        "where you trust the code that made it, run there: "
        f"checkpoint = torch.load({path.name!r}, map_location='cpu', weights_only=False); "
        f"torch.save({place}, 'weights.pt'); or export the model itself with torch.export.save or TorchScript"
    )


def global_names(content: bytes) -> list[str]:
    """Return `module.name` for each import of a pickle."""
    return list(_globals(io.BytesIO(content)))


def _pickles(path: Path, format_: Format) -> list[bytes]:
    """Return the pickles of a file; what cannot be read has none, and the caller says that it is damaged."""
    try:
        if format_ is Format.TORCH:
            with zipfile.ZipFile(path) as archive:
                return [archive.read(name) for name in archive.namelist() if name.endswith("data.pkl")]
        with path.open("rb") as file:
            found = []
            for _ in range(_PICKLES_OF_TORCH):
                start = file.tell()
                with suppress(ValueError, IndexError, KeyError, OverflowError, UnicodeDecodeError):
                    for _ in pickletools.genops(file):
                        pass
                length = file.tell() - start
                file.seek(start)
                found.append(file.read(length))
            return found
    except Exception:  # bytes that anyone may have written
        return []


def _place(content: bytes) -> str | None:
    """Return where the weights are in the object of a pickle, as Python reaches them; None where that is not seen."""
    found: list[tuple[str, Any]] = []
    with suppress(ValueError, IndexError, KeyError, OverflowError, UnicodeDecodeError):
        found = [(opcode.name, value) for opcode, value, _ in islice(pickletools.genops(content), _LOOKED_AT)]
    found = [(name, value) for name, value in found if name not in _SKIPPED]
    for at, (name, value) in enumerate(found[:-1]):
        if at == 0 and _made(found[at:]):
            return "checkpoint.state_dict()"
        if name in _PUSHES_TEXT and value in WRAPPERS:
            return f"checkpoint[{value!r}]" + (".state_dict()" if _made(found[at + 1 :]) else "")
    return None


def _made(operations: Sequence[tuple[str, Any]]) -> bool:
    """Whether these begin with an object of a class; torch.save before 1.6 put a note of its source before it."""
    name, value = operations[0]
    if name in _PUSHES_TEXT and value == "module":
        name, value = operations[1] if len(operations) > 1 else ("", None)
    return name == "GLOBAL" and value != "collections OrderedDict"


def _refuse(path: Path, format_: Format, names: list[str]) -> NoReturn:
    rest = len(names) - _SHOWN
    listed = ", ".join(names[:_SHOWN]) + (f" and {rest} more" if rest > 0 else "")
    raise InputRejected(
        f"{path} was not loaded: it is a pickle that would run code, using {listed}", hint=way_out(path, format_)
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
