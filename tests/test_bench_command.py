"""`compress bench` as it is typed: on one file, and on a run."""

import json
import re
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from shell import ran, refused

from compressor.bench import Latency, MemoryUnknown, baseline
from compressor.bench.energy import Meter
from compressor.errors import InputRejected, UsageError
from compressor.machine.gpu import NvmlMissing
from compressor.pipeline.costs import by_threads
from compressor.progress import Tell
from compressor.recipe import build

pytestmark = pytest.mark.heavy  # every test times files

stage = import_module("compressor.pipeline.bench")  # the package has a function of this name
QUICK = ["--batch-sizes", "1,4", "--duration", "0.01"]


@pytest.fixture
def file(tmp_path, monkeypatch):
    """An ONNX classifier of 2 by 2 pixels, `tiny.onnx` in the working directory."""
    monkeypatch.chdir(tmp_path)
    weight = numpy_helper.from_array(np.eye(12, 3, dtype=np.float32), "w")
    nodes = [helper.make_node("Flatten", ["x"], ["flat"]), helper.make_node("MatMul", ["flat", "w"], ["y"])]
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3, 2, 2])
    returned = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 3])
    graph = helper.make_graph(nodes, "g", [given], [returned], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    Path("tiny.onnx").write_bytes(model.SerializeToString())
    return "tiny.onnx"


def sentences(monkeypatch) -> tuple[list[str], Tell]:
    """What is said from now on, and the one that says it."""
    said: list[str] = []
    monkeypatch.setattr(Tell, "__call__", lambda self, sentence: said.append(sentence))
    return said, Tell()


# One file


def test_a_file_is_timed_and_every_sample_written(file):
    timed = json.loads(ran(["bench", file, *QUICK, "--out", "deep/now.json", "--threads", "1", "--json"]).out)
    written = baseline.read(Path("deep/now.json"))

    assert [row.batch for row in written.latencies[file]] == [1, 4]
    for row in written.latencies[file]:
        timing = timed["latency_ms"][str(row.batch)]
        assert timing["iterations"] == len(row.samples_ms) >= 30
        assert (timing["p50"], timing["p99"], timing["mean"]) == (row.at(50), row.at(99), row.mean_ms)
        assert (timing["threads"], timing["transfers"], timing["cuda_graph"]) == (1, False, False)
        assert (timing["memory_mb"], timing["gpu_clock_mhz"], timing["gpu_memory_mb"]) == (None, None, None)
        assert timing["clock_mhz"] == row.clock_mhz
    assert {"os", "cpu", "driver", "cuda", "compute_capability"} <= written.hardware.keys()


def test_a_file_of_one_batch_size_is_timed_at_that_and_refused_at_others_asked_for(file):
    model = onnx.load(file)
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 3
    onnx.save(model, file)

    timed = json.loads(ran(["bench", file, "--duration", "0.01", "--json"]).out)

    assert list(timed["latency_ms"]) == ["3"]
    refused(["bench", file, *QUICK], 4, "takes batches of 3 images only, not of 1")


def test_transfers_are_timed_when_asked_for(file):
    timed = json.loads(ran(["bench", file, *QUICK, "--transfers", "--json"]).out)

    assert timed["latency_ms"]["4"]["transfers"]


def test_memory_is_measured_when_asked_for(file, monkeypatch):
    asked = []

    def measured(request):
        asked.append(request)
        return tuple(stage.Memory(batch=batch, added_mb=batch, peak_mb=200.0, gpu_mb=None) for batch in (1, 4))

    monkeypatch.setattr(stage, "measure_memory", measured)
    done = ran(["bench", file, *QUICK, "--memory", "--threads", "1", "--out", "now.json"])

    (request,) = asked
    assert (request.path, request.format, request.provider) == (file, "onnx", "cpu")
    assert (request.batch_sizes, request.threads, request.gpu) == ((1, 4), 1, None)
    assert re.search(r"memory MB", done.out)
    assert re.search(r"4\.0\b", done.out)
    assert [row.added_mb for row in baseline.read(Path("now.json")).memory[file]] == [1, 4]


def test_memory_that_cannot_be_measured_costs_nothing_else(file, monkeypatch):
    def unknown(request):
        raise MemoryUnknown("the process was ended by SIGKILL")

    monkeypatch.setattr(stage, "measure_memory", unknown)
    done = ran(["bench", file, *QUICK, "--memory", "--json"])

    assert f"memory of {file} is not measured: the process was ended by SIGKILL" in done.err
    assert json.loads(done.out)["latency_ms"]["1"]["memory_mb"] is None


def test_energy_that_is_not_measured_is_said_once(file, monkeypatch):
    monkeypatch.setattr(stage, "meter_of", lambda provider, gpu: Meter(missing="no counter"))
    done = ran(["bench", file, *QUICK])

    assert done.err.count("energy is not measured: no counter") == 1


@pytest.mark.heavy
def test_the_best_file_within_a_latency_is_named(file):
    quick = ["bench", file, *QUICK]

    assert re.search(r"within 10000 ms \(p99\) at batch 1: tiny\.onnx, .* ms", ran([*quick, "--within", "10000"]).err)
    at_4 = ran([*quick, "--within", "0", "--at-batch", "4"])
    assert re.search(r"none is within 0 ms \(p99\) at batch 4; the fastest is tiny\.onnx", at_4.err)


@pytest.mark.heavy
def test_a_later_measurement_is_compared_with_an_earlier_one(file):
    ran(["bench", file, *QUICK, "--out", "before.json"])
    again = ran(["bench", file, *QUICK, "--baseline", "before.json"])

    assert re.search(r"tiny\.onnx batch 4 p50: .* ms, .*x the baseline's", again.err)
    assert re.search(r"[012] of 2 medians are clearly slower than the baseline", again.err)


# What it says, on planted latencies


def latency(*samples, **values) -> Latency:
    known = {
        **{"format": "onnx", "provider": "cpu", "precision": "fp32", "batch": 1, "mean_ms": 1.0, "throughput": 1.0},
        **{"warmup_iterations": 1, "threads": None, "transfers": False, "other_load": 0.0, "clock_mhz": None},
    }
    low, high = min(samples), max(samples)
    return Latency(samples_ms=samples, percentiles={}, median_interval=(low, high), **known | values)


def test_what_makes_numbers_doubtful_is_said_once_each(monkeypatch):
    said, tell = sentences(monkeypatch)
    rows = (
        latency(1, batch=1, other_load=0.5),
        latency(1, batch=2, other_load=0.6),
        latency(1, batch=4, gpu_slow_downs=("heat",), gpu_clock_mhz=900.0),
    )

    stage._warn({"a": rows, "b": (latency(3, precision="int8"),)}, tell)

    assert said == [
        "warning: other processes used 50% of the CPU while batch 1 was timed; repeat when nothing else runs",
        "warning: the GPU was slowed down to 900 MHz by heat while batch 4 was timed",
        "warning: b is slower than a at batch 1: 3 ms against 1 ms",
    ]


def test_a_comparison_names_each_change_and_sums_up(monkeypatch):
    said, tell = sentences(monkeypatch)
    before = baseline.Benchmark(
        latencies={"a": (latency(1),), "b": (latency(2, threads=1),)}, versions={}, hardware=baseline.hardware()
    )

    stage._compare({"a": (latency(2),), "b": (latency(2),), "c": (latency(2),)}, before, tell)

    assert said == [
        "a batch 1 p50: 2 ms, 2.00x the baseline's 1 ms",
        "c is not in the baseline",
        "b was measured in another way in the baseline",
        "1 of 1 medians are clearly slower than the baseline, 0 clearly faster",
    ]


def test_a_baseline_with_nothing_in_common_is_refused_without_a_sum(monkeypatch):
    said, tell = sentences(monkeypatch)
    before = baseline.Benchmark(
        latencies={"a": (latency(2, threads=1),)}, versions={}, hardware=baseline.hardware() | {"cpu": "Abacus"}
    )

    with pytest.raises(InputRejected, match="the baseline measured no batch size in the same"):
        stage._compare({"a": (latency(2),)}, before, tell)
    assert [sentence.split(":")[1] for sentence in said] == [" the baseline is of another machine"]


def test_long_silence_is_broken_by_what_is_being_timed(monkeypatch):
    said, tell = sentences(monkeypatch)
    now = [0.0]
    monkeypatch.setattr(stage, "monotonic", lambda: now[0])
    progress = stage._Progress(["teacher", "student"], tell)

    for now[0], turn in ((9.9, (0, 1, 0)), (10.0, (1, 32, 2)), (19.9, (0, 1, 3)), (20.0, (0, 8, 4))):
        progress(*turn)

    assert said == ["timing student at batch 32, round 3 of 5", "timing teacher at batch 8, round 5 of 5"]


def test_a_gpu_that_cannot_be_asked_is_said_once_and_only_where_one_is_used(monkeypatch):
    said, tell = sentences(monkeypatch)

    def missing(uuid):
        raise NvmlMissing("NVML needs the package nvidia-ml-py")

    monkeypatch.setattr(stage, "find_gpu", missing)
    monkeypatch.setattr(stage, "cuda_uuid", lambda index: f"GPU-{index}")
    runner = type("Runner", (), {"provider": "cuda"})
    device = type("Device", (), {"index": None})

    assert stage._gpu(device, [runner], tell) is None
    assert stage._unmetered(runner, None) is None  # said already
    assert said == ["clock, energy and memory of the GPU are not known: NVML needs the package nvidia-ml-py"]
    runner.provider = "cpu"
    assert stage._gpu(device, [runner], tell) is None
    assert len(said) == 1
    monkeypatch.setattr(stage, "find_gpu", lambda uuid: uuid)
    runner.provider, device.index = "tensorrt", 1
    assert stage._gpu(device, [runner], tell) == "GPU-1"


# A run


def test_every_file_of_a_run_is_timed_and_the_best_within_a_latency_named(here, tmp_path):
    done = ran(["bench", "runs/student-1", *QUICK, "--within", "10000", "--out", str(tmp_path / "copy.json"), "--json"])
    record = json.loads(done.out)

    files = {"teacher": record["teacher"], "student": record["student"]}
    files |= {artifact["path"]: artifact for artifact in record["artifacts"]}
    written = baseline.read(Path("runs/student-1/bench.json"))
    assert written.latencies.keys() == {*files, "teacher in onnx"}
    (alike,) = [each["teacher_ms"] for each in record["artifacts"]]
    assert alike == {str(row.batch): row.at(50) for row in written.latencies["teacher in onnx"]}
    assert {row.format for row in written.latencies["teacher in onnx"]} == {"onnx"}
    assert written == baseline.read(tmp_path / "copy.json")
    assert all(each["latency_ms"].keys() == {"1", "4"} for each in files.values())
    best = max(files.values(), key=lambda each: each["top1"] or -1)
    assert f"top-1 {best['top1']:.2f}" in done.err.split("at batch 1:")[1]


def test_the_memory_of_a_runs_networks_is_asked_for_by_their_architecture(here, monkeypatch):
    asked = {}
    monkeypatch.setattr(stage, "measure_memory", lambda request: asked.setdefault(request.path, request) and ())

    ran(["bench", "runs/student-1", *QUICK, "--memory"])

    assert {(Path(path).parts[-3], request.format, request.arch) for path, request in asked.items()} == {
        ("teacher-1", "pytorch", "lenet5"),
        ("student-1", "pytorch", "lenet5-half"),
        ("student-1", "onnx", None),
    }


# Refusals


@pytest.mark.parametrize(
    ("flags", "code", "words", "hint"),
    [
        (["--at-batch", "4"], 2, "--at-batch is the batch size of --within", "--within 5"),
        (["--within", "5", "--at-batch", "3"], 2, "batch 3 is not measured, only 1,32", "--batch-sizes 1,32,3"),
        (["--batch-sizes", "1,1"], 2, "error: --batch-sizes: must not name the same value twice", ""),
        (["--batch-sizes", "1,x"], 2, "--batch-sizes takes whole numbers", "--batch-sizes 1,8,32"),
        (["--transfers", "--cuda-graph"], 2, "error: --cuda-graph: does not go with transfers", ""),
        (["--out", "now.onnx"], 2, r"--out takes the name of a \.json file", r"bench\.json"),
        (["--baseline", "none.json"], 4, r"cannot read the baseline none\.json", "compress bench writes one"),
        (["--cuda-graph", "--device", "cpu"], 3, "CUDA graphs", "without a CUDA graph"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_anything_is(file, monkeypatch, flags, code, words, hint):
    monkeypatch.setattr(stage, "bench_many", lambda *_, **__: pytest.fail("it was timed"))

    refused(["bench", file, *flags], code, words, hint)


def test_a_cuda_graph_is_refused_on_the_cpu_for_a_run_too(here):
    refused(["bench", "runs/student-1", "--cuda-graph", "--device", "cpu"], 3, "CUDA graphs", "without a CUDA graph")


def test_a_provider_is_for_one_file(here):
    refused(["bench", "runs/student-1", "--provider", "cpu"], 2, "--provider goes with a single artifact", "FILE")


def test_a_recipe_that_asks_for_both_is_refused_when_it_is_read():
    with pytest.raises(UsageError, match=r"bench\.cuda_graph: does not go with transfers"):
        build({"student": {"arch": "lenet5"}, "bench": {"transfers": True, "cuda_graph": True}}, base=Path())


# Several numbers of threads


def test_several_numbers_of_threads_are_tried_and_the_fastest_is_kept(file):
    flags = ["--threads", "1,2,auto", "--within", "1000", "--out", "now.json"]
    done = ran(["bench", file, *QUICK, *flags, "--json"])

    rows = baseline.read(Path("now.json")).latencies[file]
    assert [(row.threads, row.batch) for row in rows] == [(count, size) for count in (1, 2, None) for size in (1, 4)]
    for size in (1, 4):
        best = min((row for row in rows if row.batch == size), key=lambda row: row.at(50))
        kept = json.loads(done.out)["latency_ms"][str(size)]
        assert (kept["threads"], kept["p50"]) == (best.threads, best.at(50))
        assert f"{file} at batch {size}: {best.at(50):.3g} ms with {best.on_threads}, " in done.err
    most = max((row for row in rows if row.batch == 1), key=lambda row: row.throughput)
    assert f"at batch 1: {file}, with {most.on_threads}, " in done.err


def test_one_number_of_threads_is_as_before(file):
    done = ran(["bench", file, *QUICK, "--threads", "auto", "--within", "1000", "--json"])

    assert json.loads(done.out)["latency_ms"]["1"]["threads"] is None
    assert f"at batch 1: {file}, " in done.err
    assert "threads" not in done.err


def test_each_file_of_a_run_and_the_teacher_beside_it_are_timed_with_each(here):
    record = json.loads(ran(["bench", "runs/student-1", *QUICK, "--threads", "1,2", "--json"]).out)

    written = baseline.read(Path("runs/student-1/bench.json")).latencies
    for name, rows in written.items():
        assert [row.threads for row in rows] == [1, 1, 2, 2], name
    (beside,) = [each["teacher_ms"] for each in record["artifacts"]]
    assert beside["1"] == min(row.at(50) for row in written["teacher in onnx"] if row.batch == 1)
    student = min((row for row in written["student"] if row.batch == 4), key=lambda row: row.at(50))
    assert record["student"]["latency_ms"]["4"]["threads"] == student.threads


def test_a_runtime_without_threads_is_timed_once():
    def runner(threads):
        return SimpleNamespace(threads=threads)

    assert [each.threads for each in by_threads([runner(1), runner(2), runner(None)])] == [1, 2, None]
    plans = [runner(None), runner(None)]
    assert by_threads(plans) == (plans[0],)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--threads", "0"], "--threads takes numbers of threads, or auto, not '0'"),
        (["--threads", "1,many"], "--threads takes numbers of threads, or auto, not '1,many'"),
        (["--threads", "1,"], "--threads takes numbers of threads"),
        (["--threads", "2,2"], "--threads: must not name the same value twice"),
    ],
)
def test_what_is_no_number_of_threads_is_refused(file, flags, words):
    refused(["bench", file, *flags], 2, re.escape(words))


def test_a_recipe_names_one_number_of_threads_or_several():
    def counts(threads):
        recipe = build({"student": {"arch": "lenet5"}, "bench": {"threads": threads}}, base=Path())
        return recipe.bench.thread_counts

    assert (counts(None), counts(2), counts([1, None])) == ((None,), (2,), (1, None))
    for wrong in (0, [], [1, 1], [0], "many"):
        with pytest.raises(UsageError, match=r"bench\.threads"):
            counts(wrong)
