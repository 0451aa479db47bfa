"""What pydantic found wrong, as one sentence with a dotted name and a hint."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from compressor.errors import UsageError, did_you_mean
from compressor.recipe import shape
from compressor.recipe.document import Place

_NUMBER = dict.fromkeys(["float_type", "float_parsing"], "a number")
_WHOLE = dict.fromkeys(["int_type", "int_parsing", "int_from_float", "int_parsing_size"], "a whole number")
_SECTION = dict.fromkeys(["model_type", "model_attributes_type", "dict_type"], "a section of keys")
_EXPECTED = {
    **_NUMBER,
    **_WHOLE,
    **_SECTION,
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "string_type": "text",
    "path_type": "a path",
    "tuple_type": "a list",
    "list_type": "a list",
    "finite_number": "a finite number",
    "greater_than": "greater than {gt}",
    "greater_than_equal": "at least {ge}",
    "less_than": "less than {lt}",
    "less_than_equal": "at most {le}",
    "too_short": "a list of length {min_length} or more",
    "too_long": "a list of length {max_length} or less",
    "string_too_short": "at least {min_length} character long",
    "string_too_long": "at most {max_length} characters long",
    "string_pattern_mismatch": "of the form {pattern}",
    "literal_error": "{expected}",
    "union_tag_invalid": "one of {expected_tags}",
}
_KEY_MISSING = {"missing", "union_tag_not_found"}


@dataclass(frozen=True)
class Source:
    """Where a value was written: a line of a file, None for code, or what was `typed`, which says `said` keys of it."""

    label: str | None
    typed: bool = False
    said: int = 0

    def named(self, place: Place) -> str:
        """Return the part of a dotted name that the source does not say."""
        return ".".join(map(str, place[self.said :]))


def explain(error: ValidationError, values: Any, where: Callable[[Place], Source], at: Place = ()) -> UsageError:
    """Return the first complaint as the message, unknown keys before all else; the others stand in the hint.

    Args:
        values: the plain values that were refused.
        where: tells in which line or option the value at a place was written.
        at: the place of the section that was checked, where it was not all of `values`.
    """
    found: dict[Place, list[ErrorDetails]] = {}
    for detail in error.errors(include_url=False):
        found.setdefault(_place(detail, values, at), []).append(detail)
    complaints = []
    unknown_first = sorted(found.items(), key=lambda item: item[1][-1]["type"] != "extra_forbidden")
    for place, details in unknown_first:
        source = where(place)
        sentence, hint = _complaint(place, details, values, source)
        label = source.label
        if label is not None and source.typed and details[-1].get("ctx", {}).get("secret"):
            label = f"{label.partition('=')[0]}=...".replace("'", "")
        complaints.append((f"{label}: {sentence}" if label else sentence, hint))
    (message, hint), *others = complaints
    more = [f"also wrong: {sentence}" for sentence, _ in others[:4]]
    more += [f"and {len(others) - 4} more"] if len(others) > 4 else []
    return UsageError(message, hint="; ".join(filter(None, [hint, *more])) or None)


def _place(detail: ErrorDetails, values: Any, at: Place) -> Place:
    """Return where in `values` the complaint belongs: pydantic's location without the labels of union branches."""
    place: list[str | int] = []
    here = values
    loc = (*at, *detail["loc"])
    for index, part in enumerate(loc):
        inside = isinstance(here, dict) and part in here
        inside |= isinstance(here, list) and isinstance(part, int) and part < len(here)
        if inside:
            here = here[part]
        if inside or (detail["type"] == "missing" and index == len(loc) - 1):
            place.append(part)
    context = detail.get("ctx", {})
    if "discriminator" in context and isinstance(here, dict):
        place.append(str(context["discriminator"]).strip("'()"))
    return (*place, *filter(None, str(context.get("key", "")).split(".")))


def _complaint(place: Place, details: list[ErrorDetails], values: Any, source: Source) -> tuple[str, str | None]:
    """Return the sentence and the hint for all that was found wrong with one value."""
    name = source.named(place)
    begin = f"{name}: " if name else ""
    detail = details[-1]
    kind, value, context = detail["type"], detail["input"], detail.get("ctx", {})
    if kind == "extra_forbidden":
        return f"unknown key {name}", _belongs(place, values)
    if kind == "union_tag_not_found" and not isinstance(value, dict):
        details, kind = [{**detail, "type": "dict_type"}], "dict_type"
    if kind in _KEY_MISSING:
        node = shape.at(place, values)
        words = shape.choices(node or shape.at(place[:-1], values))
        return f"missing key {name}", "one of " + ", ".join(words) if words else _description(node)
    if kind == "recipe":
        return f"{begin}{context['message']}", context["hint"] or None
    if kind == "union_tag_invalid":
        value = context["tag"]
    expected = list(dict.fromkeys(_expected(each) for each in details))
    if "a number" in expected:
        expected = ["a number"]  # which a whole number is
    if len(expected) > 1 or kind in _EXPECTED:
        hint = _hint(place, kind, value, values, source) or _description(shape.at(place, values))
        return f"{begin}must be {' or '.join(expected)}, got {_shown(value)}", hint
    return f"{begin}{detail['msg'][0].lower()}{detail['msg'][1:]}, got {_shown(value)}", None


def _expected(detail: ErrorDetails) -> str:
    context = {key: f"{value:g}" if isinstance(value, float) else value for key, value in detail.get("ctx", {}).items()}
    return _EXPECTED[detail["type"]].format_map(context) if detail["type"] in _EXPECTED else detail["msg"]


def _belongs(place: Place, values: Any) -> str:
    """Return the hint for a key that is not known: a similar one, the section it belongs to, or all there are."""
    name, siblings = str(place[-1]), shape.keys(place[:-1], values)
    similar = did_you_mean(name, siblings) or "known: " + ", ".join(siblings)
    elsewhere = " and ".join(shape.homes(name, values))
    return f"there is {elsewhere}; {similar}" if elsewhere else similar


def _hint(place: Place, kind: str, value: Any, values: Any, source: Source) -> str | None:
    parent = shape.at(place[:-1], values)
    node = shape.at(place, values)
    if kind == "union_tag_invalid":
        return did_you_mean(str(value), shape.choices(parent))
    if kind == "literal_error" and isinstance(value, str):
        return did_you_mean(value, shape.choices(node))
    if kind in _SECTION:
        return "leave an empty section out" if value is None else _as_section(place, value, source)
    if kind in _NUMBER | _WHOLE and isinstance(value, str):
        return _as_number(value)
    if kind == "string_type" and isinstance(value, bool | int | float):
        return f'put text that looks like a number in quotes: "{_shown(value)}"'
    return None


def _as_section(place: Place, value: Any, source: Source) -> str:
    """Return how to write a plain value in the section that it was taken for, else the keys of that."""
    known, needed = shape.keys(place, None), shape.needed(place)
    meant = known[:1] if isinstance(value, str) else needed if len(needed) == 1 else []
    if not meant:
        return ", ".join(known)
    if source.typed:
        return f"write {source.named(place)}.{meant[0]}={value}"
    return f"write {place[-1]}: {{{meant[0]}: {_shown(value)}}}"


def _description(node: shape.Node) -> str | None:
    """Return what the schema says of a field, or of the section that it is."""
    described = [variant.get("description") for variant in [node, *shape.variants(node, None)]]
    return next((text.rstrip(".") for text in described if text), None)


def _as_number(text: str) -> str | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return f"write {int(number) if number.is_integer() else number}, without quotes or underscores"


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return "a section"
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."
