"""What runners share: images in the form that a file takes, answers as logits, batches of the sizes that it takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from exporters import Output, Pixels
from exporters.errors import ArtifactRejected

LEAST = float(np.log(np.finfo(np.float32).tiny))  # the logarithm of a probability that fp32 cannot hold
LEAST_FP16 = float(np.log(np.finfo(np.float16).tiny))  # and one that fp16 holds only in part


@dataclass(kw_only=True, eq=False)
class FedRunner:
    """A `Runner` fed from the host's memory, in chunks of the sizes that a file takes, with black images to fill up."""

    path: Path | None
    format: str
    provider: str
    precision: str
    input_shape: tuple[int, int, int]
    classes: int
    pixels: Pixels
    output: Output
    metadata: Mapping[str, str]
    threads: int | None
    census: Mapping[str, int]  # weights by the type they are computed in
    batch: int | None  # the only size of a batch that it takes; None: there are several
    feed: type[np.generic]  # what an element of the input is

    def __call__(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        expect_images(images, self.input_shape)
        if len(images) == 0:
            return np.zeros((0, self.classes), np.float32)
        _, largest = self._sizes
        size = largest or len(images)
        return np.concatenate([self._chunk(images[start : start + size]) for start in range(0, len(images), size)])

    def _chunk(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        smallest, _ = self._sizes
        size = max(smallest, len(images))
        padding = np.zeros((size - len(images), *self.input_shape), np.float32)
        answer = self._answer(self._fed(np.concatenate([images, padding])))
        if answer.shape != (size, self.classes):
            raise ArtifactRejected(
                f"{self.path} returned {list(answer.shape)} for {size} images, expected [{size}, {self.classes}]"
            )
        result: NDArray[np.float32] = answer[: len(images)].astype(np.float32, copy=False)
        return as_logits(result) if self.output == "probabilities" else result

    @property
    def _sizes(self) -> tuple[int, int | None]:
        """The smallest and the largest batch that the file takes; None: there is no largest."""
        return self.batch or 1, self.batch

    def _answer(self, batch: NDArray[np.generic]) -> NDArray[np.generic]:
        """Return what the file returns for a batch in its own form."""
        raise NotImplementedError

    def _fed(self, images: NDArray[np.float32]) -> NDArray[np.generic]:
        """Return images as the file takes them."""
        return as_uint8(images) if self.pixels == "uint8" else np.ascontiguousarray(images, self.feed)

    def _expect_batch(self, images: NDArray[np.float32]) -> None:
        """Refuse images that cannot be one batch of the file."""
        expect_images(images, self.input_shape)
        if self.batch not in (None, len(images)):
            raise ArtifactRejected(f"{self.path} takes batches of {self.batch} images only, not of {len(images)}")


def expect_images(images: NDArray[np.float32], input_shape: tuple[int, int, int]) -> None:
    """Refuse an array that is not float32 images `[B, *input_shape]`: an artifact would answer with nonsense."""
    if images.dtype != np.float32 or images.shape[1:] != input_shape:
        raise ValueError(f"expected float32 images [B, {input_shape}], not {images.dtype} {images.shape}")


def expect_claims(path: Path, metadata: Mapping[str, str], **found: str) -> None:
    """Refuse a file whose metadata `compress.NAME` contradicts what was found in its graph."""
    for name, value in found.items():
        claimed = metadata.get(f"compress.{name}", value)
        if claimed != value:
            raise ArtifactRejected(
                f"{path} says that its {name} is {claimed}, but the graph's is {value}", hint="export it again"
            )


def as_uint8(images: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Return images `[B, C, H, W]` in `[0, 1]` as an image decoder gives them, `[B, H, W, C]`."""
    return np.ascontiguousarray(np.rint(images.clip(0, 1) * 255).transpose(0, 2, 3, 1), np.uint8)


def as_logits(probabilities: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the logarithms, which are logits up to a constant, and at the least `LEAST`."""
    result: NDArray[np.float32] = np.log(np.maximum(probabilities, np.finfo(np.float32).tiny))
    return result
