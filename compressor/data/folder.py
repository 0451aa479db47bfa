"""Folders of images: which layout this is, which image has which label, and what is wrong with it."""

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from compressor.data.images import SUFFIXES, Damaged, listed
from compressor.data.part import Loaded, Part
from compressor.data.reading import open_files
from compressor.errors import InputRejected, did_you_mean
from compressor.recipe import Data

_TRAIN = "train"
_VALIDATION = ("val", "valid", "validation")
_TEST = "test"


@dataclass(eq=False)
class _Found:
    """Labelled files of one part of the data set."""

    paths: list[str] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)


@dataclass
class _Layout:
    classes: tuple[str, ...]
    train: _Found
    validation: _Found | None = None
    test: _Found | None = None
    notes: list[str] = field(default_factory=list)


def open_folder(place: str, config: Data, device: torch.device, held: bool | None = None) -> Loaded:
    """Open `train/` with `val/` or `test/` or both, or one folder of class folders that has yet to be split.

    Every class has a folder, whose images may lie deeper; classes are numbered in the order of their names. With only
    one of `val/` and `test/`, that is the test part. Either may be flat, with a table of labels `*annotations.txt`.

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
    found = [part for part in (layout.train, layout.validation, layout.test) if part is not None]
    paths = [path for part in found for path in part.paths]
    files = open_files(
        paths,
        size=config.image_size,
        channels=config.channels,
        device=device,
        workers=config.workers,
        held=held,
    )

    inside = f"{root}{os.sep}"

    def part_of(one: _Found | None) -> Part | None:
        if one is None:
            return None
        first = sum(len(earlier.paths) for earlier in found[: found.index(one)])
        names = [path[len(inside) :].replace(os.sep, "/") for path in one.paths]
        part = Part(source=files.source, rows=range(first, first + len(names)), labels=one.labels, names=names)
        return _undamaged(part, paths, files.damaged, layout.classes)

    train = part_of(layout.train)
    assert train is not None
    return Loaded(
        name=root.name,
        source=f"folder:{root}",
        classes=layout.classes,
        input_shape=files.input_shape,
        train=train,
        validation=part_of(layout.validation),
        test=part_of(layout.test),
        augment="crop" if files.input_shape[0] == 1 else "crop-flip",
        notes=(*layout.notes, *files.notes),
    )


def _undamaged(part: Part, paths: Sequence[str], damaged: Sequence[Damaged], classes: Sequence[str]) -> Part:
    """Return the part without damaged files. A class that loses all its images is refused."""
    if not damaged:
        return part
    bad = {one.path for one in damaged}
    kept = part.only([place for place, row in enumerate(part.rows) if paths[row] not in bad])
    if lost := set(part.labels) - set(kept.labels):
        raise InputRejected(
            f"no image of class {classes[min(lost)]!r} can be read: {listed(damaged)}",
            hint="mend them, or bring others",
        )
    return kept


def _layout(root: Path) -> _Layout:
    if not root.exists():
        near = did_you_mean(root.name, [path.name for path in root.parent.iterdir()]) if root.parent.is_dir() else None
        raise InputRejected(f"there is no folder {root}", hint=near)
    if not root.is_dir():
        raise InputRejected(f"{root} is a file, not a folder of images", hint="unpack it, if it is an archive")
    if not any(root.iterdir()):
        raise InputRejected(f"the folder {root} is empty")
    folders = {path.name.lower(): path for path in _folders(root)}
    if _TRAIN not in folders:
        if folders and folders.keys() <= {*_VALIDATION, _TEST}:
            raise InputRejected(
                f"{root} has {next(iter(folders))}/ but no train/",
                hint="give the folder that has both, or one of class folders",
            )
        classes = _classes(root)
        return _Layout(classes, _by_class(root, classes))
    classes = _classes(folders[_TRAIN])
    layout = _Layout(classes, _by_class(folders[_TRAIN], classes))
    validations = [name for name in _VALIDATION if name in folders]
    if len(validations) > 1:
        raise InputRejected(
            f"{root} has both {validations[0]}/ and {validations[1]}/", hint="keep the one to validate on"
        )
    if _TEST in folders:
        layout.test = _labelled(folders[_TEST], classes, layout.notes)
    if validations:
        layout.validation = _labelled(folders[validations[0]], classes, layout.notes)
        if layout.validation is None:
            raise InputRejected(
                f"the images of {folders[validations[0]]} have no labels",
                hint="put those of each class in a folder, or list them in a file val_annotations.txt there",
            )
    elif _TEST in folders and layout.test is None:
        raise InputRejected(
            f"the images of {folders[_TEST]} have no labels",
            hint="put those of each class in a folder, or remove test/ to have a part of train/ held out",
        )
    if layout.validation is not None and layout.test is None:
        layout.validation, layout.test = None, layout.validation
        layout.notes.append(f"{validations[0]}/ is the test split")
    elif layout.validation is not None:
        layout.notes.append(f"{validations[0]}/ is the validation split, so data.validation is not used")
    return layout


def _classes(folder: Path) -> tuple[str, ...]:
    """Return the sorted names of the class folders."""
    classes = tuple(path.name for path in _folders(folder))
    if not classes:
        what = "holds images but no class folders" if _images(folder) else "holds neither images nor class folders"
        raise InputRejected(f"{folder} {what}", hint="put the images of each class in a folder named after it")
    if len(classes) == 1:
        inner = _folders(folder / classes[0])
        raise InputRejected(
            f"{folder} has only one class folder, {classes[0]}/, where a classifier needs two",
            hint=f"did you mean folder:{folder / classes[0]}?" if inner else None,
        )
    return classes


def _by_class(folder: Path, classes: Sequence[str]) -> _Found:
    """List the images of each class folder that is there."""
    found = _Found()
    for inner in _folders(folder):
        images = _images(inner)
        if not images:
            raise InputRejected(
                f"the class folder {inner} has no images", hint=f"add some ({', '.join(sorted(SUFFIXES))}) or remove it"
            )
        found.paths += images
        found.labels += [classes.index(inner.name)] * len(images)
    return found


def _labelled(folder: Path, classes: Sequence[str], notes: list[str]) -> _Found | None:
    """List the images of a `val/` or `test/` folder; None when they have no labels, which is noted."""
    tables = sorted(folder.glob("*annotations.txt"))
    if tables:
        return _by_table(folder, tables[0], classes, notes)
    inner = [path.name for path in _folders(folder)]
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
    return _by_class(folder, classes)


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


def _folders(folder: Path) -> list[Path]:
    """Return the visible folders within, sorted by name."""
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _images(folder: Path) -> list[str]:
    """Return the visible image files within and below, sorted by path."""

    def refuse(error: OSError) -> None:
        raise error

    found = []
    for inside, folders, files in os.walk(folder, followlinks=True, onerror=refuse):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if not name.startswith(".") and os.path.splitext(name)[1].lower() in SUFFIXES:  # noqa: PTH122  # a Path for each of a million files takes seconds
                found.append(os.path.join(inside, name))  # noqa: PTH118  # as above
    return found
