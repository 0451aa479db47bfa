"""The order of the classes: as the data have it, by numbers in their names, or as a teacher of the user's knows it."""

import json
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from compressor.data.images import listed
from compressor.data.part import Loaded, Part
from compressor.errors import InputRejected, UsageError, did_you_mean

NATURAL = "natural"


def ordered(loaded: Loaded, order: str | Path | Sequence[str]) -> Loaded:
    """Return the data with their classes numbered in another order.

    Args:
        order: `natural` (2 before 10), all names in their order, or a file of them: a line each, or JSON, as a list of
            names, as `{name: number}` or as `{number: name}`.

    Raises:
        InputRejected: the file cannot be read or holds no such list.
        UsageError: the names are not those of the classes, each once.
    """
    if order == NATURAL:
        names: Sequence[str] = sorted(loaded.classes, key=_natural)
    else:
        given = _read(order) if isinstance(order, Path) else order
        names = [unicodedata.normalize("NFC", name) for name in given]
        _require_all(names, loaded.classes, f"{order}" if isinstance(order, Path) else "data.class_order")
    number_of = {name: number for number, name in enumerate(names)}
    moved = [number_of[name] for name in loaded.classes]

    def relabelled(part: Part | None) -> Part | None:
        return None if part is None else replace(part, labels=[moved[label] for label in part.labels])

    train = relabelled(loaded.train)
    assert train is not None
    return replace(
        loaded,
        classes=tuple(names),
        train=train,
        validation=relabelled(loaded.validation),
        test=relabelled(loaded.test),
        notes=(*loaded.notes, f"the classes are in this order: {listed(names)}"),
    )


def _natural(name: str) -> list[tuple[int, str]]:
    """Return what sorts names by the numbers in them: digits stand at the odd places of the split."""
    return [
        (int(part), "") if place % 2 else (-1, part.casefold())
        for place, part in enumerate(re.split(r"([0-9]+)", name))
    ] + [(-1, name)]


def _require_all(names: Sequence[str], classes: Sequence[str], where: str) -> None:
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise UsageError(f"{where} names the class {twice[0]!r} twice")
    if other := [name for name in names if name not in classes]:
        raise UsageError(f"{where} names a class {other[0]!r} that the data lack", hint=did_you_mean(other[0], classes))
    if missing := [name for name in classes if name not in names]:
        raise UsageError(f"{where} leaves out {len(missing):,} classes: {listed(missing)}", hint="name each class once")


def _read(file: Path) -> Sequence[str]:
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not text"
        raise InputRejected(f"the order of the classes cannot be read from {file}: {reason}") from error
    if file.suffix.lower() != ".json":
        return [line.strip() for line in text.splitlines() if line.strip()]
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputRejected(f"{file} is not JSON: {error}") from error
    if isinstance(content, dict):
        pairs = [(number, name) for name, number in content.items()]
        if all(isinstance(name, str) for _, name in content.items()):
            pairs = [(int(number), name) for number, name in content.items() if number.isdecimal()]
        if sorted(number for number, _ in pairs if type(number) is int) == list(range(len(content))):
            return [str(name) for _, name in sorted(pairs)]
    elif isinstance(content, list) and all(isinstance(name, str) for name in content):
        return content
    raise InputRejected(
        f"{file} does not hold the order of the classes",
        hint='a list of names, or {"name": number} with numbers from 0',
    )
