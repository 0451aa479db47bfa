"""Small pictures inside the page: arrays to PNG, as `data:` addresses."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

LARGEST = 96  # pixels of the longer side that are kept


@dataclass(frozen=True)
class Picture:
    """A PNG in the page; `pixelated` tells the browser to show a small one in squares and not blurred."""

    address: str
    width: int
    height: int

    @property
    def pixelated(self) -> bool:
        return max(self.width, self.height) < LARGEST


def picture(image: NDArray[np.float32], *, largest: int = LARGEST) -> Picture:
    """Return an image `[C, H, W]` in `[0, 1]` as a PNG, made smaller where a side is over `largest` pixels.

    One channel is grey, three are colours; of any other number the first is shown.
    """
    pixels = np.rint(255 * np.clip(image, 0, 1)).astype(np.uint8).transpose(1, 2, 0)  # [H, W, C]
    shown = Image.fromarray(pixels if pixels.shape[2] == 3 else pixels[:, :, 0])
    shown.thumbnail((largest, largest), Image.Resampling.BOX)
    written = io.BytesIO()
    shown.save(written, "PNG", optimize=True)
    return Picture("data:image/png;base64," + base64.b64encode(written.getvalue()).decode("ascii"), *shown.size)


def difference(base: NDArray[np.float32], moved: NDArray[np.float32]) -> tuple[NDArray[np.float32], float]:
    """Return `moved - base` `[C, H, W]` around mid-grey, and how much it was amplified to reach black or white."""
    change = moved - base
    largest = float(np.abs(change).max())
    factor = 0.5 / largest if largest > 0 else 1.0
    return np.float32(0.5) + np.float32(factor) * change, factor
