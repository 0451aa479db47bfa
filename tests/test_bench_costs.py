"""Energy by planted counters; memory by stand-ins and by real processes."""

import json
import subprocess
import sys
from dataclasses import asdict
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from compressor import models
from compressor.bench import MemoryUnknown, Request, energy, measure_memory, process
from compressor.bench import memory as module
from compressor.bench.energy import Counter, Meter, cpu_meter, gpu_meter, meter_of

MB = 10**6


@pytest.fixture
def powercap(monkeypatch, tmp_path):
    """A function that plants a zone of powercap."""
    monkeypatch.setattr(energy, "POWERCAP", tmp_path)

    def plant(zone, name, microjoules, wraps=10**9):
        folder = tmp_path / zone
        folder.mkdir(exist_ok=True)
        for file, value in (("name", name), ("energy_uj", microjoules), ("max_energy_range_uj", wraps)):
            (folder / file).write_text(f"{value}\n")

    return plant


class FakeGpu:
    uuid = "GPU-7"

    def __init__(self, energy_mj=(), used=(), own=None):
        self.energies, self.used, self.own = iter(energy_mj), iter(used), own

    def energy_mj(self):
        return next(self.energies)

    def used_bytes(self, pid=None):
        return self.own if pid is not None else next(self.used)


# Energy


def test_the_energy_of_the_cpu_is_the_sum_of_its_packages(powercap):
    powercap("intel-rapl:0", "package-0", 1 * MB)
    powercap("intel-rapl:1", "package-1", 5 * MB)
    powercap("intel-rapl:0:0", "core", 1 * MB)  # a part of package 0
    powercap("intel-rapl:2", "psys", 1 * MB)  # the packages once more, and what is around them
    powercap("intel-rapl-mmio:0", "package-0", 1 * MB)  # package 0 once more, by another interface
    meter = cpu_meter()
    before = meter.read()
    for zone in ("intel-rapl:0", "intel-rapl:1", "intel-rapl:0:0", "intel-rapl:2", "intel-rapl-mmio:0"):
        powercap(zone, "package-0", 7 * MB)

    assert meter.missing is None
    assert meter.joules(before, meter.read()) == (7 - 1) + (7 - 5)


def test_a_counter_that_has_started_again_is_continued(powercap):
    powercap("intel-rapl:0", "package-0", 9 * MB, wraps=10 * MB)
    meter = cpu_meter()
    before = meter.read()
    powercap("intel-rapl:0", "package-0", 2 * MB, wraps=10 * MB)

    assert meter.joules(before, meter.read()) == 3


def test_a_counter_that_vanishes_makes_the_energy_unknown(powercap, tmp_path):
    powercap("intel-rapl:0", "package-0", 9 * MB)
    meter = cpu_meter()
    before = meter.read()
    (tmp_path / "intel-rapl:0" / "energy_uj").unlink()

    assert meter.joules(before, meter.read()) is None


def test_one_silent_counter_of_two_makes_the_sum_unknown():
    meter = Meter((Counter(lambda: 1), Counter(lambda: None)))

    assert meter.joules((0, 0), meter.read()) is None


@pytest.mark.usefixtures("powercap")
def test_a_machine_without_counters_says_so_and_has_no_energy():
    meter = cpu_meter()

    assert meter.missing == "this machine shows no energy counter of its CPU"
    assert meter.joules(meter.read(), meter.read()) is None


def test_counters_that_may_not_be_read_say_so(powercap, monkeypatch):
    powercap("intel-rapl:0", "package-0", 1)
    real = energy.Path.read_text

    def read(path, *args, **kwargs):
        if path.name == "energy_uj":
            raise PermissionError(13, "Permission denied")
        return real(path, *args, **kwargs)

    monkeypatch.setattr(energy.Path, "read_text", read)

    assert cpu_meter().missing == "the energy counters of the CPU cannot be read: permission denied"


def test_a_counter_that_shows_no_number_says_so(powercap):
    powercap("intel-rapl:0", "package-0", 1, wraps="much")

    assert cpu_meter().missing.startswith("the energy counters of the CPU cannot be read: invalid literal")


def test_the_energy_of_a_gpu_is_its_counter_in_millijoules():
    meter = gpu_meter(FakeGpu(energy_mj=[0, 1000, 3500]))

    assert meter.joules(meter.read(), meter.read()) == 2.5


def test_a_gpu_without_a_counter_says_so():
    assert gpu_meter(FakeGpu(energy_mj=[None])).missing == "this GPU does not count its energy"
    assert gpu_meter(None).missing == "the energy of a GPU is known from NVML only"
    silent = gpu_meter(FakeGpu(energy_mj=[0, 1, None]))
    assert silent.joules(silent.read(), silent.read()) is None


def test_the_meter_is_that_of_what_the_provider_runs_on(powercap):
    powercap("intel-rapl:0", "package-0", 5)

    assert meter_of("cpu", None).read() == (5,)
    assert meter_of("cuda", FakeGpu(energy_mj=[1, 2])).read() == (2000,)
    assert meter_of("tensorrt", FakeGpu(energy_mj=[1, 2])).read() == (2000,)


# Memory, as the process reckons it


@pytest.fixture
def resident(monkeypatch, tmp_path):
    """A function that says what the system tells of this process from now on, in kB."""
    monkeypatch.setattr(process, "STATUS", tmp_path / "status")

    def plant(now, most):
        (tmp_path / "status").write_text(f"Name:\tx\nVmPeak:\t  9 kB\nVmHWM:\t  {most} kB\nVmRSS:\t  {now} kB\n")

    return plant


@pytest.fixture
def opened(monkeypatch, resident):
    """The batches that a runner was given which needs 1000 kB, and 100 kB more an image."""
    ran = []

    class Hungry:
        input_shape = (3, 4, 4)

        def prepare(self, images):
            def infer():
                ran.append(len(images))
                resident(now=5000, most=6000 + 100 * len(images))

            return infer

    monkeypatch.setattr(process, "_import_runtime", lambda format_: None)
    monkeypatch.setattr(process, "_open", lambda request: Hungry())
    resident(now=5000, most=5500)
    return ran


def test_resident_memory_is_read_from_the_system(resident):
    resident(now=12, most=34)

    assert (process.resident_bytes("VmRSS"), process.resident_bytes("VmHWM")) == (12 * 1024, 34 * 1024)


def test_memory_is_the_peak_beyond_what_the_runtime_occupies_in_ascending_batches(opened):
    found = list(process.observe(Request(path="a.onnx", format="onnx", provider="cpu", batch_sizes=(8, 1))))

    assert opened == [1, 1, 8, 8]
    assert [row.batch for row in found] == [1, 8]
    assert [row.added_mb for row in found] == pytest.approx([1.1 * 1.024, 1.8 * 1.024])
    assert [row.peak_mb for row in found] == pytest.approx([6.1 * 1.024, 6.8 * 1.024])
    assert [row.gpu_mb for row in found] == [None, None]


@pytest.mark.parametrize(
    ("gpu", "expected"),
    [
        (FakeGpu(used=[2 * MB, 9 * MB]), 7),  # what is in use on the device has grown by this
        (FakeGpu(used=[2 * MB, 9 * MB], own=5 * MB), 5),  # the driver sees the process itself
        (FakeGpu(used=[None, 9 * MB]), None),
        (FakeGpu(used=[2 * MB, None]), None),
    ],
)
def test_the_memory_of_the_gpu_is_that_of_the_process_or_what_the_device_has_more_in_use(
    opened, monkeypatch, gpu, expected
):
    asked = []
    monkeypatch.setattr(process, "find_gpu", lambda uuid: asked.append(uuid) or gpu)
    request = Request(path="a", format="onnx", provider="cuda", batch_sizes=(1,), gpu="GPU-7")

    (found,) = process.observe(request)

    assert (asked, found.gpu_mb) == (["GPU-7"], expected)


# Memory, as it is asked for


@pytest.fixture
def ends(monkeypatch):
    """A function that makes every process end in a given way, and a list of what was asked."""

    def pretend(**how):
        def run(command, *, input, **_):
            asked.append((command, json.loads(input)))
            return SimpleNamespace(**{"returncode": 0, "stdout": "", "stderr": ""} | how)

        monkeypatch.setattr(subprocess, "run", run)
        return asked

    asked = []
    return pretend


REQUEST = Request(path="out/a.onnx", format="onnx", provider="cpu", batch_sizes=(1,))


def test_the_process_is_asked_in_json_and_answers_in_json(ends):
    row = {"batch": 1, "added_mb": 1.5, "peak_mb": 99.0, "gpu_mb": None}
    asked = ends(stdout=json.dumps({"memory": [row]}))

    (found,) = measure_memory(REQUEST)

    assert (found.batch, found.added_mb, found.peak_mb, found.gpu_mb) == (1, 1.5, 99.0, None)
    assert asked[0][0][-2:] == ["-m", "compressor.bench.process"]
    assert Request(**asked[0][1] | {"batch_sizes": (1,)}) == REQUEST


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"returncode": -9}, r"the process that opens a\.onnx was ended by SIGKILL"),
        ({"returncode": 1, "stderr": "Traceback\nMemoryError: no\n"}, r"a\.onnx failed: MemoryError: no"),
        ({"returncode": 3}, "failed: exit code 3"),
        ({"stdout": '{"error": "the file is gone"}'}, "^the file is gone$"),
    ],
)
def test_a_process_that_fails_is_one_sentence(ends, how, words):
    ends(**how)

    with pytest.raises(MemoryUnknown, match=words):
        measure_memory(REQUEST)


def test_a_system_that_does_not_tell_memory_says_so(monkeypatch, tmp_path):
    monkeypatch.setattr(module, "STATUS", tmp_path / "none")

    with pytest.raises(MemoryUnknown, match="known on Linux only"):
        measure_memory(REQUEST)


# Memory of real processes


@pytest.fixture
def heavy(tmp_path):
    """An ONNX classifier with 24.6 MB of weights."""
    weight = numpy_helper.from_array(np.ones((3072, 2000), np.float32), "w")
    nodes = [helper.make_node("Flatten", ["x"], ["flat"]), helper.make_node("MatMul", ["flat", "w"], ["y"])]
    ends = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3, 32, 32]),
        helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 2000]),
    ]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], [weight])
    path = tmp_path / "heavy.onnx"
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    path.write_bytes(model.SerializeToString())
    return path


needs_proc = pytest.mark.skipif(not module.STATUS.is_file(), reason="only Linux tells the memory of a process")


@pytest.mark.starts
@needs_proc
def test_a_process_that_opens_weights_needs_at_least_their_size(heavy):
    one, many = measure_memory(
        Request(path=str(heavy), format="onnx", provider="cpu", batch_sizes=(8192, 1), threads=1)
    )

    assert (one.batch, many.batch) == (1, 8192)
    assert 24.6 < one.added_mb < one.peak_mb < 400  # without torch, which alone takes more
    assert many.added_mb > 24.6 + 100 + 65  # weights, images and logits are there at once
    assert one.gpu_mb is None


@pytest.mark.starts
@needs_proc
def test_a_checkpoint_is_opened_in_a_process_too(tmp_path):
    path = tmp_path / "lenet.pt"
    torch.save(models.build("lenet5", classes=10, input_shape=(1, 28, 28)).state_dict(), path)

    (found,) = measure_memory(
        Request(path=str(path), format="pytorch", provider="cpu", batch_sizes=(1,), arch="lenet5", threads=1)
    )

    assert 0 < found.added_mb < found.peak_mb


@pytest.mark.starts
def test_what_a_runtime_prints_does_not_mix_with_the_answer():
    program = (
        "import os; from compressor.bench import process\n"
        "process.observe = lambda request: (print('chatter'), os.write(1, b'more'), [])[2]\n"
        "process.main()"
    )

    done = subprocess.run(
        [sys.executable, "-c", program], input=json.dumps(asdict(REQUEST)), capture_output=True, text=True
    )

    assert done.stdout == '{"memory": []}'
    assert "chatter" in done.stderr


@pytest.mark.starts
@needs_proc
def test_what_the_process_refuses_is_the_same_sentence(tmp_path):
    with pytest.raises(MemoryUnknown, match=r"cannot read .*none\.onnx: no such file"):
        measure_memory(Request(path=str(tmp_path / "none.onnx"), format="onnx", provider="cpu", batch_sizes=(1,)))
