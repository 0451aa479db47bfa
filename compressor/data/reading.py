"""Many image files as one source: decoded once and held on the device, or streamed when that would be too large."""

import logging
import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from compressor.data.images import Damaged, Header, Pixels, decode, listed, read_header, refuse_damage
from compressor.data.photo import Photo
from compressor.data.split import Held, Source
from compressor.errors import InputRejected
from compressor.machine.workers import end_with_starter

log = logging.getLogger(__name__)

RESIDENT_LIMIT = 2**30  # bytes of decoded uint8 images; a set of more is streamed
_CHUNK = 64  # files that a thread takes at a time
_TINY = 96 * 96  # pixels; opening a smaller image takes longer than decoding it, and threads only get in the way


@dataclass(frozen=True)
class Files:
    """Images of one shape. Row `i` of the source is the `i`-th path; rows of damaged files must not be asked for."""

    source: Source
    input_shape: tuple[int, int, int]
    damaged: tuple[Damaged, ...]
    notes: tuple[str, ...]


def open_files(
    paths: Sequence[str],
    *,
    size: tuple[int, int] | None,
    channels: int | None,
    device: torch.device,
    workers: int,
    held: bool | None = None,
) -> Files:
    """Look at every file, and decode them all when they are small enough to be held on the device.

    Args:
        size: height and width to bring them to; None asks that all have the same.
        channels: 1 or 3 to convert them all to; None asks that all have the same.
        held: decide for or against holding them, whatever their size.

    Raises:
        InputRejected: several sizes without `size`, grey beside colour, or too many damaged files.
    """
    example, first = _first_readable(paths, channels)
    height, width = size or (first.height, first.width)
    raw = len(paths) * height * width * first.channels
    if held is None:
        held = raw <= RESIDENT_LIMIT
    images = torch.empty((len(paths) if held else 0, height, width, first.channels), dtype=torch.uint8)
    slots = images.numpy()

    def look(row: int) -> Header | Damaged:
        if not held:
            return read_header(paths[row], channels)
        decoded = decode(paths[row], size, channels)
        if isinstance(decoded, Damaged):
            return decoded
        header, pixels = decoded
        if pixels.shape == slots.shape[1:]:  # else the header will be refused below
            slots[row] = pixels
        return header

    damaged: list[Damaged] = []
    transparent = 0
    threads = 1 if first.height * first.width < _TINY else min(16, _processors())
    for path, seen in zip(paths, _in_threads(look, len(paths), threads), strict=True):
        if isinstance(seen, Damaged):
            damaged.append(seen)
            continue
        _refuse_difference(example, first, path, seen, size)
        transparent += seen.alpha
    refuse_damage(damaged, len(paths))

    source: Source = Held(images.to(device))
    where = f"{len(paths):,} images ({raw / 2**20:,.1f} MiB) are held on {device} as bytes"
    if not held:
        shape = (height, width, first.channels)
        source = Streamed(paths, shape, size, device, min(workers, _processors()), list(damaged))
        where = f"{len(paths):,} images ({raw / 2**30:,.1f} GiB decoded) are streamed from their files"
    notes = [where]
    if damaged:
        notes.append(f"{len(damaged):,} of {len(paths):,} images cannot be read and are left out: {listed(damaged)}")
    if transparent:
        notes.append(f"{transparent:,} images have transparency, which is dropped")
    return Files(source, (first.channels, height, width), tuple(damaged), tuple(notes))


@dataclass(frozen=True, eq=False)
class Streamed:
    """Images decoded by worker processes each time they are asked for; `shape` is `[H, W, C]`.

    Memory is bounded by the batches under way. Files that turn out to be damaged are left out of their batch, logged,
    and refused once they are too many.
    """

    paths: Sequence[str]
    shape: tuple[int, int, int]
    size: tuple[int, int] | None
    device: torch.device
    workers: int
    damaged: list[Damaged] = field(default_factory=list)

    def fetch(self, batches: Iterable[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        wanted = ([self.paths[row] for row in rows.tolist()] for rows in batches)
        return self._read(_Decoder(self.shape, self.size), wanted)

    def changed(self, batches: Iterable[tuple[Tensor, Tensor]], photo: Photo) -> Iterator[tuple[Tensor, Tensor]]:
        wanted = (
            [(self.paths[row], drawn) for row, drawn in zip(rows.tolist(), seeds.T.tolist(), strict=True)]
            for rows, seeds in batches
        )
        return self._read(_Changer(self.size, self.shape[2], photo), wanted)

    def _read(self, reader: TorchDataset[Any], wanted: Iterable[list[Any]]) -> Iterator[tuple[Tensor, Tensor]]:
        for pixels, places, damaged in batches_of(reader, wanted, self.workers):
            self._note(damaged)
            if len(places) == 0:
                raise InputRejected(
                    f"none of the images of a batch can be read: {listed(damaged)}", hint="mend or remove them"
                )
            yield torch.from_numpy(pixels).to(self.device), torch.from_numpy(places)

    def _note(self, damaged: Sequence[Damaged]) -> None:
        known = {one.path for one in self.damaged} if damaged else set()
        for one in damaged:
            if one.path not in known:
                log.warning("left out, for it cannot be read: %s", one)
                self.damaged.append(one)
                refuse_damage(self.damaged, len(self.paths))


@dataclass(frozen=True)
class _Decoder(TorchDataset[Any]):
    """What a worker does with the paths of a batch. It holds no list of files, so that starting one is cheap."""

    shape: tuple[int, int, int]
    size: tuple[int, int] | None

    def __getitems__(self, paths: Sequence[str]) -> tuple[Pixels, Any, list[Damaged]]:
        """Return the images that can be read `[R, H, W, C]`, their places in the batch `[R]`, and the others.

        Arrays are sent through a pipe, where tensors would go through /dev/shm, which is tiny in most containers.
        """
        pixels = np.empty((len(paths), *self.shape), dtype=np.uint8)
        places: list[int] = []
        damaged: list[Damaged] = []
        for place, path in enumerate(paths):
            decoded = decode(path, self.size, self.shape[2])
            if isinstance(decoded, Damaged):
                damaged.append(decoded)
            elif decoded[1].shape != self.shape:
                damaged.append(Damaged(path, f"{_shape(decoded[0])} pixels, which its header did not say"))
            else:
                pixels[len(places)] = decoded[1]
                places.append(place)
        return pixels[: len(places)], np.asarray(places, dtype=np.int64), damaged


@dataclass(frozen=True)
class _Changer(TorchDataset[Any]):
    """What a worker does with the paths of a batch and the seeds of each, one a view: views `[V, R, H, W, C]`."""

    size: tuple[int, int] | None
    channels: int
    photo: Photo

    def __getitems__(self, wanted: Sequence[tuple[str, Sequence[int]]]) -> tuple[Pixels, Any, list[Damaged]]:
        views: list[list[Pixels]] = []
        places: list[int] = []
        damaged: list[Damaged] = []
        whole = self.photo.scale is not None  # a part is cut from all that the file shows
        for place, (path, seeds) in enumerate(wanted):
            decoded = decode(path, None if whole else self.size, self.channels)
            if isinstance(decoded, Damaged):
                damaged.append(decoded)
            else:
                views.append([self.photo(decoded[1], seed) for seed in seeds])
                places.append(place)
        pixels = np.asarray(views, dtype=np.uint8)
        return pixels.swapaxes(0, 1) if places else pixels, np.asarray(places, dtype=np.int64), damaged


def batches_of(reader: TorchDataset[Any], batches: Iterable[list[Any]], workers: int) -> Iterator[Any]:
    """Begin to read batches, in `workers` processes or, with 0, in this one, and return what is read, in order.

    Args:
        reader: what is sent to the processes; its `__getitems__` reads a batch.
    """
    loader = DataLoader(
        reader,
        batch_sampler=batches,
        collate_fn=_as_it_is,
        num_workers=workers,
        multiprocessing_context=_processes() if workers else None,
        worker_init_fn=_stop_with_starter,
        generator=torch.Generator(),  # or the loader would draw from the global one and change what follows
    )
    return iter(loader)


def _as_it_is(batch: Any) -> Any:
    return batch


def _stop_with_starter(_: int) -> None:
    end_with_starter()


def _processes() -> Any:
    """Return how to start workers: from a clean server process where there is one, for we may have threads running."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return "spawn"
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])  # torch is imported once, not by every worker
    return context


def _first_readable(paths: Sequence[str], channels: int | None) -> tuple[str, Header]:
    damaged: list[Damaged] = []
    for path in paths:
        header = read_header(path, channels)
        if isinstance(header, Header):
            return path, header
        damaged.append(header)
    raise InputRejected(f"none of the {len(paths):,} images can be read: {listed(damaged)}")


def _refuse_difference(example: str, first: Header, path: str, seen: Header, size: tuple[int, int] | None) -> None:
    if seen.channels != first.channels:
        grey, colour = (example, path) if first.channels == 1 else (path, example)
        raise InputRejected(
            f"the images are not of one kind: {grey} is grey and {colour} is colour",
            hint="--set data.channels=3 converts them all to colour, --set data.channels=1 to grey",
        )
    if size is None and (seen.height, seen.width) != (first.height, first.width):
        raise InputRejected(
            f"the images are not of one size: {example} is {_shape(first)} and {path} is {_shape(seen)} pixels",
            hint=f"bring them to one with --image-size, for example --image-size {min(first.height, first.width)}",
        )


def _shape(header: Header) -> str:
    return f"{header.width} x {header.height}"


def _in_threads(work: Callable[[int], Header | Damaged], count: int, threads: int) -> Iterator[Header | Damaged]:
    """Yield `work(0)`, `work(1)`, ... computed by threads: the decoders let go of the interpreter while they work."""
    pool = ThreadPoolExecutor(max_workers=threads)
    chunks = [range(at, min(at + _CHUNK, count)) for at in range(0, count, _CHUNK)]
    try:
        for seen in pool.map(lambda rows: [work(row) for row in rows], chunks):
            yield from seen
    finally:
        pool.shutdown(cancel_futures=True)  # do not read on when the caller has refused a file


def _processors() -> int:
    """Return how many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
