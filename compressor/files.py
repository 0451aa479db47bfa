"""Files that are whole or absent: written beside their final name, flushed to disk, then renamed."""

import errno
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from compressor.errors import InputRejected

try:
    import fcntl
except ImportError:  # not a POSIX system
    fcntl = None  # type: ignore[assignment]

LOCKS = fcntl is not None  # whether the system has locks that end with the process that holds them, however it ends
_REASONS = {
    errno.ENOSPC: "the disk is full",
    errno.EFBIG: "the file would be larger than is allowed here",
    errno.EDQUOT: "the disk quota is used up",
    errno.EROFS: "the file system is read-only",
    errno.EACCES: "the folder cannot be written to",
    errno.EPERM: "the folder cannot be written to",
    errno.EISDIR: "it is a folder",
    errno.ENOTDIR: "a part of its path is a file",
    errno.EEXIST: "a part of its path is a file",
}


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; what was written there becomes `path` at the end, or vanishes on an error.

    Write with Python's own files: libraries that write by path turn a full disk into errors of their own.

    Raises:
        InputRejected: the disk is full, the folder cannot be written to, or `path` cannot be a file there. What it held
            before is untouched.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    with explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with explained(path):
            yield temporary
            with temporary.open("rb+") as written:
                os.fsync(written.fileno())
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def locked(file: IO[Any], *, wait: bool) -> bool:
    """Take the lock of an open file for as long as it is open, on a system that has `LOCKS`.

    Args:
        wait: until nobody else holds it.

    Returns:
        whether it is taken.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def append_text(path: Path, text: str) -> None:
    """Add to a text file; a crash may cut the last line short."""
    with explained(path), path.open("a", encoding="utf-8") as file:
        file.write(text)


@contextmanager
def explained(path: Path, *, hint: str = "free some space or choose another folder") -> Iterator[None]:
    """Turn what keeps a file or folder from being written into the user's error.

    Raises:
        InputRejected: the disk is full, the folder cannot be written to, or `path` cannot be a file there.
    """
    try:
        yield
    except OSError as error:
        if error.errno in _REASONS:
            raise InputRejected(f"cannot write {path}: {_REASONS[error.errno]}", hint=hint) from error
        raise


def write_text(path: Path, text: str) -> None:
    """Write a text file, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def sha256(path: Path) -> str:
    """Return the hexadecimal SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
