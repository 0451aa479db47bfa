"""The recipe's JSON Schema, as editors read it and as a map: which keys, defaults and paths belong at a place."""

from collections.abc import Iterator
from functools import cache
from typing import Any

from compressor.recipe.document import Place
from compressor.recipe.schema import Recipe

Node = dict[str, Any]


def schema() -> Node:
    """Return the JSON Schema of a recipe, the same keys and bounds that loading holds it to."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **_schema()}


@cache
def _schema() -> Node:
    return Recipe.model_json_schema(by_alias=True)


def variants(node: Node, value: Any) -> list[Node]:
    """Return what `node` may be, without references; `kind` in `value`, or in the default, decides where it can."""
    if "$ref" in node:
        return variants(_schema()["$defs"][node["$ref"].removeprefix("#/$defs/")], value)
    if "discriminator" in node:
        section = node.get("default", {}) if value is None else value
        chosen = section.get(node["discriminator"]["propertyName"]) if isinstance(section, dict) else None
        reference = node["discriminator"]["mapping"].get(chosen) if isinstance(chosen, str) else None
        return variants({"$ref": reference}, value) if reference else []
    branches = node.get("anyOf") or node.get("oneOf")
    return [variant for branch in branches for variant in variants(branch, value)] if branches else [node]


def child(node: Node, key: str | int, value: Any) -> Node:
    """Return the node of a key or an index of `value`, which stands at `node`; empty when there is none."""
    for variant in variants(node, value):
        found = variant.get("properties", {}).get(key) if isinstance(key, str) else variant.get("items")
        if isinstance(found, dict):
            return found
    return {}


def at(place: Place, values: Any) -> Node:
    """Return the node of `place` in a recipe that holds `values`; empty when nothing may stand there."""
    node, here = _schema(), values
    for key in place:
        node = child(node, key, here)
        here = _step(here, key)
    return node


def keys(place: Place, values: Any) -> list[str]:
    """Return the keys that the section at `place` may have."""
    here = values
    for key in place:
        here = _step(here, key)
    return [key for variant in variants(at(place, values), here) for key in variant.get("properties", {})]


def needed(place: Place) -> list[str]:
    """Return the keys that the section at `place` must have."""
    return [key for variant in variants(at(place, None), None) for key in variant.get("required", [])]


def choices(node: Node) -> list[str]:
    """Return the words that may stand at `node`; none when it is not a choice."""
    if "discriminator" in node:
        return list(node["discriminator"]["mapping"])
    found = [word for variant in variants(node, None) for word in variant.get("enum", [variant.get("const")])]
    return [word for word in found if isinstance(word, str)]


def homes(name: str, values: Any) -> Iterator[str]:
    """Yield the dotted name of every place, lists aside, where a key of this name belongs."""

    def search(node: Node, here: Any, prefix: str) -> Iterator[str]:
        for variant in variants(node, here):
            for key, inside in variant.get("properties", {}).items():
                if key == name:
                    yield prefix + key
                yield from search(inside, _step(here, key), f"{prefix}{key}.")

    yield from search(_schema(), values, "")


def _step(value: Any, key: str | int) -> Any:
    if isinstance(value, dict):
        return value.get(key)
    return value[key] if isinstance(value, list) and isinstance(key, int) and key < len(value) else None
