"""Labels as data sets have them, numbers or names, and the classes that they are of."""

from collections.abc import Mapping, Sequence
from typing import Any

from compressor.data.images import listed
from compressor.data.splits import TRAIN
from compressor.errors import InputRejected, did_you_mean

_COUNT_FROM_0 = "labels are the numbers of the classes, from 0"


def numbered(
    labels: Mapping[str, Sequence[int] | Sequence[str]], names: Sequence[str] | None, notes: list[str]
) -> tuple[tuple[str, ...], dict[str, Sequence[int]]]:
    """Return the names of the classes, and the labels of each split as their numbers.

    Classes that are named by the labels themselves are numbered in the order of their names.

    Args:
        labels: of `train` and other splits: all numbers, or all names.
        names: of the classes, where the numbers have names.

    Raises:
        InputRejected: a split has a class that train lacks, or labels that are no numbers of classes.
    """
    present: set[Any] = set(labels[TRAIN])
    for split, each in labels.items():
        if names is None and (strange := sorted({*each} - present)):
            raise InputRejected(
                f"{split} has a class {strange[0]!r} that train lacks",
                hint=did_you_mean(str(strange[0]), map(str, present)) or f"train has {listed(sorted(present))}",
            )
    if any(isinstance(label, str) for label in present):
        names = sorted(map(str, present))
        number_of = {name: number for number, name in enumerate(names)}
        labels = {split: [number_of[str(label)] for label in each] for split, each in labels.items()}
    numbers = {split: [int(label) for label in each] for split, each in labels.items()}
    return classes_of(None if names is None else list(names), numbers, notes), dict(numbers)


def classes_of(
    stated: list[str] | int | None, labels: Mapping[str, Sequence[int]], notes: list[str]
) -> tuple[str, ...]:
    """Return the names of the classes, their numbers where they have none; each label must be one of them.

    Args:
        stated: the names, or how many there are; None: as many as the labels say.
        labels: of `train` and other parts.
        notes: what looks odd is added to them.

    Raises:
        InputRejected: a label is not the number of a class, or there are fewer than two classes.
    """
    present = set(labels[TRAIN])
    highest = max(max(each) for each in labels.values())
    count = highest + 1 if stated is None else stated if isinstance(stated, int) else len(stated)
    for key, each in labels.items():
        if bad := [index for index, label in enumerate(each) if not 0 <= label < count]:
            raise InputRejected(
                f"the label of item {bad[0]:,} of {key} is {each[bad[0]]}, and with {count:,} classes it must be 0 to "
                f"{count - 1:,}",
                hint=f"subtract 1: {_COUNT_FROM_0}" if min(present) == 1 and highest == count else _COUNT_FROM_0,
            )
    if count < 2:
        raise InputRejected("all items are of one class, where a classifier needs two")
    if stated is None and len(present) < count:
        missing = next(label for label in range(count) if label not in present)
        raise InputRejected(
            f"no item of train has the label {missing:,}, and labels go up to {highest:,}",
            hint=f"{_COUNT_FROM_0}; or give the names of the classes, or how many there are",
        )
    names = tuple(stated) if isinstance(stated, list) else tuple(str(number) for number in range(count))
    if absent := [name for number, name in enumerate(names) if number not in present]:
        notes.append(f"train has no images of {len(absent):,} classes: {listed(absent)}")
    return names
