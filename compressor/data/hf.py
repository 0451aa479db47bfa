"""Data sets that Hugging Face `datasets` opens: of the Hub, a folder of parquet or arrow files, or a saved one.

Nothing that a data set brings is executed: since version 4 the library knows no loading scripts.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import torch

from compressor.choices import HF
from compressor.data.cache import stamped
from compressor.data.images import listed
from compressor.data.labelled import Found, Listed, by_role, lone_validation, read
from compressor.data.labels import numbered
from compressor.data.part import Loaded
from compressor.data.splits import TRAIN
from compressor.errors import EnvironmentMissing, InputRejected, did_you_mean
from compressor.plugins import told
from compressor.recipe import Data

_SAVED = ("dataset_dict.json", "state.json")  # what save_to_disk leaves, of several splits and of one
_LABELS = ("label", "labels")  # columns without names of classes that are taken for labels
_NO_LABEL = -1  # what the Hub writes for a split whose labels are kept back


def open_hf(place: str, config: Data, device: torch.device, held: bool | None = None) -> Loaded:
    """Open a data set by its name on the Hub or by its folder.

    A name that is a folder here is that folder. Rows are read from the library's arrow files as they are asked for.

    Args:
        held: hold the images on the device, or stream them, whatever their size.

    Raises:
        EnvironmentMissing: the library is not installed, or older than version 4.
        InputRejected: there is no such data set, or it has no images, labels or splits that can be used.
    """
    folder = Path(place).expanduser().absolute()
    local = folder.exists() or place.startswith((".", "/", "~"))
    where = f"{HF}{folder if local else place}"
    notes: list[str] = []
    tables = _by_role(_loaded(folder if local else place, where), where, notes)
    image, label = _image_column(tables[TRAIN], config, where), _label_column(tables[TRAIN], config, where)
    for split, table in tables.items():
        _require_same(tables[TRAIN], table, split, (image, label), where)
    labels = {split: _labels(table, label, split, where) for split, table in tables.items()}
    for split in [split for split, each in labels.items() if split != TRAIN and set(each) == {_NO_LABEL}]:
        notes.append(f"{split} has no labels and is left out")
        del tables[split], labels[split]
    lone_validation(tables, notes)
    lone_validation(labels, [])
    classes, numbers = numbered(labels, getattr(tables[TRAIN].features[label], "names", None), notes)
    order = list(tables)
    rows = Rows(tuple(tables[split].select_columns([image]).with_format("arrow") for split in order), tuple(order))
    return read(
        Found(
            name=folder.name if local else place.rpartition("/")[2],
            source=where,
            classes=classes,
            splits={split: rows.listing(part, numbers[split]) for part, split in enumerate(order)},
            state=lambda: _state(tables),
            opener=rows,
            notes=tuple(notes),
        ),
        config,
        device,
        held,
    )


@dataclass(frozen=True)
class Row:
    """One encoded image of a table."""

    table: Any
    split: str
    index: int

    def open(self) -> IO[bytes]:
        value = self.table[self.index].column(0)[0].as_py()
        content, path = (value.get("bytes"), value.get("path")) if isinstance(value, dict) else (value, None)
        if content is not None:
            return io.BytesIO(content)
        if path is None or not Path(path).is_file():  # a pipe or a device would be waited for
            raise ValueError("neither bytes nor a file")
        return Path(path).open("rb")

    def __str__(self) -> str:
        return f"row {self.index:,} of {self.split}"


@dataclass(frozen=True)
class Rows:
    """Opens the images of several tables by `(table, row)`. Sent to a process, it takes the paths of files with it."""

    tables: Sequence[Any]
    splits: Sequence[str]

    def __call__(self, address: tuple[int, int]) -> Row:
        part, index = address
        return Row(self.tables[part], self.splits[part], index)

    def listing(self, part: int, labels: Sequence[int]) -> Listed:
        """Return the images of a table. They are called by their row and length, or path: of names they have none."""
        from pyarrow import compute

        column = self.tables[part][:].column(0)
        struct = str(column.type).startswith("struct")
        lengths = compute.binary_length(compute.struct_field(column, "bytes") if struct else column).to_pylist()
        paths = compute.struct_field(column, "path").to_pylist() if None in lengths and struct else lengths
        names = [
            f"{index}-{path if length is None else length}"
            for index, (length, path) in enumerate(zip(lengths, paths, strict=True))
        ]
        return Listed([(part, index) for index in range(len(names))], labels, names)


def _loaded(place: Path | str, where: str) -> Mapping[str, Any]:
    """Return the splits of a data set; one without splits is all to train on."""
    try:
        import datasets
    except ImportError as error:
        raise EnvironmentMissing(f"{where} needs the package datasets", hint="pip install 'compressor[hf]'") from error
    if int(datasets.__version__.partition(".")[0]) < 4:
        raise EnvironmentMissing(
            f"{where} needs datasets 4, which runs no loading scripts, and {datasets.__version__} is installed",
            hint="pip install --upgrade 'compressor[hf]'",
        )
    if isinstance(place, Path):
        if not place.exists():
            near = [path.name for path in place.parent.iterdir()] if place.parent.is_dir() else []
            raise InputRejected(f"there is no folder {place}", hint=did_you_mean(place.name, near))
        if not place.is_dir():
            raise InputRejected(f"{place} is a file", hint=f"name the folder that holds it: {HF}{place.parent}")
    try:
        with _quiet(datasets):
            if isinstance(place, Path) and any((place / name).is_file() for name in _SAVED):
                found = datasets.load_from_disk(str(place), keep_in_memory=False)
            else:
                found = datasets.load_dataset(str(place), keep_in_memory=False)
    except Exception as error:  # of a dozen kinds, from the network to a damaged file
        reason = told(error.__cause__ if isinstance(error.__cause__, Exception) else error)
        hint = "parquet or arrow files, or what save_to_disk wrote" if isinstance(place, Path) else None
        raise InputRejected(f"{where} cannot be opened: {reason}", hint=hint) from error
    return found if isinstance(found, Mapping) else {TRAIN: found}


@contextmanager
def _quiet(datasets: Any) -> Iterator[None]:
    """Keep the library from saying in its log what becomes our error, and from drawing bars into a file."""
    before = datasets.logging.get_verbosity()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)
    bars = datasets.are_progress_bars_disabled()
    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
    try:
        yield
    finally:
        datasets.logging.set_verbosity(before)
        if not bars:
            datasets.enable_progress_bars()


def _by_role(found: Mapping[str, Any], where: str, notes: list[str]) -> dict[str, Any]:
    tables = {}
    for role, names in by_role(map(str, found), where, notes).items():
        if len(names) > 1:
            raise InputRejected(f"{where} has both {names[0]} and {names[1]}", hint=f"keep the one that is {role}")
        tables[role] = found[names[0]]
        if len(tables[role]) == 0:
            raise InputRejected(f"{names[0]} of {where} has no rows")
    return tables


def _image_column(table: Any, config: Data, where: str) -> str:
    fitting: list[str] = [name for name, feature in table.features.items() if _is_encoded(feature)]
    if config.image is None:
        if len(fitting) != 1:
            raise _unclear(table, where, "image", fitting)
        return fitting[0]
    _require_column(table, config.image, "image", where)
    if config.image not in fitting:
        raise InputRejected(
            f"the column {config.image!r} of {where} holds {_kind(table.features[config.image])}, not encoded images",
            hint=f"images are in {listed(fitting)}" if fitting else "PNG or JPEG bytes, or a feature Image",
        )
    return config.image


def _is_encoded(feature: Any) -> bool:
    """Whether a column holds the bytes of image files: the library's own images, bytes, or both of bytes and path."""
    if isinstance(feature, dict):
        return _kind(feature.get("bytes")) == "binary"
    return type(feature).__name__ == "Image" or _kind(feature) in ("binary", "large_binary")


def _label_column(table: Any, config: Data, where: str) -> str:
    if config.label is not None:
        _require_column(table, config.label, "label", where)
        return config.label
    fitting: list[str] = [name for name, feature in table.features.items() if type(feature).__name__ == "ClassLabel"]
    fitting = fitting or [name for name in _LABELS if name in table.features]
    if len(fitting) != 1:
        raise _unclear(table, where, "label", fitting)
    return fitting[0]


def _unclear(table: Any, where: str, what: str, fitting: Sequence[str]) -> InputRejected:
    columns = [f"{name} ({_kind(feature)})" for name, feature in table.features.items()]
    said = f"has several {what} columns, {listed(fitting)}" if fitting else f"has no {what} column"
    return InputRejected(
        f"{where} {said}; its columns are {listed(columns, most=12)}",
        hint=f"--set data.{what}={fitting[0] if fitting else 'COLUMN'} says which",
    )


def _require_column(table: Any, name: str, what: str, where: str) -> None:
    if name not in table.features:
        raise InputRejected(
            f"{where} has no column {name!r} for data.{what}; its columns are {listed(list(table.features), most=12)}",
            hint=did_you_mean(name, table.features),
        )


def _kind(feature: Any) -> str:
    return str(getattr(feature, "dtype", None) or type(feature).__name__) if feature is not None else "nothing"


def _require_same(train: Any, table: Any, split: str, columns: Sequence[str], where: str) -> None:
    """Refuse a split that lacks a column, or has it with other classes than the training split."""
    for name in columns:
        if name not in table.features:
            raise InputRejected(f"{split} of {where} has no column {name!r}, which train has")
        names = [getattr(each.features[name], "names", None) for each in (train, table)]
        if names[0] != names[1]:
            raise InputRejected(
                f"{split} of {where} has other classes than train: {listed(names[1] or ['numbers alone'])}, "
                f"not {listed(names[0] or ['numbers alone'])}",
                hint="give both the same names in the same order",
            )


def _labels(table: Any, column: str, split: str, where: str) -> Sequence[Any]:
    """Return the labels of a split: all whole numbers, or all names."""
    labels: list[Any] = table.select_columns([column]).with_format("arrow")[:].column(0).to_pylist()
    odd = next((row for row, label in enumerate(labels) if type(label) is not type(labels[0]) or label is None), None)
    if odd is None and type(labels[0]) not in (int, str):
        odd = 0
    if odd is not None:
        raise InputRejected(
            f"the label of row {odd:,} of {split} of {where} is {labels[odd]!r:.50}, not the number or the name of a "
            "class",
            hint="--set data.label=COLUMN names another column",
        )
    return labels


def _state(tables: Mapping[str, Any]) -> Iterator[str]:
    for split, table in tables.items():
        yield f"{split}/{len(table)}"
        yield from stamped(file["filename"] for file in table.cache_files)
