"""A run that may not be written to: commands end with a sentence."""

import errno
import os
import shutil
from pathlib import Path

import pytest
from shell import ran, refused

from compressor.cli.surroundings import refused as explained
from compressor.runs import record


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


def test_a_read_only_run_is_measured_and_reported_elsewhere(sealed):
    refused(["validate", "run", "--quiet"], 4, "cannot write", "compress validate run --out FOLDER")
    before = sorted(path.name for path in Path("run").rglob("*"))

    done = ran(["validate", "run", "--out", "copy"])
    ran(["report", "run", "--out", "page.html", "--quiet"])

    assert "next: compress bench copy" in done.err
    measured = record.read(Path("copy"))
    assert measured.artifacts[0].boundary_agreement is not None
    assert record.read(Path("run")).artifacts[0].boundary_agreement is None
    assert not (Path("copy") / "checkpoints").exists()
    assert Path("page.html").read_text(encoding="utf-8").startswith("<!doctype html>")
    assert sorted(path.name for path in Path("run").rglob("*")) == before
    refused(["validate", "run", "--out", "copy"], 2, "copy exists already", "a folder that is to be made")


def test_one_file_has_no_run_to_copy(sealed):
    file = next(Path("run/export").glob("*.onnx"))

    refused(["validate", str(file), "--out", "copy"], 2, "--out goes with a run")


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES, errno.EPERM])
def test_whatever_else_may_not_be_opened_is_a_sentence_too(number):
    found = explained(OSError(number, os.strerror(number), "runs/x/result.json"))
    assert found is not None
    assert found.message == f"runs/x/result.json cannot be opened: {os.strerror(number).lower()}"
    assert explained(OSError(errno.ENOTDIR, "no", "x")) is None
