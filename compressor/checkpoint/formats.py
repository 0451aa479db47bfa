"""What kind of file a path is, from its first bytes, without interpreting any of it."""

import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import NoReturn

from compressor.errors import CompressError, InputRejected, did_you_mean


class Format(Enum):
    """A file that can hold a network, as it is called in sentences."""

    SAFETENSORS = "safetensors"
    TORCH = "torch.save archive"
    PICKLE = "pickle"  # torch.save before 1.6, or any other pickle
    TORCHSCRIPT = "TorchScript archive"
    EXPORTED = "torch.export archive"


# First bytes -> what such a file is. None of these holds a network that can be trained from.
_FOREIGN = {
    b"version https://git-lfs": "a git-lfs pointer: the file itself was not downloaded",
    b"\x89HDF": "an HDF5 file, as Keras writes them",
    b"\x93NUMPY": "a NumPy array",
    b"\x1f\x8b": "a gzip archive",
    b"7z\xbc\xaf": "a 7z archive",
    b"GGUF": "a GGUF language model",
    b"\x89PNG": "a PNG image",
    b"%PDF": "a PDF document",
}
_HINTS = {
    b"version https://git-lfs": "run `git lfs pull` in the repository it came from",
    b"\x1f\x8b": "unpack it first",
    b"7z\xbc\xaf": "unpack it first",
}
_ANEW = "export or save it again"
_UNPACKED = 20  # times its own size; numbers hardly shrink at all
KINDS = "a checkpoint is a file of torch.save, safetensors, TorchScript or torch.export"


def sniff(path: Path) -> Format:
    """Return the format of a checkpoint.

    Raises:
        InputRejected: there is no such file, it cannot be read, or it is no checkpoint; the sentence says what it is.
    """
    head = _head(path)
    if not head:
        raise InputRejected(f"{path} is empty", hint="it was probably not copied or downloaded to its end")
    for magic, what in _FOREIGN.items():
        if head.startswith(magic):
            raise InputRejected(f"{path} is {what}", hint=_HINTS.get(magic, KINDS))
    if head.startswith(b"PK"):
        return _zipped(path)
    if head[8:9] == b"{" and head[4:8] == bytes(4):  # after the length of a JSON header, which may begin like a pickle
        return Format.SAFETENSORS
    if head[:1] == b"\x80" and head[1:2] in {b"\x02", b"\x03", b"\x04", b"\x05"}:
        return Format.PICKLE
    if head[8:9] == b"{":  # a length that no header has, which is said when it is read
        return Format.SAFETENSORS
    _refuse_text(path, head)
    if path.suffix == ".onnx":
        raise InputRejected(
            f"{path} is an ONNX file, which cannot be trained or differentiated",
            hint="give the checkpoint that it was exported from",
        )
    raise InputRejected(f"{path} is not a checkpoint of a kind known here", hint=KINDS)


def members(path: Path) -> list[str]:
    """Return the names in a zip archive, without the folder that torch puts around them.

    Raises:
        InputRejected: it is damaged, or two names are the same to readers that ignore case, as torch's does.
    """
    with guarded(path), zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    seen: set[str] = set()
    for name in names:
        if name.lower() in seen:
            raise InputRejected(f"{path} holds {name!r} twice, so that readers may differ about it", hint=_ANEW)
        seen.add(name.lower())
    return [name.partition("/")[2] or name for name in names]


def contents(path: Path) -> dict[str, bytes]:
    """Return the members of an archive by their full names.

    Raises:
        InputRejected: it is damaged, a name is there twice, or it unpacks to far more than it is.
    """
    members(path)
    with guarded(path), zipfile.ZipFile(path) as archive:
        size = sum(part.file_size for part in archive.infolist())
        if size > _UNPACKED * path.stat().st_size + 2**20:
            raise InputRejected(f"{path} unpacks to {size:,} bytes, far more than a network's numbers do", hint=_ANEW)
        return {part.filename: archive.read(part) for part in archive.infolist()}


def mappable(path: Path) -> bool:
    """Whether a file is an archive whose parts lie in it as they are; a zip tool may have compressed them."""
    with guarded(path):
        if not zipfile.is_zipfile(path):
            return False
    with guarded(path), zipfile.ZipFile(path) as archive:
        return all(part.compress_type == zipfile.ZIP_STORED for part in archive.infolist())


@contextmanager
def guarded(path: Path) -> Iterator[None]:
    """Around a parser of bytes that anyone may have written: whatever it raises means that they are damaged.

    Parsers meet such bytes with errors of every kind, so all are taken; none of our own decisions belongs inside.

    Raises:
        InputRejected: always in place of another exception.
    """
    try:
        yield
    except CompressError:
        raise
    except (Exception, MemoryError) as error:
        damaged(path, error)


def _head(path: Path) -> bytes:
    if path.is_dir():
        raise InputRejected(f"{path} is a folder, not a checkpoint", hint="give a file in it, or the folder of a run")
    try:
        with path.open("rb") as file:
            return file.read(1024)
    except FileNotFoundError:
        nearby = path.parent.iterdir() if path.parent.is_dir() else ()
        raise InputRejected(
            f"no such file: {path}", hint=did_you_mean(path.name, (other.name for other in nearby))
        ) from None
    except OSError as error:
        raise InputRejected(f"cannot read {path}: {error.strerror}") from error


def _zipped(path: Path) -> Format:
    with guarded(path):
        if not zipfile.is_zipfile(path):
            damaged(path, "its end is missing")
    names = set(members(path))
    if "archive_format" in names or "serialized_exported_program.json" in names:
        return Format.EXPORTED
    if "constants.pkl" in names:
        return Format.TORCHSCRIPT
    if "data.pkl" in names:
        return Format.TORCH
    raise InputRejected(f"{path} is a zip archive that holds no checkpoint", hint="unpack it first, if one is inside")


def _refuse_text(path: Path, head: bytes) -> None:
    try:
        text = head[: head.rfind(b"\n") + 1 or None].decode("utf-8").lstrip("\ufeff \r\n\t")
    except UnicodeDecodeError:
        return
    if not all(letter.isprintable() or letter.isspace() for letter in text):
        return
    if text.lower().startswith(("<!doctype html", "<html")):
        raise InputRejected(
            f"{path} is a web page, not a checkpoint", hint="the download gave an error page: try again"
        )
    raise InputRejected(f"{path} is a text file, not a checkpoint", hint=KINDS)


def damaged(path: Path, why: str | Exception) -> NoReturn:
    """Raise the sentence for a file that begins like a checkpoint and is not whole."""
    if isinstance(why, KeyError):
        why = f"it has no {why}"
    if isinstance(why, MemoryError):
        why = "it asks for more memory than there is"
    text = (str(why).strip() or type(why).__name__).splitlines()[0].split(". ")[0].rstrip(".")
    raise InputRejected(
        f"{path} is damaged or cut off: {text}", hint="copy or download it again, and compare its size"
    ) from why if isinstance(why, Exception) else None
