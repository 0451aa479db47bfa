"""A folder of images without labels."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import torch

from compressor.data.cache import Cache, stamped
from compressor.data.images import SUFFIXES
from compressor.data.part import Part
from compressor.data.reading import open_files
from compressor.errors import InputRejected
from compressor.recipe import Data


def open_images(root: Path, config: Data, input_shape: tuple[int, int, int], device: torch.device) -> Part:
    """Return all images below a folder, in the order of their names, as `input_shape` has them; each is labelled 0.

    Raises:
        InputRejected: the folder is not there or has no image, or too many of its images are damaged.
    """
    if (root / "train").is_dir():
        root = root / "train"
    paths = sorted(
        os.path.join(folder, name)  # noqa: PTH118 (a quarter of the time, for a million files)
        for folder, _, names in os.walk(root)
        for name in names
        if name.lower().endswith(tuple(SUFFIXES))
    )
    if not paths:
        raise InputRejected(f"there is no image below {root}", hint="name a folder of images: folder:PATH")
    channels, height, width = input_shape
    names = [os.path.relpath(path, root).replace(os.sep, "/") for path in paths]

    def state() -> Iterator[str]:
        return map("/".join, zip(names, stamped(paths), strict=True))

    cache = None
    if config.cache is not None and config.augment.kind != "photo":  # whose crops are of whole files
        cache = Cache(config.cache, f"images below {root}", state)
    size = (height, width)
    files = open_files(paths, size=size, channels=channels, device=device, workers=config.workers, cache=cache)
    rows = [row for row in range(len(paths)) if row not in files.damaged]
    return Part(source=files.source, rows=rows, labels=[0] * len(rows), names=[names[row] for row in rows])
