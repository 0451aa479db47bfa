"""Memory: what a fresh process needs to open a file and run it.

The process imports the runtime and notes what it occupies by then; then it opens the file, runs each batch size in
ascending order, and reads its own peak after each. Nothing of the measuring process, its data and its other files, is
in these numbers. Resident memory counts pages of mapped files too, and the checks that opening a file makes here.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

STATUS = Path("/proc/self/status")


@dataclass(frozen=True, kw_only=True)
class Memory:
    """What a process needs for batches up to a size, in MB of a million bytes.

    `added_mb` is peak resident memory beyond what the imported runtime occupies, `peak_mb` all of it. `gpu_mb` is
    memory of the GPU, of this process where the driver tells, else by what is in use on the whole device; None on a
    CPU and without NVML.
    """

    batch: int
    added_mb: float
    peak_mb: float
    gpu_mb: float | None


@dataclass(frozen=True, kw_only=True)
class Request:
    """What the process is to open, and how. `arch` and `device` are for checkpoints, `gpu` is a UUID."""

    path: str
    format: str
    provider: str
    batch_sizes: tuple[int, ...]
    threads: int | None = None
    cuda_graph: bool = False
    arch: str | None = None
    device: str = "cpu"
    gpu: str | None = None


class MemoryUnknown(Exception):
    """Memory cannot be measured; the message is a sentence that says why."""


def measure_memory(request: Request) -> tuple[Memory, ...]:
    """Measure in a process of its own; the sizes come back in ascending order.

    Raises:
        MemoryUnknown: this system does not tell, or the process failed.
    """
    if not STATUS.is_file():
        raise MemoryUnknown("the memory of a process is known on Linux only")
    done = subprocess.run(
        [sys.executable, "-P", "-m", "compressor.bench.process"],
        input=json.dumps(asdict(request)),
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},  # it finds what is found here
    )
    if done.returncode:
        raise MemoryUnknown(f"the process that opens {Path(request.path).name} {_ending(done)}")
    answer = json.loads(done.stdout)
    if "error" in answer:
        raise MemoryUnknown(answer["error"])
    return tuple(Memory(**row) for row in answer["memory"])


def _ending(done: subprocess.CompletedProcess[str]) -> str:
    if done.returncode < 0:
        return f"was ended by {signal.Signals(-done.returncode).name}"
    lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
    return f"failed: {lines[-1]}"
