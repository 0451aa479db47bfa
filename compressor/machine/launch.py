"""`--devices`: this command again, as several processes of this machine that train together."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

from compressor.errors import EnvironmentMissing, Interrupted
from compressor.machine.hardware import cores
from compressor.machine.interrupt import interruptible
from compressor.machine.ranks import LAUNCHED, RESTART, TOLD, WAIT_S

_POLL_S = 0.05
_GRACE_S = 20.0  # in which processes end by themselves after one of them has
_ADDRESS = "127.0.0.1"

Process = subprocess.Popen[bytes]


def require_devices(count: int, device: str) -> None:
    """See that there are as many devices: CUDA's, or cores where training is on the CPU.

    Raises:
        EnvironmentMissing: there are fewer.
    """
    import torch

    on_cuda = device.startswith("cuda") or (device == "auto" and torch.cuda.is_available())
    there = torch.cuda.device_count() if on_cuda else len(cores())
    if count > there:
        what = "CUDA devices" if on_cuda else "cores"
        raise EnvironmentMissing(f"--devices {count} is more than the {there} {what} that are here")


def launch(count: int, arguments: Sequence[str], *, grace: float = _GRACE_S) -> int:
    """Run `compress ARGUMENTS` as `count` processes, and return the exit code of the first that failed, else 0.

    They find each other at a port that is free, and end with this process, however it goes. The first of them writes to
    standard output. A SIGINT or SIGTERM is passed on once, for them to save and end; a second one ends them at once.

    Raises:
        Interrupted: a process was ended by a signal and no other has told so.
    """
    from datetime import timedelta

    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    store = TCPStore(_ADDRESS, 0, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=WAIT_S))
    threads = str(max(1, len(cores()) // count))
    shared = {
        "OMP_NUM_THREADS": threads,
        **os.environ,
        "MASTER_ADDR": _ADDRESS,
        "MASTER_PORT": str(store.port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",  # all are clients of the store that is kept here
        RESTART: "0",
        "WORLD_SIZE": str(count),
        LAUNCHED: "1",
    }
    running: list[Process] = []
    try:
        with interruptible() as stop:
            for rank in range(count):
                running.append(_started(rank, arguments, shared))
            failed = _waited(running, lambda: stop.requested, grace)
    finally:
        for process in running:
            process.kill()
            process.wait()
            if process.stdin is not None:
                process.stdin.close()
    if failed is None:
        return 0
    if store.add(f"{TOLD}0", 0) == 0 and running[failed].returncode < 0:
        raise Interrupted(
            f"process {failed + 1} of {count} was ended by {signal.Signals(-running[failed].returncode).name}",
            hint="was there too little memory? --resume goes on, where an epoch was finished",
        )
    code = running[failed].returncode
    return code if code > 0 else Interrupted.exit_code


def _started(rank: int, arguments: Sequence[str], shared: dict[str, str]) -> Process:
    return subprocess.Popen(
        [sys.executable, "-m", "compressor", *arguments],
        stdin=subprocess.PIPE,  # which ends with this process, see workers.stop_with_parent
        stdout=None if rank == 0 else subprocess.DEVNULL,
        env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
        start_new_session=True,
    )


def _waited(running: Sequence[Process], stop: Callable[[], bool], grace: float) -> int | None:
    """Wait for all processes; return which of them failed first, None where none has.

    What has not ended `grace` seconds after the first failure is told to, and then made to.
    """
    failed: int | None = None
    since = told = 0.0
    while any(process.poll() is None for process in running):
        now = time.monotonic()
        if stop() and not told:
            told = now
            _signal(running, signal.SIGTERM)
        if failed is None:
            failed = next((rank for rank, each in enumerate(running) if each.returncode not in (None, 0)), None)
            since = now
        elif now - since > 2 * grace:
            _signal(running, signal.SIGKILL)
        elif now - since > grace and not told:
            told = now
            _signal(running, signal.SIGTERM)
        time.sleep(_POLL_S)
    return next((rank for rank, each in enumerate(running) if each.returncode != 0), None) if failed is None else failed


def _signal(running: Sequence[Process], number: signal.Signals) -> None:
    for process in running:
        if process.poll() is None:
            process.send_signal(number)
