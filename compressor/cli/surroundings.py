"""What a command is started among: streams that take nothing, encodings that lack a character, memory that ends."""

from __future__ import annotations

import errno
import io
import os
import sys
from pathlib import Path

from compressor.errors import EnvironmentMissing, UsageError

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF}
_DENIED = {errno.EROFS, errno.EACCES, errno.EPERM}
# How torch and the system's loader say, in errors of other kinds, that there is no memory left.
_NO_MEMORY = ("can't allocate memory", "cannot allocate memory", "failed to map segment", "std::bad_alloc")


def settle() -> None:
    """Make the streams take all that is printed, and leave the user's choice of a window to draw in aside.

    What an encoding cannot hold is printed as a question mark; a stream that was closed takes everything.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115 (as long as we run)
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    os.environ["MPLBACKEND"] = "agg"  # figures are drawn into files; importing Matplotlib fails on a wrong name


def require_date() -> None:
    """See that `SOURCE_DATE_EPOCH`, which dates what is written, is a time.

    Raises:
        UsageError: it is none.
    """
    given = os.environ.get("SOURCE_DATE_EPOCH", "0")
    if not (given.isascii() and given.isdecimal()):
        raise UsageError(
            f"SOURCE_DATE_EPOCH is {given!r}, not a number of seconds since 1970", hint="unset SOURCE_DATE_EPOCH"
        )


def refused(error: BaseException) -> EnvironmentMissing | None:
    """Return what the system refused in a sentence, None where the error is of another kind."""
    if isinstance(error, MemoryError) or any(words in str(error).lower() for words in _NO_MEMORY):
        return EnvironmentMissing("there is not enough memory", hint="a smaller --batch-size, or a higher ulimit -v")
    if isinstance(error, OSError) and error.errno in _FULL:
        _give_up_output()
        return EnvironmentMissing(
            f"{error.filename or 'the output'} cannot be written: {os.strerror(error.errno).lower()}"
        )
    if isinstance(error, OSError) and error.errno in _DENIED:
        return EnvironmentMissing(
            f"{error.filename or 'a file'} cannot be opened: {os.strerror(error.errno).lower()}",
            hint="give it to this user, or copy the run to where you may write and work there",
        )
    return None


def _give_up_output() -> None:
    """Drop what standard output still holds and does not take, so that Python does not try again at its end."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
