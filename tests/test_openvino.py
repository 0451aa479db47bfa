"""OpenVINO: IR with the precision that was asked for, run in that precision or not at all."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from tempfile import gettempdir

import numpy as np
import onnx as onnx_format
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from exporters import EXPORTERS, Engine, exporter, onnx, openvino, parity, quantize
from exporters.errors import ArtifactRejected, ExportFailed, RuntimeMissing
from exporters.files import write_whole
from exporters.openvino.runtime import core, package

# Gallery for, not imported: that would be seen by its makers.
pytestmark = [
    pytest.mark.skipif(find_spec("openvino") is None, reason="OpenVINO is not installed"),
    pytest.mark.heavy,
]

SHAPE = (3, 8, 8)
WEIGHTS = 8 * 3 * 9 + 8 * 8 * 9 + 4 * 8  # of two convolutions and a head
INT8_WEIGHTS = WEIGHTS + 8 * 9  # the first convolution reads a channel of ones too, in place of the normalisation
METADATA = {"arch": "a b", "classes": 'ä\n"<&]]>', "a key of words": "", "compress.created": "2026-01-01"}


class Pixels(nn.Module):
    """Convolutions with BatchNorm behind a normalisation, as a student has them."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1, bias=False),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Conv2d(8, 8, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(8),
            nn.ReLU(),
        )
        self.head = nn.Linear(8, 4)

    def forward(self, images):
        return self.head(self.body((images - 0.4) / 0.25).mean(dim=(2, 3)))


def pixels(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((count, *SHAPE), dtype=np.float32)


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    made = Pixels()
    with torch.no_grad():
        for _ in range(3):
            made(torch.rand(16, *SHAPE))
    return made.eval()


@pytest.fixture(scope="module")
def expected(network):
    """A function that returns the logits that the network itself gives."""

    def logits(images):
        with torch.no_grad():
            return network(torch.from_numpy(images)).numpy()

    return logits


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("openvino")


@pytest.fixture(scope="module")
def graphs(network, folder):
    """ONNX files by precision, and in fp32 with other ends."""
    trunk, int8 = folder / "trunk.onnx", folder / "quantised.onnx"
    onnx.export(network, trunk, input_shape=SHAPE)
    onnx.export(network, folder / "trunk22.onnx", input_shape=SHAPE, opset=22)
    quantize.quantize(trunk, int8, pixels(64), recipe="cpu")
    made = {name: folder / f"{name}.onnx" for name in ("fp32", "fp16", "bf16", "int8", "uint8", "probabilities")}
    onnx.convert(trunk, made["fp32"], precision="fp32", metadata=METADATA)
    onnx.convert(trunk, made["fp16"], precision="fp16")
    onnx.convert(folder / "trunk22.onnx", made["bf16"], precision="bf16")
    onnx.convert(int8, made["int8"])
    onnx.convert(trunk, made["uint8"], pixels="uint8")
    onnx.convert(trunk, made["probabilities"], output="probabilities")
    return made


@pytest.fixture(scope="module")
def built(graphs, folder):
    """What `build` returns of each graph."""
    precisions = {name: name if name in ("fp32", "fp16", "bf16", "int8") else "fp32" for name in graphs}
    return {
        name: openvino.build(graphs[name], folder / "built", name, precision=precision, engine=Engine())
        for name, precision in precisions.items()
    }


@pytest.fixture
def copied(built, tmp_path):
    """A function that copies an IR somewhere it can be damaged, and returns its graph and its weights."""

    def copy(name="fp32"):
        target = tmp_path / "copy.xml"
        target.write_bytes(built[name].path.read_bytes())
        target.with_suffix(".bin").write_bytes(built[name].companions[0].read_bytes())
        return target, target.with_suffix(".bin")

    return copy


def capable(precision: str) -> bool:
    capability = {"fp16": "FP16", "bf16": "BF16"}[precision]
    return capability in core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def compiling_with(monkeypatch, change):
    """Make OpenVINO compile with other settings than it is told, as a version that ignores some would."""

    class Core:
        def compile_model(self, model, device, settings):
            return core().compile_model(model, device, change(dict(settings)))

    monkeypatch.setattr("exporters.openvino.runner.core", Core)


# What is written.


def test_the_exporter_is_on_the_list():
    assert EXPORTERS["openvino"] == "exporters.openvino"
    assert exporter("openvino") is openvino
    assert (openvino.SUFFIXES, openvino.QUANTIZATIONS) == ((".xml", ".onnx"), ("cpu",))


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16", "int8"])
def test_the_precision_is_counted_in_the_file(built, precision):
    made = built[precision]
    assert made.path.name == f"{precision}.{precision}.xml"
    assert [each.name for each in made.companions] == [f"{precision}.{precision}.bin"]
    weights = INT8_WEIGHTS if precision == "int8" else WEIGHTS
    assert (made.format, made.precision, made.census) == ("openvino", precision, {precision: weights})
    assert sorted(made.path.parent.glob(f"{precision}.*")) == sorted([made.path, *made.companions])


@pytest.mark.parametrize(("precision", "size"), [("fp32", 4), ("fp16", 2), ("int8", 1)])
def test_weights_are_stored_in_the_precision_that_was_asked_for(built, precision, size):
    weights = built[precision].companions[0].stat().st_size
    assert size * WEIGHTS <= weights < 2 * size * WEIGHTS
    other = {"fp32": "f16", "fp16": "f32", "int8": "f16"}[precision]
    assert f'element_type="{other}" shape="8, 8, 3, 3"' not in built[precision].path.read_text(encoding="utf-8")


def test_weights_that_openvino_compresses_are_not_passed_off_as_fp32(graphs, tmp_path, monkeypatch):
    runtime = package()
    save = runtime.save_model
    monkeypatch.setattr(runtime, "save_model", lambda model, path, compress_to_fp16: save(model, path))
    with pytest.raises(ExportFailed, match="other types than they have"):
        openvino.build(graphs["fp32"], tmp_path, "student", precision="fp32", engine=Engine())
    assert list(tmp_path.iterdir()) == []


def test_the_same_graph_gives_the_same_bytes_and_tells_nothing_of_the_machine(built, graphs, tmp_path):
    again = openvino.build(graphs["fp32"], tmp_path, "student", precision="fp32", engine=Engine())
    assert again.path.read_bytes() == built["fp32"].path.read_bytes()
    assert again.companions[0].read_bytes() == built["fp32"].companions[0].read_bytes()
    content = again.path.read_text(encoding="utf-8")
    for private in (gettempdir(), tmp_path.name, graphs["fp32"].name, str(Path.home())):
        assert private not in content


def test_a_build_replaces_the_one_before(graphs, network, tmp_path):
    openvino.build(graphs["fp32"], tmp_path, "student", precision="fp32", engine=Engine())
    twice = Pixels()
    twice.load_state_dict({name: value * 2 for name, value in network.state_dict().items()})
    onnx.export(twice, tmp_path / "twice.onnx", input_shape=SHAPE)
    made = openvino.build(tmp_path / "twice.onnx", tmp_path, "student", precision="fp32", engine=Engine())
    with torch.no_grad():
        logits = twice.eval()(torch.from_numpy(pixels(4))).numpy()
    np.testing.assert_allclose(openvino.load(made.path)(pixels(4)), logits, rtol=1e-4, atol=1e-4)


def test_weights_do_not_stay_without_their_graph(graphs, tmp_path, monkeypatch):
    def full(path, content):
        if path.suffix == ".xml":
            raise ExportFailed(f"cannot write {path}: no space left on device")
        write_whole(path, content)

    monkeypatch.setattr("exporters.openvino.writing.write_whole", full)
    with pytest.raises(ExportFailed, match="no space left"):
        openvino.build(graphs["fp32"], tmp_path, "student", precision="fp32", engine=Engine())
    assert list(tmp_path.iterdir()) == []


def test_a_graph_of_another_precision_is_refused(graphs, tmp_path):
    with pytest.raises(ExportFailed, match=r"fp16\.onnx computes in fp16, not in fp32") as refused:
        openvino.build(graphs["fp16"], tmp_path, "student", precision="fp32", engine=Engine())
    assert (refused.value.exit_code, refused.value.hint) == (6, "give a graph in fp32")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_none_is_refused(graphs, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ExportFailed, match="cannot write") as refused:
        openvino.build(graphs["fp32"], tmp_path / "file", "student", precision="fp32", engine=Engine())
    assert refused.value.exit_code == 6


# What it answers.


@pytest.mark.parametrize("count", [1, 2, 7])
@pytest.mark.parametrize("suffix", [".xml", ".onnx"])
def test_fp32_answers_as_the_network_does_at_every_batch_size(built, graphs, expected, suffix, count):
    runner = openvino.load(built["fp32"].path if suffix == ".xml" else graphs["fp32"])
    images = pixels(count)
    np.testing.assert_allclose(runner(images), expected(images), rtol=0, atol=1e-5)
    np.testing.assert_allclose(runner.prepare(images)()[0], expected(images), rtol=0, atol=1e-5)


def test_a_runner_says_what_it_is(built):
    runner = openvino.load(built["fp32"].path, threads=1)
    assert (runner.format, runner.provider, runner.precision, runner.threads) == ("openvino", "cpu", "fp32", 1)
    assert (runner.input_shape, runner.classes, runner.pixels, runner.output) == (SHAPE, 4, "float32", "logits")
    assert (runner.census, runner.batch, runner.path) == ({"fp32": WEIGHTS}, None, built["fp32"].path)
    assert runner.compiled.get_property("INFERENCE_NUM_THREADS") == 1


def test_one_runner_answers_batches_of_any_size_in_any_order(built, expected):
    runner = openvino.load(built["fp32"].path)
    for count in (7, 1, 0, 2, 7):
        answer = runner(pixels(count, seed=count))
        assert (answer.shape, answer.dtype) == ((count, 4), np.float32)
        np.testing.assert_allclose(answer, expected(pixels(count, seed=count)), atol=1e-5)


def test_answers_do_not_change_when_others_are_asked_for(built):
    runner = openvino.load(built["fp32"].path)
    first = runner(pixels(2))
    copy = first.copy()
    runner(pixels(2, seed=1))
    np.testing.assert_array_equal(first, copy)


def test_a_prepared_batch_is_compiled_for_its_size_once_and_keeps_its_images(built, expected):
    runner = openvino.load(built["fp32"].path, threads=1)
    images = pixels(3)
    infer = runner.prepare(images.copy())
    other = runner.prepare(pixels(3, seed=1))
    other()
    np.testing.assert_allclose(infer()[0], expected(images), atol=1e-5)
    compiled = runner._for_batch(3)
    assert compiled is runner._for_batch(3)
    assert compiled.input().get_partial_shape().to_string() == "[3,3,8,8]"
    assert compiled.get_property("INFERENCE_NUM_THREADS") == 1
    assert runner.model.input().get_partial_shape().to_string() == "[?,3,8,8]"


@pytest.mark.parametrize("images", [pixels(2).astype(np.float64), pixels(2)[:, :, :7], pixels(2)[0]])
def test_what_are_no_such_images_is_refused(built, images):
    runner = openvino.load(built["fp32"].path)
    for call in (runner, runner.prepare):
        with pytest.raises(ValueError, match="expected float32 images"):
            call(images)


def test_int8_runs_in_8_bit_kernels_and_answers_as_a_healthy_one(built, graphs, expected):
    images = pixels(256)
    for path in (built["int8"].path, graphs["int8"]):
        runner = openvino.load(path)
        assert (runner.precision, runner.census) == ("int8", {"int8": INT8_WEIGHTS})
        assert parity.verdict(parity.compare(expected(images), runner(images)), "int8") is None
        assert np.abs(runner(images) - expected(images)).max() > 1e-4  # or nothing was rounded
        answer = runner.prepare(images)()[0]
        np.testing.assert_allclose(answer, runner(images), atol=1e-4)


def test_int8_answers_as_onnx_runtime_does(built, graphs):
    images = pixels(64)
    ours, theirs = openvino.load(built["int8"].path)(images), onnx.load(graphs["int8"])(images)
    assert np.abs(ours - theirs).max() < 0.05 * theirs.std()


def test_a_graph_whose_weights_alone_are_in_8_bits_is_not_int8(folder, tmp_path):
    """The data are never rounded, so that the arithmetic is that of fp32."""
    weight = np.random.default_rng(0).integers(-127, 128, (4, 192), np.int8)
    stored = [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(np.array(0.01, np.float32), "scale")]
    nodes = [
        helper.make_node("Flatten", ["input"], ["flat"]),
        helper.make_node("DequantizeLinear", ["w", "scale"], ["weight"]),
        helper.make_node("Gemm", ["flat", "weight"], ["logits"], transB=1),
    ]
    path = saved(tmp_path / "weights.onnx", nodes, stored)
    runner = openvino.load(path)
    assert (runner.precision, runner.census) == ("fp32", {"fp32": 768})
    images = pixels(4)
    wanted = images.reshape(4, -1) @ (weight * np.float32(0.01)).T
    np.testing.assert_allclose(runner(images), wanted, atol=1e-3)


def saved(path, nodes, stored=(), shape=("batch", *SHAPE), classes=4, kind=TensorProto.FLOAT):
    """Write an ONNX graph of `input` and `logits`."""
    given = helper.make_tensor_value_info("input", kind, shape)
    returned = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", classes])
    graph = helper.make_graph(nodes, "g", [given], [returned], list(stored))
    onnx_format.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    return path


def test_uint8_pixels_are_rounded_images(built, expected):
    runner = openvino.load(built["uint8"].path)
    assert (runner.pixels, runner.input_shape, runner.feed) == ("uint8", SHAPE, np.uint8)
    images = pixels(5)
    rounded = (np.rint(images * 255) / 255).astype(np.float32)
    np.testing.assert_allclose(runner(images), expected(rounded), atol=1e-5)
    np.testing.assert_allclose(runner.prepare(images)()[0], expected(rounded), atol=1e-5)
    beyond = np.array([-0.1, 1.1], np.float32).repeat(192).reshape(2, *SHAPE)
    np.testing.assert_allclose(runner(beyond), expected(beyond.clip(0, 1)), atol=1e-5)


def test_pixels_of_images_that_are_not_square_keep_their_places(tmp_path):
    weight = np.random.default_rng(0).normal(size=(4, 3 * 8 * 6)).astype(np.float32)
    nodes = [
        helper.make_node("Cast", ["input"], ["real"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["real"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("Flatten", ["planes"], ["flat"]),
        helper.make_node("Gemm", ["flat", "w"], ["logits"], transB=1),
    ]
    stored = [numpy_helper.from_array(weight, "w")]
    path = saved(tmp_path / "wide.onnx", nodes, stored, shape=("batch", 8, 6, 3), kind=TensorProto.UINT8)
    runner = openvino.load(path)
    assert runner.input_shape == (3, 8, 6)
    images = np.random.default_rng(1).integers(0, 256, (2, 3, 8, 6)).astype(np.float32)
    np.testing.assert_allclose(runner(images / 255), images.reshape(2, -1) @ weight.T, rtol=1e-3, atol=1e-2)


def test_probabilities_are_answered_as_their_logarithms(built, expected):
    runner = openvino.load(built["probabilities"].path)
    assert runner.output == "probabilities"
    logits = expected(pixels(5))
    answer = runner(pixels(5))
    np.testing.assert_allclose(np.exp(answer).sum(axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(answer - answer[:, :1], logits - logits[:, :1], atol=1e-4)


def test_a_probability_of_zero_has_a_logarithm(tmp_path):
    weight = np.zeros((192, 4), np.float32)
    weight[:, 0] = 10
    nodes = [
        helper.make_node("Flatten", ["input"], ["flat"]),
        helper.make_node("MatMul", ["flat", "w"], ["product"]),
        helper.make_node("Softmax", ["product"], ["shares"], axis=1),
        helper.make_node("Flatten", ["shares"], ["logits"]),
    ]
    runner = openvino.load(saved(tmp_path / "sure.onnx", nodes, [numpy_helper.from_array(weight, "w")]))
    smallest = np.log(np.finfo(np.float32).tiny)
    np.testing.assert_allclose(runner(np.ones((1, *SHAPE), np.float32)), [[0, *[smallest] * 3]], rtol=1e-6)


def test_a_fixed_batch_is_fed_in_padded_chunks(network, expected, folder, tmp_path):
    model = onnx_format.load(folder / "trunk.onnx")
    for value in (model.graph.input[0], model.graph.output[0]):
        value.type.tensor_type.shape.dim[0].dim_value = 2
    onnx_format.save(model, tmp_path / "two.onnx")
    made = openvino.build(tmp_path / "two.onnx", tmp_path, "two", precision="fp32", engine=Engine())
    runner = openvino.load(made.path)
    assert runner.batch == 2
    np.testing.assert_allclose(runner(pixels(5)), expected(pixels(5)), atol=1e-5)
    np.testing.assert_allclose(runner.prepare(pixels(2))()[0], expected(pixels(2)), atol=1e-5)
    with pytest.raises(ArtifactRejected, match="takes batches of 2 images only, not of 3") as refused:
        runner.prepare(pixels(3))
    assert refused.value.exit_code == 4


def test_metadata_survive(built, graphs):
    theirs = onnx.load(graphs["fp32"]).metadata
    assert theirs.items() >= METADATA.items()
    assert openvino.load(built["fp32"].path).metadata == theirs
    assert openvino.load(graphs["fp32"]).metadata == theirs
    assert built["fp32"].path.read_text(encoding="utf-8").count("a key of words") == 1


# The precision that it runs in.


@pytest.mark.parametrize("name", ["fp32", "int8", "uint8"])
def test_the_precision_of_what_is_not_quantised_is_stated(built, name):
    runner = openvino.load(built[name].path)
    runner.prepare(pixels(2))
    for compiled in (runner.compiled, runner._for_batch(2)):
        assert compiled.get_property("INFERENCE_PRECISION_HINT").to_string() == "f32"
        assert compiled.get_property("EXECUTION_DEVICES") == ["CPU"]
        assert compiled.get_property("NUM_STREAMS") == 1
        assert compiled.get_property("PERFORMANCE_HINT") == "LATENCY"


def test_a_bf16_run_of_an_fp32_file_is_refused(built, monkeypatch):
    """OpenVINO's own choice, on a CPU that has bf16."""
    if not capable("bf16"):
        pytest.skip("this CPU has no bf16 kernels, so that OpenVINO cannot choose them")
    compiling_with(monkeypatch, lambda settings: settings.pop("INFERENCE_PRECISION_HINT") and settings)
    with pytest.raises(
        RuntimeMissing, match=r"would run .*fp32\.fp32\.xml in bf16 on this CPU, not in fp32"
    ) as refused:
        openvino.load(built["fp32"].path)
    assert refused.value.exit_code == 3
    assert refused.value.hint == "run it where there are kernels for it, or export it with --precision fp32"


def test_an_int8_file_that_would_run_in_fp32_is_refused(built, monkeypatch):
    compiling_with(monkeypatch, lambda settings: settings | {"LP_TRANSFORMS_MODE": "NO"})
    with pytest.raises(RuntimeMissing, match=r"would run .*int8\.int8\.xml in fp32 on this CPU, not in int8"):
        openvino.load(built["int8"].path)


def test_a_batch_size_is_held_to_the_precision_as_well(built, monkeypatch):
    runner = openvino.load(built["int8"].path)
    compiling_with(monkeypatch, lambda settings: settings | {"LP_TRANSFORMS_MODE": "NO"})
    with pytest.raises(RuntimeMissing, match="in fp32 on this CPU, not in int8"):
        runner.prepare(pixels(2))


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_half_precision_runs_as_such_or_not_at_all(built, expected, precision):
    refused = None
    try:
        runner = openvino.load(built[precision].path)
    except RuntimeMissing as error:
        refused = error.message
    if refused is not None:
        assert not capable(precision)  # the other way round, a CPU with AVX-512 runs bf16 without saying that it can
        assert f"on this CPU, not in {precision}" in refused
        return
    assert (runner.precision, runner.census) == (precision, {precision: WEIGHTS})
    images = pixels(64)
    assert parity.verdict(parity.compare(expected(images), runner(images)), precision) is None
    assert np.abs(runner(images) - expected(images)).max() > 1e-5  # or nothing was rounded


def test_threads_are_those_that_were_asked_for(built):
    with pytest.raises(RuntimeMissing, match=r"runs on \d+ threads here, not on 4000") as refused:
        openvino.load(built["fp32"].path, threads=4000)
    assert refused.value.hint.startswith("ask for ")


def test_another_device_is_refused(built):
    with pytest.raises(RuntimeMissing, match="on the CPU only, not on 'cuda'") as refused:
        openvino.load(built["fp32"].path, provider="cuda")
    assert (refused.value.exit_code, refused.value.hint) == (3, "use the device cpu")
    with pytest.raises(RuntimeMissing, match="CUDA graphs are for CUDA devices"):
        openvino.load(built["fp32"].path, cuda_graph=True)


def test_a_missing_openvino_says_how_to_install_it(built, monkeypatch):
    core.cache_clear()
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(RuntimeMissing, match="OpenVINO is not installed") as refused:
        openvino.load(built["fp32"].path)
    assert (refused.value.exit_code, refused.value.hint) == (3, "pip install 'compressor[openvino]'")


# Files that are not what they claim.


@pytest.mark.parametrize(
    "content",
    [b"", b"hello", b"<svg/>", b"<net name='old' version='6'></net>", b"\x00\xff" * 100],
    ids=["empty", "text", "another xml", "an old ir", "binary"],
)
def test_a_file_that_is_no_ir_is_refused_in_silence(copied, content, capfd):
    path, _ = copied()
    path.write_bytes(content)
    with pytest.raises(ArtifactRejected, match=r"copy\.xml is not an OpenVINO IR, or is cut short") as refused:
        openvino.load(path)
    assert (refused.value.exit_code, refused.value.hint) == (4, "give the .xml file that an export wrote")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("share", [0.2, 0.5, 0.99])
def test_a_graph_that_is_cut_short_is_refused(copied, share):
    path, _ = copied()
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(ArtifactRejected, match=r"copy\.xml") as refused:
        openvino.load(path)
    assert "\n" not in refused.value.message


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ArtifactRejected, match=r"cannot read .*absent\.xml: no such file"):
        openvino.load(tmp_path / "absent.xml")


def test_missing_weights_are_named(copied):
    path, weights = copied()
    weights.unlink()
    with pytest.raises(ArtifactRejected, match=r"copy\.xml needs the file 'copy\.bin' beside it") as refused:
        openvino.load(path)
    assert refused.value.hint == "an IR is two files: copy both"


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[:100],
        lambda content: b"",
        lambda content: content + b"!",
        lambda content: b"!" + content[1:],
    ],
    ids=["cut short", "empty", "longer", "another byte"],
)
def test_weights_of_another_file_are_refused(copied, damage):
    path, weights = copied()
    weights.write_bytes(damage(weights.read_bytes()))
    with pytest.raises(ArtifactRejected, match=r"copy\.bin does not hold the weights of copy\.xml") as refused:
        openvino.load(path)
    assert refused.value.hint == "copy both files again, or export again"


def test_a_loaded_ir_does_not_change_with_its_file(copied, expected):
    path, weights = copied()
    runner = openvino.load(path)
    with weights.open("r+b") as file:
        file.write(bytes(2000))
    np.testing.assert_allclose(runner.prepare(pixels(3))()[0], expected(pixels(3)), atol=1e-5)


def test_an_ir_from_elsewhere_runs_without_our_marks(graphs, expected, tmp_path):
    runtime = package()
    model = runtime.Core().read_model(str(graphs["fp32"]))
    runtime.save_model(model, str(tmp_path / "theirs.xml"))  # weights stored as fp16, computed in fp32
    runner = openvino.load(tmp_path / "theirs.xml")
    assert (runner.precision, runner.metadata) == ("fp32", {})
    np.testing.assert_allclose(runner(pixels(4)), expected(pixels(4)), atol=1e-2)


def test_an_unknown_operator_is_refused(copied):
    path, _ = copied()
    path.write_bytes(path.read_bytes().replace(b'type="ReLU"', b'type="Evil"'))
    with pytest.raises(ArtifactRejected, match=r"OpenVINO refuses .*copy\.xml: .*Evil"):
        openvino.load(path)


def test_entities_are_not_expanded(copied, tmp_path):
    (tmp_path / "secret.txt").write_text("s3cr3t")
    path, _ = copied()
    doctype = f'<!DOCTYPE net [<!ENTITY x SYSTEM "{tmp_path / "secret.txt"}">]>'
    head, end, rest = path.read_text(encoding="utf-8").partition("?>")
    renamed = rest.replace('name="onnx_Frontend_IR"', 'name="&x;"', 1)
    path.write_text(head + end + doctype + renamed, encoding="utf-8")
    try:
        name = openvino.load(path).model.get_friendly_name()
    except ArtifactRejected as refused:
        name = refused.message
    assert "s3cr3t" not in name


@pytest.mark.parametrize(("name", "claim"), [("precision", "fp16"), ("pixels", "uint8"), ("output", "probabilities")])
def test_metadata_that_contradict_the_graph_are_refused(copied, name, claim):
    path, _ = copied()
    content = path.read_text(encoding="utf-8")
    found = openvino.load(path).metadata[f"compress.{name}"]
    old, new = (f"&quot;compress.{name}&quot;: &quot;{value}&quot;" for value in (found, claim))
    assert old in content
    path.write_text(content.replace(old, new), encoding="utf-8")
    with pytest.raises(ArtifactRejected, match=f"says that its {name} is {claim}, but the graph's is {found}"):
        openvino.load(path)


def test_metadata_that_are_no_texts_are_refused(copied, tmp_path):
    path, _ = copied()
    for stored in ("[1]", "{", json.dumps({"a": 1})):
        model = core().read_model(str(path))
        model.set_rt_info(stored, ["compress", "metadata"])
        package().save_model(model, str(tmp_path / "odd.xml"), compress_to_fp16=False)
        with pytest.raises(ArtifactRejected, match="has metadata that are not a JSON object of texts"):
            openvino.load(tmp_path / "odd.xml")


@pytest.mark.parametrize(
    ("graph", "complaint"),
    [
        ({"shape": ("batch", 3, "h", "w")}, "leaves the size of its images open"),
        ({"shape": ("batch", 192)}, r"takes input of shape .*, not images \[batch, C, H, W\]"),
        ({"shape": ("batch", 8, 8, 4), "kind": TensorProto.UINT8}, "takes uint8 pixels"),
        ({"shape": ("batch", 8, 8, 3)}, "takes floating-point pixels .*, channels last"),
        ({"kind": TensorProto.INT64}, "takes i64 input, not images"),
    ],
    ids=["open", "rank 2", "four colours", "channels last", "integers"],
)
def test_what_is_no_image_classifier_is_refused(tmp_path, graph, complaint):
    nodes = [
        helper.make_node("Cast", ["input"], ["real"], to=TensorProto.FLOAT),
        helper.make_node("Flatten", ["real"], ["logits"]),
    ]
    path = saved(tmp_path / "odd.onnx", nodes, classes=192, **graph)
    with pytest.raises(ArtifactRejected, match=complaint) as refused:
        openvino.load(path)
    assert refused.value.exit_code == 4


def test_a_graph_of_two_outputs_is_refused(folder, tmp_path):
    model = onnx_format.load(folder / "trunk.onnx")
    model.graph.output.append(helper.make_tensor_value_info(model.graph.node[0].output[0], 1, ["batch", 8, 8, 8]))
    onnx_format.save(model, tmp_path / "two.onnx")
    with pytest.raises(ArtifactRejected, match="has 1 inputs and 2 outputs"):
        openvino.load(tmp_path / "two.onnx")


def test_a_feature_map_is_no_answer(tmp_path):
    given = helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", *SHAPE])
    returned = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", *SHAPE])
    graph = helper.make_graph([helper.make_node("Relu", ["input"], ["logits"])], "g", [given], [returned])
    path = tmp_path / "map.onnx"
    onnx_format.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    with pytest.raises(ArtifactRejected, match=r"returns .*, not logits \[batch, classes\]"):
        openvino.load(path)


def test_onnx_weights_outside_the_folder_are_never_read(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "outside.bin").write_bytes(np.zeros(768, np.float32).tobytes())
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[192, 4], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="../outside.bin")
    nodes = [helper.make_node("Flatten", ["input"], ["flat"]), helper.make_node("MatMul", ["flat", "w"], ["logits"])]
    path = saved(tmp_path / "in" / "model.onnx", nodes, [tensor])
    with pytest.raises(ArtifactRejected, match="outside its own folder"):
        openvino.load(path)


# What it must not do to its user.


@pytest.mark.starts
def test_nobody_is_told_and_nothing_is_left_behind(built, graphs, tmp_path):
    """OpenVINO reports imports to its makers, unless it runs in CI, and keeps an identity in the home folder."""
    home = tmp_path / "home"
    home.mkdir()
    script = f"""
import sys
from pathlib import Path
import numpy as np
from exporters import Engine, openvino
openvino.load(Path({str(built["fp32"].path)!r}))(np.zeros((1, 3, 8, 8), np.float32))
openvino.build(Path({str(graphs["fp32"])!r}), Path({str(tmp_path)!r}), "again", precision="fp32", engine=Engine())
assert "openvino_telemetry" not in sys.modules, "telemetry"
import openvino as theirs
assert theirs.convert_model
"""
    root = Path(__file__).resolve().parent.parent
    private = {"CI", "TF_BUILD", "JENKINS_URL"}
    environment = {name: value for name, value in os.environ.items() if name not in private}
    environment |= {"HOME": str(home), "PYTHONPATH": str(root)}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert list(home.iterdir()) == []
    assert sorted(each.name for each in tmp_path.iterdir()) == ["again.fp32.bin", "again.fp32.xml", "home"]
    assert (tmp_path / "again.fp32.xml").read_bytes() == built["fp32"].path.read_bytes()
