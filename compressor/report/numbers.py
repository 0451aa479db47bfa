"""How tables write numbers, on the page, in Markdown and in the terminal."""

from __future__ import annotations

NONE = "–"  # what is not known


def number(value: float | None, form: str) -> str:
    """Return a number in a format of Python's, `.2f`, and a dash for one that is not known."""
    return NONE if value is None else format(value, form)


def signed(value: float, digits: int = 2) -> str:
    """Return a number to so many digits, with a true minus sign."""
    return f"{value:.{digits}f}".replace("-", "−")


def count(value: int | None) -> str:
    """Return a count in thousands (k), millions (M) or billions (G)."""
    if value is None:
        return NONE
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.2f} {unit}"
    return str(value)


def megabytes(size: int) -> str:
    """Return a size in bytes as MB, of a million bytes each."""
    return f"{size / 1e6:.2f}" if size >= 1e5 else f"{size / 1e6:.4f}"


def milliseconds(value: float | None) -> str:
    """Return a time in ms, to about three digits."""
    return number(value, ".1f" if value is None or value >= 10 else ".2f" if value >= 1 else ".3f")


def times(value: float | None) -> str:
    """Return how many times as fast something is."""
    return NONE if value is None else f"{value:.1f}×" if value >= 1 else f"{value:.2f}×"
