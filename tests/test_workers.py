"""Processes side by side: how many, why one failed, and that none outlives the one that started it."""

import signal
import subprocess
import sys

import pytest

from compressor.machine import workers
from compressor.machine.workers import Task, side_by_side


@pytest.mark.starts
def test_a_training_stops_when_the_process_that_started_it_is_gone():
    code = "from compressor.machine.workers import stop_with_parent; import time; stop_with_parent(); "
    code += "print(1, flush=True); time.sleep(60)"
    child = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdout.readline() == b"1\n"
    assert child.poll() is None
    child.stdin.close()

    assert child.wait(timeout=20) == -signal.SIGTERM
    child.stdout.close()


@pytest.mark.starts
def test_a_failed_task_is_told_with_its_own_sentence(tmp_path):
    log = tmp_path / "run.log"
    log.write_text("error: of another time\n")

    found = {
        ended.task.arguments[-1]: ended
        for ended in side_by_side(
            [Task(("recipes", "ls"), log), Task(("recipes", "show", "digits-bbs"), log)], jobs=1, threads=1
        )
    }
    assert (found["ls"].code, found["ls"].reason) == (0, "")
    assert found["digits-bbs"].code == 2
    assert "digits-bbs" in found["digits-bbs"].reason
    assert "error: " not in found["digits-bbs"].reason


@pytest.mark.parametrize(
    ("code", "text", "reason"),
    [
        (1, "Traceback (most recent call last):\n  File\nValueError: wrong\n", "ValueError: wrong"),
        (5, "2026-01-01T00:00:00 epoch 1\nerror: the loss is NaN\nhint: lower --lr\n", "the loss is NaN"),
        (-9, "", "ended by SIGKILL; was there too little memory?"),
        (-11, "2026-01-01T00:00:00 epoch 1\n", "ended by SIGSEGV"),
        (3, "2026-01-01T00:00:00 epoch 1\n", "exit code 3"),
    ],
)
def test_the_reason_is_the_sentence_or_the_last_line_or_the_signal(tmp_path, code, text, reason):
    log = tmp_path / "run.log"
    log.write_text("before\n" + text)

    assert workers._reason(code, log, len("before\n")) == reason


def test_no_more_tasks_run_at_a_time_than_asked(tmp_path, monkeypatch):
    running, most = set(), []

    class Fake:
        returncode, stdin = 0, None

        def __init__(self):
            running.add(self)
            most.append(len(running))
            self.polls = 0

        def poll(self):
            self.polls += 1
            if self.polls < 3:
                return None
            running.discard(self)
            return 0

    monkeypatch.setattr(workers, "_POLL_S", 0.0)
    monkeypatch.setattr(workers, "started", lambda task, threads: (Fake(), 0))
    tasks = [Task((str(number),), tmp_path / "log") for number in range(7)]

    ended = [each.task for each in side_by_side(tasks, jobs=3, threads=1)]

    assert sorted(task.arguments for task in ended) == sorted(task.arguments for task in tasks)
    assert max(most) == 3
