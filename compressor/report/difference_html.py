"""The gallery of `compress diff`: one page, no other file, of images on which two artifacts decide differently."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from compressor.report.difference import WAYS, Difference, Find, Flip
from compressor.report.pictures import Picture, difference, picture
from compressor.report.rendering import render

GALLERY = 48  # images of each kind that are shown


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
    galleries = {"nearest": nearest, "surest": surest, "flips": flips}
    cards = {name: [_card(each) for each in some] for name, some in galleries.items()}
    return render("difference.html.j2", record=record, ways=WAYS, **cards)


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
