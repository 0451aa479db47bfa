"""How trainings side by side share a machine: its cores, and the memory of the device."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch

from compressor.inputs import Prepared
from compressor.machine.hardware import cores
from compressor.measure.paired import Cell
from compressor.pipeline.staged import new_state
from compressor.recipe import Recipe

_THREADS = 4  # of a training on a CPU: small networks gain little from more
_CPU_BYTES = 2 * 2**30  # what one training on a CPU is reckoned with, networks and libraries
_CUDA_BYTES = 2**30  # what a CUDA process needs beside its tensors: context and libraries
_SPARE = 1.25  # peak memory of a training over that of one step


def shares(prepared: Prepared, recipes: Mapping[Cell, Recipe], jobs: int | None) -> tuple[int, int]:
    """Return how many trainings run at a time, and with how many threads each.

    Args:
        jobs: how many are asked for; None: as many as cores or the device's memory allow.
    """
    usable = len(cores())
    if jobs is None:
        jobs = max(1, usable // threads_of())
        if prepared.device.type == "cuda":
            jobs = min(jobs, _fitting(*_cuda_memory(prepared, recipes)))
        elif (available := _available_bytes()) is not None:
            jobs = min(jobs, _fitting(available, _CPU_BYTES))
    jobs = min(jobs, len(recipes))
    return jobs, _asked() or max(1, usable // jobs)


def threads_of() -> int:
    """Return how many threads a training has where their number does not decide: as asked for, else what pays."""
    return _asked() or min(len(cores()), _THREADS)


def _asked() -> int | None:
    asked = os.environ.get("OMP_NUM_THREADS", "")
    return int(asked) if asked.isdecimal() and int(asked) > 0 else None


def _fitting(free: float, each: float) -> int:
    return max(1, int(free // each))


def _cuda_memory(prepared: Prepared, recipes: Mapping[Cell, Recipe]) -> tuple[float, float]:
    """Return the free memory of the device and what a training needs, by the peak of one step of the largest."""
    peak = 0
    for cell in {replace(cell, seed=0): cell for cell in recipes}.values():
        torch.cuda.reset_peak_memory_stats(prepared.device)
        try:
            dry_step(prepared, recipes[cell])
        except torch.OutOfMemoryError:
            return 0.0, 1.0  # one at a time, then; its own error says more
        peak = max(peak, torch.cuda.max_memory_reserved(prepared.device))
        torch.cuda.empty_cache()
    free, _ = torch.cuda.mem_get_info(prepared.device)
    return free, _SPARE * peak + _CUDA_BYTES


def dry_step(prepared: Prepared, recipe: Recipe) -> None:
    """Train one step of a cell and throw it away."""
    trial = of_cell(prepared, recipe.parts[-1])
    state = new_state(trial)
    state.enter_training()
    state.advance(next(iter(trial.source.batches(0, 0))))


def of_cell(prepared: Prepared, recipe: Recipe) -> Prepared:
    """Return what a comparison opened as one of its cells sees it: with its recipe and that one's teachers."""
    opened = dict(zip(prepared.recipe.teachers, prepared.teachers, strict=True))
    return replace(prepared, recipe=recipe, teachers=tuple(opened[teacher] for teacher in recipe.teachers))


def _available_bytes() -> int | None:
    """Return the memory that processes may still take, None where the system does not tell."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), None)
