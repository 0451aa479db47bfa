"""The process that opens one file to see what memory it needs: a request on standard input, JSON on standard output."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from compressor.artifacts.formats import exporter_of
from compressor.bench.memory import STATUS, Memory, Request
from compressor.machine.gpu import Gpu, NvmlMissing, find_gpu
from exporters.errors import UserError

if TYPE_CHECKING:
    from exporters import Runner


def main() -> None:
    """Answer one request on standard input with a line of JSON on standard output."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # runtimes print what they like
    values: dict[str, Any] = json.load(sys.stdin)
    try:
        answer: dict[str, Any] = {"memory": [asdict(row) for row in observe(Request(**values))]}
    except UserError as error:
        answer = {"error": error.message}
    with answers:
        json.dump(answer, answers)


def observe(request: Request) -> Iterator[Memory]:
    """Open the file in this process, run it, and yield what each batch size has needed."""
    _import_runtime(request.format)
    gpu = None if request.gpu is None else _gpu(request.gpu)
    gpu_before = None if gpu is None else gpu.used_bytes()
    before = resident_bytes("VmRSS")
    runner = _open(request)
    for batch in sorted(request.batch_sizes):
        images = np.full((batch, *runner.input_shape), 0.5, np.float32)  # pages of zeros would occupy nothing
        infer = runner.prepare(images)
        for _ in range(2):  # some runtimes keep what they need from the first run on
            infer()
        peak = resident_bytes("VmHWM")
        yield Memory(
            batch=batch,
            added_mb=(peak - before) / 1e6,
            peak_mb=peak / 1e6,
            gpu_mb=None if gpu is None else _gpu_mb(gpu, gpu_before),
        )


def _import_runtime(format_: str) -> None:
    """Import what a service that serves such a file imports anyway, and what opens it here."""
    if format_ == "pytorch":
        import_module("compressor.artifacts.opening")
        return
    exporter = exporter_of(format_)
    for module in exporter.RUNTIME_MODULES:
        import_module(module)
    _ = exporter.load  # an exporter imports what its verbs need when one is asked for


def resident_bytes(key: str) -> int:
    """Return resident memory of this process: `VmRSS` is that of now, `VmHWM` the most there ever was.

    Not by `getrusage`, whose peak a process inherits from the one that started it.
    """
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(f"{key}:"))
    return int(line.split()[1]) * 1024


def _open(request: Request) -> Runner:
    path = Path(request.path)
    if request.format != "pytorch":  # without torch, which a service of such a file does not need either
        return exporter_of(request.format).load(
            path, provider=request.provider, threads=request.threads, cuda_graph=request.cuda_graph
        )
    import torch

    from compressor.artifacts.opening import torch_runner
    from compressor.checkpoint import load_network

    network = load_network(path, arch=request.arch)
    device = torch.device(request.device)
    return torch_runner(network, device=device, threads=request.threads, cuda_graph=request.cuda_graph)


def _gpu(uuid: str) -> Gpu | None:
    try:
        return find_gpu(uuid)
    except NvmlMissing:
        return None


def _gpu_mb(gpu: Gpu, before: int | None) -> float | None:
    own, all_of_it = gpu.used_bytes(os.getpid()), gpu.used_bytes()
    if own is not None:
        return own / 1e6
    return None if all_of_it is None or before is None else (all_of_it - before) / 1e6


if __name__ == "__main__":
    main()
