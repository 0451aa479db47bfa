"""Commands of this tool side by side, each in a process of its own: what one does wrong does not reach the others."""

from __future__ import annotations

import multiprocessing
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from compressor.machine.interrupt import interruptible

_POLL_S = 0.05
_SAID = re.compile(r"^\d{4}-\d\d-\d\dT")  # a sentence that the command itself keeps in its log begins with the time


@dataclass(frozen=True)
class Task:
    """One command: what stands after `compress`, and the log that its errors are added to."""

    arguments: tuple[str, ...]
    log: Path


@dataclass(frozen=True)
class Ended:
    """How a task ended; `reason` is empty for exit code 0."""

    task: Task
    code: int
    reason: str

    @property
    def interrupted(self) -> bool:
        """Whether it was told to stop, before or after it could save its state and say so."""
        return self.code in {130, -signal.SIGTERM, -signal.SIGINT}


def nothing() -> None:
    """Do nothing, where nobody wants to be told that time passes."""


class Workers(Protocol):
    """What runs tasks: at most `jobs` at a time, as many as there is room for when None, with `threads` each."""

    @property
    def jobs(self) -> int | None: ...

    @property
    def threads(self) -> int: ...

    def run(self, tasks: Sequence[Task], tick: Callable[[], None] = nothing) -> Iterator[Ended]:
        """Run tasks and yield each when it ends.

        The first SIGINT or SIGTERM is passed on, once, and the tasks that run are waited for; none is begun any more.

        Args:
            tick: called again and again while they run.
        """
        ...


@dataclass(frozen=True)
class SideBySide:
    """Processes of this machine."""

    jobs: int
    threads: int

    def run(self, tasks: Sequence[Task], tick: Callable[[], None] = nothing) -> Iterator[Ended]:
        """Run tasks, see `side_by_side`."""
        return side_by_side(tasks, jobs=self.jobs, threads=self.threads, tick=tick)


def side_by_side(
    tasks: Sequence[Task], *, jobs: int, threads: int, tick: Callable[[], None] = nothing
) -> Iterator[Ended]:
    """Run tasks, at most `jobs` at a time with `threads` each, and yield each when it ends.

    The first SIGINT or SIGTERM is passed on, once, and the tasks are waited for; none is begun any more. A second one
    ends them on the spot. They run in sessions of their own, so that Ctrl-C reaches them through this function alone:
    a command that is told twice does not save its state.

    Args:
        tick: called again and again while they run.
    """
    waiting, running, told = deque(tasks), dict[subprocess.Popen[bytes], tuple[Task, int]](), False
    with interruptible() as stop:
        try:
            while running or (waiting and not stop.requested):
                while waiting and len(running) < jobs and not stop.requested:
                    task = waiting.popleft()
                    process, size = started(task, threads)
                    running[process] = (task, size)
                if stop.requested and not told:
                    told = True
                    for process in running:
                        process.terminate()
                for process in [process for process in running if process.poll() is not None]:
                    task, size = running.pop(process)
                    yield ended(task, process, size)
                tick()
                time.sleep(_POLL_S)
        finally:
            for process in running:
                process.kill()
                process.wait()
                _close(process)


def stop_with_parent() -> None:
    """Tell this process to stop when the one that started it through `side_by_side` is gone, however it went.

    Its standard input is a pipe that nothing is written to, and that ends when nobody holds the other end.
    """

    def watch() -> None:
        os.read(sys.stdin.fileno(), 1)  # not through the file object, whose lock Python wants when it exits
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


def end_with_starter() -> None:
    """End this process of `multiprocessing` when the one that started it is gone, however it went.

    Workers from a fork server are children of the server, which lives as long as they do, so neither notices.
    """
    starter = multiprocessing.parent_process()

    def watch() -> None:
        if starter is not None:
            starter.join()
            os._exit(1)  # at once: the main thread may wait for ever to hand over a batch

    threading.Thread(target=watch, daemon=True).start()


def started(
    task: Task, threads: int, environment: Mapping[str, str] | None = None, folder: Path | None = None
) -> tuple[subprocess.Popen[bytes], int]:
    """Start a task in a session of its own; return it and the length that its log had before.

    Args:
        environment: variables beside those of this process.
        folder: where it runs, that of this process when None.
    """
    own = {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads), **(environment or {})}
    with task.log.open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "compressor", *task.arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=log,
            env={**os.environ, **own},
            cwd=folder,
            start_new_session=True,
        )
        return process, log.tell()


def ended(task: Task, process: subprocess.Popen[bytes], size: int) -> Ended:
    """Return how a task ended whose process is gone, and whose log was `size` bytes long before."""
    _close(process)
    return Ended(task, process.returncode, _reason(process.returncode, task.log, size))


def _close(process: subprocess.Popen[bytes]) -> None:
    if process.stdin is not None:
        process.stdin.close()


def _reason(code: int, log: Path, start: int) -> str:
    """Return why a task failed: its own sentence, else the last line of what it left in the log."""
    if code == 0:
        return ""
    with log.open("rb") as file:
        file.seek(start)
        lines = [line for line in file.read().decode(errors="replace").splitlines() if line.strip()]
    sentences = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    if sentences:
        return sentences[-1]
    if code < 0:
        known = {each.value: each.name for each in signal.Signals}
        what = "; was there too little memory?" if code == -signal.SIGKILL else ""
        return f"ended by {known.get(-code, f'signal {-code}')}{what}"
    left = [line.strip() for line in lines if not _SAID.match(line)]
    return left[-1] if left else f"exit code {code}"
