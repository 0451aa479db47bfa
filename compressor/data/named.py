"""Data sets by name: the digits that come with scikit-learn, and those torchvision reads from local files."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from compressor.data.part import Loaded, Part, Statistics, check_labels
from compressor.data.reading import RESIDENT_LIMIT
from compressor.data.split import Held
from compressor.errors import InputRejected, UsageError
from compressor.recipe import Data

# The usual normalisations, by the name under which people know them.
NORMALISATIONS: dict[str, Statistics] = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
    "cifar10-pixels": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "cifar100": ((0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)),
    "mnist": ((0.1307,), (0.3081,)),
    "fashion_mnist": ((0.2860,), (0.3530,)),
    "0.5": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "none": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
    "bytes": ((0.0, 0.0, 0.0), (1 / 255, 1 / 255, 1 / 255)),
}


@dataclass(frozen=True)
class Official:
    """A data set with an official training and test split: its torchvision class and how its files are named."""

    reader: str
    folder: str
    archives: str
    augment: Literal["crop", "crop-flip"]
    classes: tuple[str, ...] | None = None  # None: as torchvision names them


OFFICIAL: dict[str, Official] = {
    "cifar10": Official("CIFAR10", "cifar-10-batches-py", "cifar-10-python.tar.gz", "crop-flip"),
    "cifar100": Official("CIFAR100", "cifar-100-python", "cifar-100-python.tar.gz", "crop-flip"),
    "mnist": Official("MNIST", "MNIST/raw", "{train,t10k}-*-ubyte.gz", "crop", tuple("0123456789")),
    "fashion_mnist": Official("FashionMNIST", "FashionMNIST/raw", "{train,t10k}-*-ubyte.gz", "crop-flip"),
}


def open_digits(config: Data, device: torch.device) -> Loaded:
    """Return the 1,797 grey 8x8 scans of handwritten digits, which need no file. Values 0..16 become 0..255."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    held = _held(images, config, device)
    return Loaded(
        name="digits",
        source="digits",
        classes=tuple(str(digit) for digit in digits.target_names),
        input_shape=held.input_shape,
        train=_part(held, digits.target.tolist()),
        augment="crop",
        notes=(_size_note(held),),
    )


def open_official(name: str, config: Data, device: torch.device) -> Loaded:
    """Return a data set of `OFFICIAL` from files that are already here; nothing is ever downloaded.

    Raises:
        InputRejected: the files are missing, incomplete or damaged.
    """
    from torchvision import datasets

    known = OFFICIAL[name]
    reader = getattr(datasets, known.reader)
    root = root_of(name, known, config)
    try:
        train, test = (reader(root, train=training, download=False) for training in (True, False))
    except (RuntimeError, ValueError, AssertionError, OSError, EOFError, KeyError) as error:
        raise InputRejected(
            f"the files of {name} in {root / known.folder} are incomplete or damaged ({error or type(error).__name__})",
            hint=f"unpack {known.archives} there again",
        ) from error
    classes = known.classes or tuple(train.classes)
    labels = [[int(label) for label in read.targets] for read in (train, test)]
    check_labels(labels[0], len(classes), f"the training split of {name}")
    check_labels(labels[1], len(classes), f"the test split of {name}")
    held = [_held(np.asarray(read.data), config, device) for read in (train, test)]
    return Loaded(
        name=name,
        source=name,
        classes=classes,
        input_shape=held[0].input_shape,
        train=_part(held[0], labels[0]),
        test=_part(held[1], labels[1]),
        statistics=NORMALISATIONS[name],
        augment=known.augment,
        notes=(f"{name} is read from {root / known.folder}", _size_note(*held)),
    )


def root_of(name: str, known: Official, config: Data) -> Path:
    """Return the folder that holds the data set: `data.root` when given, else `$COMPRESS_DATA`, else `./data`.

    Raises:
        InputRejected: it is in none of them.
    """
    if config.root is not None:
        places = [config.root.expanduser()]
    else:
        places = [Path(place) for place in (os.environ.get("COMPRESS_DATA"), "data") if place]
    for place in places:
        if (place / known.folder).is_dir():
            return place
    looked = " nor in ".join(str(place.absolute()) for place in places)
    raise InputRejected(
        f"{name} is neither in {looked}" if len(places) > 1 else f"{name} is not in {looked}",
        hint=f"nothing is downloaded: unpack {known.archives} so that FOLDER/{known.folder} exists, "
        "and name FOLDER as data.root or in $COMPRESS_DATA, or put it in ./data",
    )


def _held(images: npt.NDArray[np.uint8], config: Data, device: torch.device) -> Held:
    """Put images `[N, H, W]` or `[N, H, W, C]` on the device, scaled to `image_size` where the recipe has one."""
    pixels = torch.from_numpy(images if images.ndim == 4 else images[..., None])
    size = config.image_size
    if size is not None and tuple(pixels.shape[1:3]) != size:
        pixels = _scaled(pixels, size)
    return Held(pixels.contiguous().to(device))


def _part(held: Held, labels: Sequence[int]) -> Part:
    return Part(source=held, rows=range(len(labels)), labels=labels, names=[str(row) for row in range(len(labels))])


def _scaled(pixels: Tensor, size: tuple[int, int]) -> Tensor:
    """Return `[N, H, W, C]` uint8 scaled to another height and width, a thousand at a time to need little memory."""
    from torchvision.transforms.v2.functional import resize

    count, channels = pixels.shape[0], pixels.shape[3]
    height, width = size
    if count * height * width * channels > RESIDENT_LIMIT:
        raise UsageError(
            f"{count:,} images of {height}x{width} pixels would not fit in {RESIDENT_LIMIT / 2**30:g} GiB",
            hint="set data.image_size lower, or unpack the data set as a folder, which can be streamed",
        )
    scaled = torch.empty((count, height, width, channels), dtype=torch.uint8)
    for few, out in zip(pixels.split(1000), scaled.split(1000), strict=True):
        out.copy_(resize(few.permute(0, 3, 1, 2), [height, width], antialias=True).permute(0, 2, 3, 1))
    return scaled


def _size_note(*sources: Held) -> str:
    count, size = sum(len(held.images) for held in sources), sum(held.images.nbytes for held in sources)
    return f"{count:,} images ({size / 2**20:,.1f} MiB) are held on {sources[0].images.device} as bytes"
