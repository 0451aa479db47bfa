"""One encoded image: what its header says, its pixels as bytes, or why it cannot be read."""

import struct
import zlib
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import IO, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from compressor.errors import InputRejected

Pixels = npt.NDArray[np.uint8]


class Record(Protocol):
    """An encoded image within a larger file. Its text is what messages call it."""

    def open(self) -> IO[bytes]:
        """Return its bytes as a file that is open.

        Raises:
            OSError, ValueError: there are none, as a sentence goes on.
        """
        ...


File = str | Record  # a path, or a part of another file

# Kinds of still images that Pillow decodes by itself. Not each build has AVIF and JPEG 2000.
_KINDS = {"AVIF", "BMP", "DDS", "DIB", "GIF", "ICNS", "ICO", "JPEG", "JPEG2000", "PCX", "PNG", "PPM", "PSD"}
_KINDS |= {"QOI", "SGI", "SUN", "TGA", "TIFF", "WEBP", "XBM", "XPM"}
SUFFIXES = frozenset(
    suffix for suffix, kind in Image.registered_extensions().items() if kind in _KINDS and kind in Image.OPEN
)
DAMAGED_LIMIT = 0.01  # the fraction of a set's images that may be unreadable and are then left out

_GREY = frozenset({"1", "L", "LA", "La", "I", "I;16", "I;16L", "I;16B", "I;16N"})
_COLOUR = frozenset({"RGB", "RGBA", "RGBa", "RGBX", "P", "PA", "CMYK", "YCbCr", "HSV"})
_ORIENTATION = 0x0112  # the EXIF tag; its values 5 to 8 mean that the image lies on its side
_DAMAGE = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, Image.DecompressionBombError)


class Header(NamedTuple):
    """Upright height and width in pixels, channels once decoded (1 or 3), and whether transparency is dropped."""

    height: int
    width: int
    channels: int
    alpha: bool


@dataclass(frozen=True)
class Damaged:
    """A file that cannot be read as an image, and why."""

    path: str
    reason: str

    def __str__(self) -> str:
        return f"{self.path} ({self.reason})"


def read_header(file: File, channels: int | None = None) -> Header | Damaged:
    """Return what the file says of itself, without decoding it, so that a file cut short may go unnoticed.

    With `channels`, 1 or 3, it is to be converted to so many.
    """
    try:
        with _opened(file) as source, Image.open(source) as image:
            header = _header(image, channels)
            on_its_side = image.getexif().get(_ORIENTATION, 1) in (5, 6, 7, 8)
            return header._replace(height=header.width, width=header.height) if on_its_side else header
    except _DAMAGE as error:
        return Damaged(str(file), _reason(error))


def decode(file: File, size: tuple[int, int] | None, channels: int | None = None) -> tuple[Header, Pixels] | Damaged:
    """Decode a file to `[H, W, C]` uint8, upright, grey or RGB: as it is, or converted to `channels`, 1 or 3.

    16-bit grey is divided by 257, a palette becomes RGB, transparency is dropped as the usual loaders do. With `size`,
    height and width, the image is scaled until it covers that, and the middle is kept.
    """
    try:
        with _opened(file) as source, Image.open(source) as image:
            header = _header(image, channels)
            upright = ImageOps.exif_transpose(image)
            pixels = pixels_of(upright, size, channels)
            return header._replace(height=upright.height, width=upright.width), pixels
    except _DAMAGE as error:
        return Damaged(str(file), _reason(error))


def pixels_of(image: Image.Image, size: tuple[int, int] | None, channels: int | None) -> Pixels:
    """Return an image as `decode` does, but as it stands.

    Raises:
        ValueError: its pixels are of a kind that does not become bytes.
    """
    return _fitted(_eight_bits(image, _header(image, channels).channels), size)


def refuse_damage(damaged: Sequence[Damaged], total: int) -> None:
    """Raise `InputRejected` when too many of `total` images are damaged."""
    if len(damaged) > DAMAGED_LIMIT * total:
        raise InputRejected(
            f"{len(damaged):,} of {total:,} images cannot be read: {listed(damaged)}",
            hint=f"mend or remove them; up to {DAMAGED_LIMIT:.0%} would be left out",
        )


def listed(things: Sequence[object], most: int = 3) -> str:
    """Return the first few of `things` as text, and how many more there are."""
    rest = f" and {len(things) - most:,} more" if len(things) > most else ""
    return ", ".join(map(str, things[:most])) + rest


def _opened(file: File) -> AbstractContextManager[str | IO[bytes]]:
    return nullcontext(file) if isinstance(file, str) else file.open()


def _header(image: Image.Image, channels: int | None) -> Header:
    if image.mode not in _GREY | _COLOUR:
        raise ValueError(f"pixels of kind {image.mode}")
    own = 1 if image.mode in _GREY else 3
    return Header(image.height, image.width, channels or own, image.has_transparency_data)


def _eight_bits(image: Image.Image, channels: int) -> Image.Image:
    """Return the image as mode L or RGB."""
    if image.mode.startswith("I"):
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > 0xFFFF:
            raise ValueError("pixels of more than 16 bits")
        image = Image.fromarray(((values + 128) // 257).astype(np.uint8))
    plain = "L" if channels == 1 else "RGB"
    if image.mode == plain:
        return image
    if image.has_transparency_data:  # in two steps, for premultiplied alpha and palettes have no direct way
        image = image.convert("LA" if channels == 1 else "RGBA")
    return image.convert(plain)


def _fitted(image: Image.Image, size: tuple[int, int] | None) -> Pixels:
    if size is not None and (image.height, image.width) != size:
        covering = max(size[0] / image.height, size[1] / image.width)
        height, width = (
            max(wanted, round(side * covering)) for wanted, side in zip(size, image.size[::-1], strict=True)
        )
        left, top = (width - size[1]) // 2, (height - size[0]) // 2
        resized = image if image.size == (width, height) else image.resize((width, height), Image.Resampling.BILINEAR)
        image = resized.crop((left, top, left + size[1], top + size[0]))
    pixels = np.asarray(image, dtype=np.uint8)
    return pixels.reshape(image.height, image.width, -1)


def _reason(error: BaseException) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "not an image"
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
