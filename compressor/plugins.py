"""`package.module:name`: code of the user's own, imported where the user's own command or recipe names it.

Nothing else leads here. A name that stands in a checkpoint, an exported file or a stored record is data, and is never
imported. `given:name` stands for an object of the Python program itself, which has no other name.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from compressor.errors import UsageError, did_you_mean

PLUGIN = r"^[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*$"
"""The form of such a name, for schemas."""


GIVEN = "given"  # as a module: what the program has given, by name
_given: dict[str, Any] = {}


def give(name: str, thing: Any) -> str:
    """Let `given:name` stand for an object for as long as this process lives, and return that name."""
    _given[name] = thing
    return f"{GIVEN}:{name}"


def is_plugin(name: str) -> bool:
    """Whether a name has the form of a plug-in; whether there is such a thing shows when it is loaded."""
    module, colon, attribute = name.partition(":")
    return bool(colon) and attribute.isidentifier() and all(part.isidentifier() for part in module.split("."))


def load_plugin(name: str, *, example: str) -> Any:
    """Import the module, from the current folder too, and return what it calls `name`.

    Args:
        example: what such a name looks like, for the hint where this one does not.

    Raises:
        UsageError: the name has another form, or the module cannot be imported, or has nothing of that name.
    """
    module, _, attribute = name.partition(":")
    if not is_plugin(name):
        raise UsageError(f"{name!r} is not package.module:name", hint=f"for example {example}")
    if module == GIVEN:
        if attribute not in _given:
            raise UsageError(
                f"{name} was an object of a Python program, and is none of this one's",
                hint="give it to the function of the Python API again",
            )
        return _given[attribute]
    with current_folder_importable():
        found = _imported(module)
    if not hasattr(found, attribute):
        public = (each for each in vars(found) if not each.startswith("_"))
        raise UsageError(f"{module} has no {attribute!r}", hint=did_you_mean(attribute, public))
    return getattr(found, attribute)


@contextmanager
def current_folder_importable() -> Iterator[None]:
    """Let modules of the current folder be imported, as `python -m` does, while code of the user's runs."""
    folder = str(Path.cwd())
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        sys.path.remove(folder)


def told(error: Exception) -> str:
    """Return an error of someone else's code in a few words, with the line it comes from."""
    words = str(error).strip().split("\n")[0].rstrip(".")
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {words}{place}" if words else f"{type(error).__name__}{place}"


def _imported(module: str) -> Any:
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise UsageError(f"importing {module} fails: {told(error)}", hint="install what it imports") from error
        raise UsageError(
            f"there is no module {error.name!r}", hint="run from the folder that holds it, or set PYTHONPATH"
        ) from error
    except Exception as error:  # whatever the user's module raises
        raise UsageError(f"importing {module} fails: {told(error)}", hint=f"python -c 'import {module}'") from error
