"""Students that train through the rounding of their export: the rounding, its places, the file, and what is refused."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from layers import trains
from torch import nn

from compressor import checkpoint, pipeline
from compressor.artifacts.rounding import Rounding
from compressor.checkpoint.own_files import read_card, save_student
from compressor.cli.options import _bits
from compressor.errors import CompressError, InputRejected, UsageError
from compressor.models import Normalized
from compressor.models import build as build_network
from compressor.models.quantised import Plan, Quantised, placed, tensor_ranges
from compressor.pipeline.inspect import inspect
from compressor.progress import Tell
from compressor.recipe import Export, Override, Quantize, Recipe, build
from exporters import exporter, onnx, quantize
from exporters.errors import ExportFailed
from exporters.rounding import grid, rounded, weight_grid

pytestmark = pytest.mark.heavy  # every network is traced and quantised


SHAPE = (3, 8, 8)
MEAN, STD = (0.5, 0.4, 0.3), (0.25, 0.2, 0.3)


def levels(low, high, bits=8, symmetric=False):
    return grid(torch.tensor(low), torch.tensor(high), bits, symmetric=symmetric)


def pixels(count=16, seed=1, shape=SHAPE):
    return torch.randint(0, 256, (count, *shape), generator=torch.Generator().manual_seed(seed)) / 255


@pytest.fixture
def student(tiny):
    """A function that makes a tiny network behind the rounding of a recipe, with the ranges of random pixels."""

    def make(recipe="cpu", weights=8, activations=8):
        network = Normalized(tiny(), MEAN, STD).eval()
        where = placed(network, SHAPE, weights=weights, activations=activations, recipe=recipe)
        found = Quantised(network.network, MEAN, STD, where.plan)
        found.observe(pixels(64, seed=0))
        return found, where

    return make


# Rounding.


def test_levels_span_the_range_and_hold_zero():
    assert levels(-0.5, 2.05)[:2] == (pytest.approx(0.01), 50)
    assert levels(0.5, 2.55)[:2] == (pytest.approx(0.01), 0)
    assert levels(-1.0, 0.3, symmetric=True) == (pytest.approx(1 / 127), 0, -127, 127)
    assert levels(0.0, 1.5, bits=4)[0] == pytest.approx(0.1)
    assert levels(0.0, 0.0)[:2] == (1, 0)


def test_values_go_to_the_nearest_level_and_gradients_pass_where_there_are_levels():
    values = torch.tensor([-1.0, 0.0, 0.25, 0.5, 0.74, 4.0], requires_grad=True)
    result = rounded(values, levels(-0.5, 1.0, bits=2))  # -0.5, 0, 0.5, 1
    result.sum().backward()

    assert result.tolist() == [-0.5, 0.0, 0.0, 0.5, 0.5, 1.0]
    assert values.grad.tolist() == [0, 1, 1, 1, 1, 0]


def test_a_weight_has_levels_for_each_of_its_outputs_and_scaling_an_output_scales_them():
    weight = torch.randn(5, 3, 3, 3)
    scale = torch.tensor([0.1, 1.0, -3.0, 0.5, 7.0]).view(-1, 1, 1, 1)  # of a BatchNorm folded in

    assert weight_grid(weight, 8).scale.flatten().tolist() == pytest.approx(
        (weight.abs().amax((1, 2, 3)) / 127).tolist()
    )
    apart = rounded(weight, weight_grid(weight, 4)) * scale
    folded = rounded(weight * scale, weight_grid(weight * scale, 4))
    assert torch.allclose(apart, folded, atol=1e-6)


# The network and its file.


@pytest.mark.parametrize("recipe", ["cpu", "trt"])
def test_the_int8_file_answers_as_the_training_does_to_one_step_of_rounding(student, tmp_path, recipe):
    network, where = student(recipe)
    ranges = tensor_ranges(where, network.described())
    onnx.export(network.plain(), tmp_path / "fp32.onnx", input_shape=SHAPE)
    result = quantize.quantize_trained(tmp_path / "fp32.onnx", tmp_path / "int8.onnx", recipe=recipe, ranges=ranges)
    runner = onnx.load(tmp_path / "int8.onnx")
    images = pixels(64, seed=2)

    found, trained = runner(images.numpy()), network(images).detach().numpy()
    floating = network.plain()(images).detach().numpy()

    assert runner.precision == "int8"
    assert result.kept == ()
    point = network.plan.points[-1]  # what the head reads
    step = grid(network.low[point.range], network.high[point.range], 8, symmetric=recipe == "trt").scale
    head = network.network.head.weight.detach()
    assert np.abs(found - trained).max() <= float(step * head.abs().sum(dim=1).max())
    assert np.square(found - trained).mean() < np.square(floating - trained).mean() / 4  # far below the rounding itself


def test_few_bits_are_simulated_in_floating_point_exactly(student, tmp_path):
    network, where = student(weights=4, activations=4)
    ranges = tensor_ranges(where, network.described())
    onnx.export(network.plain(), tmp_path / "fp32.onnx", input_shape=SHAPE)
    quantize.simulate(tmp_path / "fp32.onnx", tmp_path / "sim.onnx", recipe="cpu", ranges=ranges, weights=4)
    runner = onnx.load(tmp_path / "sim.onnx")
    images = pixels(32, seed=2)

    assert runner.precision == "fp32"
    assert np.allclose(runner(images.numpy()), network(images).detach().numpy(), atol=1e-4)
    weights = [each for each in onnx.read(tmp_path / "sim.onnx").graph.initializer if len(each.dims) == 4]
    for tensor in weights:
        for output in np.abs(np.frombuffer(tensor.raw_data, np.float32).reshape(tensor.dims)):
            assert len(np.unique(np.round(output / output.max() * 7, 3))) <= 8
    assert {point.bits for point in network.plan.points} == {4, 8}  # the image keeps 8
    assert [point.bits for point in network.plan.points if point.call == "/div.1"] == [8]


def test_ranges_follow_the_batches_in_training_alone(student):
    network, _ = student()
    before = network.described()
    network.eval()(pixels())
    assert network.described() == before

    network.train()(3 * pixels())
    after = network.described()
    assert after.high != before.high
    assert after.same_places(before)


def test_gradients_reach_the_weights_which_stay_in_floating_point(student):
    network, _ = student(weights=4, activations=4)
    kernel = network.network.body[0].weight
    network.train()(pixels()).square().sum().backward()

    assert all(bool(each.grad.abs().sum() > 0) for each in network.network.parameters())
    assert len(kernel.unique()) > 100
    assert {"low", "high"} <= set(network.state_dict())  # which a resumed run needs


def test_a_pass_that_lacks_a_planned_call_is_refused(student):
    network, _ = student()
    points = len(network.plan.points) + len(network.plan.layers)
    network.network.body[5] = nn.Identity()  # its ReLU was a point
    with pytest.raises(InputRejected, match=f"rounds {points} results, and its code makes {points - 1}"):
        network(pixels())


@pytest.mark.parametrize("arch", ["resnet8-centred", "lenet5"])
def test_other_families_have_their_places(arch):
    shape = (1, 28, 28) if arch == "lenet5" else (3, 16, 16)
    bare = build_network(arch, classes=4, input_shape=shape)
    network = Normalized(bare, (0.5,) * shape[0], (0.25,) * shape[0]).eval()
    where = placed(network, shape, weights=8, activations=8, recipe="cpu")
    convolutions = [each for each in bare.modules() if isinstance(each, nn.Conv2d | nn.Linear)]
    assert len(where.plan.layers) == len(convolutions)


class Mish(nn.Module):
    """An activation that torch computes in one call and an exported graph in several."""

    def __init__(self):
        super().__init__()
        self.first, self.act, self.last = nn.Conv2d(3, 4, 3), nn.Mish(), nn.Conv2d(4, 4, 6)

    def forward(self, images):
        return self.last(self.act(self.first(images))).flatten(1)


def test_a_network_whose_export_rounds_inside_of_a_call_is_refused():
    with pytest.raises(UsageError, match="which is no result of a call of its own"):
        placed(Normalized(Mish(), MEAN, STD), SHAPE, weights=8, activations=8, recipe="cpu")


# Its file.


@pytest.fixture
def saved(tmp_path):
    bare = build_network("lenet5", classes=4, input_shape=(1, 8, 8)).eval()
    network = Normalized(bare, (0.3,), (0.4,)).eval()
    where = placed(network, (1, 8, 8), weights=8, activations=8, recipe="cpu")
    student = Quantised(bare, (0.3,), (0.4,), where.plan)
    student.observe(pixels(shape=(1, 8, 8)))
    path = tmp_path / "student.safetensors"
    save_student(
        path,
        bare,
        arch="lenet5",
        classes=4,
        class_names=None,
        input_shape=(1, 8, 8),
        mean=(0.3,),
        std=(0.4,),
        data=None,
        quantized=student.described(),
    )
    return path, student


def test_the_file_loads_again_with_its_rounding_and_says_so(saved):
    path, student = saved
    images = pixels(shape=(1, 8, 8))
    found = checkpoint.load_network(path)

    assert isinstance(found.module, Quantised)
    assert torch.equal(found.module(images), student(images))
    assert "quantised to W8A8, rounded as the INT8 file for CPUs is" in found.summary
    assert inspect(path)["student"]["quantized"]["weights"] == 8
    with pytest.raises(UsageError, match="trained to be quantised under the mean and std in it"):
        checkpoint.load_network(path, mean=(0.5,), std=(0.5,))


def test_a_plan_that_contradicts_itself_is_refused(saved):
    path, _ = saved
    card = json.loads(checkpoint.read_tensors(path).metadata["compressor"])
    card["quantized"]["low"] = [0.0]
    with pytest.raises(InputRejected, match="contradicts itself: quantized"):
        read_card({"compressor": json.dumps(card)}, path)


def test_another_graph_than_the_trained_one_is_refused(saved):
    _, student = saved
    other = student.described().model_copy(update={"layers": ("elsewhere/conv2d.1",)})
    where = placed(student.plain(), (1, 8, 8), weights=8, activations=8, recipe="cpu")
    with pytest.raises(UsageError, match="rounds other tensors than those that it was trained with"):
        tensor_ranges(where, other)


# Recipes.


def built(values):
    return build(values, base=Path("/"))


def recipe_with(quantize, **others):
    student = {"arch": "lenet5", "quantize": quantize}
    return built({"data": {"name": "digits"}, "method": {"kind": "ce"}, "student": student, **others})


@pytest.mark.parametrize(
    ("quantize", "export", "sentence"),
    [
        ({}, {"precision": "fp16"}, "exported in fp32 with its rounding, or in int8, not in fp16"),
        ({"weights": 4}, {"precision": "int8"}, "quantised to W4A8 is no INT8: fp32 holds its rounding"),
        ({}, {"precision": "int8", "quantization": "trt"}, "learned the rounding of cpu, and this would round as trt"),
        ({}, {"precision": "int8", "format": "trt"}, "learned the rounding of cpu, and this would round as trt"),
        (
            {"recipe": "trt"},
            {"precision": "int8", "format": "openvino"},
            "and this would round as cpu",
        ),
        ({}, {"precision": "int8", "max_drop": 1.0}, "has its ranges from its training, and all its layers in INT8"),
        ({}, {"precision": "int8", "calibration": {"samples": 8}}, "has its ranges from its training"),
    ],
)
def test_an_export_that_cannot_carry_the_rounding_is_refused_in_one_sentence(quantize, export, sentence):
    with pytest.raises(UsageError, match=r"export\.0") as refused:
        recipe_with(quantize, export=[export])
    assert sentence in refused.value.message


def test_a_compiled_training_is_refused():
    with pytest.raises(UsageError, match=r"train\.compile: must be false where student.quantize is set"):
        recipe_with({}, train={"compile": True})


def test_what_is_exported_by_default_is_what_was_trained_for():
    assert [each.precision for each in recipe_with({}).export] == ["int8"]
    assert [each.precision for each in recipe_with({"weights": 4, "activations": 4}).export] == ["fp32"]
    assert [each.precision for each in Recipe.model_validate({"student": {"arch": "lenet5"}}).export] == ["fp32"]


def test_an_exporter_of_ones_own_is_asked_when_it_is_loaded(student):
    network, _ = student()
    target = Export(format="onnx", precision="fp16")
    with pytest.raises(ExportFailed, match="exported in fp32 with its rounding"):
        Rounding.of(network, SHAPE).expect_carried(target, exporter("onnx"))


@pytest.mark.parametrize(
    ("typed", "bits"), [("int8", (8, 8)), ("w4a4", (4, 4)), ("W5A8", (5, 8)), ("w1a4", None), ("fp8", None), ("", None)]
)
def test_bits_as_they_are_typed(typed, bits):
    if bits is None:
        with pytest.raises(UsageError, match="takes int8, or the bits"):
            _bits("--quantize", typed)
    else:
        assert tuple(_bits("--quantize", typed).values()) == bits


def test_a_plan_states_bits_that_there_are():
    with pytest.raises(ValueError, match="less than or equal to 8"):
        Plan(weights=9, activations=8, recipe="cpu", points=(), layers=(), low=(), high=())
    assert Quantize(weights=4, activations=5).title == "W4A5"


# The whole path.


@pytest.fixture(scope="module")
@trains
def run(tmp_path_factory):
    recipe = built(
        {
            "data": {"name": "digits", "batch_size": 128},
            "method": {"kind": "ce"},
            "student": {"arch": "lenet5", "quantize": {}},
            "train": {"epochs": 2, "lr": 0.05},
        }
    )
    return pipeline.train(recipe, Tell(quiet=True), out=tmp_path_factory.mktemp("quantised") / "run")[1]


def test_a_run_of_a_quantised_student_is_recorded_exported_and_proved(run):
    tell = Tell(quiet=True)
    result = pipeline.export(run.folder, tell)
    (artifact,) = result.artifacts

    assert result.student.quantized == "W8A8"
    assert (artifact.precision, artifact.calibration.images, artifact.calibration.samples) == ("int8", "trained", 0)
    assert artifact.parity.agreement >= 0.97
    with pytest.raises(CompressError, match="not in bf16"):
        pipeline.export(run.folder, tell, overrides=_asked(precision="bf16"))

    floating = pipeline.export(run.folder, tell, overrides=_asked(precision="fp32")).artifacts[-1]
    assert floating.precision == "fp32"
    assert floating.label == "onnx fp32 W8A8 simulated"


def _asked(**keys):
    return [Override(("export", 0, key), value) for key, value in keys.items()]
