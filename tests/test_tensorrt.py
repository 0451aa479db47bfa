"""TensorRT plans without TensorRT: the record beside a plan, which plans are opened, the census, and the runner.

Nothing here runs on a GPU. `StandInRuntime` has the methods of TensorRT's runtime that the runner calls, and computes
with torch on the CPU through the addresses it was given; that the real one does the same is not tested.
"""

import ctypes
import gc
import json
import sys
import weakref
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from exporters import Engine
from exporters.errors import ArtifactRejected, RuntimeMissing
from exporters.tensorrt import TENSORRT, TENSORRT_RTX, census, sidecar
from exporters.tensorrt.flavour import Flavour, Gpu, Log, listener, reasons
from exporters.tensorrt.sidecar import Sidecar

SHAPE = (3, 8, 8)
CLASSES = 4
H200 = Gpu("NVIDIA H200", 90)
PLAN = b"a plan"
RECORD = Sidecar(
    plan_sha256=sidecar.sha256(PLAN),
    stem="student",
    source="student.fp16.onnx",
    source_sha256="0" * 64,
    format="trt",
    version="11.4.0.12",
    gpu=H200.name,
    sm=H200.sm,
    system="linux-x86_64",
    profile=(2, 3, 5),
    engine=sidecar.settings_of(Engine()),
    precision="fp16",
    census={"fp16": 4000, "fp32": 12},
    census_from="engine",
    input_shape=SHAPE,
    classes=CLASSES,
    pixels="float32",
    output="logits",
    metadata={"classes": "a\nb"},
)
TORCH = {"FLOAT": torch.float32, "HALF": torch.float16, "BF16": torch.bfloat16, "UINT8": torch.uint8}


def memory(address: int, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """The tensor at an address."""
    size = int(np.prod(shape)) * dtype.itemsize
    return torch.frombuffer((ctypes.c_byte * size).from_address(address), dtype=dtype).view(shape)


class StandInContext:
    """Shapes and addresses, and one inference from the one to the other."""

    def __init__(self, engine) -> None:
        self.engine, self.shape, self.addresses = engine, None, {}

    def set_input_shape(self, name, shape):
        low, _, high = self.engine.profile
        if name != "input" or not low <= shape[0] <= high or shape[1:] != self.engine.image:
            return False
        self.shape = shape
        return True

    def set_tensor_address(self, name, memory):
        self.addresses[name] = memory
        return True

    def get_tensor_shape(self, name):
        return (self.shape[0] if self.shape else -1, CLASSES)

    def execute_async_v3(self, stream_handle):
        self.engine.runs.append((self.shape[0], stream_handle))
        if self.engine.broken:
            self.engine.say("IExecutionContext::enqueueV3: Error Code 1: Cuda Runtime (out of memory)")
            return False
        images = memory(self.addresses["input"], self.shape, TORCH[self.engine.types["input"]])
        answers = memory(self.addresses["answers"], (self.shape[0], CLASSES), TORCH[self.engine.types["answers"]])
        answers.copy_(self.engine.network(images))
        return True


class StandInEngine:
    """Two tensors, one profile."""

    num_io_tensors = 2

    def __init__(self, network, *, image=SHAPE, profile=(2, 3, 5), given="FLOAT", returned="FLOAT") -> None:
        self.network, self.image, self.profile = network, image, profile
        self.types = {"input": given, "answers": returned}
        self.runs, self.contexts = [], []
        self.broken = self.full = False

    def say(self, message):
        listener(TENSORRT.flavour)[0].log("error", message)

    def get_tensor_name(self, index):
        return ("answers", "input")[index]

    def get_tensor_mode(self, name):
        return "in" if name == "input" else "out"

    def get_tensor_dtype(self, name):
        return SimpleNamespace(name=self.types[name])

    def get_tensor_profile_shape(self, name, profile_index):
        assert (name, profile_index) == ("input", 0)
        return [(size, *self.image) for size in self.profile]

    def create_execution_context(self):
        if self.full:
            self.say("IExecutionContext::create: Error Code 2: OutOfMemory (Requested size was 4096 bytes.)")
            return None
        context = StandInContext(self)
        self.contexts.append(context)
        return context


class StandInQueue:
    """A stream that does at once what it is given. Recorded work runs when it is replayed."""

    handle = 77

    def __init__(self) -> None:
        self.device = torch.device("cpu")
        self.events = []

    def after_caller(self):
        self.events.append("after")

    def wait(self):
        self.events.append("wait")

    def record(self, work):
        self.events.append("record")

        def replay():
            self.events.append("replay")
            work()

        return replay


@pytest.fixture
def here(monkeypatch):
    """Let TensorRT 11.4 be installed on a machine with an H200; its engine is `here.engine`."""
    place = SimpleNamespace(engine=None, given=[])

    class StandInRuntime:
        def __init__(self, logger) -> None:
            self.logger = logger

        def deserialize_cuda_engine(self, serialized_engine):
            assert not hasattr(self, "engine_host_code_allowed")  # stays as it is, off
            place.given.append(serialized_engine)
            if place.engine is None:
                self.logger.log(
                    "error", "IRuntime::deserializeCudaEngine: Error Code 1: Serialization (magic tag does not match)"
                )
            return place.engine

    class ILogger:
        Severity = SimpleNamespace(ERROR="error", INTERNAL_ERROR="internal error")

    module = SimpleNamespace(
        __version__="11.4.0.12", ILogger=ILogger, Runtime=StandInRuntime, TensorIOMode=SimpleNamespace(INPUT="in")
    )
    listener.cache_clear()
    monkeypatch.setitem(sys.modules, "tensorrt", module)
    monkeypatch.setattr("exporters.tensorrt.gpu", lambda: H200)
    monkeypatch.setattr("exporters.tensorrt.system", lambda: "linux-x86_64")
    monkeypatch.setattr("exporters.tensorrt.runner.CudaQueue", StandInQueue)
    place.module = module
    yield place
    listener.cache_clear()


@pytest.fixture
def stored(tmp_path):
    """A function that writes a plan and its record, with changes."""

    def write(**changes):
        path = tmp_path / "student.fp16.sm90.trt11.4.plan"
        sidecar.write(path, PLAN, replace(RECORD, **changes))
        return path

    return write


def brightness(images: torch.Tensor) -> torch.Tensor:
    """Logits `[B, K]`: multiples of the mean pixel, so that each image has answers of its own."""
    return images.float().mean(dim=(1, 2, 3))[:, None] * torch.arange(1, CLASSES + 1)


def images(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((count, *SHAPE), np.float32)


# The runner.


@settings(max_examples=25)
@given(count=st.integers(0, 23), low=st.integers(1, 4), more=st.integers(0, 6))
def test_any_number_of_images_gets_its_answers(count, low, more):
    from exporters.tensorrt.runner import PlanRunner

    engine = StandInEngine(brightness, profile=(low, low, low + more))
    runner = PlanRunner(
        path=None,
        format="trt",
        provider="cuda",
        precision="fp32",
        input_shape=SHAPE,
        classes=CLASSES,
        pixels="float32",
        output="logits",
        metadata={},
        threads=None,
        census={},
        batch=None,
        feed=np.float32,
        profile=engine.profile,
        cuda_graph=False,
        engine=engine,
        queue=StandInQueue(),
        log=Log(),
        given="input",
        given_type=torch.float32,
        returned="answers",
        returned_type=torch.float32,
    )
    batch = images(count, seed=count)
    logits = runner(batch)
    assert logits.shape == (count, CLASSES)
    assert logits.dtype == np.float32
    np.testing.assert_allclose(logits, brightness(torch.from_numpy(batch)).numpy(), rtol=1e-6)
    assert all(low <= size <= low + more for size, _ in engine.runs)
    assert len(engine.runs) == -(-count // (low + more))


def test_a_plan_is_opened_with_what_its_record_says(here, stored):
    here.engine = StandInEngine(brightness)
    path = stored()
    runner = TENSORRT.load(path, provider="cuda")
    assert here.given == [PLAN]
    assert (runner.path, runner.format, runner.provider, runner.precision) == (path, "trt", "cuda", "fp16")
    assert (runner.input_shape, runner.classes, runner.threads) == (SHAPE, CLASSES, None)
    assert (runner.pixels, runner.output, runner.metadata) == ("float32", "logits", {"classes": "a\nb"})
    assert runner.census == {"fp16": 4000, "fp32": 12}
    assert (runner.profile, runner.batch) == ((2, 3, 5), None)
    np.testing.assert_allclose(runner(images(7)), brightness(torch.from_numpy(images(7))).numpy(), rtol=1e-6)
    assert here.engine.runs == [(5, 77), (2, 77)]  # on the side stream


def test_a_plan_of_one_batch_size_is_fed_in_chunks_filled_up_with_black(here, stored):
    seen = []
    here.engine = StandInEngine(lambda x: seen.append(x.clone()) or brightness(x), profile=(4, 4, 4))
    runner = TENSORRT.load(stored(profile=(4, 4, 4)), provider="cuda")
    np.testing.assert_allclose(runner(images(6)), brightness(torch.from_numpy(images(6))).numpy(), rtol=1e-6)
    assert runner.batch == 4
    assert [size for size, _ in here.engine.runs] == [4, 4]
    assert not seen[1][2:].any()


def test_answers_are_read_only_when_the_queue_is_done(here, stored):
    here.engine = StandInEngine(brightness)
    runner = TENSORRT.load(stored(), provider="cuda")
    runner(images(3))
    assert runner.queue.events == ["after", "wait"]


def test_uint8_pixels_go_in_as_the_nearest_of_256_levels_channels_last(here, stored):
    seen = []
    here.engine = StandInEngine(lambda x: seen.append(x.clone()) or brightness(x), image=(8, 8, 3), given="UINT8")
    runner = TENSORRT.load(stored(pixels="uint8"), provider="cuda")
    batch = images(2)
    batch[0, 0, 0, :3] = [-0.5, 2.0, 0.5]
    runner(batch)
    assert seen[0].dtype == torch.uint8
    assert seen[0][0, 0, :3, 0].tolist() == [0, 255, 128]
    expected = np.rint(batch.clip(0, 1) * 255).transpose(0, 2, 3, 1)
    np.testing.assert_array_equal(seen[0].numpy(), expected)


def test_probabilities_come_back_as_logarithms(here, stored):
    chances = torch.tensor([0.5, 0.25, 0.25, 0.0])
    here.engine = StandInEngine(lambda x: chances.expand(len(x), CLASSES))
    runner = TENSORRT.load(stored(output="probabilities"), provider="cuda")
    found = runner(images(2))
    np.testing.assert_allclose(found[:, :3], np.log([[0.5, 0.25, 0.25]] * 2), rtol=1e-6)
    assert np.isfinite(found).all()
    assert (found[:, 3] < -80).all()


@pytest.mark.parametrize(("kind", "error"), [("HALF", 2e-3), ("BF16", 2e-2)])
def test_answers_in_half_precision_come_back_as_float32(here, stored, kind, error):
    here.engine = StandInEngine(brightness, given=kind, returned=kind)
    runner = TENSORRT.load(stored(), provider="cuda")
    found = runner(images(2))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, brightness(torch.from_numpy(images(2))).numpy(), rtol=error)


def test_a_prepared_batch_of_uint8_pixels_gives_the_answers_of_a_call(here, stored):
    here.engine = StandInEngine(brightness, image=(8, 8, 3), given="UINT8")
    runner = TENSORRT.load(stored(pixels="uint8"), provider="cuda")
    np.testing.assert_array_equal(runner.prepare(images(3))().numpy(), runner(images(3)))


def test_a_prepared_batch_is_placed_once_and_run_each_time(here, stored):
    here.engine = StandInEngine(brightness)
    runner = TENSORRT.load(stored(), provider="cuda")
    first, second = runner.prepare(images(3)), runner.prepare(images(5, seed=1))
    assert len({id(context) for context in here.engine.contexts}) == 3  # shapes belong to a context
    addresses = dict(here.engine.contexts[1].addresses)
    for infer, batch in ((first, images(3)), (second, images(5, seed=1)), (first, images(3))):
        np.testing.assert_allclose(infer().numpy(), brightness(torch.from_numpy(batch)).numpy(), rtol=1e-6)
    assert here.engine.contexts[1].addresses == addresses
    assert [size for size, _ in here.engine.runs] == [3, 5, 3, 5, 3]  # each once to warm up
    assert runner.queue.events[-1] == "wait"
    assert "record" not in runner.queue.events


def test_a_cuda_graph_is_recorded_after_a_warm_up_and_replayed(here, stored):
    here.engine = StandInEngine(brightness)
    runner = TENSORRT.load(stored(), provider="cuda", cuda_graph=True)
    infer = runner.prepare(images(3))
    assert runner.queue.events == ["after", "wait", "record"]
    infer()
    infer()
    assert runner.queue.events[3:] == ["replay", "wait", "replay", "wait"]


@pytest.mark.heavy
def test_what_a_recorded_graph_reads_is_kept(here, stored, monkeypatch):
    here.engine = StandInEngine(brightness)
    runner = TENSORRT.load(stored(), provider="cuda", cuda_graph=True)
    monkeypatch.setattr(StandInQueue, "record", lambda self, work: lambda: None)  # a graph keeps addresses only
    infer = runner.prepare(images(3))
    kept = weakref.ref(here.engine.contexts.pop())
    gc.collect()
    assert kept() is not None
    del infer
    gc.collect()
    assert kept() is None  # and is freed with the call


@pytest.mark.parametrize("count", [1, 6, 64])
def test_a_batch_outside_the_profile_is_not_prepared(here, stored, count):
    here.engine = StandInEngine(brightness)
    runner = TENSORRT.load(stored(), provider="cuda")
    with pytest.raises(ArtifactRejected, match=f"takes batches of 2 to 5 images, not of {count}") as refusal:
        runner.prepare(images(count))
    assert "profile that includes this batch" in refusal.value.hint


def test_images_of_another_shape_are_not_run(here, stored):
    here.engine = StandInEngine(brightness)
    runner = TENSORRT.load(stored(), provider="cuda")
    for wrong in (images(2).astype(np.float64), images(2)[:, :1]):
        with pytest.raises(ValueError, match="expected float32 images"):
            runner(wrong)
        with pytest.raises(ValueError, match="expected float32 images"):
            runner.prepare(wrong)
    assert here.engine.runs == []


def test_a_failed_inference_is_told_in_the_runtimes_words(here, stored):
    here.engine = StandInEngine(brightness)
    runner = TENSORRT.load(stored(), provider="cuda")
    here.engine.broken = True
    with pytest.raises(ArtifactRejected, match="could not run a batch of 3: out of memory"):
        runner(images(3))
    with pytest.raises(ArtifactRejected, match="could not run a batch of 3: out of memory"):
        runner.prepare(images(3))
    here.engine.broken, here.engine.full = False, True
    with pytest.raises(ArtifactRejected, match=r"could not prepare to run: Requested size was 4096 bytes"):
        runner.prepare(images(3))


def test_a_batch_that_the_engine_does_not_take_is_refused(here, stored):
    here.engine = StandInEngine(brightness, image=(3, 9, 9))  # the record says 8 x 8
    with pytest.raises(ArtifactRejected, match="does not take a batch of 3"):
        TENSORRT.load(stored(), provider="cuda")(images(3))
    here.engine = StandInEngine(brightness)
    with pytest.raises(ArtifactRejected, match="does not take a batch of 3"):
        TENSORRT.load(stored(classes=5), provider="cuda")(images(3))


def test_memory_that_runs_out_is_one_sentence(here, stored, monkeypatch):
    here.engine = StandInEngine(brightness)
    runner = TENSORRT.load(stored(), provider="cuda")

    def full(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nOf the allocated memory ...")

    monkeypatch.setattr("exporters.tensorrt.runner.torch.empty", full)
    with pytest.raises(ArtifactRejected, match="has no memory on the GPU for a batch of 4") as refusal:
        runner(images(4))
    assert "smaller batch" in refusal.value.hint


# Which plans are opened.


def test_only_the_gpu_runs_plans(stored):
    for exporter in (TENSORRT, TENSORRT_RTX):
        with pytest.raises(RuntimeMissing, match="run on an NVIDIA GPU, not on 'cpu'") as refusal:
            exporter.load(stored())
        assert refusal.value.hint == "use provider cuda"


def test_a_machine_without_a_gpu_is_told_so(here, stored, monkeypatch):
    monkeypatch.setattr("exporters.tensorrt.gpu", lambda: None)
    with pytest.raises(RuntimeMissing, match="TensorRT runs plans on an NVIDIA GPU, and there is none") as refusal:
        TENSORRT.load(stored(), provider="cuda")
    assert refusal.value.exit_code == 3
    with pytest.raises(RuntimeMissing, match="TensorRT builds plans on an NVIDIA GPU, and there is none"):
        TENSORRT.build(stored(), stored().parent, "s", precision="fp16", engine=Engine())


@pytest.mark.parametrize(
    ("exporter", "line"),
    [(TENSORRT, "pip install 'compressor[trt]'"), (TENSORRT_RTX, "pip install 'compressor[trt-rtx]'")],
)
def test_a_runtime_that_is_not_installed_is_named_with_its_line(stored, monkeypatch, tmp_path, exporter, line):
    monkeypatch.setitem(sys.modules, exporter.flavour.module, None)  # importing it raises ImportError
    with pytest.raises(RuntimeMissing, match=f"{exporter.flavour.title} is not installed") as refusal:
        exporter.build(tmp_path / "m.onnx", tmp_path, "s", precision="fp32", engine=Engine())
    assert line in refusal.value.hint
    with pytest.raises(RuntimeMissing, match="is not installed"):
        exporter.load(stored(format=exporter.flavour.format), provider="cuda")


@pytest.mark.parametrize("found", ["10.12.0.36", "9.3.0", "8.6.1"])
def test_a_runtime_that_is_too_old_is_refused(here, stored, found):
    here.module.__version__ = found
    with pytest.raises(RuntimeMissing, match=f"TensorRT {found} is too old, 10.13 is needed"):
        TENSORRT.load(stored(version=found), provider="cuda")


@pytest.mark.parametrize("found", ["10.13.0.35", "10.16.1", "11.0.0"])
def test_newer_runtimes_are_taken(here, stored, found):
    here.module.__version__ = found
    here.engine = StandInEngine(brightness)
    assert TENSORRT.load(stored(version=found), provider="cuda").classes == CLASSES


def test_a_changed_plan_is_refused_before_the_runtime_sees_it(here, stored):
    path = stored()
    path.write_bytes(PLAN + b"!")
    with pytest.raises(ArtifactRejected, match="its hash differs") as refusal:
        TENSORRT.load(path, provider="cuda")
    assert refusal.value.exit_code == 4
    assert here.given == []


def test_a_plan_without_its_record_is_refused(here, stored):
    path = stored()
    sidecar.path_of(path).unlink()
    with pytest.raises(ArtifactRejected, match=r"has no sidecar student\.fp16\.sm90\.trt11\.4\.plan\.json beside it"):
        TENSORRT.load(path, provider="cuda")
    path.unlink()
    with pytest.raises(ArtifactRejected, match="no such file"):
        TENSORRT.load(path, provider="cuda")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda found: "not JSON", "is not JSON"),
        (lambda found: "[]", "not a sidecar of schema 1"),
        (lambda found: json.dumps(found | {"schema": 2}), "not a sidecar of schema 1"),
        (lambda found: json.dumps(found | {"plan_sha256": "0" * 64}), "its hash differs"),
        (lambda found: json.dumps({k: v for k, v in found.items() if k != "classes"}), "not a sidecar that an export"),
        (lambda found: json.dumps(found | {"more": 1}), "not a sidecar that an export"),
        (lambda found: json.dumps(found | {"classes": "4"}), "not a sidecar that an export"),
        (lambda found: json.dumps(found | {"input_shape": [3, 8]}), "not a sidecar that an export"),
        (lambda found: json.dumps(found | {"input_shape": 3}), "not a sidecar that an export"),
        (lambda found: json.dumps(found | {"profile": [0, 1, 2]}), "not a sidecar that an export"),
        (lambda found: json.dumps(found | {"pixels": "uint16"}), "not a sidecar that an export"),
        (lambda found: json.dumps(found | {"census": []}), "not a sidecar that an export"),
        (lambda found: json.dumps(found | {"engine": {"host_code": True}}), "not a sidecar that an export"),
        (lambda found: json.dumps(found | {"source": "../../secret.onnx"}), "not a sidecar that an export"),
        (lambda found: json.dumps(found | {"stem": "../up"}), "not a sidecar that an export"),
        (lambda found: json.dumps(found | {"source": 5}), "not a sidecar that an export"),
    ],
)
def test_a_changed_record_is_refused(here, stored, change, said):
    path = stored()
    place = sidecar.path_of(path)
    place.write_text(change(json.loads(place.read_text())))
    with pytest.raises(ArtifactRejected, match=said):
        TENSORRT.load(path, provider="cuda")
    assert here.given == []


def test_a_plan_of_the_other_runtime_is_refused(here, stored):
    with pytest.raises(ArtifactRejected, match="is a plan of the format trt, not trt-rtx"):
        TENSORRT_RTX.load(stored(), provider="cuda")
    with pytest.raises(ArtifactRejected, match="is a plan of the format trt, not trt-rtx"):
        TENSORRT_RTX.rebuild(stored())
    with pytest.raises(ArtifactRejected, match="is a plan of the format trt-rtx, not trt"):
        TENSORRT.load(stored(format="trt-rtx"), provider="cuda")


def test_a_plan_from_another_machine_is_refused_with_both_named(here, stored, monkeypatch):
    monkeypatch.setattr("exporters.tensorrt.gpu", lambda: Gpu("NVIDIA L4", 89))
    with pytest.raises(ArtifactRejected) as refusal:
        TENSORRT.load(stored(version="11.3.1.9"), provider="cuda")
    assert refusal.value.message.endswith(
        "was built for NVIDIA H200 (sm90) with TensorRT 11.3 on linux-x86_64, "
        "here are NVIDIA L4 (sm89), TensorRT 11.4 and linux-x86_64"
    )
    assert "--rebuild" in refusal.value.hint
    assert here.given == []


@pytest.mark.parametrize(
    ("recorded", "found", "opens"),
    [
        ({}, {}, True),
        ({}, {"gpu": Gpu("NVIDIA H100", 90)}, False),
        ({}, {"gpu": Gpu("NVIDIA H200", 100)}, False),
        ({}, {"version": "11.4.0.13"}, False),
        ({}, {"system": "windows-amd64"}, False),
        ({"hardware": "same-sm"}, {"gpu": Gpu("NVIDIA H100", 90)}, True),
        ({"hardware": "same-sm"}, {"gpu": Gpu("NVIDIA L4", 89)}, False),
        ({"hardware": "ampere+"}, {"gpu": Gpu("NVIDIA A100", 80)}, True),
        ({"hardware": "ampere+"}, {"gpu": Gpu("NVIDIA T4", 75)}, False),
        ({"version_compatible": True}, {"version": "11.5.0.1"}, True),
        ({"version_compatible": True}, {"version": "11.3.0.1"}, False),
        ({"version_compatible": True}, {"version": "12.4.0.1"}, False),
        ({"version_compatible": True}, {"version": "11.5.0.1", "gpu": Gpu("NVIDIA L4", 89)}, False),
    ],
)
def test_a_plan_opens_where_it_was_built_to(here, stored, monkeypatch, recorded, found, opens):
    here.engine = StandInEngine(brightness)
    here.module.__version__ = found.get("version", RECORD.version)
    monkeypatch.setattr("exporters.tensorrt.gpu", lambda: found.get("gpu", H200))
    monkeypatch.setattr("exporters.tensorrt.system", lambda: found.get("system", "linux-x86_64"))
    path = stored(engine=sidecar.settings_of(Engine(**recorded)))
    if opens:
        assert TENSORRT.load(path, provider="cuda").provider == "cuda"
    else:
        with pytest.raises(ArtifactRejected, match="was built for NVIDIA H200"):
            TENSORRT.load(path, provider="cuda")


def test_a_plan_built_without_a_gpu_opens_on_any(here, stored, monkeypatch):
    here.engine = StandInEngine(brightness)
    monkeypatch.setattr("exporters.tensorrt.gpu", lambda: Gpu("NVIDIA L4", 89))
    assert TENSORRT.load(stored(gpu=None, sm=None), provider="cuda").classes == CLASSES
    with pytest.raises(ArtifactRejected, match=r"was built for GPUs with TensorRT 11\.3"):
        TENSORRT.load(stored(gpu=None, sm=None, version="11.3.0"), provider="cuda")


def test_what_the_runtime_does_not_load_is_refused_in_its_words(here, stored):
    with pytest.raises(ArtifactRejected, match="TensorRT cannot load") as refusal:
        TENSORRT.load(stored(), provider="cuda")
    assert refusal.value.hint == "magic tag does not match"


def test_a_record_reads_back_as_it_was_written(stored):
    path = stored()
    assert sidecar.read(path) == RECORD
    assert sidecar.read(path).settings() == Engine(batch=(2, 3, 5))
    assert sidecar.verified(path) == (PLAN, RECORD)


def test_the_place_of_the_timing_cache_is_not_recorded(tmp_path):
    assert "timing_cache" not in sidecar.settings_of(Engine(timing_cache=tmp_path))
    assert "batch" not in sidecar.settings_of(Engine())


# Names and words.


@pytest.mark.parametrize(
    ("version", "tagged"), [("11.4.0.12", "trt11.4"), ("10.13.3", "trt10.13"), ("11.4", "trt11.4")]
)
def test_file_names_carry_the_minor_version(version, tagged):
    assert TENSORRT.flavour.tagged(version) == tagged


@pytest.mark.parametrize(
    ("message", "told"),
    [
        (
            "IBuilder::buildSerializedNetwork: Error Code 4: API Usage Error (Network has dynamic or shape inputs, but "
            "no optimization profile has been defined. In validate at /_src/optimizer/api/network.cpp:4023)",
            ["Network has dynamic or shape inputs, but no optimization profile has been defined"],
        ),
        (
            "[checkMacros.cpp::catchCudaError::250] Error Code 1: Cuda Runtime (In catchCudaError at /_src/a.cpp:250 "
            "(cudaError 35: CUDA driver version is insufficient for CUDA runtime version))",
            [],
        ),
        ('ModelImporter.cpp:140: While parsing node number 2 [Frobnicate -> "logits"]:', []),
        ("ModelImporter.cpp:142: --- Begin node ---\nNode name: frob", []),
        ("[8] Assertion failed: axis < 4", ["Assertion failed: axis < 4"]),
        ("plain words", ["plain words"]),
        ("", []),
    ],
)
def test_errors_are_cut_down_to_what_tells_something(message, told):
    assert reasons(message) == told


def test_a_log_keeps_the_last_errors_each_once():
    log = Log()
    for message in ("one", "two", "two", "three", "four"):
        log.add(message, error=True)
    log.add("chatter", error=False)
    log.add("Layers:\nName: a", error=False)
    assert log.reason() == "two; three; four"
    assert log.layers == "Layers:\nName: a"
    log.clear()
    assert (log.reason(), log.layers) == ("", "")


def test_one_logger_serves_the_whole_process(here):
    assert listener(TENSORRT.flavour)[0] is listener(TENSORRT.flavour)[0]
    assert isinstance(TENSORRT.flavour, Flavour)


# The census.

CONV = {
    "Name": "conv",
    "LayerType": "CaskConvolution",
    "Inputs": [
        {"Name": "x", "Dimensions": [8, 3, 8, 8], "Format/Datatype": "Channel major FP16 format where channel % 4 == 0"}
    ],
    "Outputs": [{"Name": "y", "Dimensions": [8, 16, 8, 8], "Format/Datatype": "Channel major FP16 format"}],
    "Weights": {"Type": "Half", "Count": 432},
    "Bias": {"Type": "Half", "Count": 16},
}
GEMM = {
    "Name": "gemm",
    "LayerType": "gemm",
    "Inputs": [{"Name": "y", "Dimensions": [-1, 64], "Format": "(Linear)", "Datatype": "Int8"}],
    "Constants": [
        {"Name": "w", "Dimensions": [64, 10], "Format": "(Transposed)", "Datatype": "Int8"},
        {"Name": "alpha", "Dimensions": [1], "Format": "(Linear)", "Datatype": "Float"},
        {"Name": "scale", "Dimensions": [1, 64, 1, 1], "Format": "(Linear)", "Datatype": "Float"},
    ],
    "Outputs": [],
}


@pytest.mark.parametrize("ends", ["Bindings", "I/O Tensors"])  # TensorRT 10 and 11
def test_weights_are_counted_by_the_type_of_their_layers(ends):
    found = census.inspected(json.dumps({"Layers": [CONV, GEMM], ends: ["x", "y"]}))
    assert census.weights_by_type(found) == {"fp16": 432, "int8": 640}


def test_weights_that_are_only_stored_in_eight_bits_count_as_their_data():
    expanded = GEMM | {"Inputs": [{"Name": "y", "Dimensions": [-1, 64], "Datatype": "Half"}]}
    assert census.weights_by_type(census.inspected(json.dumps({"Layers": [expanded]}))) == {"fp16": 640}


@pytest.mark.parametrize("text", ["", "{", "[]", '{"Layers": ["conv", "gemm"]}', '{"Layers": [{"Name": "a"}]}', "{}"])
def test_an_inspection_without_details_counts_nothing(text):
    assert census.weights_by_type(census.inspected(text)) == {}


def test_the_builders_listing_says_the_same():
    listing = (
        "Layers:\n"
        "Name: conv [0], LayerType: correlation, Inputs: [ { Name: x, Dimensions: [-1,4,32,32], Strides: [4096,1], "
        "StrideOrder: [3,0,2,1], Datatype: Int8, Format: (NHWC) Channel major format }], Constants: [ { Name: w, "
        "Dimensions: [16,4,3,3], Strides: [1,2], Datatype: Int8, Format: (NHWC) }, { Name: s, Dimensions: [1,16,1,1], "
        "Datatype: Float, Format: (NHWC) }], Outputs: [ { Name: y, Dimensions: [64,64], Datatype: Float, Format: f }], "
        "TacticName: t\n"
        "Name: head, LayerType: gemm, Inputs: [ { Name: y, Dimensions: [-1,64], Datatype: BFloat16, Format: f }], "
        "Constants: [ { Name: w, Dimensions: [64,10], Datatype: BFloat16, Format: f }], Outputs: [], StreamId: 0\n"
        "Name: nothing, LayerType: shape_call, Inputs: [], Constants: [], Outputs: [], TacticName: \n"
        "\n"
        "I/O Tensors:\n"
        " Name: input, IOMode: Input, DataType: Float, Dimensions: [-1,3,32,32]\n"
    )
    layers = census.printed(listing)
    assert [layer.name for layer in layers] == ["conv [0]", "head", "nothing"]
    assert census.weights_by_type(layers) == {"int8": 576, "bf16": 640}


@pytest.mark.parametrize(
    ("words", "name"),
    [
        ("Half", "fp16"),
        ("Float", "fp32"),
        ("BFloat16", "bf16"),
        ("Int8", "int8"),
        ("UInt8", "int8"),
        ("FP8", "fp8"),
        ("Row major linear FP32 format", "fp32"),
        ("Row major linear BFloat16 format (kLINEAR)", "bf16"),
        ("Thirty-two wide channel vectorized row major Int8 format", "int8"),
        ("Channel major FP16 format where channel % 8 == 0", "fp16"),
        ("Int64", None),
        ("Bool", None),
        ("N/A due to dynamic shapes", None),
        ("", None),
    ],
)
def test_types_are_read_in_tensorrts_words(words, name):
    assert census.precision(words) == name
