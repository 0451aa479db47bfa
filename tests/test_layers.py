"""The layers: what is not marked cannot start a process or train, whoever does it for the test."""

import multiprocessing
import os
import subprocess
import sys

import pytest
from layers import starts, trains
from shell import QUICK, ran

from compressor.pipeline import staged

TRAIN = ["train", "--arch", "lenet5-half", "--data", "digits", "--epochs", "2", *QUICK, "--quiet"]


def nothing() -> None:
    pass


@pytest.mark.parametrize(
    "start",
    [
        lambda: subprocess.run([sys.executable, "-c", ""], check=True),
        lambda: multiprocessing.get_context("spawn").Process(target=nothing).start(),
        lambda: os.fork(),
    ],
    ids=["command", "multiprocessing", "fork"],
)
def test_an_unmarked_test_starts_no_process(start):
    with pytest.raises(pytest.fail.Exception, match="mark this test, or the fixture that does it, `starts`"):
        start()


def test_an_unmarked_test_does_not_train(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(pytest.fail.Exception, match="mark this test, or the fixture that does it, `trains`"):
        ran(TRAIN)
    assert not list(tmp_path.rglob("last.ckpt"))


@pytest.mark.starts
def test_a_marked_test_starts_a_process_and_still_does_not_train():
    assert subprocess.run([sys.executable, "-c", "exit(3)"], check=False).returncode == 3
    with pytest.raises(pytest.fail.Exception, match="`trains`"):
        staged.fit(None, None)


@pytest.fixture
@starts
@trains
def marked():
    """A fixture that may do both."""


@pytest.fixture
def through(marked):
    """A fixture that uses it."""


def test_a_test_has_the_marks_of_its_fixtures_and_of_theirs(request, through):
    assert {"starts", "trains"} <= {mark.name for mark in request.node.iter_markers()}
