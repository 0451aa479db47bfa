"""The same images in the forms that data sets have: a folder, parquet files, shards."""

import io
import tarfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from compressor.data import Dataset, open_data
from compressor.recipe import Data

CPU = torch.device("cpu")
CLASSES = ("cat", "dog", "emu")
COUNTS = {"train": 12, "validation": 3, "test": 6}


def folder(root: Path, counts=COUNTS, classes=CLASSES, size=(10, 8), suffix=".png") -> Path:
    """Write images of noise in `root/SPLIT/CLASS`, so many of each split."""
    generator = np.random.default_rng(0)
    for split, count in counts.items():
        for number in range(count):
            path = root / split / classes[number * len(classes) // count] / f"{number:03}{suffix}"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(generator.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)).save(path)
    return root


def listed(root: Path, split: str) -> list[tuple[Path, int]]:
    """The files of a split as a folder's reader lists them, and the numbers of their classes."""
    classes = sorted(path.name for path in (root / "train").iterdir())
    return [(path, classes.index(path.parent.name)) for path in sorted((root / split).rglob("*.*"))]


def parquet(root: Path, out: Path, *, names: Sequence[str] | None = CLASSES) -> Path:
    """Write the images of a folder as parquet files, a file a split, as `datasets` does."""
    import datasets

    label = datasets.ClassLabel(names=list(names)) if names is not None else datasets.Value("int64")
    features = datasets.Features({"image": datasets.Image(), "label": label})
    out.mkdir(parents=True)
    for split in COUNTS:
        found = listed(root, split)
        rows = {
            "image": [{"bytes": path.read_bytes(), "path": path.name} for path, _ in found],
            "label": [number for _, number in found],
        }
        datasets.Dataset.from_dict(rows, features=features).to_parquet(out / f"{split}-00000-of-00001.parquet")
    return out


def tar(path: Path, samples: Sequence[tuple[str, dict[str, bytes]]]) -> Path:
    """Write a shard: of each sample its key and its members."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as file:
        for key, members in samples:
            for ending, content in members.items():
                info = tarfile.TarInfo(f"{key}.{ending}")
                info.size = len(content)
                file.addfile(info, io.BytesIO(content))
    return path


def shards(root: Path, out: Path, *, named: bool = False, each: int = 5) -> Path:
    """Write the images of a folder as shards of a few samples, whose labels are numbers or, `named`, names."""
    for split in COUNTS:
        found = listed(root, split)
        for number, at in enumerate(range(0, len(found), each)):
            samples = [
                (
                    path.stem,
                    {path.suffix[1:]: path.read_bytes(), "cls": (CLASSES[label] if named else str(label)).encode()},
                )
                for path, label in found[at : at + each]
            ]
            tar(out / f"{split}-{number:03}.tar", samples)
    return out


def opened(name: str, *, held: bool | None = None, **keys) -> Dataset:
    return open_data(Data(name=name, **keys), device=CPU, held=held)


def batches(data: Dataset, split: str = "train", size: int = 5, **keys) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return [(batch.images, batch.labels) for batch in getattr(data, split).batches(size, **keys)]


def equal(one, other) -> bool:
    """Whether two lists of batches are the same bits in the same order."""
    return len(one) == len(other) and all(
        torch.equal(a, b) for pair in zip(one, other, strict=True) for a, b in zip(*pair, strict=True)
    )


def pairs(data: Dataset, split: str) -> set[tuple[bytes, str]]:
    """The images of a split with the names of their classes, in no order."""
    return {
        (image.contiguous().numpy().tobytes(), data.classes[label])
        for images, labels in batches(data, split)
        for image, label in zip(images, labels.tolist(), strict=True)
    }
