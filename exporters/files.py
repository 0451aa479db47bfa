"""Artifacts that are whole or absent."""

import os
from pathlib import Path

from exporters.errors import ExportFailed


def write_whole(path: Path, content: bytes) -> None:
    """Write beside `path`, flush to disk, rename: what `path` held before stays until the new file is complete.

    Raises:
        ExportFailed: the folder cannot be written to, or the disk is full.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise ExportFailed(f"cannot write {path}: {reason}", hint="free some space or choose another folder") from error
    finally:
        if temporary.parent.is_dir():
            temporary.unlink(missing_ok=True)
