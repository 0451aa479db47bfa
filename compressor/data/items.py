"""Items `(image, label)` of an object that is a data set: images in any usual form as bytes, labels as numbers."""

from __future__ import annotations

import operator
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset as TorchDataset

from compressor.data.images import Pixels, pixels_of
from compressor.data.photo import Photo
from compressor.data.streamed import batches_of
from compressor.errors import InputRejected
from compressor.plugins import current_folder_importable, told

Shape = tuple[int, int, int]  # height, width, channels

_FORMS = "[H, W], [H, W, 1 or 3] nor [1 or 3, H, W]"
_RESIZE = "give all of them one size, or set data.image_size (--image-size)"


class Item(NamedTuple):
    """Pixels `[H, W, C]` uint8, the number of the class, and by how much of 1/255 floats were rounded at most."""

    pixels: Pixels
    label: int
    rounded: float


@dataclass(frozen=True)
class Items:
    """A part of a data set: anything with a length whose items are `(image, label)`.

    An image is a PIL image; an array or tensor of bytes, `[H, W]`, `[H, W, C]` or `[C, H, W]` with 1 or 3 channels; or
    one of floats in `[0, 1]`, which are rounded to 1/255. Where both ends could be channels, a tensor's come first and
    an array's last. `size` and `channels` convert images as those of files are.

    Every method raises `InputRejected` for an item that is none, or whose reading fails, with its index.
    """

    given: Any
    part: str
    size: tuple[int, int] | None = None
    channels: int | None = None

    def __len__(self) -> int:
        return len(self.given)

    def read(self, index: int, shape: Shape | None = None) -> Item:
        """Return an item; with `shape`, it must have that."""
        image, label = self._pair(index)
        try:
            pixels, rounded = _as_bytes(image)
            if isinstance(pixels, Image.Image) or self.size is not None or self.channels not in (None, pixels.shape[2]):
                pixels = _converted(pixels, self.size, self.channels)
        except ValueError as error:
            hint = error.args[1] if len(error.args) > 1 else None
            raise InputRejected(f"the image of item {index:,} of {self.part} {error.args[0]}", hint=hint) from error
        if shape is not None and pixels.shape != shape:
            raise InputRejected(
                f"the images are not of one shape: item {index:,} of {self.part} is {_spoken(pixels.shape)}, and "
                f"others are {_spoken(shape)}",
                hint=_RESIZE if pixels.shape[2] == shape[2] else "--set data.channels=3 makes all of them colour",
            )
        return Item(pixels, self._number(index, label), rounded)

    def label(self, index: int) -> int:
        """Return the label of an item, whose image is fetched for it and not looked at."""
        return self._number(index, self._pair(index)[1])

    def _pair(self, index: int) -> tuple[Any, Any]:
        try:
            item = self.given[index]
        except Exception as error:  # whatever the user's code raises
            raise InputRejected(
                f"reading item {index:,} of {self.part} fails: {told(error)}", hint="mend it, or leave that item out"
            ) from error
        if not isinstance(item, tuple | list) or len(item) != 2:
            what = f"{len(item)} things" if isinstance(item, tuple | list) else f"a {type(item).__name__}"
            raise InputRejected(
                f"item {index:,} of {self.part} is {what}, not (image, label)",
                hint="a small Dataset around it can return that pair",
            )
        return item[0], item[1]

    def _number(self, index: int, label: Any) -> int:
        try:
            return operator.index(label)
        except TypeError:
            shaped = list(label.shape) if isinstance(label, Tensor | np.ndarray) and label.ndim else None
            what = f"a {type(label).__name__} of shape {shaped}" if shaped else f"{label!r:.50}"
            raise InputRejected(
                f"the label of item {index:,} of {self.part} is {what}, not a whole number",
                hint="labels are the numbers of the classes, from 0",
            ) from None


@dataclass(frozen=True)
class Arrays:
    """Images and labels that lie in two arrays, as items."""

    images: Any
    labels: Any

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        return self.images[index], self.labels[index]


@dataclass(frozen=True, eq=False)
class StreamedItems:
    """Items that are read each time they are asked for. Rows count through `parts`, one after the other."""

    parts: tuple[Items, ...]
    shape: Shape
    device: torch.device
    workers: int

    def fetch(self, batches: Iterable[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        return self._read((rows.tolist() for rows in batches), None)

    def changed(self, batches: Iterable[tuple[Tensor, Tensor]], photo: Photo) -> Iterator[tuple[Tensor, Tensor]]:
        wanted = (list(zip(rows.tolist(), seeds.T.tolist(), strict=True)) for rows, seeds in batches)
        return self._read(wanted, photo)

    def _read(self, wanted: Iterable[list[Any]], photo: Photo | None) -> Iterator[tuple[Tensor, Tensor]]:
        reader = _Reader(self.parts, self.shape, tuple(accumulate(map(len, self.parts))), photo)
        with current_folder_importable():  # for workers, which import the user's module anew
            read = batches_of(reader, wanted, self.workers)
        for pixels in read:
            if isinstance(pixels, InputRejected):
                raise pixels
            yield torch.from_numpy(pixels).to(self.device), torch.arange(pixels.shape[0 if photo is None else 1])


@dataclass(frozen=True)
class _Reader(TorchDataset[Any]):
    """What a worker does with the rows of a batch. A refusal is returned: raised, it would come with a traceback.

    With `photo` a row comes with a seed for each view, and the views are `[V, B, H, W, C]`.
    """

    parts: tuple[Items, ...]
    shape: Shape
    ends: tuple[int, ...]
    photo: Photo | None = None

    def __getitems__(self, wanted: Sequence[Any]) -> Pixels | InputRejected:
        try:
            if self.photo is None:
                return np.stack([self._pixels(row) for row in wanted])
            views = [[self.photo(self._pixels(row), seed) for seed in seeds] for row, seeds in wanted]
        except InputRejected as refused:
            return refused
        return np.asarray(views).swapaxes(0, 1)

    def _pixels(self, row: int) -> Pixels:
        part = bisect_right(self.ends, row)
        first = self.ends[part] - len(self.parts[part])
        return self.parts[part].read(row - first, self.shape).pixels


def _as_bytes(image: Any) -> tuple[Pixels | Image.Image, float]:
    """Return an image as it is, or as `[H, W, C]` uint8, and how much was rounded.

    Raises:
        ValueError: it is none; with the rest of a sentence, and perhaps a hint.
    """
    if isinstance(image, Image.Image):
        return image, 0.0
    if isinstance(image, Tensor):
        plain = image.detach().cpu()
        values = _channels_last((plain.float() if plain.dtype == torch.bfloat16 else plain).numpy(), first=True)
    elif isinstance(image, np.ndarray):
        values = _channels_last(image, first=False)
    else:
        raise ValueError(f"is a {type(image).__name__}, not a PIL image, an array or a tensor")
    if values.dtype == np.uint8:
        return values, 0.0
    if not np.issubdtype(values.dtype, np.floating):
        raise ValueError(f"has values of type {values.dtype}", "give bytes as uint8, or floats in [0, 1]")
    return _rounded(values)


def _rounded(values: npt.NDArray[Any]) -> tuple[Pixels, float]:
    """Return floats in `[0, 1]` as bytes."""
    scaled = values.astype(np.float64) * 255
    low, high = float(scaled.min()) / 255, float(scaled.max()) / 255
    if not np.isfinite([low, high]).all():
        raise ValueError("has values that are not finite")
    nearest = np.rint(scaled)
    if nearest.min() >= 0 and nearest.max() <= 255:
        return nearest.astype(np.uint8), float(np.abs(scaled - nearest).max())
    said = f"has values from {low:.4g} to {high:.4g}, where pixels lie in [0, 1]"
    if low >= 0 and high <= 255:
        raise ValueError(said, "give bytes as uint8, or divide by 255")
    raise ValueError(
        f"{said}: it is already normalised",
        "drop Normalize from its transform: mean and standard deviation go into the network",
    )


def _channels_last(values: npt.NDArray[Any], *, first: bool) -> npt.NDArray[Any]:
    shape = values.shape
    if 0 in shape:
        raise ValueError(f"has the shape {list(shape)}, without pixels")
    if len(shape) == 2:
        return values[..., None]
    if len(shape) == 3:
        front, back = shape[0] in (1, 3), shape[2] in (1, 3)
        if front and (first or not back):
            return values.transpose(1, 2, 0)
        if back:
            return values
    raise ValueError(f"has the shape {list(shape)}, which is neither {_FORMS}")


def _converted(pixels: Pixels | Image.Image, size: tuple[int, int] | None, channels: int | None) -> Pixels:
    if not isinstance(pixels, Image.Image):
        pixels = Image.fromarray(np.ascontiguousarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels))
    try:
        return pixels_of(pixels, size, channels)
    except (ValueError, OSError) as error:  # of a kind that does not become bytes, or cut short and decoded only now
        raise ValueError(f"cannot be used: {error}") from error


def _spoken(shape: Sequence[int]) -> str:
    height, width, channels = shape
    return f"{width} x {height} pixels in {'grey' if channels == 1 else 'colour'}"
