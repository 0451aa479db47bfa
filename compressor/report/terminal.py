"""Text of others in a terminal's tables."""

from __future__ import annotations

from rich import markup

from compressor.printable import printable


def escape(text: str) -> str:
    """Return text that Rich shows as it is, on one line and without what a terminal would act on."""
    return markup.escape(printable(" ".join(text.split("\n"))))
