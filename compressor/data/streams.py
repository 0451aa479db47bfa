"""The second stream of a data set: images without labels, of the same kind or of another domain."""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from compressor.choices import FOLDER
from compressor.data.images import listed
from compressor.data.split import Dataset, Split
from compressor.data.splits import TRAIN, folders_of, splits_of
from compressor.data.unlabelled import open_images
from compressor.errors import InputRejected
from compressor.recipe import Data

Opener = Callable[[Data], Dataset]


def with_stream(
    data: Dataset, config: Data, rest: Split | None, *, device: torch.device, open_named: Opener
) -> Dataset:
    """Return the data set with the second stream of its recipe: that of `target`, of `unlabelled`, or `rest`.

    A data set by name gives its training split, a folder all images below it (below its `train/`, where it has one),
    brought to the height, width and channels of `data`. What is the same as `data` gives all its training images, so
    that nothing held out is trained on. The stream is augmented as the labelled images are.

    Args:
        rest: the training images that `data.labels` leaves without labels.
        open_named: opens a data set by the name in a section.

    Raises:
        UsageError: a name is not one of a data set.
        InputRejected: there are no images, or they are of another shape than the labelled ones.
    """
    if config.target is not None:
        return _with_target(data, config, config.target, device, open_named)
    if config.unlabelled is None:
        return replace(data, unlabelled=rest)
    name, folder = config.unlabelled, _folder(config.unlabelled)
    if data.source == (name if folder is None else f"{FOLDER}{folder}"):
        return replace(data, unlabelled=_joined(data.train, rest))
    if folder is not None:
        return _with_images(data, config, folder, device, f"unlabelled: {{}} images of {folder}")
    opened = _opened(data, config, name, "unlabelled", open_named)
    return _streaming(data, opened.train, opened.fingerprint, f"unlabelled: {len(opened.train):,} images of {name}")


def _with_target(data: Dataset, config: Data, name: str, device: torch.device, open_named: Opener) -> Dataset:
    """Return the data set with a target domain, which is scored where its labels are some of the classes'."""
    folder, changes = _folder(name), dict[str, Any]()
    if folder is not None:
        if not set(_folders_in(folder)) & set(data.classes):
            note = f"target: {{}} images of {folder}, which has no folder of a class, so nothing is scored there"
            return _with_images(data, config, folder, device, note)
        channels, height, width = data.input_shape
        changes = {"image_size": (height, width), "channels": channels}
    opened = _opened(data, config, name, "target", open_named, validation=0, **changes)
    strange = [each for each in opened.classes if each not in data.classes]
    said = f"target: {len(opened.train):,} images of {name} without their labels; "
    if strange:
        said += f"its classes are not those of {data.name} ({listed(strange)}), so nothing is scored there"
        return _streaming(data, opened.train, opened.fingerprint, said)
    said += f"{len(opened.test):,} others are labelled and for the final score alone"
    places = torch.tensor([data.classes.index(each) for each in opened.classes], device=opened.test.labels.device)
    scored = replace(opened.test, labels=places[opened.test.labels])
    return replace(_streaming(data, opened.train, opened.fingerprint, said), target=scored)


def _with_images(data: Dataset, config: Data, folder: Path, device: torch.device, note: str) -> Dataset:
    part = open_images(folder, config, data.input_shape, device)
    split = part.split(data.train.augmentation, device)
    return _streaming(data, split, repr(list(part.names)), note.format(f"{len(split):,}"))


def _opened(data: Dataset, config: Data, name: str, what: str, open_named: Opener, **changes: Any) -> Dataset:
    """Open another data set as the section of this one says, with all its labels."""
    alone: dict[str, Any] = {"unlabelled": None, "target": None, "labels": None, "class_order": None}
    opened = open_named(config.model_copy(update={"name": name, **alone, **changes}))
    if opened.input_shape != data.input_shape:
        raise InputRejected(
            f"the {what} images are {list(opened.input_shape)} and the labelled ones {list(data.input_shape)}",
            hint=f"data.{what}=folder:PATH brings images to the size of the labelled ones, data.image_size all to one",
        )
    return opened


def _streaming(data: Dataset, stream: Split, identity: str, note: str) -> Dataset:
    digest = hashlib.sha256(f"{data.fingerprint}/{identity}".encode(errors="surrogateescape")).hexdigest()[:16]
    stream = replace(stream, augmentation=data.train.augmentation)
    return replace(data, unlabelled=stream, fingerprint=digest, notes=(*data.notes, note))


def _joined(first: Split, second: Split | None) -> Split:
    """Return two splits of one source as one."""
    if second is None:
        return first
    rows, labels = torch.cat([first.rows, second.rows]), torch.cat([first.labels, second.labels])
    return replace(first, rows=rows, labels=labels)


def _folder(name: str) -> Path | None:
    place = name.removeprefix(FOLDER)
    return Path(place).expanduser().absolute() if place not in (name, "") else None


def _folders_in(root: Path) -> Sequence[str]:
    """Return the names of what would be the class folders of a data set."""
    if not root.is_dir():
        return ()
    return [unicodedata.normalize("NFC", path.name) for path in folders_of(splits_of(root).folders.get(TRAIN, root))]
