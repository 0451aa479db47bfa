"""What goes wrong for reasons a user can mend: one sentence, a hint, and an exit code each.

Programmer mistakes stay ordinary Python exceptions. Exit code 0 is success, 1 anything unforeseen.
"""

from collections.abc import Iterable
from difflib import get_close_matches

from exporters.errors import UserError


class CompressError(UserError):
    """Of anything but an exporter or a runtime, whose errors are in `exporters.errors`."""


class UsageError(CompressError):
    """A flag, a name or a recipe that cannot be what the user meant."""

    exit_code = 2


class EnvironmentMissing(CompressError):
    """A device, driver, runtime or package that the request needs is not here."""

    exit_code = 3


class InputRejected(CompressError):
    """A checkpoint, data set or artifact that we will not or cannot use."""

    exit_code = 4


class Diverged(CompressError):
    """Training met a loss that is NaN or infinite."""

    exit_code = 5


class GateFailed(CompressError):
    """A promise of the recipe does not hold."""

    exit_code = 7


class Interrupted(CompressError):
    """Stopped by a signal after the state of a training was saved, or where there was none."""

    exit_code = 130


def did_you_mean(word: str, choices: Iterable[str]) -> str | None:
    """Return a hint that names the closest of `choices`, or all of them when none is close and they are few."""
    known = sorted(set(choices))
    close = get_close_matches(word, known, n=3, cutoff=0.6)
    if close:
        return "did you mean " + " or ".join(repr(name) for name in close) + "?"
    if 0 < len(known) <= 12:
        return "known: " + ", ".join(known)
    return None
