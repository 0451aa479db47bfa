"""How every template is filled in. The end of its name says what text in it becomes.

In HTML (`.html.j2`) Jinja escapes text. In Markdown (`.md.j2`) text is escaped here, unless it is `Verbatim`. In
both, control characters are written out.
"""

from __future__ import annotations

import html
import re
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, pass_eval_context
from jinja2.nodes import EvalContext
from markupsafe import Markup

from compressor.printable import printable

# What has a meaning inside a line, which a backslash takes away in every dialect of Markdown.
_MARKUP = re.compile(r"([\\`*_\[\]~#!])")


class Verbatim:
    """Text that is Markdown already."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __str__(self) -> str:
        return self._text


def render(template: str, **values: Any) -> str:
    """Return a template of `report/templates` filled in; a value that it names and does not get is an error."""
    return _ENVIRONMENT.get_template(template).render(**values)


def escape_markdown(text: str) -> str:
    """Return text that Markdown shows as it is, on one line, also in a table: others choose the names of classes."""
    line = html.escape(printable(" ".join(text.split())), quote=False)
    return _MARKUP.sub(r"\\\1", line).replace("|", "&#124;")


def _is_html(template: str | None) -> bool:
    """Whether Jinja escapes; what is not known to be Markdown is safer as HTML."""
    return template is None or not template.endswith(".md.j2")


@pass_eval_context
def _escaped(context: EvalContext, value: Any) -> Any:
    """Return a value as the template's kind shows it; Jinja does the rest of HTML. What is markup already stays."""
    if not isinstance(value, str) or isinstance(value, Markup):
        return value
    return printable(value) if context.autoescape else escape_markdown(value)


_ENVIRONMENT = Environment(
    loader=PackageLoader("compressor", "report/templates"),
    autoescape=_is_html,
    finalize=_escaped,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)
