"""What is said while a training runs: a line an epoch, and within long ones where no bar is shown."""

import io
import re

import pytest
from rich.console import Console
from shell import QUICK, ran

from compressor import progress
from compressor.progress import SILENCE_S, Tell


class Clock:
    def __init__(self):
        self.now = 1000.0

    def monotonic(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    made = Clock()
    monkeypatch.setattr(progress, "time", made)
    return made


def said(clock, *, seconds, epochs=1, batches=100, terminal=False, quiet=False, log=None):
    """Return the lines of a training with so many seconds a batch of 64 images; its loss is the number of batches."""
    written = io.StringIO()
    tell = Tell(Console(file=written, force_terminal=terminal, width=200, color_system=None), quiet=quiet)
    if log is not None:
        tell.keep(log)
    with tell.training(epochs=epochs, batches=batches, images=64 * batches) as shown:
        for epoch in range(epochs):
            for batch in range(batches):
                shown.advance(64, epoch=epoch, batch=batch, losses={"ce": float(batch)} if batch else {})
                clock.now += seconds
            shown.epoch(epoch + 1, {"ce": 0.5}, top1=None, images_per_s=64 / seconds, seconds=batches * seconds)
    return written.getvalue().splitlines()


def test_a_long_epoch_says_how_far_it_is_every_half_minute(clock):
    assert SILENCE_S == 30
    assert said(clock, seconds=1) == [
        "epoch   1/1  batch 30/100  ce 30.0000  64 images/s",
        "epoch   1/1  batch 60/100  ce 60.0000  64 images/s",
        "epoch   1/1  batch 90/100  ce 90.0000  64 images/s",
        "epoch   1/1  ce 0.5000  64 images/s  0:00 left",
    ]


def test_short_epochs_say_nothing_of_their_batches_however_many_there_are(clock):
    lines = said(clock, seconds=0.29, epochs=5)  # 29 seconds each, 145 in all

    assert len(lines) == 5
    assert not any("batch" in line for line in lines)


def test_a_batch_that_takes_long_is_said_once_and_before_any_loss_is_known(clock):
    assert said(clock, seconds=90, batches=3) == [
        "epoch   1/1  batch 1/3  ce 1.0000  1 images/s",
        "epoch   1/1  batch 2/3  ce 2.0000  1 images/s",
        "epoch   1/1  ce 0.5000  1 images/s  0:00 left",
    ]


def test_the_speed_of_a_line_is_that_since_the_last_one(clock):
    written = io.StringIO()
    with Tell(Console(file=written, width=200)).training(epochs=2, batches=10, images=1000) as shown:
        for batch, seconds in enumerate([10, 20, 40, 0]):
            shown.advance(100, epoch=0, batch=batch, losses={})
            clock.now += seconds

    assert written.getvalue().splitlines() == [
        "epoch   1/2  batch 2/10  7 images/s",
        "epoch   1/2  batch 3/10  2 images/s",
    ]


def test_a_terminal_gets_its_bar_and_no_such_lines(clock):
    drawn = "\n".join(said(clock, seconds=1, terminal=True))

    assert re.search(r"epoch 1/1 .* % .*-:--:--", drawn)  # the bar
    assert "epoch   1/1  ce 0.5000  64 images/s  0:00 left" in drawn
    assert "batch" not in drawn


def test_quiet_leaves_the_lines_to_the_log_of_the_run(clock, tmp_path):
    assert said(clock, seconds=1, quiet=True, log=tmp_path / "run.log") == []
    assert (tmp_path / "run.log").read_text().count("  batch ") == 3


@pytest.mark.trains
def test_the_lines_of_a_training_go_to_standard_error_with_its_own_losses(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(progress, "SILENCE_S", 0.0)

    done = ran(["train", "--arch", "lenet5-half", "--data", "digits", "--epochs", "2", *QUICK])

    lines = [line for line in done.err.splitlines() if "  batch " in line]
    assert len(lines) == 2 * 41  # of 32 images, 1,294 in all
    assert re.fullmatch(r"epoch   1/2  batch 0/41  [\d,]+ images/s", lines[0])
    assert re.fullmatch(r"epoch   2/2  batch 40/41  ce \d\.\d{4}  [\d,]+ images/s", lines[-1])
    assert "batch" not in done.out
