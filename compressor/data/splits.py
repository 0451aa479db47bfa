"""Which parts of a data set are its splits, whatever their usual names: `Training/`, `seg_test/`, `dev/`, ..."""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from compressor.errors import InputRejected

TRAIN, VALIDATION, TEST = "train", "validation", "test"
_WORDS = {
    TRAIN: ("train", "training", "trn"),
    VALIDATION: ("val", "valid", "validate", "validation", "dev", "devel", "development", "eval", "evaluation"),
    TEST: ("test", "testing", "tst", "holdout"),
}
_ROLES = {word: role for role, words in _WORDS.items() for word in words}
_ENDINGS = ("set", "data", "images", "imgs", "split")  # written in one with the word, as in `trainset`
# What photo managers, archives and servers leave beside images, never a class.
_FOREIGN = frozenset(
    {"@eadir", "__macosx", "#recycle", "#snapshot", "$recycle.bin", "lost+found", "system volume information"}
)

Affix = tuple[str, ...]


@dataclass(frozen=True)
class Splits:
    """The folder of each split that is there, by `train`, `validation` and `test`, and those that are left out."""

    folders: Mapping[str, Path] = field(default_factory=dict)
    others: tuple[str, ...] = ()


def folders_of(folder: Path) -> list[Path]:
    """Return the folders within that may hold images, sorted by name."""
    return sorted(path for path in folder.iterdir() if path.is_dir() and not is_foreign(path.name))


def is_foreign(name: str) -> bool:
    """Whether a folder of this name is hidden, or belongs to a photo manager, an archive or a server."""
    return name.startswith(".") or name.lower() in _FOREIGN


def role_of(name: str) -> str | None:
    """Return which split a name says, `train`, `validation` or `test`, in any of the usual words; None: of none."""
    known = _role(name)
    return None if known is None else known[0]


def splits_of(root: Path) -> Splits:
    """Find the splits of a data set. Without any, the folders of `root` are its classes.

    A split has the name of one (`train`, `Testing`, `val_set`), and all have the same words beside it (`seg_train` and
    `seg_test`). A class may have such a name too, as a railway's train has: one whose images lie directly in it, among
    folders without such names, is a class.

    Raises:
        InputRejected: folders look like splits, but not which is which, or none is to train on.
    """
    folders = folders_of(root)
    groups: dict[Affix, dict[str, list[Path]]] = defaultdict(lambda: defaultdict(list))
    named = 0
    for path in folders:
        known = _role(path.name)
        if known is not None:
            groups[known[1]][known[0]].append(path)
            named += 1
    only_splits = named == len(folders)
    trained = {affix: group for affix, group in groups.items() if TRAIN in group}
    if not only_splits:
        trained = {affix: group for affix, group in trained.items() if any(map(folders_of, group[TRAIN]))}
    if not trained:
        _refuse_what_looks_like_splits(root, folders, groups, only_splits)
        return Splits()
    if len(trained) > 1 and () not in trained:
        first, second = (group[TRAIN][0].name for group in list(trained.values())[:2])
        raise _unclear(root, f"both {first}/ and {second}/", "to train on")
    return _chosen(root, folders, trained.get((), next(iter(trained.values()))))


def _chosen(root: Path, folders: Sequence[Path], group: Mapping[str, Sequence[Path]]) -> Splits:
    found = {}
    for role, paths in group.items():
        if len(paths) > 1:
            verb = {TRAIN: "train on", VALIDATION: "validate on", TEST: "test on"}[role]
            raise _unclear(root, f"both {paths[0].name}/ and {paths[1].name}/", f"to {verb}")
        found[role] = _entered(paths[0])
    classes = {path.name for path in folders_of(found[TRAIN])}
    taken = {path for paths in group.values() for path in paths}
    others = [path for path in folders if path not in taken]
    for path in others:
        if classes & {inner.name for inner in folders_of(_entered(path))}:
            raise InputRejected(
                f"{root} has {path.name}/ beside {group[TRAIN][0].name}/, with the same class folders, and its name is "
                "not a usual one of a split",
                hint=f"rename {path.name}/ to val or test, or move it away",
            )
    return Splits(found, tuple(path.name for path in others))


def _refuse_what_looks_like_splits(
    root: Path, folders: Sequence[Path], groups: Mapping[Affix, Mapping[str, Sequence[Path]]], only_splits: bool
) -> None:
    """Refuse parts without one to train on, and folders that all hold the same class folders."""
    parts = [path for group in groups.values() for paths in group.values() for path in paths]
    deep = [path for path in parts if len(folders_of(_entered(path))) > 1]
    if parts and (only_splits or deep):
        raise InputRejected(
            f"{root} has {(deep or parts)[0].name}/ but no train/",
            hint="give the folder that has both, or one of class folders",
        )
    within = [frozenset(inner.name for inner in folders_of(path)) for path in folders]
    if len(folders) > 1 and len(set(within)) == 1 and len(within[0]) > 1 and not all(map(str.isdecimal, within[0])):
        names = f"{folders[0].name}/ and {folders[1].name}/" + (", ..." if len(folders) > 2 else "")
        few = ", ".join(sorted(within[0])[:3])
        raise InputRejected(
            f"the folders {names} of {root} all hold the same folders ({few}), and it is not clear whether they are "
            "splits or classes",
            hint="name splits train/, val/ and test/; of classes, move the images up into the folder of each",
        )


def _role(name: str) -> tuple[str, Affix] | None:
    """Return what kind of split a folder's name says, and the other words in it."""
    words = [word for word in re.split(r"[\W_\d]+", name.lower()) if word]
    for place, word in enumerate(words):
        stem = next((word.removesuffix(end) for end in _ENDINGS if word.removesuffix(end) in _ROLES), word)
        if stem in _ROLES:
            beside = [each for each in words[:place] + words[place + 1 :] if each not in _ENDINGS]
            return _ROLES[stem], tuple(beside)
    return None


def _entered(folder: Path) -> Path:
    """Return the folder, or the one of the same kind in it, as archives are often packed: `test/test/`."""
    inner = folders_of(folder)
    if len(inner) == 1 and (known := _role(inner[0].name)) and known == _role(folder.name):
        return inner[0]
    return folder


def _unclear(root: Path, what: str, verb: str) -> InputRejected:
    return InputRejected(f"{root} has {what}", hint=f"keep the one {verb}")
