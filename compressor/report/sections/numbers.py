"""How sections write numbers."""

NONE = "–"  # what is not known


def signed(value: float, digits: int = 2) -> str:
    """Return a number to that many digits, with a true minus sign."""
    return f"{value:.{digits}f}".replace("-", "−")


def count(value: int | None) -> str:
    """Return a count in thousands (k), millions (M) or billions (G)."""
    if value is None:
        return NONE
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.2f} {unit}"
    return str(value)
