"""Encoded images with labels, wherever they were found: as a data set that is held, cached or streamed."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from compressor.data.cache import Cache
from compressor.data.images import listed
from compressor.data.part import Loaded, Part
from compressor.data.reading import open_files
from compressor.data.splits import TEST, TRAIN, VALIDATION, role_of
from compressor.data.streamed import Opener, path_itself
from compressor.errors import InputRejected
from compressor.recipe import Data


@dataclass(frozen=True, eq=False)
class Listed:
    """Images of one split: the address of each, its label, and a name that stays the same between machines."""

    files: Sequence[Any]
    labels: Sequence[int]
    names: Sequence[str]


@dataclass(frozen=True, kw_only=True)
class Found:
    """A data set as it lies there.

    `opener` opens the addresses of `splits`, which are `train` and perhaps `validation` and `test`. `state` yields what
    changes when the images do.
    """

    name: str
    source: str
    classes: tuple[str, ...]
    splits: Mapping[str, Listed]
    state: Callable[[], Iterable[str]]
    opener: Opener = path_itself
    notes: tuple[str, ...] = ()


def read(found: Found, config: Data, device: torch.device, held: bool | None = None) -> Loaded:
    """Look at the images of a data set, and decode them where they are to be held or cached.

    Args:
        held: hold the images on the device, or stream them, whatever their size.

    Raises:
        InputRejected: the images do not fit together, or too many cannot be read, or all of a class.
    """
    order = [split for split in (TRAIN, VALIDATION, TEST) if split in found.splits]
    whole = config.augment.kind == "photo" and config.image_size is not None
    if held is None and whole:
        held = False  # what is held is brought to one size, and crops are of the whole images
    files = open_files(
        [file for split in order for file in found.splits[split].files],
        size=config.image_size,
        channels=config.channels,
        device=device,
        workers=config.workers,
        held=held,
        opener=found.opener,
        cache=None if config.cache is None or whole else Cache(config.cache, found.source, found.state),
    )
    parts: dict[str, Part] = {}
    first = 0
    for split in order:
        one = found.splits[split]
        rows = range(first, first + len(one.files))
        part = Part(source=files.source, rows=rows, labels=one.labels, names=one.names)
        parts[split] = undamaged(part, files.damaged, found.classes)
        first += len(one.files)
    return Loaded(
        name=found.name,
        source=found.source,
        classes=found.classes,
        input_shape=files.input_shape,
        train=parts[TRAIN],
        validation=parts.get(VALIDATION),
        test=parts.get(TEST),
        augment="crop" if files.input_shape[0] == 1 else "crop-flip",
        notes=(*found.notes, *files.notes),
    )


def undamaged(part: Part, damaged: Mapping[int, object], classes: Sequence[str]) -> Part:
    """Return the part without damaged images, which are given by row. A class that loses all of them is refused."""
    if not damaged:
        return part
    kept = part.only([place for place, row in enumerate(part.rows) if row not in damaged])
    if lost := set(part.labels) - set(kept.labels):
        raise InputRejected(
            f"no image of class {classes[min(lost)]!r} can be read: {listed(list(damaged.values()))}",
            hint="mend them, or bring others",
        )
    return kept


def by_role(names: Iterable[str], where: str, notes: list[str]) -> dict[str, list[str]]:
    """Return which of the split names of a data set are its `train`, `validation` and `test`, whatever they are called.

    Raises:
        InputRejected: none is to train on.
    """
    roles: dict[str, list[str]] = {}
    strange = []
    for name in names:
        role = role_of(name)
        if role is None:
            strange.append(name)
        else:
            roles.setdefault(role, []).append(name)
    if TRAIN not in roles:
        there = [name for each in roles.values() for name in each] + strange
        raise InputRejected(f"{where} has no split to train on, only {listed(there)}", hint="call one of them train")
    if strange:
        notes.append(f"splits whose names are not usual ones are left out: {listed(strange)}")
    return roles


def lone_validation(splits: dict[str, Any], notes: list[str]) -> None:
    """Make of two parts the one that is not for training the test part."""
    if VALIDATION in splits and TEST not in splits:
        splits[TEST] = splits.pop(VALIDATION)
        notes.append("the validation split is the test split, for there is no other")
