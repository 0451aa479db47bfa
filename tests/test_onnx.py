"""ONNX files: what they hold, what they must not hold, and which of them are opened."""

import copy
import json
import logging
import sys
from pathlib import Path

import numpy as np
import onnx as onnx_format
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper, parser
from torch import nn

from exporters import EXPORTERS, exporter, onnx
from exporters.errors import ArtifactRejected, ExportFailed, RuntimeMissing

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
    onnx.export(network, path, input_shape=SHAPE, metadata={"arch": "pixels", "classes": "a\nb"})
    return path


@pytest.fixture(scope="module")
def halved(network, folder):
    path = folder / "student.fp16.onnx"
    onnx.export(network, path, input_shape=SHAPE, precision="fp16")
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


@pytest.mark.parametrize("batch", [1, 2, 7])
def test_a_file_gives_the_logits_of_the_network_at_any_batch_size(network, exported, batch):
    images = pixels(batch, seed=batch)
    np.testing.assert_allclose(onnx.load(exported)(images), expected(network, images), atol=1e-5)


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


def test_an_export_is_one_file_and_leaves_nothing_else_behind(exported, halved, folder):
    assert sorted(path.name for path in folder.iterdir()) == sorted([exported.name, halved.name])


def test_a_file_carries_the_metadata_given_and_its_own(exported, halved):
    metadata = onnx.load(exported).metadata
    assert metadata["arch"] == "pixels"
    assert metadata["classes"] == "a\nb"
    assert metadata["compress.precision"] == "fp32"
    assert json.loads(metadata["compress.input_shape"]) == [3, 8, 8]
    assert metadata["compress.exporter_version"] == onnx.EXPORTER_VERSION
    assert onnx.load(halved).metadata["compress.precision"] == "fp16"


def test_the_same_weights_give_the_same_bytes(network, exported, tmp_path):
    again = tmp_path / "again.onnx"
    onnx.export(network, again, input_shape=SHAPE, metadata={"classes": "a\nb", "arch": "pixels"})
    assert again.read_bytes() == exported.read_bytes()


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
    stored = {tensor.data_type for tensor in onnx_format.load(halved).graph.initializer}
    assert TensorProto.FLOAT not in stored


# What is not exported.


@pytest.mark.parametrize(
    ("ending", "words"),
    [
        (lambda logits: unheard_of(logits), ["the operator 'compress_tests", "(node 'unheard_of') has no ONNX form"]),
        (lambda logits: logits.reshape(2, -1), ["batch"]),
        (lambda logits: logits if logits.sum() > 0 else -logits, ["cannot be traced"]),
        (lambda logits: logits[None], ["[1, 2, 4]"]),
        (lambda logits: {"logits": logits}, ["dict"]),
        (lambda logits: logits.softmax(dim=5), ["does not take images of 3x8x8"]),
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


def test_a_precision_that_is_not_offered_is_refused(network, tmp_path):
    with pytest.raises(ExportFailed, match="does not offer 'int8' yet") as refused:
        onnx.export(network, tmp_path / "x.onnx", input_shape=SHAPE, precision="int8")
    assert refused.value.hint == "known: fp32, fp16"


def test_a_network_too_large_for_one_file_is_refused_before_any_work(network, tmp_path, monkeypatch):
    monkeypatch.setattr(onnx, "_LARGEST_FILE", 1000)
    with pytest.raises(ExportFailed, match="one ONNX file holds at most 2"):
        onnx.export(network, tmp_path / "x.onnx", input_shape=SHAPE)


def test_an_opset_that_the_exporter_silently_changes_is_refused_without_a_word_on_the_terminal(tmp_path, capfd):
    def centred(logits):
        return logits - logits.mean(dim=1, keepdim=True)  # has no automatic way back from opset 18

    disabled = logging.root.manager.disable
    with pytest.raises(ExportFailed, match=r"opset 17 was asked for.* opset 18"):
        onnx.export(Ending(centred), tmp_path / "x.onnx", input_shape=SHAPE, opset=17)
    assert capfd.readouterr() == ("", "")
    assert logging.root.manager.disable == disabled


def test_a_failed_write_keeps_the_old_file_and_leaves_no_other(tmp_path, monkeypatch):
    path = tmp_path / "x.onnx"
    path.write_bytes(b"old")

    def full(_descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("exporters.files.os.fsync", full)
    with pytest.raises(ExportFailed, match="no space left"):
        onnx.write_whole(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(ExportFailed, match="cannot write"):
        onnx.write_whole(tmp_path / "taken" / "x.onnx", b"content")


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
    with pytest.raises(ArtifactRejected, match="says that it is int8, but computes in fp32"):
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
    "content", [b"", b"not a graph at all, only a text of some length", b"\x80\x02}q\x00.", bytes(range(256))]
)
def test_a_file_that_is_not_onnx_is_refused(tmp_path, content):
    path = tmp_path / "x.onnx"
    path.write_bytes(content)
    with pytest.raises(ArtifactRejected, match="not an ONNX file"):
        onnx.load(path)


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


@pytest.mark.parametrize(
    ("signature", "body", "words"),
    [
        ("(float[n,3,2,2] x, float[n,3,2,2] z) => (float[n,3,2,2] y)", "y = Add(x, z)", "2 inputs and 1 outputs"),
        ("(float[n,3,2,2] x) => (float[n,12] y, float[n,12] z)", "y = Flatten(x) z = Flatten(x)", "1 inputs and 2"),
        ("(float[n,12] x) => (float[n,12] y)", "y = Relu(x)", "rank 2"),
        ("(int64[n,3,2,2] x) => (int64[n,12] y)", "y = Flatten(x)", "INT64 input"),
        ("(float[n,3,2,2] x) => (float[n,3,2,2] y)", "y = Relu(x)", r"\[1, 3, 2, 2\] for one image"),
        ("(float[n,3,2,2] x) => (float[n,12] y)", "y = Imagined(x)", "ONNX Runtime refuses"),
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
    assert refused.value.hint == "known: cpu, cuda"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_cuda_is_never_replaced_by_the_cpu(exported, capfd):
    with pytest.raises(RuntimeMissing, match="CUDAExecutionProvider") as refused:
        onnx.load(exported, provider="cuda")
    assert refused.value.exit_code == 3
    assert refused.value.hint
    assert capfd.readouterr() == ("", "")


def test_onnxruntime_is_asked_for_where_it_is_missing(exported, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(RuntimeMissing) as refused:
        onnx.load(exported)
    assert refused.value.hint == "pip install onnxruntime"
