"""Images that loading processes decode each time they are asked for."""

import logging
import multiprocessing
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from compressor.data.images import Damaged, File, Header, Pixels, decode, listed, refuse_damage
from compressor.data.photo import Photo
from compressor.errors import InputRejected
from compressor.machine.workers import end_with_starter

log = logging.getLogger(__name__)

Opener = Callable[[Any], File]  # from the address of an image to what is decoded; workers are sent it once


def path_itself(path: str) -> File:
    """Open a file of its own."""
    return path


def spoken(header: Header) -> str:
    """Return the size of an image as messages say it."""
    return f"{header.width} x {header.height}"


@dataclass(frozen=True, eq=False)
class Streamed:
    """Images decoded by worker processes each time they are asked for; `shape` is `[H, W, C]`.

    Memory is bounded by the batches under way. Files that turn out to be damaged are left out of their batch, logged,
    and refused once they are too many.
    """

    files: Sequence[Any]  # the address of each image, which `opener` understands
    shape: tuple[int, int, int]
    size: tuple[int, int] | None
    device: torch.device
    workers: int
    damaged: list[Damaged] = field(default_factory=list)
    opener: Opener = path_itself

    def fetch(self, batches: Iterable[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        wanted = ([self.files[row] for row in rows.tolist()] for rows in batches)
        return self._read(_Decoder(self.opener, self.shape, self.size), wanted)

    def changed(self, batches: Iterable[tuple[Tensor, Tensor]], photo: Photo) -> Iterator[tuple[Tensor, Tensor]]:
        wanted = (
            [(self.files[row], drawn) for row, drawn in zip(rows.tolist(), seeds.T.tolist(), strict=True)]
            for rows, seeds in batches
        )
        return self._read(_Changer(self.opener, self.size, self.shape[2], photo), wanted)

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
                refuse_damage(self.damaged, len(self.files))


@dataclass(frozen=True)
class _Decoder(TorchDataset[Any]):
    """What a worker does with the files of a batch. It holds no list of them, so that starting one is cheap."""

    opener: Opener
    shape: tuple[int, int, int]
    size: tuple[int, int] | None

    def __getitems__(self, files: Sequence[Any]) -> tuple[Pixels, Any, list[Damaged]]:
        """Return the images that can be read `[R, H, W, C]`, their places in the batch `[R]`, and the others.

        Arrays are sent through a pipe, where tensors would go through /dev/shm, which is tiny in most containers.
        """
        pixels = np.empty((len(files), *self.shape), dtype=np.uint8)
        places: list[int] = []
        damaged: list[Damaged] = []
        for place, file in enumerate(map(self.opener, files)):
            decoded = decode(file, self.size, self.shape[2])
            if isinstance(decoded, Damaged):
                damaged.append(decoded)
            elif decoded[1].shape != self.shape:
                damaged.append(Damaged(str(file), f"{spoken(decoded[0])} pixels, which its header did not say"))
            else:
                pixels[len(places)] = decoded[1]
                places.append(place)
        return pixels[: len(places)], np.asarray(places, dtype=np.int64), damaged


@dataclass(frozen=True)
class _Changer(TorchDataset[Any]):
    """What a worker does with the files of a batch and the seeds of each, one a view: views `[V, R, H, W, C]`."""

    opener: Opener
    size: tuple[int, int] | None
    channels: int
    photo: Photo

    def __getitems__(self, wanted: Sequence[tuple[Any, Sequence[int]]]) -> tuple[Pixels, Any, list[Damaged]]:
        views: list[list[Pixels]] = []
        places: list[int] = []
        damaged: list[Damaged] = []
        whole = self.photo.scale is not None  # a part is cut from all that the file shows
        for place, (file, seeds) in enumerate(wanted):
            decoded = decode(self.opener(file), None if whole else self.size, self.channels)
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
    # Torch is imported once, not by every worker; so is what the images are read with, which takes a second or two.
    context.set_forkserver_preload([__name__, *sorted({"datasets"} & sys.modules.keys())])
    return context
