"""Which images are held out or keep their labels: by a digest of their names, class by class, the same everywhere."""

import hashlib
from collections import defaultdict
from collections.abc import Sequence

from compressor.errors import UsageError


def hold_out(labels: Sequence[int], names: Sequence[str], amount: float, key: str, seed: int = 0) -> list[int]:
    """Return the places, ascending, of the images held out: each class in proportion, and one at least left behind.

    Names are ranked by a digest of key, seed and name, so images that are added later leave most others where they are.

    Args:
        amount: a count when it is an int, else a fraction, of which at least one image is taken. An int 0 takes none.
        key: what they are held out for, which is the recipe's key: `validation` or `test`.

    Raises:
        UsageError: more images are asked for than can be spared.
    """
    if amount == 0:
        return []
    places: dict[int, list[int]] = defaultdict(list)
    for place, label in enumerate(labels):
        places[label].append(place)
    count = amount if isinstance(amount, int) else max(1, round(amount * len(labels)))
    spare = len(labels) - len(places)
    if count > spare:
        raise UsageError(
            f"{key} asks to hold out {count:,} of {len(labels):,} images, "
            f"but only {spare:,} can be spared when each class keeps one to train on",
            hint=f"set data.{key} lower, or bring more images",
        )
    quotas = _shares(int(count), {label: len(members) for label, members in sorted(places.items())})
    held = [
        place
        for label, members in places.items()
        for place in sorted(members, key=lambda member: _digest(key, seed, names[member]))[: quotas[label]]
    ]
    return sorted(held)


def keep_labels(labels: Sequence[int], names: Sequence[str], count: int, seed: int = 0) -> list[int]:
    """Return the places, ascending, of the images that keep their labels: as many of each class, as far as it has them.

    What does not go into all classes alike falls to the first ones, in an order that is drawn too. They are ranked as
    for `hold_out`, so those of fewer labels are among those of more.

    Raises:
        UsageError: there are fewer images than that, or more classes.
    """
    places: dict[int, list[int]] = defaultdict(list)
    for place in sorted(range(len(labels)), key=lambda each: _digest("labels", seed, names[each])):
        places[labels[place]].append(place)
    if count > len(labels):
        raise UsageError(
            f"{count:,} images are to keep their labels, and {len(labels):,} are left to train on",
            hint="set data.labels lower, or leave it out to use all of them",
        )
    if count < len(places):
        raise UsageError(
            f"{count:,} labels are fewer than the {len(places):,} classes, and a class without one cannot be learned",
            hint=f"set data.labels to {len(places):,} at least",
        )
    order = sorted(places, key=lambda label: _digest("class", seed, str(label)))
    deepest = max(map(len, places.values()))
    by_turns = [places[label][turn] for turn in range(deepest) for label in order if turn < len(places[label])]
    return sorted(by_turns[:count])


def _shares(count: int, sizes: dict[int, int]) -> dict[int, int]:
    """Split `count` over the classes in proportion to their sizes by largest remainder, leaving one image in each."""
    total = sum(sizes.values())
    shares = {label: count * size // total for label, size in sizes.items()}  # below size, as count is below total
    by_remainder = sorted(sizes, key=lambda label: -(count * sizes[label] % total))
    while missing := count - sum(shares.values()):
        for label in [label for label in by_remainder if shares[label] < sizes[label] - 1][:missing]:
            shares[label] += 1
    return shares


def _digest(key: str, seed: int, name: str) -> bytes:
    return hashlib.sha256(f"{key}/{seed}/{name}".encode(errors="surrogateescape")).digest()
