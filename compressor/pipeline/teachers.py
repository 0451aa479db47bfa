"""How a training asks its teachers: as fixed functions, by PyTorch or by another runtime that is here and faster."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from compressor.artifacts.formats import exporter_of
from compressor.errors import UsageError
from compressor.inputs import Prepared
from compressor.methods.kd import ask
from compressor.models import Normalized
from compressor.models.frozen import Frozen
from compressor.progress import Tell
from exporters import Runner, onnx
from exporters.errors import ExporterError, ExportFailed

RUNTIMES = {"onnxruntime": "onnx", "openvino": "openvino"}  # by their name in a recipe: the format they open
_WARM, _TIMED = 2, 5  # calls of each candidate
_FASTER = 0.95  # of the time of PyTorch, for another runtime to be worth its start
_WORTH_S = 60.0  # that the teacher would take in the whole training, for another runtime to be looked for


def frozen_teachers(prepared: Prepared) -> Sequence[nn.Module]:
    """Return the teachers that the method of a recipe learns from, each as `train.teacher_runtime` has it.

    `auto` is `torch`, where nobody has measured (`fastest.with_fastest`).

    Raises:
        UsageError: a runtime of the CPU is asked for, and the training is on a GPU.
        EnvironmentMissing, ExportFailed: the runtime is not here, or does not take the teacher.
    """
    recipe = prepared.recipe
    runtime, compiled = recipe.train.teacher_runtime, recipe.train.compile is True
    if runtime in RUNTIMES and prepared.device.type != "cpu":
        raise UsageError(
            f"train.teacher_runtime: {runtime} is for training on the CPU, not on {prepared.device}",
            hint="--set train.teacher_runtime=torch",
        )

    def frozen(network: nn.Module) -> nn.Module:
        if not isinstance(network, Normalized):
            return network
        clean = _clean(network, prepared.data.input_shape, runtime) if runtime in RUNTIMES else None
        return Frozen(network, clean=clean, compiled=compiled)

    return [frozen(teacher.module) for teacher in prepared.teachers[: recipe.method.needs.most]]


def fastest_runtime(prepared: Prepared, _stage: int, tell: Tell) -> str:
    """Return the name of the fastest runtime for the first teacher, and say what the others take.

    Others than PyTorch are looked for only where asking the teacher takes long enough in the whole training to pay.

    Args:
        prepared: with the recipe of one stage alone, for one process.
    """
    if prepared.device.type != "cpu" or not prepared.teachers[: prepared.recipe.method.needs.most]:
        return "torch"
    images = next(iter(prepared.source.batches(0, 0))).images
    teacher = prepared.teachers[0].module
    if not isinstance(teacher, Normalized) or len(images) == 0:
        return "torch"
    shape = prepared.data.input_shape
    frozen = Frozen(teacher)
    dtype = {"bf16": torch.bfloat16}.get(prepared.recipe.train.precision)

    def by_torch(batch: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype, enabled=dtype is not None):
            return ask(frozen, batch)

    times = {"torch": seconds(by_torch, images)}
    steps = prepared.source.steps * prepared.recipe.train.epochs
    if times["torch"] * steps < _WORTH_S:
        return "torch"
    for name in RUNTIMES:
        try:
            times[name] = seconds(_clean(teacher, shape, name), images)
        except ExporterError:  # not installed, or the teacher is none of its
            continue
    best = min(times, key=lambda name: times[name] * (1 if name == "torch" else 1 / _FASTER))
    spoken = ", ".join(f"{name} {1000 * each:.0f} ms" for name, each in times.items())
    tell(f"teacher: asked through {best} ({spoken} for {len(images)} images)")
    return best


def seconds(answer: Callable[[Tensor], Tensor], images: Tensor) -> float:
    """Return the shortest of some calls, which other processes disturb least."""
    for _ in range(_WARM):
        answer(images)
    times = []
    for _ in range(_TIMED):
        begun = time.perf_counter()
        answer(images)
        times.append(time.perf_counter() - begun)
    return min(times)


def _clean(network: Normalized, input_shape: tuple[int, int, int], runtime: str) -> Callable[[Tensor], Tensor]:
    """Return what answers images as the network does, through a runtime of the CPU in single precision.

    Raises:
        EnvironmentMissing, ExportFailed: the runtime is not here, does not take the network, or answers otherwise.
    """
    with tempfile.TemporaryDirectory(prefix="compress-teacher-") as place:
        path = Path(place) / "teacher.onnx"
        onnx.export(network, path, input_shape=input_shape)
        runner: Runner = exporter_of(RUNTIMES[runtime]).load(path, provider="cpu", threads=torch.get_num_threads())

        def answer(images: Tensor) -> Tensor:
            pixels: NDArray[np.float32] = images.detach().float().contiguous().numpy()
            return torch.from_numpy(runner(pixels))

        probe = torch.rand(2, *input_shape, generator=torch.Generator().manual_seed(0))
        if not torch.allclose(answer(probe), ask(network, probe), rtol=1e-3, atol=1e-3):
            raise ExportFailed(
                f"{runtime} does not answer as the teacher does", hint="--set train.teacher_runtime=torch"
            )
        return answer
