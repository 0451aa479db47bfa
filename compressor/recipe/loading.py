"""From a file, flags and `--set` to a checked recipe, and back to text.

Relative paths in a file are relative to its folder; those in flags and `--set` to the working directory, since they
were typed there. The resolved copy stored with a run has absolute paths and every default written out, so it alone
repeats the run.
"""

import json
import os
import re
import shlex
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self, TypeVar

import yaml
from pydantic import ValidationError

from compressor.choices import FOLDER, HF, WDS, is_elsewhere
from compressor.errors import UsageError
from compressor.methods import Config
from compressor.plugins import is_plugin
from compressor.recipe import shape
from compressor.recipe.complaints import Source, explain
from compressor.recipe.document import Dumper, Place, parse, read
from compressor.recipe.schema import Recipe

AnySection = TypeVar("AnySection", bound=Config)


@dataclass(frozen=True)
class Override:
    """One value that replaces the file's. `label` is what the user typed; it says the first `said` keys of `place`."""

    place: Place
    value: Any
    label: str | None = None
    said: int = 0

    @classmethod
    def typed(cls, text: str, option: str = "--set", *, example: str = "train.lr=0.05", below: Place = ()) -> Self:
        """Return what `a.b=c` says, its keys counted from `below`. The value is read as YAML, as it would be in a file.

        Raises:
            UsageError: there is no key, no `=`, or the value is not YAML; the hint is to type `option example`.
        """
        key, equals, value = text.partition("=")
        label, hint = f"{option} {shlex.quote(text)}", f"write a key and a value: {option} {example}"
        if not equals:
            raise UsageError(f"{label} has no =", hint=hint)
        if not re.fullmatch(r"\w+(\.\w+)*", key.strip()):
            raise UsageError(f"{label}: {key.strip()!r} is not a key", hint=hint)
        place = tuple(int(part) if part.isdecimal() else part for part in key.strip().split("."))
        return cls((*below, *place), parse(value, label).values, label, len(below))


@dataclass
class _Draft:
    """Plain values on their way to a recipe, and where each came from."""

    values: dict[str, Any]
    source: str | None = None
    lines: dict[Place, int] = field(default_factory=dict)
    overrides: list[Override] = field(default_factory=list)

    def where(self, place: Place) -> Source:
        """Return who said what stands at `place`, or what the section is in which it is missing."""
        while place:
            for override in reversed(self.overrides):
                below = _within(override.place, place) and place not in self.lines
                if override.place == place or below:
                    return Source(override.label, typed=override.label is not None, said=override.said)
            if place in self.lines:
                return Source(f"{self.source}:{self.lines[place]}")
            place = place[:-1]
        return Source(self.source)

    def set(self, override: Override) -> None:
        """Put one value in the place of what was there; with `stages`, `method` and `train` are those of the last."""
        stages = self.values.get("stages")
        if override.place[0] in ("method", "train") and isinstance(stages, list | tuple) and stages:
            override = replace(override, place=("stages", len(stages) - 1, *override.place))
        _set(self.values, override)
        self.lines = {place: line for place, line in self.lines.items() if not _within(place, override.place)}
        self.overrides = [each for each in self.overrides if not _within(each.place, override.place)]
        self.overrides.append(override)


def load(path: Path, overrides: Sequence[str | Override] = (), *, trusted: bool = False) -> Recipe:
    """Return the recipe in a file after `overrides` apply in turn; a plain string is what `--set` takes, `a.b=c`.

    Args:
        trusted: the file is the user's own, so that what it names as `package.module:name` is imported. In any other,
            such as the one stored in a run folder, these sections are kept as values (`methods.NotLoaded`).

    Raises:
        UsageError: the file is not a recipe. The message has the line, the dotted name and what was expected.
    """
    document = parse(read(path), str(path))
    if document.values is None:
        raise UsageError(f"{path} is empty", hint="compress recipes show digits-bss prints one to start from")
    if not isinstance(document.values, dict):
        raise UsageError(f"{path}: a recipe is made of keys, such as student: {{arch: resnet20}}")
    draft = _Draft(document.values, str(path), document.lines)
    draft.values = _absolute(draft.values, path.absolute().parent)
    return _recipe(draft, overrides, trusted=trusted)


def build(values: Mapping[str, Any], overrides: Sequence[str | Override] = (), *, base: Path) -> Recipe:
    """Return the recipe in `values`, nested like a file, with relative paths from `base`, after `overrides` apply.

    The values are the caller's own: plug-ins that they name are imported.
    """
    return _recipe(_Draft(_absolute(_plain(values), base.absolute())), overrides, trusted=True)


def with_method(recipe: Recipe, path: Path) -> Recipe:
    """Return a recipe with the `method` of a file in place of its own; what else the file says, as a recipe, is left.

    A file with `stages` brings all of them, with their epochs. The file is the user's own: a plug-in that it names is
    imported.

    Raises:
        UsageError: the file has no such section, or it is wrong. The message has the line.
    """
    document = parse(read(path), str(path))
    written = document.values if isinstance(document.values, dict) else {}
    if not {"method", "stages"} & written.keys():
        hint = "put kind and its keys below method:" if "kind" in written else "method: {kind: kd, temperature: 4}"
        raise UsageError(f"{path} has no section method", hint=hint)
    brought = {key: written[key] for key in ("method", "stages") if key in written}
    values = _absolute(recipe.parts[-1].model_dump(mode="json", by_alias=True), Path.cwd())
    if "stages" in brought:
        del values["method"], values["train"]
    lines = {place: line for place, line in document.lines.items() if place and place[0] in brought}
    draft = _Draft(_absolute({**values, **brought}, path.absolute().parent), str(path), lines)
    return _recipe(draft, (), trusted=True)


def section(kind: type[AnySection], place: Place, overrides: Sequence[Override]) -> AnySection:
    """Return the part of a recipe at `place`, of which all that is written is `overrides`, checked as in a recipe.

    Raises:
        UsageError: an override is not what the section may say. The message names it as in a recipe.
    """
    draft = _Draft(_around(place))
    values = _applied(draft, overrides)
    here = values
    for key in place:
        here = here[key]
    try:
        return kind.model_validate_json(json.dumps(here), strict=True)
    except ValidationError as error:
        raise explain(error, values, draft.where, place) from None


def dump(recipe: Recipe) -> str:
    """Return the recipe as YAML with every default written out and absolute paths; loading it gives an equal recipe."""
    values = _absolute(recipe.model_dump(mode="json", by_alias=True), Path.cwd())
    text = yaml.dump(values, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=120)
    return f"# Resolved recipe of {recipe.name}: every default written out.\n{text}"


def _recipe(draft: _Draft, overrides: Sequence[str | Override], *, trusted: bool) -> Recipe:
    values = _applied(draft, overrides)
    try:
        return Recipe.model_validate_json(json.dumps(values), strict=True, context={"trusted": trusted})
    except ValidationError as error:
        raise explain(error, values, draft.where) from None


def _applied(draft: _Draft, overrides: Sequence[str | Override]) -> Any:
    """Put the overrides into the draft, and return its values with absolute paths."""
    for each in overrides:
        draft.set(each if isinstance(each, Override) else Override.typed(each))
    return _absolute(_plain(draft.values), Path.cwd())


def _around(place: Place) -> Any:
    """Return the values around an empty section: `{"export": [{}]}` for `("export", 0)`."""
    values: Any = {}
    for key in reversed(place):
        values = {key: values} if isinstance(key, str) else [values]
    return values


def _within(place: Place, section: Place) -> bool:
    return place[: len(section)] == section


def _set(values: dict[str, Any], override: Override) -> None:
    """Write one value into `values`, making the sections on the way."""
    *way, last = override.place
    here: Any = values
    for depth, key in enumerate(way):
        if isinstance(here, dict) and here.get(key) is None:
            here[key] = _start(override.place[: depth + 1], override.place[depth + 1], values)
        here = here[_key(here, key, override)]
        if not isinstance(here, dict | list):
            name = ".".join(map(str, override.place[: depth + 1]))
            raise UsageError(f"{override.label or 'overrides'}: {name} is not a section")
    before = shape.keys(tuple(way), values) if last == "kind" else []
    here[_key(here, last, override)] = override.value
    after = shape.keys(tuple(way), values) if last == "kind" else []
    if not is_plugin(str(override.value)):
        after = after or before  # a name that is not known is refused by itself
    for key in {*before} - {*after, "kind"}:  # another kind keeps the keys that it shares with the old one
        here.pop(key, None)


def _start(place: Place, following: str | int, values: Any) -> Any:
    """Return what an override inside a section that is not written begins with: its default where that matters."""
    default = shape.at(place, values).get("default")
    if isinstance(default, list) and isinstance(following, int):
        return deepcopy(default)
    if isinstance(default, dict) and "kind" in default and following != "kind":
        return {"kind": default["kind"]}
    return {}


def _key(here: Any, key: str | int, override: Override) -> str | int:
    """Return the key in a section, or the index in a list, that an override names."""
    if isinstance(here, dict):
        return str(key)
    if isinstance(key, int) and key < len(here):
        return key
    raise UsageError(
        f"{override.label or 'overrides'}: {key} is not an entry of a list of {len(here)}", hint="entries count from 0"
    )


def _plain(values: Any) -> Any:
    """Return values as JSON has them: paths as text, tuples as lists."""
    try:
        text = json.dumps(values, default=os.fspath, ensure_ascii=False)
        text.encode()
    except UnicodeEncodeError:
        raise UsageError("the recipe has text or a path that is not valid UTF-8") from None
    return json.loads(text)


def _absolute(values: Any, base: Path, node: shape.Node | None = None) -> Any:
    """Return `values` with every path absolute: what the schema calls a path, and data that lie in files."""
    node = shape.at((), values) if node is None else node
    if isinstance(values, dict):
        return {key: _absolute(value, base, shape.child(node, key, values)) for key, value in values.items()}
    if isinstance(values, list):
        return [_absolute(value, base, shape.child(node, index, values)) for index, value in enumerate(values)]
    formats = {variant.get("format") for variant in shape.variants(node, values)}
    if isinstance(values, str) and "path" in formats and values not in shape.choices(node):
        return _path(values, base)
    return _data(values, base) if isinstance(values, str) and "data-name" in formats else values


def _data(name: str, base: Path) -> str:
    """Return the name of a data set with an absolute path, where it lies in files here.

    What stands after `hf:` is a folder if there is one, or if it is written as a path alone can be.
    """
    scheme, colon, place = name.partition(":")
    if name == FOLDER:
        raise UsageError(f"{FOLDER} names no folder", hint=f"{FOLDER}PATH")
    if scheme + colon == FOLDER:
        return FOLDER + _path(place, base)
    if scheme + colon == HF and place and (place.startswith((".", "/", "~")) or (base / place).exists()):
        return HF + _path(place, base)
    if scheme + colon == WDS and place:
        parts = place.split("::")  # what is elsewhere is refused where it is opened
        return WDS + "::".join(part if is_elsewhere(part) or not part else _path(part, base) for part in parts)
    return name


def _path(text: str, base: Path) -> str:
    if not text:
        raise UsageError("a path in the recipe is empty", hint="write a path, or leave the key out")
    try:
        return str((base / Path(text).expanduser()).resolve())
    except (OSError, RuntimeError, ValueError) as error:  # no such ~user, a loop of links, a NUL
        raise UsageError(f"{text!r} is not a usable path: {str(error).lower().rstrip('.')}") from None
