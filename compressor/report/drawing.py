"""Matplotlib as reports use it: a style of one's own, no screen, and not a word to the user."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@contextmanager
def drawing(width: float, height: float, style: Mapping[Any, Any]) -> Iterator[Figure]:
    """Yield an empty figure of so many inches; `style` and silence last until the end."""
    logger = logging.getLogger("matplotlib")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure  # here, since it may build a font cache and say so

        with warnings.catch_warnings(), mpl.rc_context(dict(style)):
            warnings.simplefilter("ignore")  # of letters that its font lacks, and the reader's may have
            yield Figure(figsize=(width, height), layout="constrained")
    finally:
        logger.setLevel(level)
