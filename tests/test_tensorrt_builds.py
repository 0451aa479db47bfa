"""Plans from the real TensorRT-RTX builder and parser, which need no GPU: every family, precision and border.

That a graph passes here is strong evidence that TensorRT takes it, not proof: the two are different products.
"""

import ast
import inspect
import json
import re
import sys
import warnings
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx as onnx_format
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from compressor import models
from exporters import Engine, exporter, files, onnx, quantize
from exporters.errors import ArtifactRejected, ExportFailed, RuntimeMissing
from exporters.precision import weights_by_type
from exporters.tensorrt import TENSORRT
from exporters.tensorrt import TENSORRT_RTX as RTX
from exporters.tensorrt.flavour import Gpu, listener

if find_spec("tensorrt_rtx") is None:
    pytest.skip("TensorRT-RTX is not installed: pip install 'compressor[trt-rtx]'", allow_module_level=True)

pytestmark = pytest.mark.heavy

STUB = Path(__file__).resolve().parent.parent / "typings" / "tensorrt" / "__init__.pyi"
TAG = "rtx" + ".".join(version("tensorrt_rtx_cu13").split(".")[:2])
SHAPE = (3, 8, 8)
FAMILIES = {
    "resnet8": (3, 32, 32),
    "resnet50": (3, 32, 32),  # bottlenecks
    "wrn-16-1": (3, 32, 32),
    "vgg8": (3, 32, 32),
    "mobilenetv2-0.25": (3, 32, 32),
    "shufflenetv2-0.5": (3, 32, 32),
    "lenet5": (1, 28, 28),
    "torchvision/mobilenet_v3_small": (3, 64, 64),
}


def graph_census(path: Path) -> dict[str, int]:
    return weights_by_type(onnx_format.load(path))


def record(plan: Path) -> dict:
    return json.loads(plan.with_name(plan.name + ".json").read_text(encoding="utf-8"))


@pytest.fixture
def trunk(tiny, tmp_path):
    path = tmp_path / "student.onnx"
    onnx.export(tiny(), path, input_shape=SHAPE)
    return path


@pytest.fixture
def plan(trunk, tmp_path):
    return RTX.build(trunk, tmp_path, "student", precision="fp32", engine=Engine(batch=(1, 2, 4))).path


def hand_made(path: Path, nodes, *, weights=(), taken=None, returned=None) -> Path:
    """A flattened `[batch, 3, 8, 8]` input times a matrix, then `nodes` from `features` to `logits`."""
    matrix = numpy_helper.from_array(np.ones((4, 192), np.float32), "matrix")
    first = [
        helper.make_node("Flatten", ["input"], ["flat"], name="flatten"),
        helper.make_node("Gemm", ["flat", "matrix"], ["features"], name="head", transB=1),
    ]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [*first, *nodes],
        "g",
        [value("input", TensorProto.FLOAT, taken or ["batch", *SHAPE])],
        [value("logits", TensorProto.FLOAT, returned or ["batch", 4])],
        [matrix, *weights],
    )
    domains = [helper.make_opsetid("", 20), helper.make_opsetid("of.ours", 1)]
    onnx_format.save(helper.make_model(graph, opset_imports=domains, ir_version=10), path)
    return path


# Every family, in every form.


@pytest.mark.parametrize("family", FAMILIES)
def test_each_family_builds_in_each_precision_with_each_border(family, tmp_path, capfd):
    shape = FAMILIES[family]
    torch.manual_seed(0)
    trunk = tmp_path / "trunk.onnx"
    onnx.export(models.build(family, classes=10, input_shape=shape).eval(), trunk, input_shape=shape)
    quantised = tmp_path / "quantised.onnx"
    images = np.random.default_rng(0).random((8, *shape), np.float32)
    quantize.quantize(trunk, quantised, images, recipe=RTX.QUANTIZATIONS[0])

    forms = {
        "fp32": (trunk, {}),
        "fp16": (trunk, {"precision": "fp16", "pixels": "uint8"}),
        "bf16": (trunk, {"precision": "bf16", "output": "probabilities"}),
        "int8": (quantised, {"pixels": "uint8", "output": "probabilities"}),
    }
    for precision, (source, form) in forms.items():
        graph = tmp_path / f"{precision}.onnx"
        onnx.convert(source, graph, **form)
        built = RTX.build(graph, tmp_path, "student", precision=precision, engine=Engine(batch=(1, 2, 4)))
        assert built.path.name == f"student.{precision}.{TAG}.plan"
        assert built.precision == precision
        found = record(built.path)
        assert found["census_from"] == "builder"  # what is named is the engine, not the graph
        assert found["classes"] == 10
        assert found["input_shape"] == list(shape)
        assert found["pixels"] == form.get("pixels", "float32")
        assert found["output"] == form.get("output", "logits")
        # An engine holds the weights of its graph, but for what it pads to whole vectors.
        expected = graph_census(graph)[precision]
        assert built.census == found["census"]
        assert expected <= built.census[precision] <= 1.5 * expected + 1000
        if precision == "fp32":
            assert built.census == {"fp32": expected}
    said = capfd.readouterr()
    assert (said.out, said.err) == ("", "")


def test_a_plan_stands_beside_its_sidecar(trunk, tmp_path):
    engine = Engine(batch=(2, 3, 5), tf32=True, optimization_level=1, workspace_mb=512)
    built = RTX.build(trunk, tmp_path / "out", "student", precision="fp32", engine=engine)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        f"student.fp32.{TAG}.plan",
        f"student.fp32.{TAG}.plan.json",
    ]
    assert built.companions == (built.path.with_name(built.path.name + ".json"),)
    assert built.format == "trt-rtx"
    found = record(built.path)
    assert found["profile"] == [2, 3, 5]
    assert found["engine"] == {
        "workspace_mb": 512,
        "tf32": True,
        "optimization_level": 1,
        "hardware": "this",
        "version_compatible": False,
    }
    assert found["source"] == "student.onnx"
    assert (found["gpu"], found["sm"]) == (None, None)  # built without one
    assert found["metadata"] == {entry.key: entry.value for entry in onnx_format.load(trunk).metadata_props}
    assert str(tmp_path) not in json.dumps(found)  # no trace of this machine's folders


def test_settings_reach_the_builder(trunk, tmp_path, monkeypatch):
    import tensorrt_rtx

    seen = {}
    real = tensorrt_rtx.Builder.build_serialized_network

    def spy(self, network, config):
        flags = tensorrt_rtx.BuilderFlag
        seen.update(
            tf32=config.get_flag(flags.TF32),
            level=config.builder_optimization_level,
            workspace=config.get_memory_pool_limit(tensorrt_rtx.MemoryPoolType.WORKSPACE),
            strong=network.get_flag(tensorrt_rtx.NetworkDefinitionCreationFlag.STRONGLY_TYPED),
            name=network.name,
        )
        return real(self, network, config)

    monkeypatch.setattr(tensorrt_rtx.Builder, "build_serialized_network", spy)
    engine = Engine(batch=(1, 2, 4), optimization_level=2, workspace_mb=300)
    RTX.build(trunk, tmp_path, "s", precision="fp32", engine=engine)
    assert seen == {"tf32": False, "level": 2, "workspace": 300 * 2**20, "strong": True, "name": "student"}
    RTX.build(trunk, tmp_path, "s", precision="fp32", engine=Engine(batch=(1, 2, 4), tf32=True))
    assert seen["tf32"] is True


def test_a_graph_with_a_fixed_batch_builds_with_the_profile_that_equals_it(tmp_path):
    head = [helper.make_node("Relu", ["features"], ["logits"], name="relu")]
    fixed = hand_made(tmp_path / "fixed.onnx", head, taken=[4, *SHAPE], returned=[4, 4])
    built = RTX.build(fixed, tmp_path, "fixed", precision="fp32", engine=Engine(batch=(4, 4, 4)))
    assert built.census == {"fp32": 4 * 192}
    with pytest.raises(ExportFailed, match="takes batches of 4 images only, not 1:8:32") as refusal:
        RTX.build(fixed, tmp_path, "fixed", precision="fp32", engine=Engine())
    assert "4:4:4" in refusal.value.hint


def test_weights_beside_the_graph_are_found(trunk, tmp_path):
    folder = tmp_path / "external"
    folder.mkdir()
    model = onnx_format.load(trunk)
    onnx_format.save(model, folder / "m.onnx", save_as_external_data=True, location="m.bin", size_threshold=0)
    assert (folder / "m.bin").stat().st_size > 0
    built = RTX.build(folder / "m.onnx", folder, "m", precision="fp32", engine=Engine())
    assert built.census == graph_census(trunk)


def test_the_timing_cache_is_left_alone(trunk, tmp_path):
    cache = tmp_path / "cache"
    RTX.build(trunk, tmp_path, "s", precision="fp32", engine=Engine(timing_cache=cache))
    assert not cache.exists()  # TensorRT-RTX has none: it measures when it runs
    cache.write_bytes(b"of another runtime")
    RTX.build(trunk, tmp_path, "s", precision="fp32", engine=Engine(timing_cache=cache))
    assert cache.read_bytes() == b"of another runtime"


# Built again.


def test_a_rebuild_gives_the_same_plan_again(plan):
    before = record(plan)
    plan.unlink()
    built = RTX.rebuild(plan)
    assert built.path == plan
    assert plan.is_file()
    after = record(plan)
    assert {**after, "plan_sha256": ""} == {**before, "plan_sha256": ""}


def test_a_rebuild_keeps_the_settings(trunk, tmp_path):
    engine = Engine(batch=(2, 3, 5), tf32=True, optimization_level=1, workspace_mb=512, timing_cache=tmp_path / "c")
    built = RTX.build(trunk, tmp_path, "student", precision="fp32", engine=engine)
    before = record(built.path)
    RTX.rebuild(built.path)
    assert record(built.path)["engine"] == before["engine"]
    assert record(built.path)["profile"] == [2, 3, 5]


def test_a_rebuild_wants_the_graph_that_the_plan_was_built_from(plan, trunk):
    trunk.write_bytes(trunk.read_bytes() + b"\n")
    with pytest.raises(ArtifactRejected, match=r"student\.onnx is not the file that .* was built from"):
        RTX.rebuild(plan)
    trunk.unlink()
    with pytest.raises(ArtifactRejected, match=r"built from student\.onnx, which is not beside it") as refusal:
        RTX.rebuild(plan)
    assert refusal.value.hint == "put student.onnx there"


# TensorRT proper, with the builder of TensorRT-RTX standing in for its own, on a machine with an H200.


@pytest.fixture
def tensorrt(monkeypatch):
    """A stand-in for TensorRT 11.4: all of TensorRT-RTX, but an engine that loads and says what it holds."""
    import tensorrt_rtx

    inspector = SimpleNamespace(get_engine_information=lambda format: module.inspection)
    engine = SimpleNamespace(create_engine_inspector=lambda: inspector)
    runtime = SimpleNamespace(deserialize_cuda_engine=lambda content: engine if module.inspection else None)
    module = SimpleNamespace(**vars(tensorrt_rtx))
    module.__version__ = "11.4.0.12"
    module.inspection = ""
    module.Runtime = lambda logger: runtime
    listener.cache_clear()
    monkeypatch.setitem(sys.modules, "tensorrt", module)
    for place in ("exporters.tensorrt.gpu", "exporters.tensorrt.build.gpu"):
        monkeypatch.setattr(place, lambda: Gpu("NVIDIA H200", 90))
    yield module
    listener.cache_clear()


def test_a_tensorrt_plan_is_named_after_gpu_and_version(trunk, tmp_path, tensorrt):
    built = TENSORRT.build(trunk, tmp_path, "student", precision="fp32", engine=Engine())
    assert built.path.name == "student.fp32.sm90.trt11.4.plan"
    found = record(built.path)
    assert (found["gpu"], found["sm"], found["version"]) == ("NVIDIA H200", 90, "11.4.0.12")
    assert found["census_from"] == "builder"  # the engine did not load


def test_the_engines_own_layers_decide_what_precision_a_plan_has(trunk, tmp_path, tensorrt):
    weights = sum(graph_census(trunk).values())
    layer = {"Name": "all", "Inputs": [{"Datatype": "Half"}], "Weights": {"Type": "Half", "Count": weights}}
    tensorrt.inspection = json.dumps({"Layers": [layer]})
    with pytest.raises(ExportFailed, match="computes in fp16, not in fp32"):
        TENSORRT.build(trunk, tmp_path, "student", precision="fp32", engine=Engine())
    built = TENSORRT.build(trunk, tmp_path, "student", precision="fp16", engine=Engine())
    assert built.path.name == "student.fp16.sm90.trt11.4.plan"
    assert record(built.path)["census_from"] == "engine"
    assert built.census == {"fp16": weights}


def test_layers_that_say_too_little_leave_the_graph_as_the_witness(trunk, tmp_path, tensorrt, monkeypatch):
    layer = {"Name": "one", "Inputs": [{"Datatype": "Half"}], "Weights": {"Type": "Half", "Count": 10}}
    tensorrt.inspection = json.dumps({"Layers": [layer, "the rest"]})
    monkeypatch.setattr("exporters.tensorrt.census.printed", lambda listing: [])
    built = TENSORRT.build(trunk, tmp_path, "student", precision="fp32", engine=Engine())
    assert record(built.path)["census_from"] == "graph"
    assert built.census == graph_census(trunk)


@pytest.mark.filterwarnings("ignore:Use Deprecated in TensorRT-RTX")
def test_the_timing_cache_is_read_and_written_back(trunk, tmp_path, tensorrt, monkeypatch):
    cache = tmp_path / "cache" / "sm90.bin"
    given = []
    real = tensorrt.IBuilderConfig.create_timing_cache

    def spy(self, content):
        given.append(bytes(content))
        return real(self, content)

    monkeypatch.setattr(tensorrt.IBuilderConfig, "create_timing_cache", spy)
    engine = Engine(timing_cache=cache)
    TENSORRT.build(trunk, tmp_path, "student", precision="fp32", engine=engine)
    written = cache.read_bytes()
    assert given == [b""]
    assert written
    TENSORRT.build(trunk, tmp_path, "student", precision="fp32", engine=engine)
    assert given == [b"", written]
    monkeypatch.setattr(tensorrt.IBuilderConfig, "set_timing_cache", lambda self, found, ignore_mismatch: False)
    TENSORRT.build(trunk, tmp_path, "student", precision="fp32", engine=engine)  # measured on another GPU
    assert given[2:] == [cache.read_bytes(), b""]
    cache.unlink()
    cache.mkdir()
    with pytest.raises(ExportFailed, match="cannot read the timing cache"):
        TENSORRT.build(trunk, tmp_path, "student", precision="fp32", engine=engine)


@pytest.mark.parametrize(
    ("setting", "flags", "level"),
    [
        ({}, set(), "NONE"),
        ({"hardware": "ampere+"}, set(), "AMPERE_PLUS"),
        ({"hardware": "same-sm"}, set(), "SAME_COMPUTE_CAPABILITY"),
        ({"version_compatible": True}, {"VERSION_COMPATIBLE", "EXCLUDE_LEAN_RUNTIME"}, "NONE"),
    ],
)
def test_compatibility_reaches_the_builder(trunk, tmp_path, tensorrt, monkeypatch, setting, flags, level):
    raised, levels = set(), []
    real = tensorrt.IBuilderConfig.set_flag

    def spy(self, flag):
        raised.add(flag.name)
        real(self, flag)

    monkeypatch.setattr(tensorrt.IBuilderConfig, "set_flag", spy)
    known = tensorrt.IBuilderConfig.hardware_compatibility_level
    spied = property(known.fget, lambda self, value: levels.append(value.name))
    monkeypatch.setattr(tensorrt.IBuilderConfig, "hardware_compatibility_level", spied)
    TENSORRT.build(trunk, tmp_path, "student", precision="fp32", engine=Engine(**setting))
    assert raised == flags  # no lean runtime inside: that would be code to execute
    assert levels == ([] if level == "NONE" else [level])


# Refused.


def test_an_unknown_operator_is_named_with_its_node(tmp_path):
    node = helper.make_node("Frobnicate", ["features"], ["logits"], name="frob", domain="of.ours")
    path = hand_made(tmp_path / "unknown.onnx", [node])
    with pytest.raises(ArtifactRejected, match=r"cannot read the operator 'Frobnicate' \(node 'frob'\) of ") as refusal:
        RTX.build(path, tmp_path, "s", precision="fp32", engine=Engine())
    assert refusal.value.hint == "replace it in the network's forward"
    assert refusal.value.exit_code == 4


def test_a_type_error_is_explained_in_the_parsers_words(tmp_path):
    weight = numpy_helper.from_array(np.ones((4, 4), np.float16), "half")
    path = hand_made(
        tmp_path / "mixed.onnx",
        [helper.make_node("MatMul", ["features", "half"], ["logits"], name="m")],
        weights=[weight],
    )
    with pytest.raises(ArtifactRejected, match=r"operator 'MatMul' \(node 'm'\)") as refusal:
        RTX.build(path, tmp_path, "s", precision="fp32", engine=Engine())
    assert "must have same input types" in refusal.value.hint
    assert "cuda" not in refusal.value.hint.lower()  # that there is no driver has nothing to do with it
    assert "_src" not in refusal.value.hint
    assert "\n" not in refusal.value.hint


def test_the_int8_recipe_of_the_cpu_is_refused_by_name(trunk, tmp_path):
    images = np.random.default_rng(0).random((8, *SHAPE), np.float32)
    quantised = tmp_path / "cpu.onnx"
    quantize.quantize(trunk, quantised, images, recipe="cpu")
    with pytest.raises(ArtifactRejected, match="quantised in a way that TensorRT-RTX does not take") as refusal:
        RTX.build(quantised, tmp_path, "s", precision="int8", engine=Engine())
    assert "recipe trt" in refusal.value.hint


@pytest.mark.parametrize("asked", ["fp16", "int8", "bf16"])
def test_a_precision_that_is_not_in_the_graph_is_not_claimed(trunk, tmp_path, asked):
    with pytest.raises(ExportFailed, match=f"computes in fp32, not in {asked}") as refusal:
        RTX.build(trunk, tmp_path / "out", "s", precision=asked, engine=Engine())
    assert refusal.value.exit_code == 6
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("batch", [(0, 1, 2), (2, 1, 4), (1, 5, 4), (-1, 1, 1)])
def test_a_profile_out_of_order_is_refused(trunk, tmp_path, batch):
    with pytest.raises(ExportFailed, match="is not smallest:usual:largest") as refusal:
        RTX.build(trunk, tmp_path, "s", precision="fp32", engine=Engine(batch=batch))
    assert refusal.value.hint == "give it for example as 1:8:32"


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ({"optimization_level": 6}, "is 0 to 5, not 6"),
        ({"optimization_level": -1}, "is 0 to 5, not -1"),
        ({"workspace_mb": 0}, "a workspace of 0 MiB is none"),
        ({"hardware": "ampere+"}, "'ampere\\+' is not offered"),
        ({"hardware": "same-sm"}, "'same-sm' is not offered"),
        ({"version_compatible": True}, "version-compatible ones are not offered"),
    ],
)
def test_settings_that_would_be_taken_for_others_are_refused(trunk, tmp_path, setting, sentence):
    with pytest.raises(ExportFailed, match=sentence):
        RTX.build(trunk, tmp_path, "s", precision="fp32", engine=Engine(**setting))


def test_a_failed_build_ends_with_the_builders_own_words(trunk, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr("exporters.tensorrt.build._MIB", 1)  # a workspace of one byte
    with pytest.raises(ExportFailed, match="could not build a plan from") as refusal:
        RTX.build(trunk, tmp_path, "s", precision="fp32", engine=Engine(workspace_mb=1))
    assert "no tactics to implement the operation within workspace limit" in refusal.value.hint
    assert "/_src/" not in refusal.value.hint
    assert capfd.readouterr() == ("", "")


def test_what_is_no_onnx_is_refused_before_the_parser_sees_it(tmp_path):
    path = tmp_path / "m.onnx"
    path.write_bytes(b"not a graph")
    with pytest.raises(ArtifactRejected, match="not an ONNX file"):
        RTX.build(path, tmp_path, "s", precision="fp32", engine=Engine())


def test_weights_outside_the_folder_are_refused_before_the_parser_reads_them(trunk, tmp_path):
    model = onnx_format.load(trunk)
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../etc/passwd")
    path = tmp_path / "m.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ArtifactRejected, match="outside its own folder"):
        RTX.build(path, tmp_path, "s", precision="fp32", engine=Engine())


def test_a_graph_without_a_fixed_number_of_classes_is_refused(tmp_path):
    node = helper.make_node("Transpose", ["features"], ["logits"], name="t", perm=[1, 0])
    path = hand_made(tmp_path / "m.onnx", [node], returned=[4, "batch"])
    with pytest.raises(ArtifactRejected, match="not logits"):
        RTX.build(path, tmp_path, "s", precision="fp32", engine=Engine())


@pytest.mark.parametrize("part", [".plan", ".json"])
def test_a_full_disk_leaves_neither_plan_nor_sidecar(trunk, tmp_path, monkeypatch, part):
    real = files.write_whole

    def full(path, content):
        if path.name.endswith(part):
            raise ExportFailed(f"cannot write {path}: no space left on device")
        real(path, content)

    monkeypatch.setattr("exporters.tensorrt.sidecar.write_whole", full)
    with pytest.raises(ExportFailed, match="no space left on device"):
        RTX.build(trunk, tmp_path / "out", "s", precision="fp32", engine=Engine())
    assert not list((tmp_path / "out").glob("*"))


def test_running_needs_a_gpu(plan, monkeypatch):
    monkeypatch.setattr("exporters.tensorrt.gpu", lambda: None)
    with pytest.raises(RuntimeMissing, match="runs plans on an NVIDIA GPU") as refusal:
        RTX.load(plan, provider="cuda")
    assert refusal.value.exit_code == 3


@pytest.mark.skipif(torch.cuda.is_available(), reason="the runtime finds a GPU here")
def test_a_plan_that_the_runtime_gives_back_is_refused_in_its_words(plan, monkeypatch, capfd):
    monkeypatch.setattr("exporters.tensorrt.gpu", lambda: Gpu("a card without a driver", 120))
    with pytest.raises(ArtifactRejected, match="TensorRT-RTX cannot load"):
        RTX.load(plan, provider="cuda")
    assert capfd.readouterr() == ("", "")


# The stub that the calls are checked against.


def members() -> list[tuple[str, ast.AST]]:
    """Each name of the stub with its definition: `Builder`, `Builder.create_network`, `DataType.HALF`."""
    found = []

    def walk(body, prefix):
        for node in body:
            if isinstance(node, ast.ClassDef):
                found.append((prefix + node.name, node))
                walk(node.body, prefix + node.name + ".")
            elif isinstance(node, ast.FunctionDef):
                found.append((prefix + node.name, node))
            elif isinstance(node, ast.AnnAssign | ast.Assign):
                target = node.target if isinstance(node, ast.AnnAssign) else node.targets[0]
                found.append((prefix + target.id, node))

    walk(ast.parse(STUB.read_text(encoding="utf-8")).body, "")
    return found


def test_the_stub_is_read():
    names = [name for name, _ in members()]
    assert len(names) > 80
    assert {"Builder", "Builder.create_network", "DataType.BF16", "ILogger.Severity.ERROR", "ITensor.shape"} <= set(
        names
    )


@pytest.mark.parametrize(("name", "node"), members(), ids=[name for name, _ in members()])
def test_each_name_of_the_stub_exists(name, node):
    import tensorrt_rtx

    found = tensorrt_rtx
    for part in name.split("."):
        found = getattr(found, part)
    if isinstance(node, ast.FunctionDef) and not any(isinstance(each, ast.Name) for each in node.decorator_list):
        assert callable(found)
        signatures = re.findall(rf"\b{node.name}\((.*)\) ->", inspect.getdoc(found) or "")
        arguments = [argument.arg for argument in node.args.args if argument.arg != "self"]
        if signatures and "__" not in name:
            given = [set(re.findall(r"(\w+): ", signature)) for signature in signatures]
            assert any(set(arguments) <= names for names in given), (arguments, signatures)
    elif isinstance(node, ast.FunctionDef | ast.AnnAssign) and "." in name:
        assert isinstance(found, property)


def test_the_stub_has_nothing_that_is_not_used():
    code = "\n".join(path.read_text(encoding="utf-8") for path in (STUB.parents[2] / "exporters/tensorrt").glob("*.py"))
    implied = {
        "__init__",
        "__int__",
        "__len__",
        "__getitem__",
        "Severity",
        "Dims",
        "DataType",
        "IHostMemory",
        "ITimingCache",
    }
    implied |= {"ParserError", "EngineInspector", "IOptimizationProfile", "nbytes"} | {
        name.split(".")[1] for name, _ in members() if name.startswith("DataType.")
    }
    unused = {name.rpartition(".")[2] for name, _ in members()} - implied
    assert {name for name in unused if not re.search(rf"\b{name}\b", code)} == set()


def test_the_exporters_are_found_by_name_without_their_runtimes():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert exporter("trt-rtx") is RTX
        assert exporter("trt").QUANTIZATIONS == ("trt",)
        assert exporter("trt").SUFFIXES == (".plan",)
