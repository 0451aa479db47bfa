"""Folders of images: which layout this is, which image has which label, and what is wrong with it."""

import os
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from compressor.choices import FOLDER
from compressor.data.cache import stamped
from compressor.data.images import SUFFIXES, listed
from compressor.data.labelled import Found, Listed, read
from compressor.data.part import Loaded
from compressor.data.splits import TEST, TRAIN, VALIDATION, folders_of, is_foreign, splits_of
from compressor.errors import InputRejected, did_you_mean
from compressor.recipe import Data

_FEW = 5  # images of a class
# Files that lie beside images by custom: labels, lists, notes, catalogues.
_BESIDE = {".txt", ".csv", ".tsv", ".json", ".jsonl", ".xml", ".yaml", ".yml", ".md", ".html", ".log", ".ini", ".db"}


@dataclass(eq=False)
class _Found:
    """Labelled files of one part of the data set."""

    paths: list[str] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)


@dataclass
class _Layout:
    classes: tuple[str, ...]
    train: _Found = field(default_factory=_Found)
    validation: _Found | None = None
    test: _Found | None = None
    notes: list[str] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)  # files that are not read as images, by suffix
    foreign: Counter[str] = field(default_factory=Counter)  # folders that are passed over, by name


def open_folder(place: str, config: Data, device: torch.device, held: bool | None = None) -> Loaded:
    """Open `train/` with `val/` or `test/` or both, or one folder of class folders that has yet to be split.

    Splits may have any of their usual names (`splits.py`). Every class has a folder, whose images may lie deeper;
    classes are numbered in the order of their names. With only one of `val/` and `test/`, that is the test part. Either
    may be flat, with a table of labels `*annotations.txt`.

    Args:
        held: hold the images on the device, or stream them, whatever their size.

    Raises:
        InputRejected: the folder or an image in it is not what it should be.
    """
    root = Path(place).expanduser().absolute()
    try:
        layout = _layout(root)
    except OSError as error:
        raise InputRejected(f"{error.filename or root} cannot be read: {error.strerror}") from error
    inside = f"{root}{os.sep}"

    def listing(one: _Found) -> Listed:
        return Listed(one.paths, one.labels, [path[len(inside) :].replace(os.sep, "/") for path in one.paths])

    parts = {TRAIN: layout.train, VALIDATION: layout.validation, TEST: layout.test}
    splits = {split: listing(one) for split, one in parts.items() if one is not None}
    found = Found(
        name=root.name,
        source=f"{FOLDER}{root}",
        classes=layout.classes,
        splits=splits,
        state=lambda: _state(splits),
        notes=tuple(layout.notes),
    )
    return read(found, config, device, held)


def _state(splits: Mapping[str, Listed]) -> Iterator[str]:
    for split, one in splits.items():
        for name, stamp in zip(one.names, stamped(one.files), strict=True):
            yield f"{split}/{name}/{stamp}"


def _layout(root: Path) -> _Layout:
    if not root.exists():
        near = did_you_mean(root.name, [path.name for path in root.parent.iterdir()]) if root.parent.is_dir() else None
        raise InputRejected(f"there is no folder {root}", hint=near)
    if not root.is_dir():
        raise InputRejected(f"{root} is a file, not a folder of images", hint="unpack it, if it is an archive")
    if not any(root.iterdir()):
        raise InputRejected(f"the folder {root} is empty")
    splits = splits_of(root)
    folder = splits.folders.get(TRAIN, root)
    layout = _Layout(_classes(folder))
    layout.train = _by_class(folder, layout)
    if splits.others:
        layout.notes.append(f"folders that are no split are left out: {listed(splits.others)}")
    if splits.folders:
        _add_parts(layout, splits.folders.get(VALIDATION), splits.folders.get(TEST))
    layout.notes += [*_few(layout), *_alike(layout.classes), *_passed_over(layout)]
    return layout


def _add_parts(layout: _Layout, validation: Path | None, test: Path | None) -> None:
    """Read the parts beside `train/`; only one of them is the test part."""
    if test is not None:
        layout.test = _labelled(test, layout)
    if validation is not None:
        layout.validation = _labelled(validation, layout)
        if layout.validation is None:
            raise InputRejected(
                f"the images of {validation} have no labels",
                hint="put those of each class in a folder, or list them in a file val_annotations.txt there",
            )
        if layout.test is None:
            layout.validation, layout.test = None, layout.validation
            layout.notes.append(f"{validation.name}/ is the test split")
        else:
            layout.notes.append(f"{validation.name}/ is the validation split, so data.validation is not used")
    elif test is not None and layout.test is None:
        raise InputRejected(
            f"the images of {test} have no labels",
            hint=f"put those of each class in a folder, or remove {test.name}/ to have a part of the rest held out",
        )


def _classes(folder: Path) -> tuple[str, ...]:
    """Return the sorted names of the class folders; those that differ in their Unicode form alone are one."""
    folders = folders_of(folder)
    classes = tuple(sorted({_name(path) for path in folders}))
    if not classes:
        what = "holds images but no class folders" if _images(folder) else "holds neither images nor class folders"
        raise InputRejected(f"{folder} {what}", hint="put the images of each class in a folder named after it")
    if len(classes) == 1:
        inner = folders_of(folders[0])
        raise InputRejected(
            f"{folder} has only one class folder, {classes[0]}/, where a classifier needs two",
            hint=f"did you mean folder:{folders[0]}?" if inner else None,
        )
    return classes


def _name(folder: Path) -> str:
    """Return a class folder's name in one Unicode form: file systems and archives write accents in two."""
    return unicodedata.normalize("NFC", folder.name)


def _by_class(folder: Path, layout: _Layout) -> _Found:
    """List the images of each class folder that is there."""
    found = _Found()
    number_of = {name: number for number, name in enumerate(layout.classes)}
    for inner in folders_of(folder):
        skipped = Counter[str]()
        images = _images(inner, skipped, layout.foreign)
        if not images:
            unread = f" that can be read, only {_counted(skipped)}" if skipped else ""
            raise InputRejected(
                f"the class folder {inner} has no images{unread}",
                hint="convert them to .png or .jpg, or remove it" if unread else "add some, or remove it",
            )
        found.paths += images
        found.labels += [number_of[_name(inner)]] * len(images)
        layout.skipped.update(skipped)
    layout.foreign.update(path.name for path in folder.iterdir() if path.is_dir() and is_foreign(path.name))
    if twice := [name for name, count in Counter(map(_name, folders_of(folder))).items() if count > 1]:
        layout.notes.append(f"folders whose names differ in their Unicode form alone are one class: {listed(twice)}")
    return found


def _labelled(folder: Path, layout: _Layout) -> _Found | None:
    """List the images of a `val/` or `test/` folder; None when they have no labels, which is noted."""
    classes, notes = layout.classes, layout.notes
    tables = sorted(folder.glob("*annotations.txt"))
    if tables:
        return _by_table(folder, tables[0], classes, notes)
    inner = [_name(path) for path in folders_of(folder)]
    if not set(inner) & set(classes) and set(inner) <= {"images"}:
        if not _images(folder):
            raise InputRejected(f"{folder} holds no images")
        notes.append(f"{folder.name}/ has no labels and is left out")
        return None
    for name in inner:
        if name not in classes:
            raise InputRejected(
                f"{folder.name}/ has a class {name!r} that train/ lacks",
                hint=did_you_mean(name, classes) or f"train/ has {listed(classes)}",
            )
    if absent := [name for name in classes if name not in inner]:
        notes.append(f"{folder.name}/ has no images of {len(absent):,} classes: {listed(absent)}")
    return _by_class(folder, layout)


def _by_table(folder: Path, table: Path, classes: Sequence[str], notes: list[str]) -> _Found:
    """Read a flat folder: a line of `table` has the name of a file and its class, then anything, between tabs.

    Source: the layout of Tiny-ImageNet, `val/val_annotations.txt` and `val/images/*.JPEG`.
    """
    unlisted = {Path(path).name: path for path in _images(folder)}
    number_of = {name: number for number, name in enumerate(classes)}
    found, seen = _Found(), Counter[str]()
    for number, line in enumerate(table.read_text(encoding="utf-8", errors="replace").splitlines(), start=1):
        if not line.strip():
            continue
        name, _, rest = line.partition("\t")
        label = rest.partition("\t")[0].strip()
        seen[name] += 1
        if not label:
            problem = "has no tab between file and class"
        elif label not in number_of:
            problem = f"has a class {label!r} that train/ lacks"
        elif seen[name] > 1:
            problem = f"lists {name} again"
        elif name not in unlisted:
            problem = f"lists {name}, which is not there"
        else:
            found.paths.append(unlisted.pop(name))
            found.labels.append(number_of[label])
            continue
        raise InputRejected(f"line {number:,} of {table} {problem}", hint="a line is: file name, tab, class folder")
    if not found.paths:
        raise InputRejected(f"{table} lists no images")
    if unlisted:
        notes.append(f"{len(unlisted):,} images of {folder.name}/ are not in {table.name} and are left out")
    return found


def _images(folder: Path, skipped: Counter[str] | None = None, foreign: Counter[str] | None = None) -> list[str]:
    """Return the image files within and below, sorted by path.

    Args:
        skipped: counts, by suffix, files that are not read as images and are not known to hold something else.
        foreign: counts folders that are passed over, by name.
    """

    def refuse(error: OSError) -> None:
        raise error

    found = []
    for inside, folders, files in os.walk(folder, followlinks=True, onerror=refuse):
        if foreign is not None:
            foreign.update(name for name in folders if is_foreign(name))
        folders[:] = sorted(name for name in folders if not is_foreign(name))
        for name in sorted(files):
            if name.startswith("."):
                continue
            suffix = os.path.splitext(name)[1].lower()  # noqa: PTH122  # a Path for each of a million files takes seconds
            if suffix in SUFFIXES:
                found.append(os.path.join(inside, name))  # noqa: PTH118  # as above
            elif skipped is not None and suffix not in _BESIDE:
                skipped[suffix] += 1
    return found


def _few(layout: _Layout) -> list[str]:
    """Say which classes have so few training images that no split can hold some of each."""
    counts = Counter(layout.train.labels)
    few = [f"{name} ({counts[number]})" for number, name in enumerate(layout.classes) if counts[number] < _FEW]
    return [f"{len(few):,} classes have fewer than {_FEW} training images: {listed(few)}"] if few else []


def _alike(classes: Sequence[str]) -> list[str]:
    """Say which classes have names that a reader takes for one."""
    names: dict[str, list[str]] = {}
    for name in classes:
        names.setdefault(unicodedata.normalize("NFKC", name).casefold().strip(), []).append(name)
    alike = [" and ".join(map(repr, several)) for several in names.values() if len(several) > 1]
    return [f"class names look alike: {listed(alike)}"] if alike else []


def _passed_over(layout: _Layout) -> list[str]:
    """Say what lies among the images and is not read."""
    notes = []
    if layout.skipped:
        total = layout.skipped.total()
        notes.append(f"{total:,} files that are not read as images are left out: {_counted(layout.skipped)}")
    if layout.foreign:
        notes.append(f"hidden folders and those of other programs are passed over: {listed(sorted(layout.foreign))}")
    return notes


def _counted(suffixes: Counter[str]) -> str:
    return listed([f"{count:,} {suffix or 'without a suffix'}" for suffix, count in suffixes.most_common()])
