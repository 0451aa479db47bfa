"""ONNX files: what they hold, what they must not hold, and which of them are opened."""

import copy
import logging
import os
import sys
from pathlib import Path

import numpy as np
import onnx as onnx_format
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper, parser
from torch import nn

from exporters import EXPORTERS, Engine, exporter, onnx
from exporters.errors import ArtifactRejected, ExportFailed, RuntimeMissing
from exporters.files import write_whole
from exporters.onnx import tracing
from exporters.onnx.session import start

SHAPE = (3, 8, 8)


class Pixels(nn.Module):
    """Convolutions with trained-looking BatchNorm behind a normalisation, as a student has them."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor([0.5, 0.4, 0.3]).view(1, 3, 1, 1))
        self.body = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, stride=2)
        )
        self.norm = nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 4)

    def forward(self, images):
        return self.head(self.norm(self.body((images - self.mean) / 0.25)).relu().mean(dim=(2, 3)))


@torch.library.custom_op("compress_tests::unheard_of", mutates_args=())
def unheard_of(logits: torch.Tensor) -> torch.Tensor:
    return logits.clone()


@unheard_of.register_fake
def _(logits):
    return torch.empty_like(logits)


class Ending(nn.Module):
    """A linear classifier with a last step of choice."""

    def __init__(self, ending) -> None:
        super().__init__()
        self.head = nn.Linear(192, 4)
        self.ending = ending

    def forward(self, images):
        return self.ending(self.head(images.flatten(1)))


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    made = Pixels()
    with torch.no_grad():
        for _ in range(3):
            made(torch.rand(16, *SHAPE))
    made.body[1].eval()  # a mixture of modes, which an export must leave as it is
    return made


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("onnx")


@pytest.fixture(scope="module")
def exported(network, folder):
    path = folder / "student.fp32.onnx"
    onnx.export(network, path, input_shape=SHAPE)
    return path


@pytest.fixture(scope="module")
def halved(exported, folder):
    path = folder / "student.fp16.onnx"
    onnx.convert(exported, path, precision="fp16")
    return path


@pytest.fixture(scope="module")
def brain(exported, folder):
    path = folder / "student.bf16.onnx"
    onnx.convert(exported, path, precision="bf16")
    return path


@pytest.fixture
def graph(tmp_path):
    """A function that saves a graph, given as text, and returns its path."""

    def make(signature: str, body: str, weights: dict[str, np.ndarray] | None = None, name="g.onnx") -> Path:
        model = parser.parse_model(f'<ir_version: 10, opset_import: ["" : 20]> g {signature} {{ {body} }}')
        model.graph.initializer.extend(numpy_helper.from_array(value, key) for key, value in (weights or {}).items())
        path = tmp_path / name
        path.write_bytes(model.SerializeToString())
        return path

    return make


def pixels(count, seed=0):
    return np.random.default_rng(seed).random((count, *SHAPE), dtype=np.float32)


def expected(network, images):
    with torch.no_grad():
        return copy.deepcopy(network).eval()(torch.from_numpy(images)).numpy()


# What a file says.


@pytest.mark.heavy
@pytest.mark.parametrize("batch", [1, 2, 7])
def test_a_file_gives_the_logits_of_the_network_at_any_batch_size(network, exported, batch):
    images = pixels(batch, seed=batch)
    np.testing.assert_allclose(onnx.load(exported)(images), expected(network, images), atol=1e-5)


@pytest.mark.heavy
@pytest.mark.parametrize("batch", [1, 2, 7])
def test_an_fp16_file_gives_nearly_the_logits_of_the_network(network, halved, batch):
    images = pixels(batch, seed=batch)
    logits = onnx.load(halved)(images)
    assert logits.dtype == np.float32
    assert 0 < np.abs(logits - expected(network, images)).max() < 3e-3


def test_a_file_has_one_input_and_one_output_with_a_free_batch_size(exported, halved):
    for path in (exported, halved):
        model = onnx_format.load(path)
        ends = [
            (
                end.name,
                end.type.tensor_type.elem_type,
                [d.dim_param or d.dim_value for d in end.type.tensor_type.shape.dim],
            )
            for end in (*model.graph.input, *model.graph.output)
        ]
        assert ends == [
            ("input", TensorProto.FLOAT, ["batch", 3, 8, 8]),
            ("logits", TensorProto.FLOAT, ["batch", 4]),
        ]
        assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 20)]
        assert model.producer_name == "compress"


def test_batch_norm_is_folded_into_the_convolutions(exported, halved):
    for path in (exported, halved):
        kinds = [node.op_type for node in onnx_format.load(path).graph.node]
        assert kinds.count("Conv") == 2
        assert "BatchNormalization" not in kinds


def test_nothing_in_a_file_tells_where_it_was_made(exported, halved):
    for path in (exported, halved):
        content = path.read_bytes()
        for trace in (b".py", b"stack_trace", str(Path.cwd()).encode(), str(Path.home()).encode() + b"/", b"Pixels"):
            assert trace not in content
        model = onnx_format.load(path)
        assert not model.doc_string
        assert not any(node.doc_string or node.metadata_props for node in model.graph.node)


def test_an_export_is_one_file_and_leaves_nothing_else_behind(exported, halved, brain, folder):
    assert {path.name for path in folder.iterdir()} == {exported.name, halved.name, brain.name}


def stored(path):
    return {entry.key: entry.value for entry in onnx_format.load(path).metadata_props}


def test_a_file_says_what_it_is(exported, halved):
    own = {
        "compress.precision": "fp32",
        "compress.input_shape": "[3, 8, 8]",
        "compress.exporter_version": onnx.EXPORTER_VERSION,
        "compress.pixels": "float32",
        "compress.output": "logits",
    }
    assert stored(exported) == own
    assert stored(halved) == own | {"compress.precision": "fp16"}
    assert onnx.load(halved).metadata == stored(halved)


def test_metadata_are_stored_over_those_of_the_source_but_never_over_what_the_graph_is(exported, tmp_path):
    first, second = tmp_path / "first.onnx", tmp_path / "second.onnx"
    onnx.convert(exported, first, metadata={"arch": "pixels", "classes": "a\nb", "compress.input": "RGB in [0, 1]"})
    onnx.convert(first, second, pixels="uint8", metadata={"arch": "other", "compress.precision": "int8"})
    assert stored(first)["compress.input"] == "RGB in [0, 1]"
    assert stored(second)["arch"] == "other"
    assert stored(second)["classes"] == "a\nb"
    assert stored(second)["compress.precision"] == "fp32"
    assert stored(second)["compress.pixels"] == "uint8"
    assert "compress.input" not in stored(second)  # it was true of the other file


@pytest.mark.heavy
def test_the_same_weights_give_the_same_bytes(network, exported, halved, brain, tmp_path):
    again, half, sixteen = tmp_path / "again.onnx", tmp_path / "half.onnx", tmp_path / "sixteen.onnx"
    onnx.export(network, again, input_shape=SHAPE)
    onnx.convert(again, half, precision="fp16")
    onnx.convert(again, sixteen, precision="bf16")
    assert again.read_bytes() == exported.read_bytes()
    assert half.read_bytes() == halved.read_bytes()
    assert sixteen.read_bytes() == brain.read_bytes()


def test_the_order_of_metadata_changes_no_bytes(exported, tmp_path):
    paths = tmp_path / "a.onnx", tmp_path / "b.onnx"
    onnx.convert(exported, paths[0], metadata={"a": "1", "b": "2"})
    onnx.convert(exported, paths[1], metadata={"b": "2", "a": "1"})
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_a_time_is_stored_only_where_the_environment_gives_it(exported, tmp_path, monkeypatch):
    dated, undated = tmp_path / "dated.onnx", tmp_path / "undated.onnx"
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    onnx.convert(exported, dated)
    assert stored(dated)["compress.created"] == "2023-11-14T22:13:20+00:00"
    monkeypatch.delenv("SOURCE_DATE_EPOCH")
    onnx.convert(dated, undated)
    assert "compress.created" not in stored(undated)
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "yesterday")
    with pytest.raises(ExportFailed, match="SOURCE_DATE_EPOCH is 'yesterday', not a number of seconds"):
        onnx.convert(exported, undated)


def test_an_export_leaves_the_network_as_it_was(network, exported, halved):
    assert exported.exists()
    assert halved.exists()
    assert network.training
    assert not network.body[1].training
    for name, tensor in network.state_dict().items():
        assert tensor.dtype in (torch.float32, torch.int64), name
    assert all(parameter.requires_grad and parameter.grad is None for parameter in network.parameters())
    assert int(network.norm.num_batches_tracked) == 3


def test_an_fp16_file_stores_and_computes_in_fp16_and_is_half_as_large(exported, halved):
    weights = 8 * 3 * 9 + 8 * 8 * 9 + 8 * 4
    assert onnx.census(exported) == {"fp32": weights}
    assert onnx.census(halved) == {"fp16": weights}
    kinds = {tensor.data_type for tensor in onnx_format.load(halved).graph.initializer}
    assert TensorProto.FLOAT not in kinds


def test_a_bf16_file_holds_the_rounded_weights_and_the_opset_that_bf16_needs(exported, brain):
    model = onnx_format.load(brain)
    assert onnx.census(brain) == {"bf16": 8 * 3 * 9 + 8 * 8 * 9 + 8 * 4}
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 22)]
    assert [end.type.tensor_type.elem_type for end in (*model.graph.input, *model.graph.output)] == [1, 1]
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    for tensor in onnx_format.load(exported).graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            rounded = torch.tensor(numpy_helper.to_array(tensor)).to(torch.bfloat16)
            assert weights[tensor.name].data_type == TensorProto.BFLOAT16
            assert weights[tensor.name].raw_data == rounded.contiguous().view(torch.int16).numpy().tobytes()


def test_bf16_of_a_file_that_cannot_be_taken_to_a_newer_opset_is_refused(graph, tmp_path):
    source = graph("(float[n,3,2,2] x) => (float[n,12] y)", "y = Imagined(x)")
    with pytest.raises(ExportFailed, match=r"bf16 needs opset 22, and .*g.onnx cannot be taken .* opset 20") as refused:
        onnx.convert(source, tmp_path / "x.onnx", precision="bf16")
    assert refused.value.hint == "export it with --opset 22"
    assert "\n" not in refused.value.message


QUANTISED = (
    "q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z) f = Flatten(d) e = DequantizeLinear(v, t, z) "
    "y = MatMul(f, e)"
)


@pytest.fixture
def quantised(graph):
    """An INT8 file with ends of its own."""
    weights = {"v": np.eye(12, 2, dtype=np.int8), "s": np.float32(1 / 128), "t": np.float32(1), "z": np.int8(0)}
    return graph("(float[n,3,2,2] x) => (float[n,2] y)", QUANTISED, {k: np.asarray(v) for k, v in weights.items()})


def test_an_int8_file_is_given_other_ends_and_stays_int8(quantised, tmp_path):
    path = tmp_path / "x.onnx"
    onnx.convert(quantised, path, pixels="uint8", output="probabilities")
    runner = onnx.load(path)
    assert (runner.precision, runner.pixels, runner.output) == ("int8", "uint8", "probabilities")
    images = np.rint(np.random.default_rng(0).random((5, 3, 2, 2)) * 255).astype(np.float32) / np.float32(255)
    logits = onnx.load(quantised)(images)
    np.testing.assert_allclose(runner(images), logits - np.log(np.exp(logits).sum(1, keepdims=True)), atol=1e-6)


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_an_int8_file_has_no_other_precision(quantised, tmp_path, precision):
    with pytest.raises(ExportFailed, match=f"computes in int8, and only fp32 is lowered to {precision}") as refused:
        onnx.convert(quantised, tmp_path / "x.onnx", precision=precision)
    assert refused.value.exit_code == 6
    assert refused.value.hint == "start from the fp32 file"


def test_a_lower_precision_is_not_turned_into_fp32(quantised, halved, tmp_path):
    for source, found, hint in ((quantised, "int8", ""), (halved, "fp16", ", or keep --precision fp16")):
        with pytest.raises(ExportFailed, match=f"computes in {found}, and is not turned into fp32$") as refused:
            onnx.convert(source, tmp_path / "x.onnx", precision="fp32")
        assert refused.value.hint == "start from the fp32 file" + hint


def test_a_file_that_has_the_precision_already_keeps_it(exported, halved, tmp_path):
    for source, precision in ((exported, "fp32"), (halved, "fp16")):
        path = tmp_path / source.name
        onnx.convert(source, path, precision=precision)
        assert path.read_bytes() == source.read_bytes()


def test_a_precision_that_is_not_offered_is_refused(exported, tmp_path):
    with pytest.raises(ExportFailed, match="not converted to 'int8'") as refused:
        onnx.convert(exported, tmp_path / "x.onnx", precision="int8")
    assert refused.value.hint == "known: fp32, fp16, bf16"


@pytest.mark.parametrize("precision", [None, "fp16"])
@pytest.mark.parametrize("batch", [1, 2, 7])
def test_a_uint8_file_gives_the_logits_of_rounded_images(network, exported, tmp_path, precision, batch):
    path = tmp_path / "x.onnx"
    onnx.convert(exported, path, precision=precision, pixels="uint8")
    images = pixels(batch)
    model = onnx_format.load(path)
    assert [dim.dim_param or dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim] == [
        "batch", 8, 8, 3,
    ]  # fmt: skip
    # TensorRT refuses to transpose uint8.
    assert [node.op_type for node in model.graph.node][:3] == ["Cast", "Transpose", "Div"]
    rounded = np.rint(images * 255) / np.float32(255)
    tolerance = 1e-5 if precision is None else 3e-3
    np.testing.assert_allclose(onnx.load(path)(images), expected(network, rounded), atol=tolerance)


def test_a_prepared_inference_of_a_uint8_file_gives_the_logits_of_a_call(exported, tmp_path):
    path = tmp_path / "x.onnx"
    onnx.convert(exported, path, pixels="uint8")
    runner = onnx.load(path)
    np.testing.assert_array_equal(runner.prepare(pixels(5))().numpy(), runner(pixels(5)))


def test_pixels_a_little_outside_their_range_do_not_wrap_around(exported, tmp_path):
    path = tmp_path / "x.onnx"
    onnx.convert(exported, path, pixels="uint8")
    runner = onnx.load(path)
    ones = np.ones((1, *SHAPE), np.float32)
    np.testing.assert_array_equal(runner(ones * np.float32(1.01)), runner(ones))
    np.testing.assert_array_equal(runner(ones * np.float32(-0.01)), runner(ones * 0))


@pytest.mark.parametrize("batch", [1, 2, 7])
def test_a_file_that_returns_probabilities_is_run_as_one_that_returns_their_logarithms(
    network, exported, tmp_path, batch
):
    path = tmp_path / "x.onnx"
    onnx.convert(exported, path, output="probabilities")
    runner = onnx.load(path)
    logits = expected(network, pixels(batch))
    np.testing.assert_allclose(runner(pixels(batch)), logits - np.log(np.exp(logits).sum(1, keepdims=True)), atol=1e-5)
    raw = runner.prepare(pixels(batch))().numpy()
    np.testing.assert_allclose(raw.sum(1), 1, rtol=1e-6)
    np.testing.assert_allclose(np.log(raw), runner(pixels(batch)), atol=1e-6)


def test_a_probability_of_nothing_has_a_finite_logarithm(graph, tmp_path):
    weight = np.array([[0, 200, -200]] + [[0, 0, 0]] * 11, np.float32)
    path = tmp_path / "x.onnx"
    onnx.convert(graph("(float[n,3,2,2] x) => (float[n,3] y)", FLAT, {"w": weight}), path, output="probabilities")
    (logits,) = onnx.load(path)(np.ones((1, 3, 2, 2), np.float32))
    np.testing.assert_allclose(logits, [np.log(np.finfo(np.float32).tiny), 0, np.log(np.finfo(np.float32).tiny)])


@pytest.mark.parametrize("ending", ["y = Dropout(p)", "q = Identity(p) y = Dropout(q)"])
def test_a_softmax_is_found_behind_a_dropout(graph, tmp_path, ending):
    path = graph("(float[n,3,2,2] x) => (float[n,12] y)", f"f = Flatten(x) p = Softmax(f) {ending}")
    images = np.random.default_rng(0).random((2, 3, 2, 2), dtype=np.float32)
    assert onnx.load(path).output == "probabilities"
    onnx.convert(path, tmp_path / "x.onnx")
    np.testing.assert_array_equal(onnx.load(tmp_path / "x.onnx")(images), images.reshape(2, 12))


@pytest.mark.parametrize("options", [{}, {"output": "probabilities"}, {"precision": "fp16"}])
def test_logits_that_a_convolution_leaves_are_flattened(graph, tmp_path, options):
    weight = np.arange(12, dtype=np.float32).reshape(4, 3, 1, 1)
    path = graph("(float[n,3,2,2] x) => (float[n,4,1,1] y)", "m = GlobalAveragePool(x) y = Conv(m, w)", {"w": weight})
    images = np.random.default_rng(0).random((2, 3, 2, 2), dtype=np.float32)
    expected = images.mean((2, 3)) @ weight[:, :, 0, 0].T
    runner = onnx.load(path)
    assert runner.classes == 4
    np.testing.assert_allclose(runner(images), expected, rtol=1e-5)
    np.testing.assert_allclose(runner.prepare(images)().numpy()[:, :, 0, 0], expected, rtol=1e-5)

    onnx.convert(path, tmp_path / "x.onnx")
    onnx.convert(tmp_path / "x.onnx", tmp_path / "z.onnx", **options)

    logits = onnx.load(tmp_path / "z.onnx")(images)
    np.testing.assert_allclose(logits - logits[:, :1], expected - expected[:, :1], atol=0.02)


def test_the_nodes_at_the_ends_have_names_of_their_own(graph, tmp_path):
    path = graph("(float[n,3,2,2] x) => (float16[n,12] y)", "[to_logits] f = Flatten(x) y = Cast<to = 10>(f)")
    onnx.convert(path, tmp_path / "x.onnx")
    names = [node.name for node in onnx_format.load(tmp_path / "x.onnx").graph.node if node.name]
    assert sorted(names) == ["to_logits", "to_logits_1"]
    assert onnx.load(tmp_path / "x.onnx").classes == 12


def test_functions_of_a_graph_are_written_out(tmp_path):
    model = parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 20, "own" : 1]> g (float[n,3,2,2] x) => (float[n,2] y)'
        "{ f = Flatten(x) h = own.Head(f, w) y = Relu(h) }"
        '<opset_import: ["" : 20], domain: "own"> Head (f, w) => (h) { h = MatMul(f, w) }'
    )
    model.graph.initializer.append(numpy_helper.from_array(np.ones((12, 2), np.float32), "w"))
    onnx_format.save(model, tmp_path / "g.onnx")

    onnx.convert(tmp_path / "g.onnx", tmp_path / "x.onnx", precision="fp16")

    assert onnx.census(tmp_path / "x.onnx") == {"fp16": 24}
    np.testing.assert_allclose(onnx.load(tmp_path / "x.onnx")(np.ones((1, 3, 2, 2), np.float32)), 12)


def test_ctrl_c_while_a_network_is_traced_is_no_fault_of_the_network(network, tmp_path, monkeypatch):
    def interrupted(*_args, **_named):
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt as error:
            raise torch.onnx.OnnxExporterError("Failed to export the model") from error

    monkeypatch.setattr(torch.onnx, "export", interrupted)
    with pytest.raises(KeyboardInterrupt):
        onnx.export(network, tmp_path / "x.onnx", input_shape=SHAPE)


def test_what_stands_at_an_end_already_is_not_put_there_twice(exported, tmp_path):
    path = tmp_path / "x.onnx"
    onnx.convert(exported, path, pixels="uint8", output="probabilities")
    for options in ({"pixels": "uint8"}, {}):
        with pytest.raises(ArtifactRejected, match="takes uint8 pixels already") as refused:
            onnx.convert(path, tmp_path / "y.onnx", **options)
        assert refused.value.exit_code == 4
        assert refused.value.hint
    onnx.convert(exported, path, output="probabilities")
    with pytest.raises(ArtifactRejected, match="returns probabilities already"):
        onnx.convert(path, tmp_path / "y.onnx", output="probabilities")
    assert not (tmp_path / "y.onnx").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"mean": [0.5]}, "takes 3 channels, and the mean has 1"),
        ({"mean": [0.5] * 3, "std": [0.5] * 4}, "takes 3 channels, and the std has 4"),
        ({"mean": [0.5, float("nan"), 0.5]}, "a mean consists of finite numbers"),
        ({"std": [0.5, 0.0, 0.5]}, "a std consists of positive numbers"),
        ({"std": [0.5, -1.0, 0.5]}, "a std consists of positive numbers"),
    ],
)
def test_a_normalisation_that_does_not_fit_is_refused(exported, tmp_path, options, words):
    with pytest.raises(ArtifactRejected, match=words):
        onnx.convert(exported, tmp_path / "x.onnx", **options)


def test_uint8_pixels_of_other_than_grey_or_rgb_images_are_refused(graph, tmp_path):
    path = graph("(float[n,4,2,2] x) => (float[n,16] y)", "y = Flatten(x)")
    with pytest.raises(ArtifactRejected, match="takes 4 channels, and uint8 pixels are grey or RGB"):
        onnx.convert(path, tmp_path / "x.onnx", pixels="uint8")


def test_weights_beside_a_file_are_taken_into_what_is_made_of_it(graph, tmp_path):
    path = external(graph("(float[n,3,2,2] x) => (float[n,2] y)", FLAT, {"w": np.ones((12, 2), np.float32)}), "w.bin")
    (tmp_path / "w.bin").write_bytes(np.ones((12, 2), np.float32).tobytes())
    (tmp_path / "sub").mkdir()
    onnx.convert(path, tmp_path / "sub" / "x.onnx")
    built = onnx.build(path, tmp_path / "sub", "y", precision="fp32", engine=Engine())
    for made in (tmp_path / "sub" / "x.onnx", built.path):
        np.testing.assert_array_equal(onnx.load(made)(np.ones((1, 3, 2, 2), np.float32)), 12)
    (tmp_path / "w.bin").rename(tmp_path / "real.bin")
    (tmp_path / "w.bin").symlink_to(tmp_path / "real.bin")
    with pytest.raises(ArtifactRejected, match=r"cannot read the weights beside .*g.onnx"):
        onnx.convert(path, tmp_path / "sub" / "x.onnx")


def test_nothing_of_where_a_file_comes_from_stays_in_what_is_made_of_it(graph, tmp_path):
    source = graph("(float[n,3,2,2] x) => (float[n,12] y)", "y = Flatten(x)")
    model = onnx_format.load(source)
    model.graph.node[0].metadata_props.add(key="stack_trace", value="/home/someone/train.py")
    model.graph.doc_string = "/home/someone/train.py"
    source.write_bytes(model.SerializeToString())
    path = tmp_path / "x.onnx"
    onnx.convert(source, path)
    assert b"someone" in source.read_bytes()
    assert b"someone" not in path.read_bytes()


# The exporter that the others stand beside.


def test_a_build_copies_a_file_under_the_name_of_its_precision(halved, tmp_path):
    built = onnx.build(halved, tmp_path, "student.v2", precision="fp16", engine=Engine())
    assert (built.path, built.format, built.precision) == (tmp_path / "student.v2.fp16.onnx", "onnx", "fp16")
    assert built.census == onnx.census(halved)
    assert built.companions == ()
    assert built.path.read_bytes() == halved.read_bytes()
    assert list(tmp_path.iterdir()) == [built.path]


def test_a_build_of_another_precision_than_asked_for_fails(halved, tmp_path):
    with pytest.raises(ExportFailed, match="computes in fp16, not in int8") as refused:
        onnx.build(halved, tmp_path, "student", precision="int8", engine=Engine())
    assert refused.value.exit_code == 6
    assert list(tmp_path.iterdir()) == []


def test_a_build_of_something_else_is_refused(tmp_path):
    source = tmp_path / "x.onnx"
    source.write_bytes(b"<html>")
    with pytest.raises(ArtifactRejected, match="not an ONNX file"):
        onnx.build(source, tmp_path / "out", "student", precision="fp32", engine=Engine())


# What is not exported.


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("ending", "words"),
    [
        (lambda logits: unheard_of(logits), ["the operator 'compress_tests", "(node 'unheard_of') has no ONNX form"]),
        (lambda logits: logits.reshape(2, -1), ["batch"]),
        (lambda logits: logits if logits.sum() > 0 else -logits, ["cannot be traced"]),
        (lambda logits: logits[None], ["[1, 2, 4]"]),
        (lambda logits: {"logits": logits}, ["dict"]),
        (lambda logits: logits.softmax(dim=5), ["does not take images of 3x8x8"]),
        (lambda logits: logits.softmax(dim=1), ["ends with a softmax"]),
    ],
)
def test_a_network_that_is_no_exportable_classifier_is_refused_in_one_sentence(tmp_path, ending, words):
    path = tmp_path / "x.onnx"
    with pytest.raises(ExportFailed) as refused:
        onnx.export(Ending(ending), path, input_shape=SHAPE)
    assert all(word in refused.value.message for word in words)
    assert "\n" not in refused.value.message
    assert not refused.value.message.endswith(".")
    assert list(tmp_path.iterdir()) == []


def test_a_network_too_large_for_one_file_is_refused_before_any_work(network, tmp_path, monkeypatch):
    monkeypatch.setattr(tracing, "_LARGEST_FILE", 1000)
    with pytest.raises(ExportFailed, match="one ONNX file holds at most 2"):
        onnx.export(network, tmp_path / "x.onnx", input_shape=SHAPE)


@pytest.mark.heavy
def test_an_opset_that_the_exporter_silently_changes_is_refused_without_a_word_on_the_terminal(tmp_path, capfd, caplog):
    def centred(logits):
        return logits - logits.mean(dim=1, keepdim=True)  # has no automatic way back from opset 18

    disabled = logging.root.manager.disable
    with pytest.raises(ExportFailed, match=r"opset 17 was asked for.* opset 18"):
        onnx.export(Ending(centred), tmp_path / "x.onnx", input_shape=SHAPE, opset=17)
    assert capfd.readouterr() == ("", "")
    assert [each for each in caplog.records if each.levelno >= logging.WARNING] == []
    assert logging.root.manager.disable == disabled


def test_a_failed_write_keeps_the_old_file_and_leaves_no_other(tmp_path, monkeypatch):
    path = tmp_path / "x.onnx"
    path.write_bytes(b"old")

    def full(_descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("exporters.files.os.fsync", full)
    with pytest.raises(ExportFailed, match="no space left"):
        write_whole(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(ExportFailed, match="cannot write"):
        write_whole(tmp_path / "taken" / "x.onnx", b"content")


# How files are run.


def test_the_exporter_is_listed_under_its_format():
    assert exporter("onnx") is onnx
    assert set(EXPORTERS) >= {"onnx"}


def test_a_runner_says_what_it_is(exported):
    runner = onnx.load(exported, threads=1)
    assert (runner.format, runner.provider, runner.precision) == ("onnx", "cpu", "fp32")
    assert (runner.path, runner.input_shape, runner.classes, runner.threads) == (exported, SHAPE, 4, 1)
    assert runner.session.get_providers() == ["CPUExecutionProvider"]
    assert runner.session.get_session_options().intra_op_num_threads == 1
    assert runner.session.get_session_options().inter_op_num_threads == 1


def test_a_prepared_inference_gives_the_logits_of_a_call(exported):
    runner = onnx.load(exported)
    images = pixels(5)
    infer = runner.prepare(images)
    first = infer().numpy().copy()
    np.testing.assert_array_equal(first, runner(images))
    np.testing.assert_array_equal(infer().numpy(), first)


def test_no_images_give_no_logits(exported):
    assert onnx.load(exported)(pixels(0)).shape == (0, 4)


@pytest.mark.parametrize("images", [np.zeros((1, 8, 8, 3), np.float32), np.zeros((1, 3, 8, 8)), pixels(2)[0]])
def test_arrays_that_are_not_images_of_the_right_shape_and_type_are_refused(exported, images):
    runner = onnx.load(exported)
    with pytest.raises(ValueError, match="expected float32 images"):
        runner(images)
    with pytest.raises(ValueError, match="expected float32 images"):
        runner.prepare(images)


def test_the_precision_is_that_of_the_graph_whatever_the_file_is_called(exported, tmp_path):
    disguised = tmp_path / "student.int8.onnx"
    disguised.write_bytes(exported.read_bytes())
    assert onnx.load(disguised).precision == "fp32"


def test_metadata_that_contradicts_the_graph_are_refused(exported, tmp_path):
    model = onnx_format.load(exported)
    next(entry for entry in model.metadata_props if entry.key == "compress.precision").value = "int8"
    path = tmp_path / "x.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ArtifactRejected, match="says that its precision is int8, but the graph's is fp32"):
        onnx.load(path)


FLAT = "f = Flatten(x) y = MatMul(f, w)"


def test_a_file_with_a_fixed_batch_size_is_fed_in_padded_chunks(graph):
    weight = np.random.default_rng(0).random((12, 2), dtype=np.float32)
    path = graph("(float[4,3,2,2] x) => (float[4,2] y)", FLAT, {"w": weight})
    images = np.random.default_rng(1).random((10, 3, 2, 2), dtype=np.float32)
    runner = onnx.load(path)
    np.testing.assert_allclose(runner(images), images.reshape(10, 12) @ weight, rtol=1e-5)
    assert runner.batch == 4
    assert runner.prepare(images[:4])().numpy().shape == (4, 2)
    with pytest.raises(ArtifactRejected, match="batches of 4 images only, not of 3"):
        runner.prepare(images[:3])


def test_a_file_that_takes_and_returns_fp16_is_run_with_fp32_images(graph):
    weight = np.eye(12, 3, dtype=np.float16)
    runner = onnx.load(graph("(float16[n,3,2,2] x) => (float16[n,3] y)", FLAT, {"w": weight}))
    images = np.full((2, 3, 2, 2), 0.5, np.float32)
    assert runner.precision == "fp16"
    assert runner(images).dtype == np.float32
    np.testing.assert_array_equal(runner(images), 0.5)
    np.testing.assert_array_equal(runner.prepare(images)().numpy(), 0.5)


def test_an_fp16_product_behind_a_transpose_of_the_batch_is_loaded(graph):
    """ONNX Runtime 1.31 ends the process where it may fuse the two."""
    turn = "Transpose<perm = [1, 0, 2]>"
    body = f"f = Reshape(x, s) t = {turn}(f) p = MatMul(t, w) b = {turn}(p) y = Flatten(b)"
    weights = {"s": np.array([0, 3, 4]), "w": np.eye(4, dtype=np.float16)}
    runner = onnx.load(graph("(float16[n,3,2,2] x) => (float16[n,k] y)", body, weights))
    assert runner.precision == "fp16"
    np.testing.assert_array_equal(runner(np.full((2, 3, 2, 2), 0.5, np.float32)), np.full((2, 12), 0.5))


def test_a_name_that_is_not_utf8_is_refused(graph):
    path = graph("(float[n,3,2,2] x) => (float[n,2] y)", FLAT, {"w": np.zeros((12, 2), np.float32)})
    odd = path.rename(path.with_name(os.fsdecode(b"\xff.onnx")))
    with pytest.raises(ArtifactRejected, match=r"\\udcff\.onnx' is not UTF-8") as refused:
        onnx.load(odd)
    assert refused.value.hint == "rename the file"


def test_the_number_of_classes_is_found_by_asking_where_the_graph_does_not_say(graph):
    path = graph("(float[n,3,2,2] x) => (float[n,k] y)", FLAT, {"w": np.zeros((12, 5), np.float32)})
    assert onnx.load(path).classes == 5


def test_an_image_size_that_the_graph_leaves_open_is_taken_from_the_metadata(graph):
    path = graph("(float[n,3,h,w] x) => (float[n,3] y)", "m = GlobalAveragePool(x) y = Flatten(m)")
    with pytest.raises(ArtifactRejected, match="leaves the size of its images open"):
        onnx.load(path)
    model = onnx_format.load(path)
    helper.set_model_props(model, {"compress.input_shape": "[3, 4, 6]"})
    path.write_bytes(model.SerializeToString())
    assert onnx.load(path).input_shape == (3, 4, 6)
    helper.set_model_props(model, {"compress.input_shape": "4x6"})
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ArtifactRejected, match="not \\[C, H, W\\]"):
        onnx.load(path)


def test_an_output_that_does_not_follow_the_batch_is_refused_when_it_is_seen(graph):
    path = graph("(float[n,3,2,2] x) => (float[m,2] y)", "f = Reshape(x, s) y = MatMul(f, w)")
    model = onnx_format.load(path)
    tensors = {"s": np.array([-1, 6]), "w": np.zeros((6, 2), np.float32)}
    model.graph.initializer.extend(numpy_helper.from_array(value, key) for key, value in tensors.items())
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ArtifactRejected, match=r"returned \[6, 2\] for 3 images"):
        onnx.load(path)(np.zeros((3, 3, 2, 2), np.float32))


# What is not opened.


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not a graph at all, only a text of some length",
        b"<!DOCTYPE html>\n<html><head><title>404 Not Found</title></head></html>\n",
        b"\x80\x02}q\x00.",
        bytes(range(256)),
    ],
)
def test_a_file_that_is_not_onnx_is_refused(tmp_path, content):
    path = tmp_path / "x.onnx"
    path.write_bytes(content)
    with pytest.raises(ArtifactRejected, match="not an ONNX file") as refused:
        onnx.load(path)
    assert refused.value.hint == "give the .onnx file that an export wrote"


def test_a_pointer_of_git_lfs_is_called_one(tmp_path):
    path = tmp_path / "x.onnx"
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n")
    with pytest.raises(ArtifactRejected, match="is a git-lfs pointer: the file itself was not downloaded") as refused:
        onnx.load(path)
    assert refused.value.hint == "run `git lfs pull` in the repository it came from"


@pytest.mark.parametrize("kept", [0.1, 0.5, 0.9, 0.999])
def test_a_file_that_is_cut_short_is_refused(exported, tmp_path, kept):
    content = exported.read_bytes()
    path = tmp_path / "x.onnx"
    path.write_bytes(content[: int(len(content) * kept)])
    with pytest.raises(ArtifactRejected, match="cut short"):
        onnx.load(path)


def test_a_file_that_does_not_exist_is_refused(tmp_path):
    with pytest.raises(ArtifactRejected, match="no such file"):
        onnx.load(tmp_path / "absent.onnx")
    with pytest.raises(ArtifactRejected, match="is a directory"):
        onnx.load(tmp_path)


@pytest.mark.parametrize(
    ("opsets", "body", "operator"),
    [
        ("", "z = Imagined(x) y = Flatten(z)", "Imagined"),
        (', "my.domain": 1', "z = my.domain.Foo(x) y = Flatten(z)", "my.domain.Foo"),
        ("", "z = my.domain.Foo(x) y = Flatten(z)", "my.domain.Foo"),
        ("", "a = Cast<to=16>(x) b = Sin(a) z = Cast<to=1>(b) y = Flatten(z)", "Sin"),
    ],
)
@pytest.mark.parametrize("name", ["features/7", ""])
def test_an_operator_that_cannot_be_run_is_named_with_its_node(tmp_path, capfd, opsets, body, operator, name):
    signature = "g (float[n,3,2,2] x) => (float[n,12] y)"
    model = parser.parse_model(f'<ir_version: 10, opset_import: ["" : 22{opsets}]> {signature} {{ {body} }}')
    node = next(node for node in model.graph.node if node.op_type == operator.split(".")[-1])
    node.name = name
    path = tmp_path / "x.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ArtifactRejected) as refused:
        onnx.load(path)
    named = name or node.output[0]
    assert refused.value.message == f"ONNX Runtime cannot run the operator {operator!r} of {path} (node {named!r})"
    assert capfd.readouterr() == ("", "")


def test_a_file_from_the_future_is_refused_without_the_place_in_someone_elses_source(graph):
    path = graph("(float[n,3,2,2] x) => (float[n,12] y)", "y = Flatten(x)")
    model = onnx_format.load(path)
    model.ir_version = 99
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ArtifactRejected, match=r"refuses .*g.onnx: Unsupported model IR version: 99, max"):
        onnx.load(path)


@pytest.mark.parametrize(
    ("signature", "body", "words"),
    [
        ("(float[n,3,2,2] x, float[n,3,2,2] z) => (float[n,3,2,2] y)", "y = Add(x, z)", "2 inputs and 1 outputs"),
        ("(float[n,3,2,2] x) => (float[n,12] y, float[n,12] z)", "y = Flatten(x) z = Flatten(x)", "1 inputs and 2"),
        ("(float[n,12] x) => (float[n,12] y)", "y = Relu(x)", "rank 2"),
        ("(int64[n,3,2,2] x) => (int64[n,12] y)", "y = Flatten(x)", "INT64 input"),
        ("(float[n,3,2,2] x) => (float[n,3,2,2] y)", "y = Relu(x)", r"returns FLOAT \[n, 3, 2, 2\], not logits"),
        ("(float[n,3,2,2] x) => (float y)", "y = Relu(x)", r"\[1, 3, 2, 2\] for one image"),
        ("(float[n,3,2,2] x) => (int64[n,1] y)", "f = Flatten(x) y = ArgMax<axis = 1>(f)", "returns INT64"),
        ("(float[n,2,2,3] x) => (float[n,12] y)", "y = Flatten(x)", r"\[batch, 2, 2, 3\], with the channels last"),
        (
            "(uint8[n,3,2,2] x) => (float[n,12] y)",
            "c = Cast<to=1>(x) y = Flatten(c)",
            r"uint8 pixels \[batch, 3, 2, 2\]",
        ),
        ("(float[n,3,2,2] x) => (float[n,12] y)", "z = Conv(x) y = Flatten(z)", "Conv 'z' of .* has 1 inputs"),
    ],
)
def test_a_graph_that_is_not_an_image_classifier_is_refused(graph, signature, body, words):
    with pytest.raises(ArtifactRejected, match=words) as refused:
        onnx.load(graph(signature, body))
    assert "\n" not in refused.value.message


def external(path: Path, location: str) -> Path:
    """Move the weights of a file elsewhere, as some exporters do."""
    model = onnx_format.load(path)
    tensor = model.graph.initializer[0]
    del tensor.external_data[:]
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    tensor.ClearField("raw_data")
    path.write_bytes(model.SerializeToString())
    return path


@pytest.mark.parametrize("location", ["../weights.bin", "/etc/hostname", "inside/../../weights.bin", "link.bin"])
def test_weights_outside_the_folder_of_a_file_are_never_read(graph, tmp_path, location):
    secret = tmp_path / "weights.bin"
    secret.write_bytes(np.ones((12, 2), np.float32).tobytes())
    (tmp_path / "sub" / "inside").mkdir(parents=True)
    (tmp_path / "sub" / "link.bin").symlink_to(secret)
    weights = {"w": np.ones((12, 2), np.float32)}
    path = graph("(float[n,3,2,2] x) => (float[n,2] y)", FLAT, weights, name="sub/g.onnx")
    with pytest.raises(ArtifactRejected, match="outside its own folder"):
        onnx.load(external(path, location))


def test_weights_beside_a_file_are_read(graph, tmp_path):
    path = graph("(float[n,3,2,2] x) => (float[n,2] y)", FLAT, {"w": np.ones((12, 2), np.float32)})
    external(path, "weights.bin")
    with pytest.raises(ArtifactRejected, match=r"needs the file 'weights.bin' beside it"):
        onnx.load(path)
    (tmp_path / "weights.bin").write_bytes(np.ones((12, 2), np.float32).tobytes())
    np.testing.assert_array_equal(onnx.load(path)(np.ones((1, 3, 2, 2), np.float32)), 12)


# What is missing here.


def test_a_provider_that_is_not_known_is_refused(exported):
    with pytest.raises(RuntimeMissing, match="'tpu'") as refused:
        onnx.load(exported, provider="tpu")
    assert refused.value.hint == "known: cpu, cuda, tensorrt"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_cuda_is_never_replaced_by_the_cpu(exported, capfd):
    with pytest.raises(RuntimeMissing, match="CUDAExecutionProvider") as refused:
        onnx.load(exported, provider="cuda")
    assert refused.value.exit_code == 3
    assert refused.value.hint
    assert capfd.readouterr() == ("", "")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_tensorrt_is_never_replaced_by_the_cpu(exported, capfd):
    with pytest.raises(RuntimeMissing, match="cannot use TensorrtExecutionProvider here") as refused:
        onnx.load(exported, provider="tensorrt")
    assert "libnvinfer.so.10" in refused.value.hint
    assert capfd.readouterr() == ("", "")


def test_bf16_is_not_run_on_the_cpu(brain):
    with pytest.raises(RuntimeMissing) as refused:
        onnx.load(brain)
    assert refused.value.message == "ONNX Runtime has no bf16 convolution on the CPU; TensorRT runs it"
    assert (refused.value.exit_code, bool(refused.value.hint)) == (3, True)


@pytest.mark.parametrize("provider", ["cpu", "tensorrt"])
def test_a_cuda_graph_is_recorded_by_the_cuda_provider_only(exported, provider):
    with pytest.raises(RuntimeMissing, match=f"with the provider cuda, not with {provider}"):
        onnx.load(exported, provider=provider, cuda_graph=True)


class Recorder:
    """Stands in for onnxruntime, since there is no GPU: notes how a session would be opened."""

    def __init__(self) -> None:
        self.entries: dict[str, str] = {}

    def SessionOptions(self):
        self.add_session_config_entry = self.entries.__setitem__
        return self

    def InferenceSession(self, _model, _options, providers, disabled_optimizers, enable_fallback):
        self.providers, self.enable_fallback = providers, enable_fallback
        return self

    def get_providers(self):
        return [name for name, _ in self.providers] + ["CPUExecutionProvider"]


@pytest.mark.parametrize(
    ("provider", "cuda_graph", "providers"),
    [
        ("cuda", False, [("CUDAExecutionProvider", {"use_tf32": "0"})]),
        ("cuda", True, [("CUDAExecutionProvider", {"use_tf32": "0", "enable_cuda_graph": "1"})]),
    ],
)
def test_a_provider_is_asked_for_without_a_way_back_to_the_cpu(provider, cuda_graph, providers):
    session = start(Recorder(), b"", provider, cuda_graph=cuda_graph)
    assert session.providers == providers
    assert session.entries == {"session.disable_cpu_ep_fallback": "1"}
    assert session.enable_fallback is False


def test_tensorrt_has_cuda_behind_it_and_takes_its_precision_from_the_graph():
    session = start(Recorder(), b"", "tensorrt")
    names = [name for name, _ in session.providers]
    assert names == ["TensorrtExecutionProvider", "CUDAExecutionProvider"]
    assert set(session.providers[0][1].values()) == {"0"}
    assert {"trt_fp16_enable", "trt_int8_enable", "trt_engine_cache_enable"} <= set(session.providers[0][1])
    assert session.entries == {"session.disable_cpu_ep_fallback": "1"}


def test_calls_never_replay_a_recorded_graph_and_each_prepared_inference_has_its_own(exported):
    runner = onnx.load(exported)
    runner.cuda_graph = True  # the CPU takes the entry and ignores it
    asked = []

    class Spy:
        def __init__(self, session):
            self.session = session

        def __getattr__(self, name):
            return getattr(self.session, name)

        def run(self, names, feed, options):
            asked.append(options.get_run_config_entry("gpu_graph_id"))
            return self.session.run(names, feed, options)

        def run_with_iobinding(self, binding, options):
            asked.append(options.get_run_config_entry("gpu_graph_id"))
            self.session.run_with_iobinding(binding, options)

    runner.session = Spy(runner.session)
    logits = runner(pixels(2))
    first, second = runner.prepare(pixels(2)), runner.prepare(pixels(3))
    np.testing.assert_array_equal(first().numpy(), logits)
    first(), second()
    assert asked == ["-1", "1", "1", "2"]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_recorded_inference_gives_the_logits_of_a_call(exported):
    runner = onnx.load(exported, provider="cuda", cuda_graph=True)
    for count in (3, 5):
        infer = runner.prepare(pixels(count))
        for _ in range(3):
            np.testing.assert_array_equal(infer().numpy(), runner(pixels(count)))


def test_onnxruntime_is_asked_for_where_it_is_missing(exported, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(RuntimeMissing) as refused:
        onnx.load(exported)
    assert refused.value.hint == "pip install onnxruntime"
