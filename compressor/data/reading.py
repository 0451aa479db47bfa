"""Many encoded images as one source: held on the device, mapped from a cache, or streamed where they are too large."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from compressor.data.cache import Cache, Mapped, Put, Scan, packed
from compressor.data.images import Damaged, File, Header, decode, listed, read_header, refuse_damage
from compressor.data.split import Held, Source
from compressor.data.streamed import Opener, Streamed, path_itself, spoken
from compressor.errors import InputRejected
from compressor.machine.hardware import cores

RESIDENT_LIMIT = 2**30  # bytes of decoded uint8 images; a set of more is streamed
_CHUNK = 64  # files that a thread takes at a time
_TINY = 96 * 96  # pixels; opening a smaller image takes longer than decoding it, and threads only get in the way


@dataclass(frozen=True)
class Files:
    """Images of one shape. Row `i` of the source is the `i`-th file; rows of `damaged` must not be asked for."""

    source: Source
    input_shape: tuple[int, int, int]
    damaged: dict[int, Damaged]
    notes: tuple[str, ...]


def open_files(
    files: Sequence[Any],
    *,
    size: tuple[int, int] | None,
    channels: int | None,
    device: torch.device,
    workers: int,
    held: bool | None = None,
    opener: Opener = path_itself,
    cache: Cache | None = None,
) -> Files:
    """Look at every file, and decode them all when they are small enough to be held on the device or there is a cache.

    Args:
        files: what `opener` opens, by default paths.
        size: height and width to bring them to; None asks that all have the same.
        channels: 1 or 3 to convert them all to; None asks that all have the same.
        held: decide for or against holding them, whatever their size.
        cache: where the decoded images are kept and found again.

    Raises:
        InputRejected: several sizes without `size`, grey beside colour, too many damaged files, or the cache cannot be
            written.
    """
    example, first = _first_readable(map(opener, files), len(files), channels)
    looked = _Look(files, opener, size, channels, example, first)
    height, width = size or (first.height, first.width)
    shape = (len(files), height, width, first.channels)
    raw = len(files) * height * width * first.channels
    if held is None:
        held = raw <= RESIDENT_LIMIT
    notes = []
    source: Source
    if cache is not None:
        path, scan, made = packed(cache, shape, (size, channels), looked.decoded)
        notes.append(f"{len(files):,} decoded images are {'kept in' if made else 'read from'} {path}")
        source = Mapped(path, device, min(workers, len(cores())))
        if held:
            source = Held(torch.from_numpy(np.array(source.images)).to(device))
    elif held:
        images = torch.empty(shape, dtype=torch.uint8)
        scan = looked.decoded(images.numpy().__setitem__)
        source = Held(images.to(device))
    else:
        scan = looked.headers()
        workers = min(workers, len(cores()))
        source = Streamed(files, shape[1:], size, device, workers, list(scan.damaged.values()), opener)
    if held:
        notes.insert(0, f"{len(files):,} images ({raw / 2**20:,.1f} MiB) are held on {device} as bytes")
    elif cache is None:
        notes.append(f"{len(files):,} images ({raw / 2**30:,.1f} GiB decoded) are streamed from their files")
    return Files(source, (first.channels, height, width), scan.damaged, (*notes, *_left_out(scan, len(files))))


@dataclass(frozen=True)
class _Look:
    """Looks at all files; `example` is the first readable one, and `first`, its header, what the others are to be."""

    files: Sequence[Any]
    opener: Opener
    size: tuple[int, int] | None
    channels: int | None
    example: File
    first: Header

    def headers(self) -> Scan:
        """Return what is wrong with the files, by their headers."""
        return self._scan(lambda row: read_header(self.opener(self.files[row]), self.channels))

    def decoded(self, put: Put) -> Scan:
        """Decode all files and hand over the pixels `[H, W, C]` of each row, in several threads."""
        wanted = self.size or (self.first.height, self.first.width)

        def look(row: int) -> Header | Damaged:
            decoded = decode(self.opener(self.files[row]), self.size, self.channels)
            if isinstance(decoded, Damaged):
                return decoded
            header, pixels = decoded
            if pixels.shape == (*wanted, self.first.channels):  # else the header will be refused
                put(row, pixels)
            return header

        return self._scan(look)

    def _scan(self, look: Callable[[int], Header | Damaged]) -> Scan:
        damaged: dict[int, Damaged] = {}
        transparent = 0
        threads = 1 if self.first.height * self.first.width < _TINY else min(16, len(cores()))
        for row, seen in enumerate(_in_threads(look, len(self.files), threads)):
            if isinstance(seen, Damaged):
                damaged[row] = seen
                continue
            self._refuse_difference(row, seen)
            transparent += seen.alpha
        refuse_damage(list(damaged.values()), len(self.files))
        return Scan(damaged, transparent)

    def _refuse_difference(self, row: int, seen: Header) -> None:
        first = self.first
        if seen.channels != first.channels:
            pair = (self.example, self.opener(self.files[row]))
            grey, colour = pair if first.channels == 1 else reversed(pair)
            raise InputRejected(
                f"the images are not of one kind: {grey} is grey and {colour} is colour",
                hint="--set data.channels=3 converts them all to colour, --set data.channels=1 to grey",
            )
        if self.size is None and (seen.height, seen.width) != (first.height, first.width):
            raise InputRejected(
                f"the images are not of one size: {self.example} is {spoken(first)} and "
                f"{self.opener(self.files[row])} is {spoken(seen)} pixels",
                hint=f"bring them to one with --image-size, for example --image-size {min(first.height, first.width)}",
            )


def _first_readable(files: Iterator[File], count: int, channels: int | None) -> tuple[File, Header]:
    damaged: list[Damaged] = []
    for file in files:
        header = read_header(file, channels)
        if isinstance(header, Header):
            return file, header
        damaged.append(header)
    raise InputRejected(f"none of the {count:,} images can be read: {listed(damaged)}")


def _left_out(scan: Scan, total: int) -> list[str]:
    notes = []
    if scan.damaged:
        damaged = list(scan.damaged.values())
        notes.append(f"{len(damaged):,} of {total:,} images cannot be read and are left out: {listed(damaged)}")
    if scan.transparent:
        notes.append(f"{scan.transparent:,} images have transparency, which is dropped")
    return notes


def _in_threads(work: Callable[[int], Header | Damaged], count: int, threads: int) -> Iterator[Header | Damaged]:
    """Yield `work(0)`, `work(1)`, ... computed by threads: the decoders let go of the interpreter while they work."""
    pool = ThreadPoolExecutor(max_workers=threads)
    chunks = [range(at, min(at + _CHUNK, count)) for at in range(0, count, _CHUNK)]
    try:
        for seen in pool.map(lambda rows: [work(row) for row in rows], chunks):
            yield from seen
    finally:
        pool.shutdown(cancel_futures=True)  # do not read on when the caller has refused a file
