"""Text of others, such as names of classes and files, without what a terminal, a log or a page would act on."""

from __future__ import annotations

import re

# Control characters but tab and newline, separators of lines and paragraphs, what turns the direction of text or is
# not seen (but the joiners, which words and emoji are spelled with), and halves of characters, which nothing can write.
_ACTING = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff\ufff9-\ufffb\ufffe\uffff]"
)


def printable(text: str) -> str:
    """Return text with such characters written out, as `\\x1b`. Tabs and newlines stay."""
    return _ACTING.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)


def one_line(text: str) -> str:
    """Return `printable` text with newlines written out too: to a CI server, a line of its own may be a command."""
    return printable(text).replace("\n", "\\n")
