"""What a reader of a data set hands over, before anything is held out."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from compressor.data.augment import Augmentation
from compressor.data.split import Source, Split
from compressor.errors import InputRejected

Statistics = tuple[tuple[float, ...], tuple[float, ...]]  # mean and standard deviation, one value a channel


@dataclass(frozen=True, kw_only=True)
class Part:
    """Labelled images: their rows in a source, and names that tell them apart and stay the same between machines."""

    source: Source
    rows: Sequence[int]
    labels: Sequence[int]
    names: Sequence[str]

    def only(self, places: Sequence[int]) -> "Part":
        """Return the images at `places`."""
        return Part(
            source=self.source,
            rows=[self.rows[place] for place in places],
            labels=[self.labels[place] for place in places],
            names=[self.names[place] for place in places],
        )

    def without(self, places: Sequence[int]) -> "Part":
        """Return all images but those at `places`."""
        gone = set(places)
        return self.only([place for place in range(len(self.rows)) if place not in gone])

    def split(self, augmentation: Augmentation, device: torch.device) -> Split:
        """Return the images as they are trained on or measured with, batches on `device`."""
        rows, labels = (torch.tensor(list(numbers), dtype=torch.int64) for numbers in (self.rows, self.labels))
        return Split(self.source, rows, labels.to(device), augmentation, device)


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """A data set as it was found. A missing validation or test part has yet to be held out of the training part.

    `statistics` are published ones; None means that they are to be measured.
    """

    name: str
    source: str
    classes: tuple[str, ...]
    input_shape: tuple[int, int, int]
    train: Part
    validation: Part | None = None
    test: Part | None = None
    statistics: Statistics | None = None
    augment: Literal["crop", "crop-flip"]
    notes: tuple[str, ...] = ()


def check_labels(labels: Sequence[int], classes: int, where: str) -> None:
    """Raise `InputRejected` when a label is not the number of a class."""
    for place, label in enumerate(labels):
        if not 0 <= label < classes:
            raise InputRejected(
                f"label {label} of image {place:,} of {where} is outside 0 to {classes - 1}",
                hint="the files are damaged or of another data set; fetch them again",
            )
