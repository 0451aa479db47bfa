"""With a stand-in for NVML, since most machines that run tests have no GPU; its names are held against the real one."""

import sys
from types import SimpleNamespace

import pytest
import torch

from compressor.machine.gpu import NvmlMissing, cuda_uuid, driver, find_gpu


class Nvml:
    """As much of pynvml as is asked, of one GPU, `GPU-7`. What is None is answered with an error."""

    NVML_CLOCK_SM = 1
    nvmlClocksEventReasonGpuIdle = 1
    nvmlClocksEventReasonApplicationsClocksSetting = 2
    nvmlClocksEventReasonSwPowerCap = 4
    nvmlClocksEventReasonHwSlowdown = 8
    nvmlClocksEventReasonSwThermalSlowdown = 32
    nvmlClocksEventReasonHwThermalSlowdown = 64
    nvmlClocksEventReasonHwPowerBrakeSlowdown = 128

    class NVMLError(Exception):
        pass

    def __init__(self):
        self.starts = True
        self.answers = {
            "clock": 1500,
            "reasons": 0,
            "energy": 5000,
            "used": 3 * 10**9,
            "processes": [],
            "driver": "5.1",
        }

    def _answer(self, key):
        if self.answers[key] is None:
            raise self.NVMLError("Not Supported")
        return self.answers[key]

    def nvmlInit(self):
        if not self.starts:
            raise self.NVMLError("NVML Shared Library Not Found")

    def nvmlDeviceGetHandleByUUID(self, uuid):
        if uuid != "GPU-7":
            raise self.NVMLError("Not Found")
        return "handle"

    def nvmlSystemGetDriverVersion(self):
        return self._answer("driver")

    def nvmlDeviceGetClockInfo(self, handle, kind):
        assert (handle, kind) == ("handle", self.NVML_CLOCK_SM)
        return self._answer("clock")

    def nvmlDeviceGetCurrentClocksEventReasons(self, handle):
        return self._answer("reasons")

    def nvmlDeviceGetTotalEnergyConsumption(self, handle):
        return self._answer("energy")

    def nvmlDeviceGetMemoryInfo(self, handle):
        return SimpleNamespace(total=9 * 10**9, used=self._answer("used"))

    def nvmlDeviceGetComputeRunningProcesses(self, handle):
        return [SimpleNamespace(pid=pid, usedGpuMemory=used) for pid, used in self._answer("processes")]


@pytest.fixture
def nvml(monkeypatch):
    stand_in = Nvml()
    monkeypatch.setitem(sys.modules, "pynvml", stand_in)
    return stand_in


def test_the_stand_in_has_only_names_of_the_real_package():
    real = pytest.importorskip("pynvml", reason="nvidia-ml-py is not installed")

    names = [name for name in vars(Nvml) if name.lower().startswith("nvml")]
    assert len(names) > 10
    assert [name for name in names if not hasattr(real, name)] == []
    for name in names:
        if name.startswith("nvmlClocks"):
            assert getattr(real, name) == getattr(Nvml, name)


def test_a_gpu_tells_its_clock_energy_and_memory(nvml):
    gpu = find_gpu("GPU-7")

    assert (gpu.uuid, gpu.clock_mhz(), gpu.energy_mj(), gpu.used_bytes()) == ("GPU-7", 1500, 5000, 3 * 10**9)
    assert driver() == "5.1"


def test_what_is_not_supported_is_unknown_rather_than_zero(nvml):
    nvml.answers = dict.fromkeys(nvml.answers)
    gpu = find_gpu("GPU-7")

    assert (gpu.clock_mhz(), gpu.energy_mj(), gpu.used_bytes(), gpu.used_bytes(1), gpu.shared()) == (None,) * 5
    assert gpu.slow_downs() == frozenset()
    assert driver() is None


def test_idling_and_limits_of_the_user_are_no_slow_downs(nvml):
    gpu = find_gpu("GPU-7")
    found = {}
    for mask in (0, 1, 2, 4, 8, 32, 64, 128, 1 | 32 | 64, 4 | 64):
        nvml.answers["reasons"] = mask
        found[mask] = set(gpu.slow_downs())

    assert found == {
        **{0: set(), 1: set(), 2: set(), 4: {"power limit"}, 8: {"hardware slow-down"}, 32: {"heat"}, 64: {"heat"}},
        **{128: {"power brake"}, 97: {"heat"}, 68: {"heat", "power limit"}},
    }


@pytest.mark.parametrize(
    ("processes", "shared"), [([], None), ([(1, 5)], False), ([(1, 5), (2, None)], True), (None, None)]
)
def test_a_gpu_is_shared_when_more_than_one_process_computes_on_it(nvml, processes, shared):
    nvml.answers["processes"] = processes

    assert find_gpu("GPU-7").shared() is shared


def test_the_memory_of_a_process_is_known_where_the_driver_sees_it(nvml):
    nvml.answers["processes"] = [(1, 500), (2, None)]
    gpu = find_gpu("GPU-7")

    assert [gpu.used_bytes(pid) for pid in (1, 2, 3)] == [500, None, None]


@pytest.mark.parametrize("uuid", ["7", "GPU-7"])  # torch has it without the prefix
def test_the_gpu_of_cuda_is_found_by_its_uuid(monkeypatch, uuid):
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: SimpleNamespace(uuid=f"{uuid}{index}"))

    assert cuda_uuid(3) == "GPU-73"


def test_an_unknown_gpu_is_refused(nvml):
    with pytest.raises(NvmlMissing, match="NVML does not know the GPU GPU-8: Not Found"):
        find_gpu("GPU-8")


def test_a_machine_without_the_library_says_so(nvml):
    nvml.starts = False

    with pytest.raises(NvmlMissing, match="NVML does not start: NVML Shared Library Not Found"):
        find_gpu("GPU-7")
    assert driver() is None


def test_without_the_package_the_line_to_type_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", None)

    with pytest.raises(NvmlMissing, match=r"pip install 'compressor\[nvml\]'"):
        find_gpu("GPU-7")
    assert driver() is None
