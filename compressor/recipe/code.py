"""Which code of a user's own a recipe names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from compressor.plugins import is_plugin
from compressor.recipe.schema import Recipe

_KEYS = {"arch", "kind", "format", "name", "unlabelled"}  # where `package.module:name` may stand
_FORMS = ("folder:", "hf:", "wds:")  # of data sets, which are no code


def code_named(recipe: Recipe) -> list[str]:
    """Return each `package.module:name` that a recipe would import, once, in its order."""
    return list(dict.fromkeys(_named(recipe.model_dump(mode="json", by_alias=True))))


def _named(values: Any, key: str = "") -> Iterator[str]:
    if isinstance(values, Mapping):
        for name, value in values.items():
            yield from _named(value, name)
    elif isinstance(values, str):
        if key in _KEYS and is_plugin(values) and not values.startswith(_FORMS):
            yield values
    elif isinstance(values, Sequence):
        for value in values:
            yield from _named(value, key)
