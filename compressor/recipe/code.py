"""Which code of a user's own a recipe names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from compressor.plugins import is_plugin
from compressor.recipe.schema import Recipe

_KEYS = {"arch", "kind", "format", "name", "unlabelled", "target", "check"}  # where `package.module:name` may stand
_FORMS = ("folder:", "hf:", "wds:", "object:")  # of data sets, which are no code


def code_named(recipe: Recipe) -> list[str]:
    """Return each `package.module:name` that a recipe would import, once, in its order."""
    return list(dict.fromkeys(_named(recipe.model_dump(mode="json", by_alias=True))))


def is_code(name: str) -> bool:
    """Whether a name, of a data set too, is that of code: only the user's own command may have it imported."""
    return is_plugin(name) and not name.startswith(_FORMS)


def _named(values: Any, key: str = "") -> Iterator[str]:
    if isinstance(values, Mapping):
        for name, value in values.items():
            yield from _named(value, name)
    elif isinstance(values, str):
        if key in _KEYS and is_code(values):
            yield values
    elif isinstance(values, Sequence):
        for value in values:
            yield from _named(value, key)
