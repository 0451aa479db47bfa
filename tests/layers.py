"""The layers of the suite: a test that starts a process or trains carries a mark, and the mark is checked.

`make unit` leaves them out, and the tests marked `heavy` or `slow`. One that does what it is not marked for fails, in
every layer, so that the unit tests stay what they are called. A fixture is marked too, for all tests that use it:

    @pytest.fixture(scope="module")
    @trains
    def distilled(tmp_path_factory): ...
"""

import multiprocessing.process
import os
import subprocess
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any, TypeVar

import pytest

from compressor.pipeline import staged

Fixture = TypeVar("Fixture", bound=Callable[..., Any])

# Where tests, and what they call, begin what a mark is for.
_BEGINNINGS = (
    ("starts", subprocess.Popen, "__init__"),
    ("starts", multiprocessing.process.BaseProcess, "start"),
    ("starts", os, "fork"),
    ("starts", os, "posix_spawn"),
    ("trains", staged, "fit"),
)
_marks: frozenset[str] | None = None  # those of the running test


def starts(fixture: Fixture) -> Fixture:
    """Mark a fixture that starts a process."""
    return _marked(fixture, "starts")


def trains(fixture: Fixture) -> Fixture:
    """Mark a fixture that trains through a command or a stage of the pipeline."""
    return _marked(fixture, "trains")


def _marked(fixture: Fixture, mark: str) -> Fixture:
    fixture.layers = {*getattr(fixture, "layers", ()), mark}
    return fixture


def mark_by_fixtures(items: Iterable[pytest.Item]) -> None:
    """Give each test the marks of the fixtures that it uses, be it through other fixtures."""
    for item in items:
        for definitions in item._fixtureinfo.name2fixturedefs.values():
            for mark in sorted(getattr(definitions[-1].func, "layers", ())):
                item.add_marker(mark)


@contextmanager
def running(item: pytest.Item) -> Iterator[None]:
    """Know what the running test, with its fixtures, is marked for."""
    global _marks
    _marks = frozenset(mark.name for mark in item.iter_markers())
    try:
        yield
    finally:
        _marks = None


@contextmanager
def watched() -> Iterator[None]:
    """Fail a test that begins what it is not marked for."""
    with pytest.MonkeyPatch.context() as patch:
        for mark, owner, name in _BEGINNINGS:
            patch.setattr(owner, name, _watched(getattr(owner, name), mark))
        yield


def _watched(function: Callable[..., Any], mark: str) -> Callable[..., Any]:
    @wraps(function)
    def call(*arguments: Any, **options: Any) -> Any:
        if _marks is not None and mark not in _marks:
            # Not an `Exception`, so that no handler on the way takes it for an error of the program.
            pytest.fail(f"{function.__qualname__} was called: mark this test, or the fixture that does it, `{mark}`")
        return function(*arguments, **options)

    return call
