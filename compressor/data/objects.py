"""Data sets as objects of Python, a user's own or a library's, held as bytes or read item by item."""

from __future__ import annotations

import inspect
import math
import pickle
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, Subset, TensorDataset

from compressor.data.items import Arrays, Items, Shape, StreamedItems
from compressor.data.labels import classes_of
from compressor.data.part import Loaded, Part
from compressor.data.reading import RESIDENT_LIMIT
from compressor.data.split import Held, Source
from compressor.errors import InputRejected, UsageError, did_you_mean
from compressor.plugins import current_folder_importable, load_plugin, told
from compressor.recipe import Data

_TRAIN, _TEST, _VALIDATION, _CLASSES = "train", "test", "validation", "classes"
_RULE = (
    "a data set is a torch Dataset of (image, label), a pair of arrays (images, labels), a pair (train, test) of such, "
    "or a mapping with train and, if there are, test, validation and classes"
)
_READ_TWICE = 8  # items; a mirror that is thrown half of the time is missed once in 256 times
_SAMPLE = 64  # items by whose pixels a streamed set is recognised
_SENT_LIMIT = 2**26  # bytes of a data set that is copied to each worker
_ROUNDED = 0.01  # of 1/255: more than what dividing by 255 in single precision leaves


@dataclass
class _Read:
    """What was read of the parts, by their names."""

    parts: dict[str, Part]
    notes: list[str] = field(default_factory=list)


def open_factory(name: str, config: Data, device: torch.device, held: bool | None = None) -> Loaded:
    """Import `package.module:factory`, which the user's own command or recipe names, and read what it returns.

    The factory is given `data.root` as `root`, if it takes that. What is no function is taken as the data set itself.

    Raises:
        UsageError: the module or the factory is not what it should be.
        InputRejected: what it returns is no data set, or one that cannot be used.
    """
    found = load_plugin(name, example="mydata:make, for make in mydata.py")
    with current_folder_importable():
        if callable(found):
            arguments = _arguments(name, found, config)
            try:
                found = found(**arguments)
            except Exception as error:  # whatever the user's code raises
                raise UsageError(f"{name} fails: {told(error)}", hint=_RULE) from error
        return from_objects(found, config, device, held=held, name=name.rpartition(":")[2], source=name)


def from_objects(
    given: Any,
    config: Data,
    device: torch.device,
    *,
    held: bool | None = None,
    name: str | None = None,
    source: str | None = None,
) -> Loaded:
    """Read a data set that is an object.

    Args:
        given: a map-style `torch.utils.data.Dataset` of `(image, label)`, or anything else with a length and items; a
            pair of arrays `(images, labels)`; a pair `(train, test)` of such; or a mapping with `train` and, if there
            are, `test`, `validation` and `classes`. Images are as `Items` takes them; labels count from 0.
        config: its `image_size` and `channels` convert images; its `workers` read what is streamed.
        held: hold the images on the device, or stream them, whatever their size.
        name, source: what to call the set; by the type of the object, when not given.

    Raises:
        InputRejected: it is no data set, or has images or labels that cannot be used.
    """
    parts, classes = _parts(given)
    objects = {key: _sized(part, key) for key, part in parts.items()}
    items = {key: Items(each, key, config.image_size, config.channels) for key, each in objects.items()}
    shape: Shape = items[_TRAIN].read(0).pixels.shape
    _refuse_chance(items[_TRAIN])
    total = sum(map(len, items.values()))
    size = total * math.prod(shape)
    if held is None:
        held = size <= RESIDENT_LIMIT
    if held:
        read = _held(items, shape, device)
        read.notes.insert(0, f"{total:,} images ({size / 2**20:,.1f} MiB) are held on {device} as bytes")
    else:
        read = _streamed(items, shape, device, config.workers)
        read.notes.insert(0, f"{total:,} images ({size / 2**30:,.1f} GiB) are read each time they are asked for")
    labels = {key: part.labels for key, part in read.parts.items()}
    names = classes_of(_stated(classes, objects[_TRAIN]), labels, read.notes)
    height, width, channels = shape
    called = name or type(objects[_TRAIN]).__name__
    return Loaded(
        name=called,
        source=source or f"object:{called}",
        classes=names,
        input_shape=(channels, height, width),
        train=read.parts[_TRAIN],
        validation=read.parts.get(_VALIDATION),
        test=read.parts.get(_TEST),
        augment="crop" if channels == 1 else "crop-flip",
        notes=tuple(read.notes),
    )


def _arguments(name: str, factory: Any, config: Data) -> dict[str, Any]:
    try:
        parameters = inspect.signature(factory).parameters
    except ValueError:  # written in C, says nothing about its arguments
        return {}
    given = {"root": config.root} if "root" in parameters and config.root is not None else {}
    if config.root is not None and not given:
        raise UsageError(f"{name} does not take data.root: it has no argument 'root'", hint="leave data.root out")
    for key, parameter in parameters.items():
        open_ended = parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
        if parameter.default is parameter.empty and key not in given and not open_ended:
            hint = "--set data.root=FOLDER gives it" if key == "root" else "it is given data.root as root, nothing else"
            raise UsageError(f"{name} needs an argument {key!r} that it is not given", hint=hint)
    return given


def _parts(given: Any) -> tuple[dict[str, Any], Any]:
    """Return the parts by name, and the classes where they are given."""
    if isinstance(given, Mapping):
        known = (_TRAIN, _TEST, _VALIDATION, _CLASSES)
        if unknown := [key for key in given if key not in known]:
            raise InputRejected(
                f"a data set has no part {unknown[0]!r}", hint=did_you_mean(str(unknown[0]), known) or _RULE
            )
        parts = {key: given[key] for key in known[:3] if given.get(key) is not None}
        if _TRAIN not in parts:
            raise InputRejected("the data set has nothing to train on", hint=_RULE)
        return parts, given.get(_CLASSES)
    if isinstance(given, tuple) and len(given) == 2 and not _are_arrays(given):
        return {_TRAIN: given[0], _TEST: given[1]}, None
    return {_TRAIN: given}, None


def _are_arrays(given: Any) -> bool:
    return (
        isinstance(given, tuple | list)
        and len(given) == 2
        and isinstance(given[0], Tensor | np.ndarray)
        and hasattr(given[1], "__getitem__")
        and not isinstance(given[1], tuple)  # which is another pair of arrays, or an item
    )


def _sized(part: Any, key: str) -> Any:
    """Return a part as something with a length and items."""
    if isinstance(part, DataLoader):
        raise InputRejected(f"{key} is a DataLoader, whose batches are made here", hint="give its .dataset")
    if isinstance(part, IterableDataset) or (hasattr(part, "__iter__") and not hasattr(part, "__getitem__")):
        raise InputRejected(
            f"{key} is a {type(part).__name__}, which can be iterated over and nothing else",
            hint="give a map-style Dataset, with __len__ and __getitem__; list(...) makes one of a small set",
        )
    if _are_arrays(part):
        images, labels = part
        if len(images) != len(labels):
            raise InputRejected(f"{key} has {len(images):,} images and {len(labels):,} labels")
        part = Arrays(images, labels)
    if isinstance(part, str | bytes | Mapping | Tensor | np.ndarray) or not hasattr(part, "__getitem__"):
        raise InputRejected(f"{key} is a {type(part).__name__}, not a data set", hint=_RULE)
    try:
        length = len(part)
    except Exception as error:  # whatever the user's code raises
        raise InputRejected(f"{key} has no length: {told(error)}", hint=_RULE) from error
    if length == 0:
        raise InputRejected(f"{key} has no items")
    return part


def _refuse_chance(items: Items) -> None:
    """Refuse images that differ each time: the ones that are measured and held would be chance, and never come back."""
    for index in range(min(_READ_TWICE, len(items))):
        first, second = items.read(index), items.read(index)
        if first.label != second.label or not np.array_equal(first.pixels, second.pixels):
            raise InputRejected(
                f"item {index:,} of {items.part} differs when it is read again: its transform is random",
                hint="drop random transforms; data.augment moves and mirrors training images, the same in every run",
            )


def _held(items: Mapping[str, Items], shape: Shape, device: torch.device) -> _Read:
    """Read every item once. Images are named by their content, so another order holds out the same ones."""
    images = torch.empty((sum(map(len, items.values())), *shape), dtype=torch.uint8)
    slots, row, most = images.numpy(), 0, (0.0, "")
    found: dict[str, tuple[range, list[int], list[str]]] = {}
    for key, each in items.items():
        labels, names, seen = [], [], Counter[str]()
        for index in range(len(each)):
            item = each.read(index, shape)
            slots[row + index] = item.pixels
            labels.append(item.label)
            most = max(most, (item.rounded, f"item {index:,} of {key}"))
            digest = sha256(item.pixels.tobytes()).hexdigest()[:16]
            names.append(f"{digest}-{seen[digest]}" if seen[digest] else digest)
            seen[digest] += 1
        found[key] = range(row, row + len(each)), labels, names
        row += len(each)
    source = Held(images.to(device))
    parts = {key: Part(source=source, rows=part[0], labels=part[1], names=part[2]) for key, part in found.items()}
    return _Read(parts, _rounding(*most))


def _streamed(items: Mapping[str, Items], shape: Shape, device: torch.device, workers: int) -> _Read:
    """Read labels, and a sample of the images. Images are named by their number, and those of the sample by content."""
    notes = []
    if workers and not _can_be_sent(items):
        workers = 0
        notes.append("the data set cannot be sent to loading processes and is read in this one")
    source: Source = StreamedItems(tuple(items.values()), shape, device, workers)
    parts, row, most = {}, 0, (0.0, "")
    for key, each in items.items():
        targets = _targets(each.given)
        if targets is None or len(targets) != len(each):
            targets = [each.label(index) for index in range(len(each))]
        labels, names = [int(label) for label in targets], [str(index) for index in range(len(each))]
        for index in range(0, len(each), -(-len(each) // _SAMPLE)):
            item = each.read(index, shape)
            if item.label != labels[index]:
                raise InputRejected(
                    f"item {index:,} of {key} has the label {item.label}, and its targets say {labels[index]}",
                    hint="a Dataset's attribute targets must hold the labels that its items have",
                )
            most = max(most, (item.rounded, f"item {index:,} of {key}"))
            names[index] += f"-{sha256(item.pixels.tobytes()).hexdigest()[:16]}"
        parts[key] = Part(source=source, rows=range(row, row + len(each)), labels=labels, names=names)
        row += len(each)
    return _Read(parts, notes + _rounding(*most))


def _rounding(most: float, where: str) -> list[str]:
    if most <= _ROUNDED:
        return []
    return [f"pixels are rounded to 1/255, which changes {where} most: by {most:.2f} of that"]


def _targets(given: Any) -> Sequence[Any] | None:
    """Return the labels of all items where the data set holds them, so that no image is read for its label."""
    if isinstance(given, Arrays):
        return given.labels  # type: ignore[no-any-return]
    if isinstance(given, TensorDataset):
        return given.tensors[1]  # type: ignore[return-value]  # a tensor has a length and items
    if isinstance(given, Subset):
        inner = _targets(given.dataset)
        return None if inner is None else [inner[index] for index in given.indices]
    if getattr(given, "target_transform", None) is not None:
        return None
    targets = getattr(given, "targets", None)
    return targets if hasattr(targets, "__len__") and hasattr(targets, "__getitem__") else None


class _Counting:
    """A file that keeps nothing, and refuses more bytes than a worker is to be sent."""

    def __init__(self) -> None:
        self.size = 0

    def write(self, data: Any) -> int:
        self.size += memoryview(data).nbytes
        if self.size > _SENT_LIMIT:
            raise OverflowError
        return memoryview(data).nbytes


def _can_be_sent(items: Mapping[str, Items]) -> bool:
    try:
        pickle.Pickler(_Counting(), protocol=pickle.HIGHEST_PROTOCOL).dump(tuple(items.values()))
    except Exception:  # an object of the user's may raise anything
        return False
    return True


def _stated(classes: Any, train: Any) -> list[str] | int | None:
    """Return the names of the classes, or how many there are, as they are given or as the data set knows them."""
    while classes is None and isinstance(train, Subset):
        train = train.dataset
    found = getattr(train, _CLASSES, None) if classes is None else classes
    if found is None or isinstance(found, int):
        return found
    if isinstance(found, Mapping) and sorted(found.values()) == list(range(len(found))):
        found = sorted(found, key=found.__getitem__)  # {name: number}
    if isinstance(found, str | Mapping) or not hasattr(found, "__iter__"):
        raise InputRejected(
            f"the classes are given as {found!r:.50}", hint="give a list of names, or how many they are"
        )
    names = [", ".join(map(str, name)) if isinstance(name, tuple | list) else str(name) for name in found]
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise InputRejected(f"two classes have the name {twice[0]!r}")
    return names
