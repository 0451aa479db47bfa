"""Decoded images in one file that is made once and then mapped into memory, so that no later run decodes them.

A cache is `KEY-STATE.npy`, the images `[N, H, W, C]` uint8 as NumPy writes them, and `KEY-STATE.json`, which is written
last: without it there is no cache. KEY is a digest of where the images come from and what they are brought to, STATE of
what they were there; when that changes, the file is made anew and the old one removed.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import torch
from torch import Tensor
from torch.utils.data import Dataset as TorchDataset

from compressor.data.images import Damaged, Pixels
from compressor.data.photo import Photo
from compressor.data.streamed import batches_of
from compressor.errors import EnvironmentMissing, InputRejected
from compressor.files import LOCKS, explained, locked, write_text

_LAYOUT = 1  # of the files; another number is another cache
_HINT = "free some space, or choose another folder with --cache"

Put = Callable[[int, Pixels], object]
Shape = tuple[int, int, int, int]


@dataclass(frozen=True)
class Scan:
    """What a look at all files found: the damaged ones by row, and how many images have transparency."""

    damaged: dict[int, Damaged] = field(default_factory=dict)
    transparent: int = 0


@dataclass(frozen=True)
class Cache:
    """Where decoded images are kept: of which `source`, and `state`, which yields what changes when its files do."""

    folder: Path
    source: str
    state: Callable[[], Iterable[str]]


def stamped(paths: Iterable[str]) -> Iterator[str]:
    """Yield name, size and time of change of each file, by which a change is noticed.

    Raises:
        InputRejected: a file cannot be looked at.
    """
    for path in paths:
        try:
            seen = os.stat(path)  # noqa: PTH116 (a Path makes it three times as long, for a million files)
        except OSError as error:
            raise InputRejected(f"{path} cannot be read: {error.strerror}") from error
        yield f"{os.path.basename(path)}/{seen.st_size}/{seen.st_mtime_ns}"  # noqa: PTH119 (as above)


def packed(
    cache: Cache, shape: Shape, wanted: tuple[tuple[int, int] | None, int | None], decoded: Callable[[Put], Scan]
) -> tuple[Path, Scan, bool]:
    """Return the file of the decoded images, what was found when they were decoded, and whether that was now.

    One process makes it while others wait. One that is killed leaves nothing that another takes for the cache.

    Args:
        shape: of all images, `[N, H, W, C]`.
        wanted: what the images are brought to: size and channels, where they are asked for.
        decoded: decodes all images and hands over each with its row; from several threads.

    Raises:
        InputRejected: the folder cannot be written to, the disk is full, or what `decoded` raises.
        EnvironmentMissing: the system has no locks.
    """
    key = _digest([repr((_LAYOUT, PIL.__version__, cache.source, wanted))])
    path = cache.folder / f"{key}-{_digest([repr(shape), *cache.state()])}.npy"
    if (found := _read(path, shape)) is not None:
        return path, found, False
    with _alone(cache.folder, key):
        if (found := _read(path, shape)) is not None:  # another process made it meanwhile
            return path, found, False
        scan = _write(path, shape, decoded)
        damaged = [[row, one.path, one.reason] for row, one in scan.damaged.items()]
        said = {"source": cache.source, "shape": shape, "damaged": damaged, "transparent": scan.transparent}
        write_text(path.with_suffix(".json"), json.dumps(said, indent=1) + "\n")
        for old in cache.folder.glob(f"{key}-*"):
            if old.stem != path.stem:
                old.unlink(missing_ok=True)
    return path, scan, True


@dataclass(frozen=True)
class Mapped:
    """Images in a file that is mapped into memory: what is read of it, the system keeps or forgets as it has room."""

    path: Path
    device: torch.device
    workers: int

    @cached_property
    def images(self) -> Pixels:
        """All of them, `[N, H, W, C]`."""
        return _mapped(self.path)

    def fetch(self, batches: Iterable[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        for rows in batches:
            yield torch.from_numpy(self.images[rows.numpy()]).to(self.device), torch.arange(len(rows))

    def changed(self, batches: Iterable[tuple[Tensor, Tensor]], photo: Photo) -> Iterator[tuple[Tensor, Tensor]]:
        wanted = (list(zip(rows.tolist(), seeds.T.tolist(), strict=True)) for rows, seeds in batches)
        for pixels in batches_of(_Changer(self.path, photo), wanted, self.workers):
            yield torch.from_numpy(pixels).to(self.device), torch.arange(pixels.shape[1])


@dataclass(frozen=True)
class _Changer(TorchDataset[Any]):
    """What a worker does with the rows of a batch and the seeds of each, one a view: views `[V, B, H, W, C]`."""

    path: Path
    photo: Photo

    def __getitems__(self, wanted: list[tuple[int, list[int]]]) -> Pixels:
        images = _mapped(self.path)
        return np.asarray([[self.photo(images[row], seed) for seed in seeds] for row, seeds in wanted]).swapaxes(0, 1)


def _mapped(path: Path) -> Pixels:
    images: Pixels = np.load(path, mmap_mode="r", allow_pickle=False)
    return images


def _read(path: Path, shape: Shape) -> Scan | None:
    """Return what is written beside a finished cache; None where there is none, or not a whole one."""
    try:
        said = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        images = _mapped(path)
        if tuple(said["shape"]) != shape or images.shape != shape or images.dtype != np.uint8:
            return None
        damaged = {int(row): Damaged(str(where), str(reason)) for row, where, reason in said["damaged"]}
        return Scan(damaged, int(said["transparent"]))
    except (OSError, ValueError, KeyError, TypeError, EOFError):
        return None


def _write(path: Path, shape: Shape, decoded: Callable[[Put], Scan]) -> Scan:
    """Decode into a temporary file, which gets its name when it is whole.

    The pixels are written, not mapped: on a full disk, a process that writes to mapped memory is killed.
    """
    part = path.with_name(f".{path.name}.part")
    stride = shape[1] * shape[2] * shape[3]
    try:
        with explained(path, hint=_HINT), part.open("w+b") as file:
            np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
            file.flush()
            first = file.tell()
            os.ftruncate(file.fileno(), first + shape[0] * stride)
            scan = decoded(lambda row, pixels: _put(file.fileno(), pixels, first + row * stride))
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return scan


def _put(file: int, pixels: Pixels, place: int) -> None:
    rest = memoryview(pixels.tobytes())
    while rest:
        written = os.pwrite(file, rest, place)  # fewer than asked when the disk is about to be full
        rest, place = rest[written:], place + written


@contextmanager
def _alone(folder: Path, key: str) -> Iterator[None]:
    """Hold the making of a cache for this process, and remove what a killed one left half written."""
    if not LOCKS:
        raise EnvironmentMissing("data.cache needs a POSIX system", hint="leave --cache out")
    with explained(folder, hint=_HINT):
        folder.mkdir(parents=True, exist_ok=True)
        opened = (folder / f".{key}.lock").open("ab")
    with opened as lock:
        locked(lock, wait=True)
        for left in folder.glob(f".{key}-*.part"):
            left.unlink(missing_ok=True)
        yield


def _digest(lines: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for line in lines:
        digest.update(line.encode(errors="surrogateescape") + b"\n")
    return digest.hexdigest()[:16]
