"""Text to plain values: YAML 1.2's core schema, as data only, remembering the line of every key.

PyYAML follows YAML 1.1, where `1e-3` is a string, `no` is false, `010` is eight and `1:30` is ninety. Here `1e-3` is a
number, the others are text or refused. Values are built from the parser's nodes without PyYAML's constructors, so
no tag can make an object.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from compressor.errors import UsageError

Place = tuple[str | int, ...]

MAX_BYTES = 256 * 1024
MAX_VALUES = 10_000  # each use of an anchor counts in full: what nests anchors to grow without bound is refused
MAX_DEPTH = 32

_TAG = "tag:yaml.org,2002:"
_RESOLVERS = {
    "null": (r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    "bool": (r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    "int": (r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", list("-+0123456789")),
    "float": (
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        list("-+.0123456789"),
    ),
}
_PATTERNS = {kind: re.compile(rf"(?:{pattern})\Z") for kind, (pattern, _) in _RESOLVERS.items()}


@dataclass(frozen=True)
class Document:
    """Plain values, and the line (from 1) on which each of them stands."""

    values: Any
    lines: dict[Place, int]


class _Composer(yaml.SafeLoader):
    """Text to nodes. A scalar's kind is decided by YAML 1.2; depth is bounded."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 (PyYAML's own)
    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise yaml.MarkedYAMLError(
                problem=f"nested more than {MAX_DEPTH} deep", problem_mark=self.current_event.start_mark
            )
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


class Dumper(yaml.SafeDumper):
    """Writes text that this module and YAML 1.1 readers both read as it was: what either takes for more is quoted.

    Lists of plain values stay on one line.
    """

    def list_node(self, values: list[Any]) -> yaml.Node:
        plain = not any(isinstance(value, list | dict) for value in values)
        return self.represent_sequence(_TAG + "seq", values, flow_style=plain)


Dumper.add_representer(list, Dumper.list_node)


for _kind, (_, _first) in _RESOLVERS.items():
    _Composer.add_implicit_resolver(_TAG + _kind, _PATTERNS[_kind], _first)
    Dumper.add_implicit_resolver(_TAG + _kind, _PATTERNS[_kind], _first)


def read(path: Path) -> str:
    """Return the text of a recipe file.

    Raises:
        UsageError: it is not there, cannot be read, is larger than a recipe can be, or is not text.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)  # bounded, so that a pipe or a device is as good as a file
    except FileNotFoundError:
        raise UsageError(
            f"there is no recipe file {path}", hint="compress recipes ls lists those that come along"
        ) from None
    except IsADirectoryError:
        raise UsageError(f"{path} is a folder, not a recipe file") from None
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {(error.strerror or str(error)).lower()}") from None
    if b"\0" in content:
        raise UsageError(f"{path} is not a recipe: it holds binary data")
    if len(content) > MAX_BYTES:
        raise UsageError(f"{path} is not a recipe: it is larger than {MAX_BYTES // 1024} KiB")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise UsageError(f"{path}:{line}: not UTF-8 text", hint="save the file as UTF-8") from None


def parse(text: str, source: str) -> Document:
    """Return the one document in `text`. Errors begin with `source`, line and column.

    Raises:
        UsageError: not YAML, or more than data: several documents, a key twice, a tag, a number with two meanings.
    """
    try:
        composer = _Composer(text)
        node = composer.get_node() if composer.check_node() else None
        if composer.check_node():
            raise yaml.MarkedYAMLError(
                problem="a second document begins", problem_mark=composer.current_event.start_mark
            )
        lines: dict[Place, int] = {}
        return Document(None if node is None else _Builder(lines).value(node, ()), lines)
    except yaml.reader.ReaderError as error:
        before = text[: error.position]
        line, column = before.count("\n") + 1, error.position - before.rfind("\n")
        raise UsageError(f"{source}:{line}:{column}: the character U+{error.character:04X} is not allowed") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"{source}:{mark.line + 1}:{mark.column + 1}" if mark else source
        problem = (error.problem or error.context or "not YAML").replace("\n", " ")
        hint = error.note or ("indent with spaces, not tabs" if "'\\t'" in problem else None)
        raise UsageError(f"{place}: {problem}", hint=hint) from None
    except (
        ValueError,
        OverflowError,
    ):  # PyYAML lets Python's own error pass where an escape such as "\UFFFFFFFF" is no character
        raise UsageError(f"{source}: an escape or a number that is out of range") from None


def _refuse(node: Any, problem: str, hint: str | None = None) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark, note=hint)


class _Builder:
    """Nodes to plain values, counting them."""

    def __init__(self, lines: dict[Place, int]) -> None:
        self.lines = lines
        self.count = 0

    def value(self, node: Any, place: Place) -> Any:
        self.count += 1
        if self.count > MAX_VALUES or len(place) > MAX_DEPTH:
            raise _refuse(node, "too many or too deeply nested values for a recipe")
        self.lines.setdefault(place, node.start_mark.line + 1)
        kind = node.tag.removeprefix(_TAG)
        if isinstance(node, yaml.ScalarNode) and kind in {"null", "bool", "int", "float", "str"}:
            return _scalar(node, kind)
        if isinstance(node, yaml.SequenceNode) and kind == "seq":
            return [self.value(child, (*place, index)) for index, child in enumerate(node.value)]
        if isinstance(node, yaml.MappingNode) and kind == "map":
            return dict(self.items(node, place))
        written = node.tag if kind == node.tag else f"!!{kind}"
        raise _refuse(node, f"the tag {written} is refused", "a recipe is plain data: numbers, text, lists and keys")

    def items(self, node: yaml.MappingNode, place: Place) -> Iterator[tuple[str, Any]]:
        seen: dict[str, int] = {}
        for key_node, child in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise _refuse(key_node, "a key must be a word")
            key, line = _text(key_node), key_node.start_mark.line + 1
            if key == "<<":
                raise _refuse(key_node, "merge keys (<<) are not supported", "write the keys out")
            if key in seen:
                raise _refuse(key_node, f"the key {key} stands twice, first in line {seen[key]}")
            seen[key] = line
            self.lines[*place, key] = line
            yield key, self.value(child, (*place, key))


def _text(node: yaml.ScalarNode) -> str:
    text = str(node.value)
    if any("\ud800" <= character <= "\udfff" or character == "\0" for character in text):
        raise _refuse(node, "text with a character that no file name or key can hold")
    return text


def _scalar(node: yaml.ScalarNode, kind: str) -> Any:
    text = _text(node)
    if kind == "str":
        return text
    if not _PATTERNS[kind].match(text):
        raise _refuse(node, f"{text!r} does not fit its tag !!{kind}")
    if kind == "null":
        return None
    if kind == "bool":
        return text.lower() == "true"
    if kind == "float":
        return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
    if re.match(r"[-+]?0[0-9]", text):
        raise _refuse(
            node,
            f"{text} is octal to some readers and decimal to others",
            "write it without leading zeros, or quote text",
        )
    if len(text) > 100:
        raise _refuse(node, "a whole number of more than 100 digits")
    return int(text, 0)
