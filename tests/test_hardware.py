import json
import os
import platform
import sys
from importlib import metadata
from types import SimpleNamespace

import pytest
import torch

from compressor.machine import hardware as module
from compressor.machine.hardware import (
    busy_seconds,
    clashes,
    clock_mhz,
    cores,
    differing,
    hardware,
    other_machine,
    own_cpu_seconds,
    versions,
)

STAT = """\
cpu  1000 0 0 0 0 0 0 0 0 0
cpu0 100 20 30 9000 500 4 5 6 70 8
cpu1 200 0 0 9000 0 0 0 0 0 0
cpu10 4000 0 0 0 0 0 0 0 0 0
intr 5 5 5
"""
CPUINFO = """\
processor\t: 0
model name\t: Abacus 9
cpu MHz\t\t: 1000.5

processor\t: 1
model name\t: Abacus 9
cpu MHz\t\t: 2000.5
"""


@pytest.fixture
def proc(monkeypatch, tmp_path):
    """A function that plants files of `/proc`, on a machine where this process may run on cores 0 and 1."""
    monkeypatch.setattr(module, "PROC", tmp_path)
    monkeypatch.setattr(module, "cores", lambda: frozenset({0, 1}))

    def plant(**files):
        for name, text in files.items():
            (tmp_path / name).write_text(text)

    return plant


@pytest.fixture
def installed(monkeypatch):
    """A function that pretends that just these distributions are installed."""

    def pretend(**found):
        def version(name):
            if name.replace("-", "_") not in found:
                raise metadata.PackageNotFoundError(name)
            return found[name.replace("-", "_")]

        monkeypatch.setattr(metadata, "version", version)

    return pretend


def test_busy_seconds_are_those_of_our_cores_without_idling_and_guests(proc):
    proc(stat=STAT)

    ticks = (100 + 20 + 30 + 4 + 5 + 6) + 200
    assert busy_seconds() == ticks / os.sysconf("SC_CLK_TCK")


@pytest.mark.parametrize("text", ["", "cpu  0 0 0 0 0 0 0 0 0 0\ncpu0 0 0 0 0 0 0 0 0 0 0\n"])
def test_counters_that_count_nothing_are_unknown_rather_than_zero(proc, text):
    proc(stat=text)

    assert busy_seconds() is None


@pytest.mark.starts
@pytest.mark.usefixtures("proc")
def test_a_system_without_proc_tells_neither_load_nor_clock():
    assert busy_seconds() is None
    assert clock_mhz() is None
    assert hardware()["cpu"]


def test_model_and_clock_come_from_cpuinfo(proc, monkeypatch):
    proc(cpuinfo=CPUINFO)

    assert hardware()["cpu"] == "Abacus 9"
    assert clock_mhz() == 1500.5
    monkeypatch.setattr(module, "cores", lambda: frozenset({1, 7}))
    assert clock_mhz() == 2000.5


def test_own_cpu_time_grows_with_work():
    before = own_cpu_seconds()
    while own_cpu_seconds() == before:
        sum(range(10_000))

    assert own_cpu_seconds() > before


def test_the_description_of_this_machine_is_plain_data():
    found = hardware()

    assert found["os"].startswith(platform.system())
    assert found["cores"] == len(cores()) >= 1
    assert found["memory_bytes"] is None or found["memory_bytes"] > 2**20
    assert json.loads(json.dumps(found)) == found


def test_a_machine_without_a_gpu_has_empty_lists(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    found = hardware()

    assert [found[key] for key in ("gpus", "compute_capability", "gpu_memory_bytes", "cuda")] == [[], [], [], None]


def test_gpus_are_described_in_the_order_of_cuda(monkeypatch):
    def properties(index):
        return SimpleNamespace(name=f"Loom {index}", major=9, minor=index, total_memory=10**9 * (index + 1))

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", properties)
    monkeypatch.setattr(module, "driver", lambda: "5.1")
    found = hardware()

    assert found["gpus"] == ["Loom 0", "Loom 1"]
    assert found["compute_capability"] == ["9.0", "9.1"]
    assert found["gpu_memory_bytes"] == [10**9, 2 * 10**9]
    assert (found["cuda"], found["driver"]) == (torch.version.cuda, "5.1")


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells which cores a process may use")
def test_cores_are_those_that_we_may_run_on():
    assert cores() == os.sched_getaffinity(0)


def test_versions_are_those_that_are_installed(installed):
    installed(torch="9.9", onnxruntime_gpu="1.2")

    assert versions() == {"python": platform.python_version(), "torch": "9.9", "onnxruntime-gpu": "1.2"}


def test_this_environment_has_torch_by_its_own_version():
    assert versions()["torch"].split("+")[0] == torch.__version__.split("+")[0]


def test_two_onnx_runtimes_side_by_side_are_a_clash(installed):
    installed(onnxruntime="1.1", onnxruntime_gpu="1.2")
    assert [sentence.split(" are both")[0] for sentence in clashes()] == ["onnxruntime 1.1 and onnxruntime-gpu 1.2"]

    installed(onnxruntime_gpu="1.2")
    assert clashes() == ()
    installed(onnxruntime="1.1")
    assert clashes() == ()


def test_machines_are_told_apart_by_what_their_times_depend_on():
    one = {"cpu": "Abacus 9", "cores": 2, "gpus": ["Loom"], "memory_bytes": 1, "os": "Linux 6"}
    other = one | {"cores": 4, "gpus": [], "memory_bytes": 2, "os": "Linux 7"}

    assert differing(one, other) == ("cores", "gpus")
    assert differing(one, one | {"os": "Linux 7"}) == ()
    assert other_machine(one, other) == "the baseline is of another machine: cores 2, here 4, gpus ['Loom'], here []"
    assert other_machine(one, dict(one)) is None
    assert differing(hardware(), hardware()) == ()
