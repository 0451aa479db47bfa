"""What a comparison varies: methods by name or with settings of their own, teachers, and keys of the recipe."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compressor.errors import UsageError, did_you_mean
from compressor.measure.paired import TEACHER, Cell, grid
from compressor.methods import METHODS
from compressor.plugins import is_plugin
from compressor.presets import method_presets
from compressor.recipe import Gates, Override, Recipe, Teacher, build, with_method

_FLAGS = {  # of what varies in another way
    "seed": "--seeds 0,1,2",
    "teacher": "--teachers a.pt,b.pt",
    "teachers": "--teachers a.pt,b.pt",
    "student.arch": "--students resnet8,resnet20",
    "method": "--methods kd,mine.yaml",
    "method.kind": "--methods kd,bss",
}
_OF_TRAINING = ("method", "train", "stages", "student", "device")  # what a training depends on, and its pair does not
# Of data: the images stay the same.
_OF_STEPS = ("data.batch_size", "data.augment", "data.train_size", "data.unlabelled_batch")


@dataclass(frozen=True)
class Choices:
    """The grid of a comparison: the recipe with each method, and the values of what varies, by their text.

    `teachers` are places in the recipe's teachers.
    """

    methods: Mapping[str, Recipe]
    teachers: Mapping[str, int]
    keys: Mapping[str, Mapping[str, Any]]

    def cells(self, students: Sequence[str], seeds: Sequence[int]) -> tuple[Cell, ...]:
        """Return all trainings.

        Raises:
            UsageError: nothing to compare, or one of them twice.
        """
        varied = {**({TEACHER: list(self.teachers)} if len(self.teachers) > 1 else {})}
        varied |= {key: list(values) for key, values in self.keys.items()}
        return grid(students, list(self.methods), seeds, varied, takes=self._takes)

    def recipe(self, cell: Cell) -> Recipe:
        """Return the recipe of one cell: its student, method, seed and choices, and neither exports nor gates.

        A method that learns from fewer teachers than there are has the first ones, or the one that is its turn. One
        that learns without a teacher is still compared with the first afterwards.
        """
        recipe, chosen = self.methods[cell.method], dict(cell.varied)
        most = recipe.method.needs.most
        if TEACHER in chosen:
            recipe = recipe.with_teachers([recipe.teachers[self.teachers[chosen.pop(TEACHER)]]])
        elif most is not None:
            recipe = recipe.with_teachers(recipe.teachers[: max(most, 1)])
        overrides = [
            Override(_place(key), self.keys[key][text], f"--vary {key}={text}") for key, text in chosen.items()
        ]
        if overrides:
            recipe = build(recipe.model_dump(mode="json", by_alias=True), overrides, base=Path.cwd())
        student = recipe.student.model_copy(update={"arch": cell.student})
        return recipe.model_copy(update={"seed": cell.seed, "student": student, "export": (), "gates": Gates()})

    def found(self, prepared: Recipe) -> Choices:
        """Return the same with what was found out of data and teachers when they were opened."""
        methods = {
            name: recipe.model_copy(update={"data": prepared.data}).with_teachers(prepared.teachers)
            for name, recipe in self.methods.items()
        }
        return Choices(methods, self.teachers, self.keys)

    def _takes(self, method: str, key: str) -> bool:
        if key == TEACHER:
            return self.methods[method].method.needs.most == 1
        if not key.startswith("method."):
            return True
        with_key = [name for name, recipe in self.methods.items() if key.split(".")[1] in recipe.method.model_dump()]
        return method in with_key or not with_key  # where none has it, the usual sentence refuses it


def choices(
    recipe: Recipe, methods: Sequence[str], teachers: Sequence[str | Path], vary: Mapping[str, Sequence[Any]]
) -> Choices:
    """Return what to compare.

    Args:
        methods: names of methods, plug-ins, files with a section `method`, or names of such files that come along.
        teachers: checkpoints or run folders in place of the recipe's.
        vary: dotted keys of the recipe, and the values that each takes.

    Raises:
        UsageError: an unknown name, two of one name, or a key that cannot vary within pairs.
    """
    if teachers:
        recipe = recipe.with_teachers([Teacher(checkpoint=Path(each).absolute()) for each in teachers])
    named: dict[str, Recipe] = {}
    for method in methods:
        name, switched = _with(recipe, method)
        if name in named:
            raise UsageError(f"the method {name} is named twice", hint="a file goes by its name without .yaml")
        named[name] = switched
    for key in vary:
        _require_within_pairs(key)
    labels = _labels([Path(each) for each in teachers])
    return Choices(
        named,
        {label: place for place, label in enumerate(labels)},
        {key: {_text(value): value for value in _once(key, values)} for key, values in vary.items()},
    )


def _with(recipe: Recipe, method: str) -> tuple[str, Recipe]:
    """Return what a method goes by, and the recipe with it.

    A name alone keeps those of the recipe's hyper-parameters that it shares with the recipe's own method. A file has
    all of its own.
    """
    if method in METHODS or is_plugin(method):
        values = recipe.model_dump(mode="json", by_alias=True)
        return method, build(values, [Override(("method", "kind"), method, "--methods")], base=Path.cwd())
    path = Path(method)
    if path.suffix not in (".yaml", ".yml") and not path.is_file():
        shipped = {each.name: each.path for each in method_presets()}
        if method not in shipped:
            raise UsageError(f"unknown method {method!r}", hint=did_you_mean(method, [*METHODS, *shipped]))
        path = shipped[method]
    switched = with_method(recipe, path)
    if path.stem in METHODS and switched.method.kind != path.stem:
        raise UsageError(
            f"{path} is called like the method {path.stem} and holds {switched.method.kind}", hint="rename the file"
        )
    return path.stem, switched


def _require_within_pairs(key: str) -> None:
    """Refuse a key whose values are chosen by another flag, do not change a training, or change its images."""
    if flag := _FLAGS.get(key) or _FLAGS.get(key.partition(".")[0] if key.startswith("teacher") else ""):
        raise UsageError(f"--vary {key} has a flag of its own", hint=flag)
    if key.startswith("data.") and not f"{key}.".startswith(tuple(f"{each}." for each in _OF_STEPS)):
        raise UsageError(
            f"--vary {key} changes the images, and trainings on different images make no pairs",
            hint="compare each with a recipe of its own",
        )
    if key.partition(".")[0] not in (*_OF_TRAINING, "data"):
        raise UsageError(f"--vary {key} does not change how a student is trained", hint="--vary method.temperature=1,4")


def _labels(paths: Sequence[Path]) -> list[str]:
    """Return what to call teachers: their files' names, with as many folders before them as tell them apart."""
    whole = [path.absolute().with_suffix("") if path.is_file() else path.absolute() for path in paths]
    for parts in range(1, max((len(path.parts) for path in whole), default=0) + 1):
        labels = ["/".join(path.parts[-parts:]) for path in whole]
        if len(set(labels)) == len(labels):
            return labels
    if whole:
        raise UsageError("--teachers names a file twice", hint="--teachers a.pt,b.pt")
    return []


def _once(key: str, values: Sequence[Any]) -> Sequence[Any]:
    texts = [_text(value) for value in values]
    if twice := next((text for text in texts if texts.count(text) > 1), None):
        raise UsageError(f"--vary {key} has {twice} twice", hint=f"--vary {key}=1,2,4")
    return values


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))


def _place(key: str) -> tuple[str | int, ...]:
    return tuple(int(part) if part.isdecimal() else part for part in key.split("."))
