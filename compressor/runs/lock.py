"""One process at a time works in a run folder, and removes what killed ones left half written."""

import os
import re
import shlex
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from compressor.errors import UsageError
from compressor.files import LOCKS, explained, locked

LOCK = ".lock"
BUILDING = ".building-"  # how folders begin in which an artifact is made
_WRITTEN = (".", "student", "checkpoints", "export", "report")  # folders of a run that files are written to
_POLL_S = 0.1


def free(folder: Path, seconds: float) -> bool:
    """Wait until no process works in a folder, `seconds` at most; return whether that is so."""
    end = time.monotonic() + seconds
    while True:
        try:
            with working(folder):
                return True
        except UsageError:
            if time.monotonic() >= end:
                return False
        time.sleep(_POLL_S)


@contextmanager
def working(folder: Path) -> Iterator[None]:
    """Hold a run folder for this process, until the block ends or the process does, however it ends.

    Raises:
        UsageError: another process works in it.
        InputRejected: it cannot be written to.
    """
    if not LOCKS:
        yield
        return
    hint = f"free some space, or choose another folder: compress validate {shlex.quote(str(folder))} --out FOLDER"
    with explained(folder, hint=hint):
        folder.mkdir(parents=True, exist_ok=True)
        opened = (folder / LOCK).open("a+", encoding="ascii")
    with opened as lock:
        if not locked(lock, wait=False):
            lock.seek(0)
            raise UsageError(
                f"another process works in {folder} (process {lock.read().strip() or 'unknown'})",
                hint="wait for it to end, or choose another --out",
            )
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        _sweep(folder)
        yield


def _sweep(folder: Path) -> None:
    """Remove what killed processes left half written; nobody else writes here now.

    A folder that is a link is passed over: a run from elsewhere may point anywhere.
    """
    folders = (folder / name for name in _WRITTEN)
    for path in (each for inner in folders if not inner.is_symlink() for each in inner.glob(".*")):
        if is_leftover(path):
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def is_leftover(path: Path) -> bool:
    """Whether a name is that of a file or folder which is renamed or removed when it is finished."""
    return path.name.startswith(BUILDING) or re.fullmatch(r"\..+\.\d+\.part", path.name) is not None
