"""Data sets by name or folder, as three splits whose batches any device and any run can repeat."""

import hashlib
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from compressor.choices import FILES, FOLDER, HF, NOTHING, WDS
from compressor.data.augment import Augmentation, chosen
from compressor.data.folder import open_folder
from compressor.data.hf import open_hf
from compressor.data.holdout import hold_out, keep_labels
from compressor.data.mix import Mix
from compressor.data.named import NORMALISATIONS, OFFICIAL, open_digits, open_official
from compressor.data.objects import from_objects, open_factory
from compressor.data.order import ordered
from compressor.data.part import Loaded, Part, Statistics
from compressor.data.split import Dataset, Held, Shard, Split
from compressor.data.streams import with_stream
from compressor.data.wds import open_wds
from compressor.errors import InputRejected, UsageError, did_you_mean
from compressor.recipe import Data
from compressor.recipe.code import is_code

NAMES = ("digits", *OFFICIAL)
_OPENERS = {FOLDER: open_folder, HF: open_hf, WDS: open_wds}
_OFFERED = f"offered: {', '.join(NAMES)}, {FILES}, package.module:factory, {NOTHING}"
_SAMPLE = 10_000  # training images, at most, whose mean and standard deviation are measured

__all__ = [
    "NAMES",
    "NORMALISATIONS",
    "Dataset",
    "Held",
    "Mix",
    "Shard",
    "Split",
    "divided",
    "from_objects",
    "open_data",
    "require_known",
    "unmoved",
    "without_images",
]


def open_data(config: Data, *, device: torch.device, seed: int = 0, held: bool | None = None) -> Dataset:
    """Open the data set of a recipe, importing it where its name is `package.module:factory`.

    Args:
        device: where batches are wanted.
        seed: which images are held out for validation. It is not the run's seed: runs that are to be compared share
            it. The test split never depends on it.
        held: hold the images of a folder on the device, or stream them, whatever their size.

    Raises:
        UsageError: the name is none of a data set, or too many images are to be held out.
        InputRejected: files are missing, damaged or do not fit together.
    """
    return divided(_load(config, device, held), config, device=device, seed=seed)


def divided(loaded: Loaded, config: Data, *, device: torch.device, seed: int = 0) -> Dataset:
    """Return a data set that was read, such as `from_objects` reads one, with the splits that a recipe asks for.

    Raises:
        UsageError: too many images are to be held out or to keep their labels, or `class_order` does not name the
            classes.
        InputRejected: the second stream has no images, or such as do not fit.
    """
    if config.class_order is not None:
        loaded = ordered(loaded, config.class_order)
    notes = list(loaded.notes)
    train, test, validation = loaded.train, loaded.test, loaded.validation
    if test is None:
        places = hold_out(train.labels, train.names, config.test, "test")
        notes.append(f"{len(places):,} of {len(train.rows):,} images are held out as the test split")
        train, test = train.without(places), train.only(places)
    if validation is None:
        places = hold_out(train.labels, train.names, config.validation, "validation", seed)
        if places:
            notes.append(f"{len(places):,} of {len(train.rows):,} training images are held out for validation")
        train, validation = train.without(places), train.only(places)

    _, height, width = loaded.input_shape
    augmentation = chosen(config.augment, loaded.augment, height, width, train_size=config.train_size)
    mean, std = loaded.statistics or measured(train.split(augmentation, device))
    parts = [train, validation, test]
    if config.labels is not None:
        places = keep_labels(train.labels, train.names, config.labels, config.labels_seed)
        parts = [train.only(places), validation, test, train.without(places)]
        notes.append(f"{len(places):,} of {len(train.rows):,} training images keep their labels{_by_class(parts[0])}")
    splits = [part.split(augmentation, device) for part in parts]
    data = Dataset(
        name=loaded.name,
        source=loaded.source,
        classes=loaded.classes,
        input_shape=loaded.input_shape,
        mean=mean,
        std=std,
        train=splits[0],
        validation=splits[1],
        test=splits[2],
        fingerprint=_fingerprint(loaded, parts),
        train_size=config.train_size,
        notes=tuple(notes),
    )

    def open_named(other: Data) -> Dataset:
        return open_data(other, device=device, seed=seed)

    return with_stream(data, config, splits[3] if splits[3:] else None, device=device, open_named=open_named)


def without_images(
    config: Data,
    classes: int,
    names: tuple[str, ...] | None,
    input_shape: tuple[int, int, int],
    statistics: Statistics,
    *,
    device: torch.device,
) -> Dataset:
    """Return a data set of no images, for `data.name: none`; those of `data.check` become its test split.

    Args:
        names: of the classes, where they are known; else those of `data.check`, else their numbers.
        input_shape: what real images are brought to.
    """
    channels, height, width = input_shape
    none = Part(source=Held(torch.zeros(0, height, width, channels, dtype=torch.uint8)), rows=(), labels=(), names=())
    test, notes = none, []
    called = names or tuple(map(str, range(classes)))
    if config.check is not None:
        changes = {"name": config.check, "image_size": (height, width), "channels": channels}
        wanted = config.model_copy(update=changes)
        found = _load(wanted, device, None)
        if found.input_shape != input_shape:
            raise InputRejected(
                f"the images of {config.check} are {list(found.input_shape)} and the teacher's {list(input_shape)}"
            )
        test, called = found.test or found.train, found.classes
        notes = [f"{len(test.rows):,} images of {config.check} are for measuring alone", *found.notes]
    augmentation = Augmentation()
    loaded = Loaded(
        name=NOTHING, source=NOTHING, classes=called, input_shape=input_shape, train=none, test=test, augment="crop"
    )
    splits = [part.split(augmentation, device) for part in (none, none, test)]
    return Dataset(
        name=NOTHING,
        source=NOTHING,
        classes=called,
        input_shape=input_shape,
        mean=statistics[0],
        std=statistics[1],
        train=splits[0],
        validation=splits[1],
        test=splits[2],
        fingerprint=_fingerprint(loaded, [none, none, test]),
        notes=tuple(notes),
    )


def unmoved(source: Held, labels: Tensor, device: torch.device) -> Split:
    """Return all images of a source as a split that is not augmented, with labels `[N]` int64."""
    return Split(source, torch.arange(len(source.images)), labels.to(device), Augmentation(), device)


def measured(split: Split) -> Statistics:
    """Return mean and standard deviation of each channel over at most 10,000 images, evenly spread over the split.

    They come from counts of the 256 byte values, so they are the same on every device and in every order.
    """
    step = math.ceil(len(split) / _SAMPLE)
    counts: Tensor | int = 0  # [C, 256]
    for images, _ in split.source.fetch(split.rows[::step].split(256)):
        counts = counts + torch.stack([channel.flatten().bincount(minlength=256) for channel in images.cpu().unbind(3)])
    assert isinstance(counts, Tensor)
    values = torch.arange(256, dtype=torch.float64) / 255
    shares = counts / counts.sum(dim=1, keepdim=True).double()
    mean = shares @ values
    std = (shares @ values**2 - mean**2).clamp_min(0).sqrt().clamp_min(1 / 255)  # a channel may be of one value
    return tuple(mean.tolist()), tuple(std.tolist())


def _load(config: Data, device: torch.device, held: bool | None) -> Loaded:
    name = config.name
    if name is None:
        raise UsageError("no data set is named", hint=f"name one with --data; {_OFFERED}")
    require_known(name)
    if name == "digits":
        return open_digits(config, device)
    if name in OFFICIAL:
        return open_official(name, config, device)
    if is_code(name):
        return open_factory(name, config, device, held)
    scheme, colon, place = name.partition(":")
    return _OPENERS[scheme + colon](place, config, device, held)


def require_known(name: str) -> None:
    """Refuse the name of a data set that cannot be, before anything is spent on it.

    Raises:
        UsageError: the name is not one of `NAMES`, a place such as `folder:PATH` or `package.module:factory`.
    """
    scheme, colon, rest = name.partition(":")
    if name in (*NAMES, NOTHING) or (f"{scheme}:" in _OPENERS and rest) or is_code(name):
        return
    if name in _OPENERS:
        what = {FOLDER: "folder", HF: "data set", WDS: "shards"}[name]
        raise UsageError(f"{name!r} names no {what}", hint=f"write {name}{'PATTERN' if name == WDS else 'PATH'}")
    if scheme == "object" and colon:
        raise UsageError(
            f"the data set {rest!r} is an object of Python, which no recipe can open",
            hint="give the object again; or write a function that makes it, and name that as package.module:function",
        )
    if Path(name).is_dir():
        raise UsageError(f"{name!r} is not the name of a data set", hint=f"did you mean 'folder:{name}'?")
    if colon:
        raise UsageError(f"data sets of the kind '{scheme}:' are not offered", hint=_OFFERED)
    raise UsageError(f"there is no data set {name!r}", hint=did_you_mean(name, (*NAMES, "folder:PATH")) or _OFFERED)


def _by_class(part: Part) -> str:
    counts = Counter(part.labels).values()
    few, most = min(counts), max(counts)
    return f", {few:,} a class" if few == most else f", {few:,} to {most:,} a class"


def _fingerprint(loaded: Loaded, parts: Sequence[Part]) -> str:
    """Return 16 hexadecimal digits of a digest that a folder keeps when it is moved."""
    digest = hashlib.sha256(repr((loaded.classes, loaded.input_shape)).encode())
    for part in parts:
        digest.update(repr((list(part.names), list(part.labels))).encode())
    return digest.hexdigest()[:16]
