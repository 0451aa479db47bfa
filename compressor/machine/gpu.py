"""What NVML tells of an NVIDIA GPU: clock, slow-downs, energy, memory. What it does not tell is None, never zero."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

FilePredictions = TypeVar("FilePredictions")

# Why a clock is below what was asked for. Idling and limits that a user has set are no slow-downs.
_SLOW_DOWNS = {
    "nvmlClocksEventReasonSwPowerCap": "power limit",
    "nvmlClocksEventReasonSwThermalSlowdown": "heat",
    "nvmlClocksEventReasonHwThermalSlowdown": "heat",
    "nvmlClocksEventReasonHwSlowdown": "hardware slow-down",
    "nvmlClocksEventReasonHwPowerBrakeSlowdown": "power brake",
}


class NvmlMissing(Exception):
    """NVML cannot be asked; the message is one sentence that says why."""


@dataclass(frozen=True, eq=False)
class Gpu:
    """One GPU as NVML sees it."""

    nvml: Any
    handle: Any
    uuid: str

    def clock_mhz(self) -> float | None:
        """Return the clock of the multiprocessors at this moment."""
        return self._ask(lambda: float(self.nvml.nvmlDeviceGetClockInfo(self.handle, self.nvml.NVML_CLOCK_SM)))

    def slow_downs(self) -> frozenset[str]:
        """Return what keeps the clock down at this moment: `heat`, `power limit`, ...; empty also where unknown."""
        mask = self._ask(lambda: int(self.nvml.nvmlDeviceGetCurrentClocksEventReasons(self.handle))) or 0
        return frozenset(word for name, word in _SLOW_DOWNS.items() if mask & getattr(self.nvml, name))

    def energy_mj(self) -> int | None:
        """Return the millijoules that the whole device has used since its driver was loaded (Volta and newer)."""
        return self._ask(lambda: int(self.nvml.nvmlDeviceGetTotalEnergyConsumption(self.handle)))

    def used_bytes(self, pid: int | None = None) -> int | None:
        """Return the memory in use on the device, or the share of a process where the driver tells it."""
        if pid is None:
            return self._ask(lambda: int(self.nvml.nvmlDeviceGetMemoryInfo(self.handle).used))
        return next((process.usedGpuMemory for process in self._processes() if process.pid == pid), None)

    def shared(self) -> bool | None:
        """Whether other processes than this one compute on the device. None where processes cannot be seen."""
        # Counted, since a container numbers its processes in its own way.
        processes = self._processes()
        return len(processes) > 1 if processes else None

    def _processes(self) -> list[Any]:
        return self._ask(lambda: list(self.nvml.nvmlDeviceGetComputeRunningProcesses(self.handle))) or []

    def _ask(self, question: Callable[[], FilePredictions]) -> FilePredictions | None:
        try:
            return question()
        except self.nvml.NVMLError:
            return None


def find_gpu(uuid: str) -> Gpu:
    """Return the GPU of a UUID, `GPU-...`.

    Raises:
        NvmlMissing: there is no NVML here, or it does not know the GPU.
    """
    nvml = _nvml()
    try:
        return Gpu(nvml, nvml.nvmlDeviceGetHandleByUUID(uuid), uuid)
    except nvml.NVMLError as error:
        raise NvmlMissing(f"NVML does not know the GPU {uuid}: {error}") from error


def cuda_uuid(index: int) -> str:
    """Return the UUID of the GPU that CUDA calls `index`: NVML counts also those that this process may not use."""
    import torch

    return "GPU-" + str(torch.cuda.get_device_properties(index).uuid).removeprefix("GPU-")


def driver() -> str | None:
    """Return the version of the NVIDIA driver."""
    try:
        nvml = _nvml()
    except NvmlMissing:
        return None
    try:
        return str(nvml.nvmlSystemGetDriverVersion())
    except nvml.NVMLError:
        return None


def _nvml() -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an older package of the same name says that it is deprecated
            import pynvml
    except ImportError:
        raise NvmlMissing("NVML needs the package nvidia-ml-py: pip install 'compressor[nvml]'") from None
    try:
        pynvml.nvmlInit()  # counted, and cheap when done before
    except pynvml.NVMLError as error:
        raise NvmlMissing(f"NVML does not start: {error}") from error
    return pynvml
