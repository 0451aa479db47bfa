"""The gallery of `compress diff`: one page, no other file, of images on which two artifacts decide differently."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2
import numpy as np
from numpy.typing import NDArray

from compressor.report.difference import WAYS, Difference, Find, Flip
from compressor.report.pictures import Picture, difference, picture

GALLERY = 48  # images of each kind that are shown
TEMPLATE = Path(__file__).with_name("difference.html.j2")


@dataclass(frozen=True)
class Shown:
    """What is said of an image `[C, H, W]`, which is shown beside what the search made of it."""

    flip: Flip
    image: NDArray[np.float32]
    moved: NDArray[np.float32] | None


@dataclass(frozen=True)
class Card:
    """One entry: pictures with their captions, then what both say."""

    flip: Flip
    find: Find | None
    pictures: tuple[tuple[str, Picture], ...]


def page(record: Difference, *, flips: Sequence[Shown], nearest: Sequence[Shown], surest: Sequence[Shown]) -> str:
    """Return the page; names are escaped, and the browser fetches nothing."""
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    galleries = {"nearest": nearest, "surest": surest, "flips": flips}
    return template.render(
        record=record, ways=WAYS, **{name: [_card(each) for each in some] for name, some in galleries.items()}
    )


def _card(shown: Shown) -> Card:
    if shown.moved is None:
        return Card(shown.flip, None, (("image", picture(shown.image)),))
    change, factor = difference(shown.image, shown.moved)
    pictures = (
        ("base", picture(shown.image)),
        ("found", picture(shown.moved)),
        (f"change ×{factor:.3g}", picture(change)),
    )
    return Card(shown.flip, shown.flip if isinstance(shown.flip, Find) else None, pictures)
