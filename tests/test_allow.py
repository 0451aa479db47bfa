"""A run folder imports nothing by itself: code runs only where the user's own command names it."""

import shutil
import sys
from pathlib import Path

import pytest
from layers import trains
from shell import ran, refused

CODE = """
from pathlib import Path

Path("{trace}").write_text("imported")

from torch import nn


def make(classes, input_shape):
    channels, height, width = input_shape
    return nn.Sequential(nn.Flatten(), nn.Linear(channels * height * width, classes))
"""
QUICK = ["--epochs", "2", "--set", "train.lr=0.05", "--quiet"]


@pytest.fixture(scope="module")
@trains
def trained(tmp_path_factory):
    """A folder with a module of the user's and a run whose student it makes."""
    place = tmp_path_factory.mktemp("allow")
    (place / "theirnets.py").write_text(CODE.format(trace=place / "trace"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        ran(["train", "--arch", "theirnets:make", "--data", "digits", "--out", "run", *QUICK])
        shutil.copytree("run", "whole")
        (place / "whole/result.json").unlink()  # as if it were not finished
    return place


@pytest.fixture
def received(trained, tmp_path, monkeypatch):
    """The same, in a process that has not imported the module yet."""
    shutil.copytree(trained, tmp_path / "here", symlinks=True)
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.delitem(sys.modules, "theirnets", raising=False)
    trace = Path(trained / "trace")
    trace.unlink(missing_ok=True)
    return trace


COMMANDS = (
    ["validate", "run"],
    ["bench", "run", "--duration", "0.01"],
    ["export", "run", "--format", "onnx"],
    ["train", "--resume", "whole"],
    ["diff", "run", "run/checkpoints/best.ckpt", "--data", "digits"],
)


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
def test_a_stored_recipe_alone_imports_nothing(received, command):
    refused([*command, "--quiet"], 4, "names code of its own, theirnets:make", "--allow theirnets:make")

    assert not received.exists()


@pytest.mark.parametrize("command", COMMANDS[:4], ids=lambda command: command[0])
def test_what_the_command_names_is_imported(received, command):
    ran([*command, "--quiet", "--allow", "theirnets:make"])

    assert received.exists()


def test_a_report_is_written_without_what_may_not_be_imported(received):
    done = ran(["report", "run"])

    assert "theirnets:make" in done.err
    assert Path("run/report/report.html").is_file()
    assert not received.exists()


def test_another_name_allows_nothing(received):
    refused(["validate", "run", "--quiet", "--allow", "theirnets:other"], 4, "theirnets:make")

    assert not received.exists()
