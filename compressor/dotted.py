"""Nested sections by dotted names: `train.lr`, `export.0.format`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def dotted(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return nested values by dotted names; lists of sections by their numbers. What is empty or no section stays."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        inner = _section(value)
        found |= {f"{key}.{name}": each for name, each in dotted(inner).items()} if inner else {str(key): value}
    return found


def _section(value: Any) -> Mapping[str, Any]:
    """Return a value as a section, empty where it is none."""
    if isinstance(value, list | tuple) and all(isinstance(each, Mapping) for each in value):
        return {str(index): each for index, each in enumerate(value)}
    return value if isinstance(value, Mapping) else {}
