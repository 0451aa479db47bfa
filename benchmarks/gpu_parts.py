"""The parts of `gpu.py`: what is run on a GPU, what must hold of it, and what is missing here.

A part returns a line to read, values to keep, and whether what it states held. Bounds are on results, never on time.
"""

import copy
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, get_args

import bss_step
import numpy as np
import torch
from rounds import seconds
from torch import Tensor, nn

from compressor.attack import BoundaryAttack, Walk, sample_targets
from compressor.bench import bench
from compressor.data import open_data
from compressor.measure.scores import correct, predict
from compressor.methods import Setting
from compressor.methods.bss import BSS
from compressor.methods.ce import CE
from compressor.methods.kd import KD
from compressor.models import Normalized, build
from compressor.recipe import Bench, Data, Training
from compressor.training.loop import TrainingState, fit
from exporters import Engine, Runner, exporter, onnx
from exporters.errors import RuntimeMissing
from exporters.parity import compare
from exporters.pytorch import TorchRunner

ROOT = Path(__file__).resolve().parent.parent
POINTS, LOSS = (
    2.0,
    0.05,
)  # how far a training in half precision may end from one in fp32: accuracy, and share of the loss
WALKED = 1e-3  # largest difference of a pixel, in the median image, of two ways to take the same walk
PARITY = {"fp32": 1e-3, "fp16": 3e-2}  # largest error of a logit, in units of the logits' spread

Found = tuple[str, dict[str, Any], bool]


class Missing(Exception):
    """What a part needs and is not here, in words."""


@dataclass(frozen=True)
class Given:
    """What a part is run with. `dry` is tiny, on the CPU."""

    device: torch.device
    dry: bool
    out: Path
    teacher: Path | None = None
    data: str = "cifar10"


@dataclass(frozen=True)
class Part:
    title: str
    run: Callable[[Given], Found]


@cache
def commit() -> str | None:
    """Return the commit of the code, None outside a repository."""
    told = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
    return told.stdout.strip() or None


def cuda_tests(given: Given) -> Found:
    words = ["--collect-only"] if given.dry else ["-rs"]
    files = [str(ROOT / "tests" / name) for name in ("test_cuda.py", "test_gpu.py")]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *words, *files], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if "No module named pytest" in done.stderr:
        raise Missing("pytest is not installed")
    print(done.stdout, done.stderr)
    return done.stdout.strip().splitlines()[-1].strip("= "), {"code": done.returncode}, done.returncode == 0


def precision(given: Given) -> Found:
    """KD and BSS in fp32, bf16 and fp16 from the same seeds: accuracy and last loss, means over the seeds."""
    seeds, epochs = ((0,), 1) if given.dry else ((0, 1, 2), 30)
    data = open_data(Data(name="digits"), device=given.device)
    few = 2 if given.dry else None
    teacher, _ = _trained(CE(), data, [], given, seed=0, epochs=epochs, steps=few)
    values: dict[str, Any] = {}
    good = True
    for name, method in (("kd", KD()), ("bss", BSS())):
        for kind in ("fp32", "bf16", "fp16"):
            ends = [
                _trained(method, data, [teacher], given, seed=seed, epochs=epochs, precision=kind, steps=few)
                for seed in seeds
            ]
            top1 = [_top1(student, data, given) for student, _ in ends]
            values[f"{name} {kind}"] = {
                "top1": float(np.mean(top1)),
                "loss": float(np.mean([loss for _, loss in ends])),
            }
        full = values[f"{name} fp32"]
        for kind in ("bf16", "fp16"):
            half = values[f"{name} {kind}"]
            near = abs(half["loss"] / full["loss"] - 1) <= LOSS and abs(half["top1"] - full["top1"]) <= POINTS
            good = good and near
    spoken = ", ".join(f"{name} {found['top1']:.2f} % (loss {found['loss']:.3f})" for name, found in values.items())
    return f"{spoken}; bounds {POINTS:g} points and {LOSS:.0%} of the loss", values, good or given.dry


def _trained(
    method: Any, data: Any, teachers: Sequence[nn.Module], given: Given, *, seed: int, epochs: int, steps: int | None,
    precision: str = "fp32",
) -> tuple[nn.Module, float]:  # fmt: skip
    """Return a ResNet-8 that was trained on the digits, and its loss in the last epoch."""
    torch.manual_seed(seed)
    network = build("resnet8", classes=10, input_shape=data.input_shape)
    student = Normalized(network, data.mean, data.std).to(given.device)
    std = torch.tensor(data.std, device=given.device)
    setting = Setting(student, teachers, 10, data.input_shape, len(data.train), std, given.device)
    config = Training(epochs=epochs, lr=0.05, precision=precision)
    count = steps or len(data.train) // 64
    state = TrainingState(student, method.build(setting), config, seed=seed, device=given.device, steps_per_epoch=count)
    loss = float("nan")
    for epoch in fit(
        state,
        lambda number, start: data.train.batches(
            64, epoch=number, seed=seed, augment=True, drop_last=True, start=start
        ),
    ):
        loss = sum(epoch.losses.values())
    return student.eval(), loss


def _top1(network: nn.Module, data: Any, given: Given) -> float:
    runner = TorchRunner(network, input_shape=data.input_shape, classes=10, device=str(given.device))
    return 100 * float(np.mean(correct(predict(runner, data.test)).tolist()))


def steps(given: Given) -> Found:
    words = ["--device", str(given.device), *(["--quick"] if given.dry else ["--rounds", "30"])]
    found = bss_step.main(words)
    plain = found["BSS, straightforward"]
    ratios = ", ".join(f"{name} {1000 * each:.1f} ms ({plain / each:.1f}x)" for name, each in found.items())
    return f"{ratios}: times faster than the straightforward BSS step", found, True


def walks(given: Given) -> Found:
    """Our walks, which wait for the device between their steps, and one by masks, which must not."""
    teacher, images = _walked_on(given)
    with torch.no_grad():
        base = teacher(images).argmax(dim=1)
        target = sample_targets(teacher(images), base, torch.Generator(given.device).manual_seed(0))
    scale = torch.tensor(bss_step.STD, device=given.device)

    def ours(walk: Walk) -> Tensor:
        return BoundaryAttack(walk=walk)(teacher, images, base, target, scale=scale).images

    def masked() -> Tensor:
        return masked_walk(teacher, images, base, target, scale)

    calls = {walk: (lambda walk=walk: ours(walk)) for walk in get_args(Walk)} | {"masked": masked}
    ends = {name: call() for name, call in calls.items()}  # the first calls choose kernels
    values: dict[str, Any] = {}
    for name, call in calls.items():
        values[name] = {
            "waits": _waits(call, given.device),
            "seconds": min(seconds(call, given.device) for _ in range(5)),
        }
    apart = (ends["published"] - ends["masked"]).abs().flatten(1).amax(dim=1).median().item()
    spoken = ", ".join(f"{name} {1000 * v['seconds']:.1f} ms, {v['waits']} waits" for name, v in values.items())
    good = values["masked"]["waits"] in (0, None) and apart <= WALKED
    return f"{spoken}; published and masked differ by {apart:.1e}", {**values, "apart": apart}, good


def masked_walk(network: nn.Module, images: Tensor, base: Tensor, target: Tensor, scale: Tensor) -> Tensor:
    """Take the published walk by all images in all steps; a mask holds those that crossed, and nothing is read back."""
    unit = scale.view(1, -1, 1, 1)
    for _ in range(bss_step.STEPS):
        here = images.detach().requires_grad_()
        logits = network(here)
        gap = (logits.gather(1, base[:, None]) - logits.gather(1, target[:, None])).squeeze(1)
        (gradient,) = torch.autograd.grad(gap.sum(), here)
        gradient = gradient * unit
        norm = gradient.flatten(1).norm(dim=1)
        moving = (logits.argmax(dim=1) == base) & (norm > 0)
        length = torch.where(moving, 0.3 * (gap.detach() + 1e-4) / norm.clamp_min(1e-20), 0.0)
        images = (here.detach() - length.view(-1, 1, 1, 1) * gradient * unit).clamp(0, 1)
    return images


def _walked_on(given: Given) -> tuple[nn.Module, Tensor]:
    pictures, labels = (each.to(given.device) for each in bss_step.digits())
    arch = "resnet8" if given.dry else "resnet26"
    network = Normalized(build(arch, classes=10, input_shape=(3, 32, 32)), bss_step.MEAN, bss_step.STD)
    teacher = network.to(given.device)
    bss_step.warm_up(teacher, CE(), [], pictures, labels, steps=3 if given.dry else 40)
    bss_step.steepen(teacher.eval(), pictures[:64])
    return teacher.requires_grad_(False), pictures[: 4 if given.dry else 64]


def _waits(call: Callable[[], object], device: torch.device) -> int | None:
    """Return how often a call makes the host wait for the device, None on a CPU."""
    if device.type != "cuda":
        return None
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            call()
        finally:
            torch.cuda.set_sync_debug_mode(before)
    return sum("synchroniz" in str(each.message) for each in caught)


def onnxruntime(given: Given) -> Found:
    """The exported file on the CUDA provider, with and without a recorded graph."""
    network, path, images = _exported(given)
    provider = "cpu" if given.dry else "cuda"
    try:
        runners: dict[str, Runner] = {provider: onnx.load(path, provider=provider)}
        if not given.dry:
            runners["cuda graph"] = onnx.load(path, provider="cuda", cuda_graph=True)
    except RuntimeMissing as missing:
        raise Missing(missing.message) from missing
    return _measured(network, runners, images, given)


def tensorrt(given: Given) -> Found:
    """Plans in fp32 and fp16 from the same graph."""
    trt = exporter("trt")
    try:
        trt.require()
    except RuntimeMissing as missing:
        raise Missing(missing.message) from missing
    network, path, images = _exported(given)
    runners: dict[str, Runner] = {}
    for kind in ("fp32", "fp16"):
        source = path.with_name(f"{kind}.onnx")
        onnx.convert(path, source, precision=kind)
        plan = trt.build(source, given.out, f"network.{kind}", precision=kind, engine=Engine())
        runners[kind] = trt.load(plan.path)
    return _measured(network, runners, images, given)


def _exported(given: Given) -> tuple[nn.Module, Path, np.ndarray[Any, Any]]:
    torch.manual_seed(0)
    network = build("resnet8" if given.dry else "resnet20", classes=10, input_shape=(3, 32, 32)).eval()
    path = given.out / "network.onnx"
    onnx.export(network, path, input_shape=(3, 32, 32))
    return network, path, torch.rand(8, 3, 32, 32).numpy()


def _measured(network: nn.Module, runners: dict[str, Runner], images: Any, given: Given) -> Found:
    reference = TorchRunner(copy.deepcopy(network), input_shape=(3, 32, 32), classes=10)(images)
    values: dict[str, Any] = {}
    good = True
    for name, runner in runners.items():
        error = compare(reference, runner(images)).relative_error
        good = good and error <= PARITY["fp16" if runner.precision == "fp16" else "fp32"]
        latencies = bench(runner, _bench(given, graph=name == "cuda graph"))
        values[name] = {"relative_error": error, **{f"batch {each.batch}": each.at(50) for each in latencies}}
    spoken = "; ".join(f"{name}: {_sentence(found)}" for name, found in values.items())
    return spoken, values, good


def _bench(given: Given, *, graph: bool) -> Bench:
    if given.dry:
        return Bench(batch_sizes=(1,), warmup_s=0.0, duration_s=0.01, min_iterations=2)
    return Bench(batch_sizes=(1, 32), cuda_graph=graph)


def _sentence(found: dict[str, float]) -> str:
    times = ", ".join(f"{name} {each:.3f} ms" for name, each in found.items() if name != "relative_error")
    return f"{times}, relative error {found['relative_error']:.1e}"


def tables(given: Given) -> Found:
    """The published comparison at full length, many trainings side by side; stopped, it goes on."""
    place = given.out / "tables"
    if given.dry:
        words = ["smoke", "--methods", "ce,ps-kd", "--seeds", "2", "--dry-run"]
    elif given.teacher is None:
        raise Missing("no teacher is named: --teacher resnet26_cifar10.pt --data cifar10")
    else:
        words = ["cifar10-resnet26-resnet8-bss", "--teacher", str(given.teacher), "--data", given.data, "--seeds", "5"]
        words += ["--methods", "ce,kd,bss", "--device", str(given.device)]
    signal.signal(signal.SIGINT, lambda *_: None)  # the comparison is told as well, saves, and ends
    command = [sys.executable, "-m", "compressor", "compare", *words, "--out", str(place)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    print(done.stdout)
    said = done.stdout.strip().splitlines()
    return (said[-1] if said else f"ended with code {done.returncode}"), {"folder": place.name}, done.returncode == 0


PARTS = {
    "tests": Part("the tests that need a GPU", cuda_tests),
    "precision": Part("training in bf16 and fp16 beside fp32", precision),
    "steps": Part("KD and BSS steps beside a straightforward loop", steps),
    "walks": Part("walks, and how often they wait for the device", walks),
    "onnxruntime": Part("ONNX Runtime's CUDA provider and CUDA graphs", onnxruntime),
    "tensorrt": Part("TensorRT plans", tensorrt),
    "tables": Part("the full-length comparison, many trainings side by side", tables),
}
