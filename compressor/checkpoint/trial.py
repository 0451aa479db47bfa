"""The first call of a network that brings its own code: in a process of its own, in silence, within limits."""

import multiprocessing
import os
import resource
import sys
import warnings
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import TypeVar

import torch

from compressor.errors import EnvironmentMissing, InputRejected

T = TypeVar("T")

SECONDS = 120  # of one core's time; such a first call takes less than one, on an old machine a few
_WAITED = 10 * SECONDS  # by the clock, should other work or a pause keep the process from the core
_MEMORY = 16 * 2**30  # bytes, beyond what the process has


def can_limit() -> bool:
    """Whether this system can copy a process."""
    return "fork" in multiprocessing.get_all_start_methods()


def within_limits(action: Callable[[], T], name: str) -> T:
    """Return what `action` returns in a copy of this process, which is all that it can change.

    Raises:
        InputRejected: `action` did, or it ran past the limit of time or memory, or took its process down; `name` begins
            the sentences.
        EnvironmentMissing: this system cannot copy a process.
    """
    if not can_limit():
        raise EnvironmentMissing(
            f"{name} brings its own code, which is tried in a copy of this process; this system cannot make one",
            hint="give the network's weights, or work on Linux or in WSL",
        )
    context = multiprocessing.get_context("fork")
    receiving, sending = context.Pipe(duplex=False)
    process = context.Process(target=_run, args=(action, sending), daemon=True)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*fork.*", category=DeprecationWarning)  # Python 3.12, of threads
        process.start()
    sending.close()
    try:
        reply = receiving.recv() if receiving.poll(_WAITED) else None
    except EOFError:
        reply = None
    finally:
        process.kill()
        process.join()
        receiving.close()
    if reply is None:
        raise InputRejected(
            f"{name} ran past {SECONDS} s on its first images, or broke down on them",
            hint="it may hold a loop without an end: export it again, or give its weights",
        )
    done, value, hint = reply
    if not done:
        raise InputRejected(value, hint=hint)
    return value  # type: ignore[no-any-return]


def _run(action: Callable[[], T], sending: Connection) -> None:
    """Send `(True, value, None)`, or `(False, sentence, hint)`."""
    silent = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(silent, stream)
    used = resource.getrusage(resource.RUSAGE_SELF)
    spent = int(used.ru_utime + used.ru_stime)
    resource.setrlimit(resource.RLIMIT_CPU, (spent + SECONDS, spent + SECONDS))
    if sys.platform == "linux":
        with open("/proc/self/statm", encoding="ascii") as sizes:  # noqa: PTH123 - no path of a user's
            held = int(sizes.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (held + _MEMORY, held + _MEMORY))
    torch.set_num_threads(1)  # the pool of threads did not come along
    try:
        reply: tuple[bool, object, str | None] = True, action(), None
    except InputRejected as refusal:
        reply = False, refusal.message, refusal.hint
    except MemoryError:
        return
    sending.send(reply)
