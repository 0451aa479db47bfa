"""What a result was measured on: versions, the machine, and how busy others kept it. Nothing heavy is imported."""

import os
import platform
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from compressor.machine.gpu import driver

PACKAGES = (
    "compressor",
    "torch",
    "torchvision",
    "numpy",
    "onnx",
    "onnxscript",
    "onnxruntime",
    "onnxruntime-gpu",
    "openvino",
    "tensorrt",
    "tensorrt-cu13",
    "tensorrt-rtx-cu13",
    "timm",
    "nvidia-ml-py",
)
PROC = Path("/proc")
MACHINE = ("cpu", "cores", "gpus")  # of `hardware()`: times of machines that differ in one of these do not compare
NOISY = 0.1  # share of our cores that other processes may use before a time is doubted


def versions() -> dict[str, str]:
    """Return the versions of Python and of those `PACKAGES` that are installed, by distribution name."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        version = _version(name)
        if version is not None:
            found[name] = version
    return found


def clashes() -> tuple[str, ...]:
    """Return a sentence for each pair of installed packages that must not be installed together."""
    plain, gpu = _version("onnxruntime"), _version("onnxruntime-gpu")
    if plain is None or gpu is None:
        return ()
    return (
        f"onnxruntime {plain} and onnxruntime-gpu {gpu} are both installed and overwrite each other's files; "
        "uninstall both, then install onnxruntime-gpu, which also runs on the CPU",
    )


def hardware() -> dict[str, str | int | float | list[str] | list[int] | None]:
    """Describe the machine: `os`, `machine`, `cpu`, `cores`, `memory_bytes`, and what PyTorch sees of GPUs.

    `cores` are those this process may run on; `memory_bytes` is None where the system does not tell. Of the GPUs, in
    the order of CUDA: `gpus` their names, `compute_capability` such as `9.0`, `gpu_memory_bytes`. `cuda` is the
    runtime that PyTorch brings, None where it sees no GPU; `driver` is None where NVML does not tell it.
    """
    return {**machine(), **_gpus(), "driver": driver()}


def differing(before: Mapping[str, Any], now: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the keys of `MACHINE` in which two descriptions by `hardware()` differ: none where times compare."""
    return tuple(key for key in MACHINE if before.get(key) != now.get(key))


def other_machine(before: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
    """Return a sentence when a baseline is of another machine, so that its times say nothing of the files."""
    keys = differing(before, now)
    if not keys:
        return None
    return "the baseline is of another machine: " + ", ".join(
        f"{key} {before.get(key)!r}, here {now.get(key)!r}" for key in keys
    )


def machine() -> dict[str, str | int | None]:
    """Describe the machine without its GPUs, and without importing PyTorch: the first keys of `hardware()`."""
    return {
        "os": f"{platform.system()} {platform.release()}",
        "machine": platform.machine(),
        "cpu": _cpu_model(),
        "cores": len(cores()),
        "memory_bytes": _memory_bytes(),
    }


def cores() -> frozenset[int]:
    """Return the numbers of the CPU cores that this process may run on."""
    if sys.platform == "linux":
        return frozenset(os.sched_getaffinity(0))
    return frozenset(range(os.cpu_count() or 1))


def own_cpu_seconds() -> float:
    """Return the CPU time, user and system, that all threads of this process have used."""
    times = os.times()
    return times.user + times.system


def busy_seconds() -> float | None:
    """Return the CPU time that `cores()` have spent on anything, by anyone, since the machine started.

    Time that a hypervisor took away counts as busy; waiting for a disk does not. None where `/proc/stat` is absent or
    counts nothing, as in some sandboxes.
    """
    try:
        lines = (PROC / "stat").read_text().splitlines()
    except OSError:
        return None
    mine = {f"cpu{core}" for core in cores()}
    counted = [[int(value) for value in rest] for name, *rest in map(str.split, filter(None, lines)) if name in mine]
    if not any(map(any, counted)):
        return None
    # user nice system idle iowait irq softirq steal; the guest columns after these are already part of user and nice.
    ticks = sum(sum(values[:8]) - sum(values[3:5]) for values in counted)
    return ticks / os.sysconf("SC_CLK_TCK")


def clock_mhz() -> float | None:
    """Return the mean clock of `cores()` at this moment, or None where `/proc/cpuinfo` does not tell."""
    clocks = dict(zip(_cpuinfo("processor"), _cpuinfo("cpu MHz"), strict=False))
    mine = [float(clocks[number]) for number in map(str, cores()) if number in clocks]
    return sum(mine) / len(mine) if mine else None


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _cpuinfo(key: str) -> list[str]:
    """Return the values of a key of `/proc/cpuinfo`, one a core."""
    try:
        lines = (PROC / "cpuinfo").read_text().splitlines()
    except OSError:
        return []
    pairs = (line.partition(":") for line in lines)
    return [value.strip() for name, _, value in pairs if name.strip() == key]


def _cpu_model() -> str:
    models = _cpuinfo("model name")
    return models[0] if models else platform.processor() or platform.machine()


def _memory_bytes() -> int | None:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # Windows has no sysconf, other systems not these names
        return None


def _gpus() -> dict[str, str | list[str] | list[int] | None]:
    import torch  # seconds to import; only this description needs it

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    found = [torch.cuda.get_device_properties(index) for index in range(count)]
    return {
        "gpus": [gpu.name for gpu in found],
        "compute_capability": [f"{gpu.major}.{gpu.minor}" for gpu in found],
        "gpu_memory_bytes": [gpu.total_memory for gpu in found],
        "cuda": torch.version.cuda if found else None,
    }
