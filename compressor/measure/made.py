"""Images that nobody took: noise, what a run's generator makes, and both at the boundary.

They stand in for test images where there are none. They have no labels, so that they tell how far two networks agree,
and never how right one is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from compressor import checkpoint
from compressor.attack import as_found
from compressor.data import Dataset, Held, Split, unmoved
from compressor.data.augment import to_pixels
from compressor.errors import InputRejected
from compressor.files import replacing
from compressor.measure.hard_images import BoundarySet, boundary_set
from compressor.measure.scores import Floats, agreement, infer
from exporters import Runner

COUNT = 512  # images of noise, at most, and of a generator that are measured on
KEPT = 1024  # images of a generator that a run keeps, at most
_KEPT_BYTES = 2**25
NOISE, GENERATED, BOUNDARY = "noise", "generated", "boundary"


@dataclass(frozen=True)
class MadeImages:
    """Images of each kind, `[N, C, H, W]` in `[0, 1]`, and the teacher's logits of them, `[N, K]`.

    The kinds are `noise`, `generated` where a generator made some, and `boundary`: those of the generator, or of noise
    without one, walked just past the teacher's boundary.
    """

    images: Mapping[str, Floats]
    taught: Mapping[str, Floats]

    @property
    def sizes(self) -> dict[str, int]:
        """How many there are of each kind."""
        return {kind: len(images) for kind, images in self.images.items()}

    @property
    def sentence(self) -> str:
        """What there is, in words."""
        origin = "generated images" if GENERATED in self.images else "noise"
        words = {NOISE: "of noise", GENERATED: "generated", BOUNDARY: f"on the boundary, walked from {origin}"}
        return ", ".join(f"{count:,} {words[kind]}" for kind, count in self.sizes.items())

    def agreements(self, runner: Runner) -> dict[str, float]:
        """Return the share of each kind on which a file decides as the teacher; a kind without images has none."""
        return {
            kind: agreement(infer(runner, images), self.taught[kind])
            for kind, images in self.images.items()
            if len(images)
        }


def made_images(
    teacher: checkpoint.Network, generated: Tensor | None, runner: Runner, *, seed: int, device: torch.device
) -> MadeImages:
    """Return what a teacher, also opened as `runner`, and others are asked about.

    Args:
        generated: bytes as `read_generated` gives them.
    """
    noise = noise_bytes(teacher.input_shape, seed)
    kinds = {NOISE: noise} if generated is None else {NOISE: noise, GENERATED: generated[:COUNT]}
    images = {kind: to_pixels(given).contiguous().numpy() for kind, given in kinds.items()}
    if teacher.differentiable:
        walked = boundary_of(teacher, kinds[GENERATED if generated is not None else NOISE], seed=seed, device=device)
        images[BOUNDARY] = walked.images
    return MadeImages(images, {kind: infer(runner, each) for kind, each in images.items()})


def stand_in(data: Dataset, teacher: checkpoint.Network, images: Tensor, device: torch.device) -> Dataset:
    """Return the data set with images in place of the training and the test split, labelled as the teacher decides.

    It is for what needs images and not their labels: ranges of INT8, and proofs. Nothing scored on it is an accuracy.
    """
    split = _labelled_by(teacher, images, device)
    return replace(data, train=split, test=split)


def noise_bytes(shape: tuple[int, int, int], seed: int) -> Tensor:
    """Return `COUNT` images of uniform noise, `[N, H, W, C]` uint8."""
    channels, height, width = shape
    made = np.random.default_rng(seed).integers(0, 256, (COUNT, height, width, channels), dtype=np.uint8)
    return torch.from_numpy(made)


def boundary_of(teacher: checkpoint.Network, images: Tensor, *, seed: int, device: torch.device) -> BoundarySet:
    """Walk images `[N, H, W, C]` uint8 from the class that the teacher sees to its boundary."""
    split = _labelled_by(teacher, images, device)
    scale = torch.tensor(teacher.std)
    return boundary_set(teacher.module, split, count=len(images), std=scale, seed=seed, device=device)


def keep_generated(images: Tensor, path: Path) -> None:
    """Write images of a generator, `[N, C, H, W]` in `[0, 1]`, as bytes."""
    pixels = (images.cpu() * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.save(file, pixels, allow_pickle=False)


def kept_count(shape: tuple[int, int, int]) -> int:
    """Return how many images of a shape a run keeps."""
    return max(1, min(KEPT, _KEPT_BYTES // int(np.prod(shape))))


def read_generated(path: Path, shape: tuple[int, int, int]) -> Tensor | None:
    """Return what `keep_generated` wrote, `[N, H, W, C]` uint8; None where there is no such file.

    Raises:
        InputRejected: the file is damaged, or its images have another shape.
    """
    if not path.is_file():
        return None
    try:
        found: NDArray[np.uint8] = np.load(path, allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise InputRejected(f"{path} cannot be read: {error}", hint="--from train makes it again") from error
    channels, height, width = shape
    if found.dtype != np.uint8 or found.ndim != 4 or found.shape[1:] != (height, width, channels) or not len(found):
        raise InputRejected(
            f"{path} holds {found.dtype} {list(found.shape)}, not bytes of images {list(shape)}",
            hint="--from train makes it again",
        )
    return torch.from_numpy(found)


def _labelled_by(teacher: checkpoint.Network, images: Tensor, device: torch.device) -> Split:
    held = Held(images.to(device))
    unlabelled = unmoved(held, torch.zeros(len(images), dtype=torch.int64), device)
    with as_found(teacher.module), torch.no_grad():
        decided = [teacher.module(batch).argmax(dim=1) for batch in _batches(unlabelled)]
    return replace(unlabelled, labels=torch.cat(decided))


def _batches(split: Split) -> Iterator[Tensor]:
    return (batch.images for batch in split.batches(64))
