"""A run that may not be written to: commands end with a sentence."""

import errno
import os
import shutil
from pathlib import Path

import pytest
from shell import refused

from compressor.cli.surroundings import refused as explained


@pytest.fixture
def sealed(here, tmp_path, monkeypatch):
    """A copy of a run on what behaves as a read-only file system: nothing below it is opened to be written."""
    shutil.copytree(here / "runs/student-1", tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    opened, made = Path.open, Path.mkdir

    def within(path):
        return (tmp_path / "run") in (path.absolute(), *path.absolute().parents)

    def read_only(path, mode="r", *rest, **more):
        if within(path) and set(mode) & set("wax+"):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
        return opened(path, mode, *rest, **more)

    monkeypatch.setattr(Path, "open", read_only)
    monkeypatch.setattr(Path, "mkdir", lambda path, *a, **k: None if within(path) else made(path, *a, **k))


@pytest.mark.parametrize(
    "command", [["validate", "run"], ["bench", "run"], ["export", "run"], ["report", "run"]], ids=lambda words: words[0]
)
def test_a_read_only_run_is_refused_in_a_sentence(sealed, command):
    refused([*command, "--quiet"], 4, "cannot write .*run.*: ", "choose another folder")


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES, errno.EPERM])
def test_whatever_else_may_not_be_opened_is_a_sentence_too(number):
    found = explained(OSError(number, os.strerror(number), "runs/x/result.json"))
    assert found is not None
    assert found.message == f"runs/x/result.json cannot be opened: {os.strerror(number).lower()}"
    assert explained(OSError(errno.ENOTDIR, "no", "x")) is None
