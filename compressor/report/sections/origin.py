"""What the run was made with, and how to repeat it."""

from __future__ import annotations

import json
import shlex
from typing import Any

from compressor.report.contents import Contents


def repeat(contents: Contents) -> str:
    """Return the command that does the run again."""
    return f"compress run {shlex.quote(str(contents.folder / 'recipe.resolved.yaml'))}"


def environment(contents: Contents) -> list[tuple[str, list[tuple[str, str]]]]:
    """Return the machine and the versions, as lists of names and values with a title each."""
    parts = []
    for title in ("hardware", "versions"):
        known = getattr(contents.result, title) if contents.result else contents.environment.get(title, {})
        parts.append((title, [(name, _text(value)) for name, value in known.items() if value not in (None, [])]))
    return [part for part in parts if part[1]]


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
