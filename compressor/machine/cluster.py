"""Commands of this tool on a Ray cluster, which chooses the machine of each: a local cluster, or one at an address.

Its machines share the folder that the command is typed in. Nothing here writes but the commands themselves.
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
import platform
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compressor.errors import EnvironmentMissing, Interrupted, UsageError
from compressor.machine.hardware import cores
from compressor.machine.interrupt import interruptible
from compressor.machine.workers import Ended, Task, ended, nothing, started

TRIES = 3  # of a task whose worker, machine or process is lost
_POLL_S = 0.1
_CONNECT_S = 5.0
_JOIN_S = 30.0  # which importing Ray and joining a cluster take at most
_STORE_BYTES = 100 * 2**20  # of a local cluster: results are two words, and the data stay in files
_QUIET: dict[str, Any] = {"log_to_driver": False, "configure_logging": False, "logging_level": logging.ERROR}
_JOINING = f"""
import ray, sys
try:
    ray.init(address=sys.argv[1], **{_QUIET!r})
except (ConnectionError, RuntimeError, ValueError) as error:
    sys.exit(str(error).strip().partition("\\n")[0] or type(error).__name__)
"""

Found = tuple[int, str]  # exit code and reason, see `Ended`


@dataclass(frozen=True, kw_only=True)
class Ray:
    """Workers of a Ray cluster, at most `jobs` at a time, each with `threads` CPUs and `gpus` GPUs.

    A task is tried again, `TRIES` times in all, when its worker, its machine or its process is ended from outside; one
    that ends with an exit code of its own is not.

    Args:
        address: `HOST:PORT` of the cluster, or `auto` for the one that this machine belongs to; None: a local one is
            started, and ended with the tasks. A program that has joined a cluster before stays there.
        folder: where the commands run, on every machine.
    """

    address: str | None
    jobs: int | None
    threads: int
    gpus: float
    folder: Path

    def run(self, tasks: Sequence[Task], tick: Callable[[], None] = nothing) -> Iterator[Ended]:
        """Run tasks, see `Workers`.

        Raises:
            EnvironmentMissing: there is no such cluster, or no machine in it is large enough.
        """
        if not tasks:
            return
        # What Ray has to say of a lost worker it prints from a thread of its own, where results belong.
        with contextlib.redirect_stdout(sys.stderr), joined(self.address) as ray:
            self._require_room(ray)
            resources = {"num_cpus": self.threads, "num_gpus": self.gpus, "max_retries": 0}
            remote = ray.remote(**resources)(_run)

            def submit(task: Task) -> Any:
                return remote.remote(task, self.folder, self.threads, self.gpus)

            yield from _handed_out(ray, submit, tasks, self.jobs, tick)

    def _require_room(self, ray: Any) -> None:
        machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        if not any(each.get("CPU", 0) >= self.threads and each.get("GPU", 0) >= self.gpus for each in machines):
            wanted = f"{self.threads} CPUs" + (f" and {self.gpus:g} GPUs" if self.gpus else "")
            raise EnvironmentMissing(
                f"no machine of the Ray cluster has the {wanted} of a training", hint="--cpus 1 --gpus 0 asks for less"
            )


def require(address: str | None) -> None:
    """See that Ray is installed, and that something answers at an address; that takes seconds at most.

    Raises:
        EnvironmentMissing: it is not, or nothing does.
        UsageError: that is no address.
    """
    if importlib.util.find_spec("ray") is None:
        raise EnvironmentMissing("--on ray needs the package ray", hint="pip install 'compressor[ray]'")
    if address is None or address == "auto":
        return
    host, _, port = address.rpartition(":")
    if not host or "/" in host or not (port.isascii() and port.isdecimal()) or int(port) > 65535:
        raise UsageError(f"{address} is no address of a Ray cluster", hint="--address HOST:6379, or auto")
    try:
        socket.create_connection((host.strip("[]"), int(port)), _CONNECT_S).close()
    except OSError as error:
        raise _unreachable(address, (error.strerror or str(error)).lower()) from None


@contextlib.contextmanager
def joined(address: str | None) -> Iterator[Any]:
    """Belong to a cluster within the block; yields the module `ray`.

    Raises:
        EnvironmentMissing: there is none at that address, or a local one does not start.
    """
    if address is not None:
        _try_to_join(address)  # Ray itself ends a process that waited in vain, after more than a minute
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # a local cluster would send them home
    import ray

    logging.getLogger("ray").setLevel(logging.ERROR)
    if ray.is_initialized():
        yield ray
        return
    local: dict[str, Any] = {"num_cpus": len(cores()), "include_dashboard": False, "object_store_memory": _STORE_BYTES}
    before = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(address=address or "local", **_QUIET, **({} if address else local))
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise _unreachable(address or "local", str(error).strip().partition("\n")[0]) from error
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)  # Ray takes it, and this command says what a signal does
    try:
        yield ray
    finally:
        ray.shutdown()


def _try_to_join(address: str) -> None:
    """Join a cluster in a process of its own, which may hang or be ended, and whose noise nobody sees."""
    try:
        tried = subprocess.run(
            [sys.executable, "-c", _JOINING, address], stdin=subprocess.DEVNULL, capture_output=True, timeout=_JOIN_S
        )
    except subprocess.TimeoutExpired:
        raise _unreachable(address, f"no answer within {_JOIN_S:g} s") from None
    if tried.returncode:
        said = tried.stderr.decode(errors="replace").strip().splitlines()
        raise _unreachable(address, said[-1] if said else f"exit code {tried.returncode}")


def _unreachable(address: str, reason: str) -> EnvironmentMissing:
    return EnvironmentMissing(
        f"there is no Ray cluster at {address} that this machine can join: {reason}",
        hint="ray start --head makes this machine a cluster and prints its address",
    )


def _handed_out(
    ray: Any,
    submit: Callable[[Task], Any],
    tasks: Sequence[Task],
    jobs: int | None,
    tick: Callable[[], None],
) -> Iterator[Ended]:
    """Submit tasks, at most `jobs` at a time, and yield each when it ends."""
    waiting, running, tries, told = deque(tasks), dict[Any, Task](), dict[Task, int](), False
    with interruptible() as stop:
        try:
            while running or (waiting and not stop.requested):
                while waiting and (jobs is None or len(running) < jobs) and not stop.requested:
                    task = waiting.popleft()
                    tries[task] = tries.get(task, 0) + 1
                    running[submit(task)] = task
                if stop.requested and not told:
                    told = True
                    for reference in running:
                        ray.cancel(reference)  # one that is not begun never is; one that runs is told
                done, _ = ray.wait(list(running), timeout=_POLL_S)
                for reference in done:
                    found, task = _found(ray, reference), running.pop(reference)
                    if _lost(found) and not stop.requested and tries[task] < TRIES:
                        waiting.append(task)
                    else:
                        yield Ended(task, *found)
                tick()
        finally:
            for reference in running:
                ray.cancel(reference, force=True)


def _found(ray: Any, reference: Any) -> Found:
    """Return how a task ended; one whose worker is gone as if SIGKILL had ended it."""
    try:
        found: Found = ray.get(reference)
        return found
    except ray.exceptions.TaskCancelledError:
        return Interrupted.exit_code, "interrupted"
    except ray.exceptions.RayTaskError as error:  # of Python, such as a package that a machine lacks
        return 1, str(error).strip().splitlines()[-1]
    except ray.exceptions.RayError as error:
        return -signal.SIGKILL, f"its Ray worker was lost: {str(error).strip().partition(chr(10))[0]}"


def _lost(found: Found) -> bool:
    """Whether a task ended by a signal, of which there is none from here."""
    code, _ = found
    return code < 0 or code == Interrupted.exit_code


def _run(task: Task, folder: Path, threads: int, gpus: float) -> Found:
    """Run a task in a process of this machine; what a Ray worker does.

    The process is told to stop when this one is told (Ray raises `KeyboardInterrupt`) or is gone.
    """
    unseen = _unseen(folder, task)
    if unseen is not None:
        return EnvironmentMissing.exit_code, unseen
    task = Task(task.arguments, folder / task.log)
    process, size = started(task, threads, {} if gpus else {"CUDA_VISIBLE_DEVICES": ""}, folder)
    try:
        while process.poll() is None:
            time.sleep(_POLL_S)
    except KeyboardInterrupt:
        process.terminate()
        process.wait()
    found = ended(task, process, size)
    return found.code, found.reason


def _unseen(folder: Path, task: Task) -> str | None:
    """Return what to say where this machine does not see what a task works on."""
    for place in (folder, (folder / task.log).parent):
        if not place.is_dir():
            return f"{platform.node()} does not see {place}: the machines of a Ray cluster must share that folder"
    return None
