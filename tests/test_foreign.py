"""ONNX files as other tools write them: taken as they are, changed into our form and said so, or refused."""

import json
import re
import warnings
from pathlib import Path

import numpy as np
import onnx as onnx_package
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from shell import ran, refused
from torch import nn
from torchvision.models import resnet18

from compressor import checkpoint
from compressor.checkpoint import check_teacher
from compressor.checkpoint.normalisation import Statistics, Tried, try_all
from compressor.checkpoint.teacher_check import _believable
from exporters import onnx, quantize
from exporters.errors import ArtifactRejected, ExportFailed


class Wrapped(nn.Module):
    """A network with something of its user's around it."""

    def __init__(self, network, forward):
        super().__init__()
        self.network, self.around = network, forward

    def forward(self, images):
        return self.around(self.network, images)


def written(path, network, shape, *, outputs=("logits",), axes=None):
    """Write a network by torch's tracing exporter, as most files on the web were."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a tracer that torch has left behind, and users have not
        torch.onnx.export(
            network.eval(),
            (torch.rand(2, *shape),),
            str(path),
            dynamo=False,
            input_names=["pixels"],
            output_names=list(outputs),
            dynamic_axes=axes or {"pixels": {0: "n"}},
        )
    return path


@pytest.fixture(scope="module")
def small():
    """A classifier of five classes for 3x16x16 images, and images for it."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)]
    network = nn.Sequential(*layers).eval()
    return network, torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def answers(path, images):
    return onnx.load(path)(images.numpy())


def expected(network, images):
    with torch.no_grad():
        return network(images).numpy()


# The form that runners take.


def test_what_has_the_form_already_is_left_alone(small, tmp_path):
    path = written(tmp_path / "model.onnx", small[0], (3, 16, 16))
    assert onnx.adapt(path, tmp_path / "copy.onnx", image=(3, 8, 8)) is None
    assert not (tmp_path / "copy.onnx").exists()


@pytest.mark.parametrize(
    "forward",
    [
        lambda network, images: network(images.permute(0, 3, 1, 2)),  # as tf2onnx begins
        lambda network, images: network((images - 0.0).permute(0, 3, 1, 2)),
    ],
)
def test_images_with_the_channels_last_are_turned(small, tmp_path, forward):
    network, images = small
    path = written(tmp_path / "model.onnx", Wrapped(network, forward), (16, 16, 3))

    (note,) = onnx.adapt(path, tmp_path / "copy.onnx")

    assert "channels last" in note
    np.testing.assert_allclose(answers(tmp_path / "copy.onnx", images), expected(network, images), atol=1e-5)


def test_the_output_that_is_named_is_the_only_one(small, tmp_path):
    network, images = small
    both = Wrapped(network, lambda inner, given: (inner(given), given.flatten(1)))
    path = written(tmp_path / "model.onnx", both, (3, 16, 16), outputs=("classes", "pixels_again"))

    with pytest.raises(ArtifactRejected) as caught:
        onnx.load(path)
    assert caught.value.hint == "--output-name chooses one of classes, pixels_again"
    with pytest.raises(ArtifactRejected, match="has no output 'logits'"):
        onnx.adapt(path, tmp_path / "copy.onnx", output="logits")

    onnx.adapt(path, tmp_path / "copy.onnx", output="classes")
    np.testing.assert_allclose(answers(tmp_path / "copy.onnx", images), expected(network, images), atol=1e-5)
    assert len(onnx_package.load(tmp_path / "copy.onnx").graph.node) < len(onnx_package.load(path).graph.node)


@pytest.mark.heavy
def test_an_open_size_is_fixed(tmp_path):
    torch.manual_seed(0)
    network = resnet18(num_classes=7).eval()
    open_ = {"pixels": {0: "batch_size", 1: "num_channels", 2: "height", 3: "width"}}
    path = written(tmp_path / "model.onnx", network, (3, 64, 64), axes=open_)

    with pytest.raises(ArtifactRejected, match="leaves the size of its images open"):
        onnx.load(path)
    assert onnx.stated_shape(path) == (3, None, None)
    onnx.adapt(path, tmp_path / "copy.onnx", image=(3, 48, 48))

    images = torch.rand(2, 3, 48, 48)
    assert onnx.load(tmp_path / "copy.onnx").input_shape == (3, 48, 48)
    np.testing.assert_allclose(answers(tmp_path / "copy.onnx", images), expected(network, images), atol=1e-4)


@pytest.mark.parametrize(
    ("squashed", "words"),
    [
        (lambda logits: logits.sigmoid(), "the sigmoid at its end"),
        (lambda logits: logits.sigmoid().softmax(1), "a softmax behind a sigmoid"),
        (lambda logits: logits.softmax(1).softmax(1), "a second softmax"),
    ],
)
def test_what_squashes_the_logits_is_taken_off(small, tmp_path, squashed, words):
    network, images = small
    path = written(tmp_path / "model.onnx", Wrapped(network, lambda inner, x: squashed(inner(x))), (3, 16, 16))

    notes = onnx.adapt(path, tmp_path / "copy.onnx")

    assert words in " ".join(notes)
    logits = answers(tmp_path / "copy.onnx", images)
    right = torch.from_numpy(expected(network, images))
    np.testing.assert_allclose(
        torch.from_numpy(logits).log_softmax(1), right.log_softmax(1), atol=1e-4
    )  # a softmax is left where there were two


def test_a_gate_within_the_network_stays(small, tmp_path):
    network, _ = small
    gated = Wrapped(network, lambda inner, x: inner(x) * inner(x).sigmoid())
    path = written(tmp_path / "model.onnx", gated, (3, 16, 16))
    assert onnx.adapt(path, tmp_path / "copy.onnx") is None


@pytest.mark.heavy
def test_an_export_of_ours_keeps_what_its_network_ends_with(small, tmp_path):
    network, _ = small
    onnx.export(nn.Sequential(network, nn.Sigmoid()).eval(), tmp_path / "ours.onnx", input_shape=(3, 16, 16))
    assert onnx.adapt(tmp_path / "ours.onnx", tmp_path / "copy.onnx") is None


def test_one_logit_is_taken_for_two_classes(small, tmp_path):
    network, images = small
    binary = Wrapped(network, lambda inner, x: inner(x)[:, :1].sigmoid())
    path = written(tmp_path / "model.onnx", binary, (3, 16, 16))

    notes = onnx.adapt(path, tmp_path / "copy.onnx")

    assert len(notes) == 2
    found = answers(tmp_path / "copy.onnx", images)
    np.testing.assert_allclose(found[:, 1], expected(network, images)[:, 0], atol=1e-5)
    assert not found[:, 0].any()


# The commands.


@pytest.fixture
def digits(here, tmp_path, monkeypatch):
    """The digits teacher without its normalisation, in a folder of its own."""
    network = checkpoint.load_network(here / "runs/teacher-1/student/student.safetensors")
    monkeypatch.chdir(tmp_path)
    return network


@pytest.mark.starts
def test_commands_take_an_open_size_from_the_data_or_a_flag(digits):
    open_ = {"pixels": {0: "n", 1: "c", 2: "h", 3: "w"}}
    bare = digits.module.network
    written(Path("model.onnx"), Wrapped(bare, lambda inner, x: (inner(x), x)), digits.input_shape, axes=open_,
            outputs=("scores", "again"))  # fmt: skip
    name = ["--output-name", "scores"]

    done = ran(["validate", "model.onnx", "--data", "digits", *name, "--json"])
    metrics = json.loads(done.out)
    assert metrics["path"] == "model.onnx"
    assert metrics["top1"] > 80
    assert "takes images of any size" in done.err

    known = ["--mean", str(digits.mean[0]), "--std", str(digits.std[0])]
    refused(["bench", "model.onnx", "--quiet", *name], 4, "model.onnx leaves the size", "--image-size")
    refused(["export", "--from", "model.onnx", *known, "--quiet"], 4, "model.onnx has 1 inputs and 2", "--output-name")
    for size in ("0", "8x", "8x8x8", "eight"):
        refused(["bench", "model.onnx", "--image-size", size], 2, "takes pixels, as height and width", "240x320")
    size = ["--image-size", str(digits.input_shape[1])]
    timed = ["--batch-sizes", "1", "--duration", "0.05", "--no-memory"]
    assert json.loads(ran(["bench", "model.onnx", *size, *name, *timed, "--json"]).out)["path"] == "model.onnx"


def test_a_wide_choice_of_channel_orders_is_tried_and_said(tmp_path):
    """Colour tells the classes: a network that wants blue first is right only so."""
    torch.manual_seed(0)
    tints = torch.eye(3) * 0.6 + 0.2
    labels = torch.arange(600) % 3
    images = (tints[labels][:, :, None, None] + 0.05 * torch.randn(600, 3, 8, 8)).clamp(0, 1)
    split = _Split(images, labels)
    linear = nn.Linear(3, 3)
    with torch.no_grad():
        linear.weight.copy_(torch.eye(3).flip(0) * 8)  # of BGR input, in the order of RGB classes
        linear.bias.zero_()
    bare = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), linear)
    network = _network(bare, tmp_path)

    found = check_teacher(network, _Data(split))

    assert found.network.bgr
    assert "blue first (BGR)" in found.sentence
    with torch.no_grad():
        torch.testing.assert_close(
            found.network.module(images[:5]),
            bare(((images[:5] - found.network.module.mean) / found.network.module.std).flip(1)),
        )


def test_a_mean_without_a_std_is_tried(tmp_path):
    """Bytes less the mean, as Caffe's networks want them: dark and bright are told by a threshold at the mean."""
    torch.manual_seed(0)
    mean = torch.tensor([0.485, 0.456, 0.406])
    labels = torch.arange(600) % 2
    shades = mean[None, :, None, None] + (labels[:, None, None, None] - 0.5) * 0.02
    images = (shades + 0.004 * torch.randn(600, 3, 8, 8)).clamp(0, 1)
    linear = nn.Linear(3, 2)
    with torch.no_grad():
        linear.weight.copy_(torch.tensor([[-1.0, -1, -1], [1, 1, 1]]) / 3)
        linear.bias.zero_()
    network = _network(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), linear), tmp_path)
    options = {
        "so": Statistics((0.2,) * 3, (0.2,) * 3),
        "none": Statistics((0.0,) * 3, (1.0,) * 3),
        "caffe": Statistics(tuple(mean.tolist()), (1 / 255,) * 3),
    }
    tried = try_all(network, None, options, _Split(images, labels), 600)
    assert max(tried, key=lambda one: one.top1).phrase.startswith("caffe")


def test_the_unusual_is_believed_only_where_it_makes_a_network_good():
    labels = torch.arange(100) % 4
    poor = Tried(
        "bgr", Statistics((0.0,) * 3, (1.0,) * 3, True), torch.eye(4)[labels * (torch.arange(100) < 40)], labels
    )
    usual = Tried("usual", Statistics((0.5,) * 3, (0.5,) * 3), torch.eye(4)[labels * 0], labels)
    assert [one.phrase for one in _believable([usual, poor], None)] == ["usual"]
    assert [one.phrase for one in _believable([usual, poor], "bgr")] == ["usual", "bgr"]
    good = Tried("bgr", poor.statistics, torch.eye(4)[labels], labels)
    assert [one.phrase for one in _believable([usual, good], None)] == ["usual", "bgr"]


class _Split:
    def __init__(self, images, labels):
        self.images, self.labels = images, labels

    def __len__(self):
        return len(self.labels)

    def batches(self, batch_size, *, seed=None):
        from compressor.batch import Batch

        order = torch.arange(len(self)) if seed is None else torch.randperm(len(self))
        for places in order.split(batch_size):
            yield Batch(self.images[places], self.labels[places], places)


class _Data:
    name = source = "folder:/TINTS"
    classes = ("red", "green", "blue")
    input_shape = (3, 8, 8)
    mean, std = (0.4,) * 3, (0.3,) * 3

    def __init__(self, split):
        self.train = self.validation = self.test = split


def _network(bare, folder):
    from compressor.models import Normalized

    mean, std = (0.0,) * 3, (1.0,) * 3
    return checkpoint.Network(
        module=Normalized(bare.eval(), mean, std),
        arch=None,
        classes=bare[-1].out_features,
        class_names=None,
        input_shape=(3, 8, 8),
        mean=mean,
        std=std,
        stated=False,
        data=None,
        parameters=9,
        path=folder / "model.onnx",
        sha256="",
        summary="",
    )


def test_a_graph_that_takes_blue_first_is_exported_with_the_exchange_inside(small, tmp_path):
    network, images = small
    path = written(tmp_path / "model.onnx", network, (3, 16, 16))
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.6, 0.7)

    onnx.convert(path, tmp_path / "rgb.onnx", mean=mean, std=std, bgr=True)

    swapped = ((images - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]).flip(1)
    np.testing.assert_allclose(answers(tmp_path / "rgb.onnx", images), expected(network, swapped), atol=1e-5)


@pytest.mark.starts
def test_validate_needs_no_room_for_validation_images(digits, tmp_path):
    from PIL import Image

    for name in map(str, range(10)):
        for split in ("train", "test"):
            (tmp_path / f"few/{split}/{name}").mkdir(parents=True)
            Image.new("L", (8, 8), 20 * int(name)).save(tmp_path / f"few/{split}/{name}/a.png")
    written(Path("model.onnx"), digits.module.network, digits.input_shape)
    known = ["--mean", str(digits.mean[0]), "--std", str(digits.std[0])]
    # Flat images are nothing to recognise, and to say so the images must have been opened.
    refused(["validate", "model.onnx", "--data", "folder:few", *known, "--quiet"], 4, "hardly more than guessing")


# What other tools leave in a graph.


def test_layers_that_share_a_bias_are_quantised_though_the_next_name_is_taken(tmp_path):
    """microsoft/onnxruntime#24705: the tool parts `b` into `b0`, `b1`, whoever has these names."""
    rng = np.random.default_rng(0)
    weight = [numpy_helper.from_array(rng.normal(size=(3, 3, 3, 3)).astype(np.float32), f"w{n}") for n in range(2)]
    bias = numpy_helper.from_array(rng.normal(size=3).astype(np.float32), "b")
    taken = numpy_helper.from_array(rng.normal(size=(1, 3, 1, 1)).astype(np.float32), "b0")
    head = numpy_helper.from_array(rng.normal(size=(3, 4)).astype(np.float32), "h")
    nodes = [
        helper.make_node("Conv", ["x", "w0", "b"], ["c0"], pads=[1] * 4),
        helper.make_node("Relu", ["c0"], ["r"]),
        helper.make_node("Conv", ["r", "w1", "b"], ["c1"], pads=[1] * 4),
        helper.make_node("Add", ["c1", "b0"], ["s"]),
        helper.make_node("GlobalAveragePool", ["s"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("MatMul", ["f", "h"], ["y"]),
    ]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "g",
        [value("x", TensorProto.FLOAT, ["n", 3, 8, 8])],
        [value("y", TensorProto.FLOAT, ["n", 4])],
        [*weight, bias, taken, head],
    )
    path = tmp_path / "model.onnx"
    onnx_package.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    images = rng.random((16, 3, 8, 8), np.float32)

    quantize.quantize(path, tmp_path / "int8.onnx", images, recipe="cpu")

    before, after = onnx.load(path)(images), onnx.load(tmp_path / "int8.onnx")(images)
    assert np.abs(before - after).max() < 0.1 * before.std()


def test_operators_of_an_optimiser_are_named_first(small, tmp_path):
    import onnxruntime

    path = written(tmp_path / "model.onnx", small[0], (3, 16, 16))
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    with pytest.raises(ArtifactRejected, match=r"operators that are not ONNX's own: com\.microsoft\.FusedConv"):
        quantize.quantize(tmp_path / "optimised.onnx", tmp_path / "o.onnx", small[1].numpy(), recipe="cpu")


def test_a_weight_that_is_nan_is_named(small, tmp_path):
    path = written(tmp_path / "model.onnx", small[0], (3, 16, 16))
    model = onnx_package.load(path)
    broken = model.graph.initializer[0]
    values = numpy_helper.to_array(broken).copy()
    values.flat[0] = np.nan
    broken.CopyFrom(numpy_helper.from_array(values, broken.name))
    onnx_package.save(model, path)

    with pytest.raises(ArtifactRejected, match=f"has NaN in '{re.escape(broken.name)}'"):
        onnx.load(path)


@pytest.mark.starts
def test_a_graph_that_was_quantised_elsewhere_is_built_as_it_is(digits):
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    written(Path("model.onnx"), digits.module.network, digits.input_shape)
    images = np.random.default_rng(0).random((8, *digits.input_shape), np.float32)

    class Images(CalibrationDataReader):
        def __init__(self):
            self.left = iter([{"pixels": (images - digits.mean[0]) / digits.std[0]}])

        def get_next(self):
            return next(self.left, None)

    def made(name, **settings):
        quantize_static("model.onnx", name, Images(), quant_format=QuantFormat.QDQ, per_channel=True, **settings)

    made("usual.onnx")
    made("symmetric.onnx", activation_type=QuantType.QInt8, weight_type=QuantType.QInt8,
         extra_options={"ActivationSymmetric": True, "QuantizeBias": False})  # fmt: skip
    known = ["--mean", str(digits.mean[0]), "--std", str(digits.std[0]), "--precision", "int8"]

    artifact = json.loads(ran(["export", "--from", "usual.onnx", *known, "--json"]).out)
    assert (artifact["precision"], artifact["calibration"]) == ("int8", None)
    assert artifact["parity"]["max_error"] < 1e-3
    refused(
        ["export", "--from", "usual.onnx", *known, "--quantization", "trt", "--quiet"], 6,
        "not in int8, which is all that TensorRT takes|zero point other than 0",
    )  # fmt: skip
    ran(["export", "--from", "symmetric.onnx", *known, "--quantization", "trt", "--json"])


# Weights beyond 2 GB, with a smaller limit in the place of protobuf's.


def test_weights_of_more_than_one_file_are_lowered_or_refused(small, tmp_path, monkeypatch):
    from exporters.onnx import graph

    torch.manual_seed(0)
    wide = nn.Sequential(nn.Flatten(), nn.Linear(768, 400), nn.Linear(400, 5)).eval()
    path = written(tmp_path / "one.onnx", wide, (3, 16, 16))
    model = onnx_package.load(path)
    source = tmp_path / "model.onnx"
    onnx_package.save(model, source, save_as_external_data=True, location="weights", size_threshold=0)
    monkeypatch.setattr(graph, "LARGEST", 1_000_000)  # 1.2 MB at fp32

    onnx.convert(source, tmp_path / "draft.onnx", mean=(0.5,) * 3, std=(0.5,) * 3, draft=True)
    assert (tmp_path / "draft.onnx.data").is_file()
    onnx.convert(tmp_path / "draft.onnx", tmp_path / "half.onnx", precision="fp16")
    _, images = small
    wanted = expected(wide, (images - 0.5) / 0.5)
    np.testing.assert_allclose(answers(tmp_path / "half.onnx", images), wanted, atol=2e-3)
    with pytest.raises(ExportFailed) as caught:
        onnx.convert(tmp_path / "draft.onnx", tmp_path / "single.onnx", precision="fp32")
    assert "larger than 2 GB" in caught.value.message
    assert "fp16" in caught.value.hint
