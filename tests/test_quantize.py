"""INT8 graphs: what is rounded and what is not, what they refuse, and that parity tells healthy ones from broken."""

import itertools
import json
import logging
import os
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import onnx as onnx_format
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper, parser
from torch import nn

from exporters import onnx, parity, quantize
from exporters.errors import ArtifactRejected, ExportFailed
from exporters.precision import weights_by_type
from exporters.quantize import calibrated
from exporters.quantize.scheme import SCHEMES

pytestmark = pytest.mark.heavy  # networks are quantised, some many times

SHAPE = (3, 12, 12)
RECIPES = quantize.RECIPES


class Student(nn.Module):
    """A small network with what students have: normalisation, a residual block, a depthwise layer, pooling, a head."""

    def __init__(self) -> None:
        super().__init__()
        self.mean = nn.Buffer(torch.tensor([0.6, 0.4, 0.2]).view(1, 3, 1, 1))
        self.std = nn.Buffer(torch.tensor([0.2, 0.25, 0.3]).view(1, 3, 1, 1))
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        self.block = nn.Sequential(
            nn.Conv2d(16, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1)
        )
        self.depthwise = nn.Sequential(nn.Conv2d(16, 16, 3, padding=1, groups=16), nn.ReLU(), nn.Conv2d(16, 32, 1))
        self.head = nn.Linear(32, 8)

    def forward(self, images):
        hidden = self.stem((images - self.mean) / self.std)
        hidden = nn.functional.max_pool2d((hidden + self.block(hidden)).relu(), 2)
        return self.head(self.depthwise(hidden).relu().mean(dim=(2, 3)))


def stripes(count, seed=0):
    """Images of eight classes, lying or standing stripes in one of four colours, and their labels."""
    draw = np.random.default_rng(seed)
    labels = draw.integers(0, 8, count)
    colours = np.array([[0.9, 0.3, 0.1], [0.1, 0.3, 0.9], [0.8, 0.7, 0.1], [0.1, 0.7, 0.7]])[labels % 4]  # [N, 3]
    wave = 0.5 + 0.5 * np.sin(np.arange(12) * 1.3 + draw.uniform(0, 6.3, (count, 1)))  # [N, 12]
    lying = np.where((labels < 4)[:, None, None], wave[:, :, None], wave[:, None, :]) * np.ones((1, 12, 12))
    images = colours[:, :, None, None] * lying[:, None] + draw.normal(0, 0.1, (count, *SHAPE))
    return images.clip(0, 1).astype(np.float32), labels


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("quantize")


@pytest.fixture(scope="module")
def images():
    return stripes(128)[0]


@pytest.fixture(scope="module")
def trunk(folder):
    """The exported student, trained for a moment."""
    torch.manual_seed(0)
    network = Student().train()
    optimiser = torch.optim.Adam(network.parameters(), 0.01)
    for step in range(60):
        batch, labels = map(torch.from_numpy, stripes(64, seed=step + 1))
        optimiser.zero_grad()
        nn.functional.cross_entropy(network(batch), labels).backward()
        optimiser.step()
    path = folder / "student.fp32.onnx"
    onnx.export(network.eval(), path, input_shape=SHAPE)
    model = onnx_format.load(path)
    model.metadata_props.add(key="compress.arch", value="striped")
    return saved(model, path)


@pytest.fixture(scope="module", params=RECIPES)
def made(request, trunk, images, folder):
    """The recipe, the INT8 file and what was said of it."""
    path = folder / f"student.{request.param}.onnx"
    return request.param, path, quantize.quantize(trunk, path, images, recipe=request.param)


def graph(body, weights, *, shape="n,3,2,2", out="n,k", opset=20, ir=10, name="g"):
    """A hand-written classifier."""
    model = parser.parse_model(
        f'<ir_version: {ir}, opset_import: ["" : {opset}]> {name} (float[{shape}] x) => (float[{out}] y) {{ {body} }}'
    )
    model.graph.initializer.extend(numpy_helper.from_array(np.asarray(value), key) for key, value in weights.items())
    return model


def saved(model, path):
    onnx_format.save(model, path)
    return path


def random_images(count=16, shape=(3, 2, 2), levels=255, seed=0):
    """Images on a grid of levels, with black and white among them."""
    pixels = np.random.default_rng(seed).integers(0, levels + 1, (count, *shape))
    pixels.flat[:2] = 0, levels
    return (pixels / levels).astype(np.float32)


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def perceptron(widths=(12, 16, 16, 16, 4), seed=0):
    """Layers without any convolution, `f0`, `f1`, ..."""
    weights = {
        f"w{i}": normal(*pair, seed=seed + i) / np.float32(np.sqrt(pair[0]))
        for i, pair in enumerate(itertools.pairwise(widths))
    }
    last = len(weights) - 1
    steps = [
        f"[f{i}] {'y' if i == last else f'm{i}'} = MatMul({f'r{i - 1}' if i else 'p'}, w{i})"
        + ("" if i == last else f" r{i} = Relu(m{i})")
        for i in range(len(weights))
    ]
    return graph(f"p = Flatten(x) {' '.join(steps)}", weights, out=f"n,{widths[-1]}")


def constants(path):
    model = onnx_format.load(path)
    return model, {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def operators(path):
    return Counter(node.op_type for node in onnx_format.load(path).graph.node)


def weighted_in(path):
    """What each node with weights computes its weights in, by name: whether they were quantised."""
    model = onnx_format.load(path)
    producers = {output: node.op_type for node in model.graph.node for output in node.output}
    return {
        node.name: producers.get(node.input[1]) == "DequantizeLinear"
        for node in model.graph.node
        if node.op_type in ("Conv", "Gemm", "MatMul")
    }


# Closed forms.


@pytest.mark.parametrize(("recipe", "levels"), [("cpu", 255), ("trt", 127)])
def test_numbers_on_the_grid_are_computed_exactly(tmp_path, recipe, levels):
    whole = np.random.default_rng(1).integers(-127, 128, (12, 4)).astype(np.float32)
    whole[0] = 127
    weight = whole * np.float32([1, 0.5, 8, 2**-10])  # one scale for all columns would lose the last
    images = random_images(levels=levels)
    source = saved(graph("f = Flatten(x) y = MatMul(f, w)", {"w": weight}, out="n,4"), tmp_path / "a.onnx")
    quantize.quantize(source, tmp_path / "b.onnx", images, recipe=recipe)
    assert weights_by_type(onnx_format.load(tmp_path / "b.onnx")) == {"int8": 48}
    np.testing.assert_allclose(onnx.load(tmp_path / "b.onnx")(images), images.reshape(16, 12) @ weight, rtol=1e-5)


@pytest.mark.heavy
@pytest.mark.parametrize("recipe", RECIPES)
def test_each_channel_of_a_convolution_has_the_scale_of_its_largest_weight(trunk, made, recipe):
    recipe, path, _ = made
    stored, original = constants(path)[1], constants(trunk)[1]
    names = [name for name, value in original.items() if value.ndim == 4 and name.endswith(".weight")]
    assert len(names) == 5
    if recipe == "cpu":
        names.remove("stem.0.weight")  # has taken in the normalisation
    for name in names:
        largest = np.abs(original[name]).reshape(len(original[name]), -1).max(axis=1)
        np.testing.assert_allclose(stored[f"{name}_scale"], largest / 127, rtol=1e-6)
    assert all(len(value.shape) == 0 for name, value in stored.items() if name.startswith("relu") and "scale" in name)


def test_the_range_of_an_activation_is_that_of_the_calibration_images(tmp_path):
    source = saved(graph("f = Flatten(x) y = MatMul(f, w)", {"w": normal(12, 4)}, out="n,4"), tmp_path / "a.onnx")
    images = random_images() * np.float32(0.5)
    images[11, 0, 0, 0] = 0.75  # in the second chunk
    for recipe, levels in (("cpu", 255), ("trt", 127)):
        quantize.quantize(source, tmp_path / "b.onnx", images, recipe=recipe)
        scales = [value for name, value in constants(tmp_path / "b.onnx")[1].items() if name == "f_scale"]
        np.testing.assert_allclose(scales, [0.75 / levels], rtol=1e-6)


# What is in the file.


def test_a_file_is_what_its_recipe_promises(made):
    recipe, path, result = made
    model, stored = constants(path)
    zero_points = {name: value for name, value in stored.items() if "zero_point" in name}
    kinds = {value.dtype.name for value in zero_points.values()}
    if recipe == "trt":
        assert kinds == {"int8"}
        assert not any(value.any() for value in zero_points.values())
    else:
        assert kinds == {"int8", "uint8", "int32"}  # weights, activations, biases
        assert not any(value.any() for value in zero_points.values() if value.dtype != np.uint8)
    assert {entry.domain for entry in model.opset_import} == {""}
    made = {name for node in model.graph.node for name in node.output}
    assert {value.name for value in model.graph.value_info} <= made
    assert stored.keys() <= {name for node in model.graph.node for name in node.input}
    onnx_format.checker.check_model(model, full_check=True)
    channels = 3 if recipe == "trt" else 4  # that the first convolution reads
    assert result.census == {"int8": channels * 16 * 9 + 2 * 16 * 16 * 9 + 16 * 9 + 16 * 32 + 32 * 8}
    assert (result.recipe, result.method, result.samples, result.kept, result.drop) == (recipe, "minmax", 128, (), None)


def test_the_places_of_rounding(made):
    """TensorRT: inputs of layers with weights, and one operand of the sum. ONNX Runtime: everything but the logits."""
    recipe, path, result = made
    model = onnx_format.load(path)
    kinds = {node.name: node.op_type for node in model.graph.node}
    assert [kinds[name] for name in result.layers] == ["Conv"] * 3 + ["Add"] + ["Conv"] * 2 + ["Gemm"]
    producers = {output: node for node in model.graph.node for output in node.output}
    (total,) = [node for node in model.graph.node if node.op_type == "Add"]
    given = sorted(producers[name].op_type for name in total.input)
    assert given == (["Conv", "DequantizeLinear"] if recipe == "trt" else ["DequantizeLinear"] * 2)
    assert operators(path)["QuantizeLinear"] == (6 + 6 if recipe == "trt" else 9)
    assert producers["logits"].op_type == "Gemm"
    assert operators(path)["Relu"] == (5 if recipe == "trt" else 0)  # a zero point of 0 does what Relu did


def test_a_cpu_file_is_a_quarter_of_the_source(made, trunk):
    recipe, path, _ = made
    weights = sum(value.nbytes for value in constants(path)[1].values())
    original = sum(value.nbytes for value in constants(trunk)[1].values())
    assert weights < 0.45 * original if recipe == "cpu" else weights < 1.2 * original


def test_the_metadata_of_the_source_stays_and_tells_of_the_calibration(made, trunk):
    recipe, path, _ = made
    before = {entry.key: entry.value for entry in onnx_format.load(trunk).metadata_props}
    after = onnx.load(path).metadata
    assert after == before | {
        "compress.precision": "int8",
        "compress.quantization": recipe,
        "compress.calibration": '{"samples": 128, "method": "minmax"}',
        "compress.kept_fp32": "[]",
    }


def test_nothing_in_a_file_tells_of_the_machine(tmp_path, images):
    model = perceptron()
    model.doc_string = model.graph.doc_string = "/home/someone/net.py"
    for node in model.graph.node:
        node.doc_string = "File /home/someone/net.py"
        node.metadata_props.add(key="trace", value="/home/someone/net.py")
    quantize.quantize(saved(model, tmp_path / "a.onnx"), tmp_path / "b.onnx", random_images(), recipe="cpu")
    content = (tmp_path / "b.onnx").read_bytes()
    assert not [trace for trace in (b"/home", b"/tmp", str(tmp_path).encode(), b"onnxruntime") if trace in content]


@pytest.mark.starts
def test_the_same_graph_and_images_give_the_same_bytes_in_any_process(trunk, images, folder):
    np.save(folder / "images.npy", images)
    code = (
        "import sys, numpy; from pathlib import Path; from exporters import quantize\n"
        "source, images, path, recipe, method = sys.argv[1:]\n"
        "quantize.quantize(Path(source), Path(path), numpy.load(images), recipe=recipe, method=method)"
    )
    for recipe, method in (("cpu", "minmax"), ("trt", "percentile")):
        for seed in ("1", "2"):
            path = folder / f"again{seed}.onnx"
            subprocess.run(
                [sys.executable, "-c", code, trunk, folder / "images.npy", path, recipe, method],
                env=os.environ | {"PYTHONHASHSEED": seed},
                cwd=Path(__file__).parent.parent,
                check=True,
            )
        quantize.quantize(trunk, folder / "here.onnx", images, recipe=recipe, method=method)
        assert len({(folder / f"{name}.onnx").read_bytes() for name in ("again1", "again2", "here")}) == 1


@pytest.mark.parametrize("method", quantize.METHODS)
def test_nothing_is_left_behind_and_nothing_is_said(tmp_path, monkeypatch, capfd, method):
    model = perceptron()
    model.graph.initializer.append(numpy_helper.from_array(normal(3), "unused"))  # ONNX Runtime warns of these
    source = saved(model, tmp_path / "a.onnx")
    for name in ("temporary", "here", "out"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    monkeypatch.setattr(logging.root, "handlers", [])
    quantize.quantize(source, tmp_path / "out" / "b.onnx", random_images(), recipe="cpu", method=method)
    quantize.sensitive_first(source, random_images(), recipe="trt", method=method)
    assert capfd.readouterr() == ("", "")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a.onnx", "b.onnx", "here", "out", "temporary"]
    assert (logging.root.handlers, logging.root.manager.disable) == ([], 0)


def test_what_the_quantiser_logs_installs_no_handler(plain, monkeypatch, capfd):
    import onnxruntime.quantization

    class Warning(onnxruntime.quantization.QDQQuantizer):
        def quantize_model(self):
            logging.warning("failed to infer the type of a tensor")
            return super().quantize_model()

    monkeypatch.setattr(onnxruntime.quantization, "QDQQuantizer", Warning)
    monkeypatch.setattr(logging.root, "handlers", [])
    quantize.quantize(plain, plain.with_name("b.onnx"), random_images(), recipe="cpu")
    assert logging.root.handlers == []
    assert capfd.readouterr() == ("", "")


def test_a_failure_leaves_the_former_file(tmp_path):
    source = saved(perceptron(), tmp_path / "a.onnx")
    (tmp_path / "b.onnx").write_bytes(b"former")
    with pytest.raises(ExportFailed):
        quantize.quantize(source, tmp_path / "b.onnx", random_images(), recipe="cpu", keep=["f0", "f1", "f2", "f3"])
    assert (tmp_path / "b.onnx").read_bytes() == b"former"
    assert len(list(tmp_path.iterdir())) == 2


# Graphs of all kinds.


def agree(source, path, images, recipe, **options):
    """Quantise, and check that the result is close to the source; return what was done."""
    result = quantize.quantize(source, path, images, recipe=recipe, **options)
    found = parity.compare(onnx.load(source)(images), onnx.load(path)(images))
    assert parity.verdict(found, "int8") is None, found
    assert found.max_error > 0
    return result


@pytest.mark.heavy
@pytest.mark.parametrize("method", quantize.METHODS)
def test_a_quantised_student_decides_as_the_student_does(made, trunk, tmp_path, method):
    recipe, _, _ = made
    held_out, labels = stripes(512, seed=99)
    quantize.quantize(trunk, tmp_path / "b.onnx", stripes(128)[0], recipe=recipe, method=method)
    right = [(onnx.load(path)(held_out).argmax(1) == labels).mean() for path in (trunk, tmp_path / "b.onnx")]
    assert right[0] > 0.97
    assert right[1] > right[0] - 0.01
    for size, found in parity.check(onnx.load(tmp_path / "b.onnx"), onnx.load(trunk), held_out).items():
        assert parity.verdict(found, "int8") is None, (size, found)


@pytest.mark.heavy
@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("kind", ["perceptron", "linear", "grouped", "tiny"])
def test_other_networks(tmp_path, recipe, kind, tiny, linear):
    images, source = random_images(32, (3, 8, 8)), tmp_path / "a.onnx"
    if kind == "perceptron":
        images = random_images(32)
        saved(perceptron(), source)
    elif kind == "linear":
        onnx.export(linear(torch.from_numpy(normal(5, 192)), torch.ones(5)), source, input_shape=(3, 8, 8))
    elif kind == "grouped":
        torch.manual_seed(0)
        layers = (nn.Conv2d(3, 6, 3, groups=3), nn.Sigmoid(), nn.Conv2d(6, 4, 3, groups=2), nn.LeakyReLU())
        onnx.export(nn.Sequential(*layers, nn.Flatten(), nn.Linear(64, 4)), source, input_shape=(3, 8, 8))
    else:
        onnx.export(tiny(), source, input_shape=(3, 8, 8))
    result = agree(source, tmp_path / "b.onnx", images, recipe)
    assert set(result.census) == {"int8"}


@pytest.mark.parametrize("count", [3, 8, 10])
def test_a_fixed_batch_size_sees_all_images(tmp_path, count):
    free, fixed = (saved(perceptron(), tmp_path / f"{name}.onnx") for name in ("free", "fixed"))
    model = onnx_format.load(fixed)
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 4
    saved(model, fixed)
    images = random_images(count)
    images[-1] = 1  # only the last chunk has the largest sums
    results = [quantize.quantize(path, path.with_suffix(".int8"), images, recipe="cpu") for path in (free, fixed)]
    assert [result.samples for result in results] == [count, count]
    stored = [constants(path.with_suffix(".int8"))[1] for path in (free, fixed)]
    assert stored[0].keys() == stored[1].keys()
    for name in stored[0]:
        np.testing.assert_allclose(stored[0][name], stored[1][name], rtol=1e-5)
    assert onnx.load(fixed.with_suffix(".int8")).batch == 4


def test_weights_beside_the_model_are_found_and_end_up_inside(tmp_path):
    (tmp_path / "model").mkdir()
    source = tmp_path / "model" / "a.onnx"
    onnx_format.save(perceptron(), source, save_as_external_data=True, location="a.data", size_threshold=0)
    agree(source, tmp_path / "b.onnx", random_images(), "cpu")
    assert not [t for t in onnx_format.load(tmp_path / "b.onnx").graph.initializer if t.external_data]
    assert sorted(path.name for path in tmp_path.rglob("*.*")) == ["a.data", "a.onnx", "b.onnx"]


def test_weights_outside_the_folder_are_not_read(tmp_path):
    (tmp_path / "model").mkdir()
    source = tmp_path / "model" / "a.onnx"
    model = perceptron()
    onnx_format.save(model, source, save_as_external_data=True, location="a.data", size_threshold=0)
    (tmp_path / "model" / "a.data").rename(tmp_path / "a.data")
    content = source.read_bytes().replace(b"a.data", b"../a.d")
    (tmp_path / "a.data").rename(tmp_path / "a.d")
    source.write_bytes(content)
    with pytest.raises(ArtifactRejected, match="outside its own folder"):
        quantize.quantize(source, tmp_path / "b.onnx", random_images(), recipe="cpu")


@pytest.mark.parametrize("recipe", RECIPES)
def test_an_old_opset_with_weights_among_the_inputs_is_raised(tmp_path, recipe):
    body = (
        "c = Conv<pads = [1, 1, 1, 1]>(x, w, b) r = Relu(c) p = GlobalAveragePool(r) "
        "s = Squeeze<axes = [2, 3]>(p) y = Gemm<transB = 1>(s, v, d)"
    )
    weights = {"w": normal(6, 3, 3, 3), "b": normal(6), "v": normal(4, 6, seed=1), "d": normal(4)}
    old = graph(body, weights, out="n,4", opset=9, ir=3)
    old.graph.input.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, value.shape) for name, value in weights.items()
    )
    result = agree(saved(old, tmp_path / "a.onnx"), tmp_path / "b.onnx", random_images(), recipe)
    assert result.census == {"int8": 6 * (27 if recipe == "trt" else 36) + 24}
    model = onnx_format.load(tmp_path / "b.onnx")
    assert [value.name for value in model.graph.input] == ["x"]
    assert (model.opset_import[0].version, model.ir_version) == (13, 7)


def test_nodes_without_a_name_are_given_one(tmp_path):
    model = perceptron()
    names = {node.name: f"MatMul_{index}" for index, node in enumerate(model.graph.node)}
    for node in model.graph.node:
        node.name = ""
    model.graph.node[0].name = names["f1"]  # a name that would be made
    source = saved(model, tmp_path / "a.onnx")
    layers = quantize.quantize(source, tmp_path / "b.onnx", random_images(), recipe="cpu").layers
    assert len(set(layers)) == 4
    assert layers[0] == names["f0"]
    assert layers[1] != names["f1"]
    kept = quantize.quantize(source, tmp_path / "b.onnx", random_images(), recipe="cpu", keep=layers[1:2])
    assert kept.census == {"int8": 12 * 16 + 16 * 16 + 64, "fp32": 256}
    assert weighted_in(tmp_path / "b.onnx") == {name: name != layers[1] for name in layers}


@pytest.mark.parametrize("recipe", RECIPES)
def test_biases_of_matrix_products_in_any_form(tmp_path, recipe):
    """`[1, N]` is the same as `[N]`; one number for all channels has no scale per channel, so its layer stays."""
    for bias, census in (
        (normal(4), {"int8": 16 * 4 + 12 * 16}),
        (normal(1, 4), {"int8": 16 * 4 + 12 * 16}),
        (normal(1), {"int8": 12 * 16, "fp32": 64}),
    ):
        body = "f = Flatten(x) m = MatMul(f, v) r = Relu(m) y = Gemm(r, w, b)"
        model = graph(body, {"w": normal(16, 4), "v": normal(12, 16), "b": bias}, out="n,4")
        result = agree(saved(model, tmp_path / "a.onnx"), tmp_path / "b.onnx", random_images(), recipe)
        assert result.census == census


@pytest.mark.parametrize("recipe", RECIPES)
def test_what_no_scale_fits_is_left_in_fp32(tmp_path, recipe):
    """Sums with a constant, products of two activations, and whatever computes shapes."""
    body = (
        "s = Shape(x) c = Constant<value_ints = [-1]>() n = Slice(s, zero, one) k = Add(n, zero)"
        "h = Concat<axis=0>(k, c)"
        "f = Reshape(x, h) z = Add(f, mean) m = MatMul(z, w) t = Transpose<perm = [1, 0]>(m) g = MatMul(m, t)"
        "o = MatMul(g, m) y = Softmax(o)"
    )
    weights = {"zero": [0], "one": [1], "w": normal(12, 4) / 10, "mean": normal(12)}
    source = saved(graph(body, weights, out="n,4"), tmp_path / "a.onnx")
    result = quantize.quantize(source, tmp_path / "b.onnx", random_images(), recipe=recipe)
    assert len(result.layers) == 1
    model = onnx_format.load(tmp_path / "b.onnx")
    assert {t.name: t.data_type for t in model.graph.initializer}["mean"] == TensorProto.FLOAT
    assert operators(tmp_path / "b.onnx")["QuantizeLinear"] == (2 if recipe == "trt" else 3)
    found = parity.compare(onnx.load(source)(random_images()), onnx.load(tmp_path / "b.onnx")(random_images()))
    assert found.relative_error < 0.1


def test_operators_between_layers_in_fp32_stay_in_fp32(tmp_path):
    """A Pad passes 8 bits on between two quantised layers; behind a layer that is kept it has none to pass on."""
    body = (
        '[f0] c = Conv(x, w) q = Pad<mode = "edge">(c, pads) [f1] d = Conv(q, v) [f2] e = Conv(d, v)'
        "g = GlobalAveragePool(e) y = Flatten(g)"
    )
    weights = {"w": normal(4, 3, 1, 1), "v": normal(4, 4, 2, 2), "pads": [0, 0, 1, 1, 0, 0, 1, 1]}
    source = saved(graph(body, weights, out="n,4"), tmp_path / "a.onnx")
    found = []
    for keep in ([], ["f0"]):
        quantize.quantize(source, tmp_path / "b.onnx", random_images(), recipe="cpu", keep=keep)
        model = onnx_format.load(tmp_path / "b.onnx")
        producers = {output: node for node in model.graph.node for output in node.output}
        (pad,) = [node for node in model.graph.node if node.op_type == "Pad" and node.output[0] == "q"]
        found.append(producers[pad.input[0]].op_type)
    assert found == ["DequantizeLinear", "Conv"]


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("ending", ["Softmax", "LogSoftmax"])
def test_neither_probabilities_nor_the_logits_before_them_are_rounded(tmp_path, recipe, ending):
    body = f"f = Flatten(x) m = MatMul(f, w) y = {ending}(m)"
    source = saved(graph(body, {"w": normal(12, 4)}, out="n,4"), tmp_path / "a.onnx")
    quantize.quantize(source, tmp_path / "b.onnx", random_images(), recipe=recipe)
    model = onnx_format.load(tmp_path / "b.onnx")
    assert [node.op_type for node in model.graph.node][-2:] == ["MatMul", ending]
    assert operators(tmp_path / "b.onnx")["QuantizeLinear"] == (2 if recipe == "trt" else 1)


@pytest.mark.parametrize("method", quantize.METHODS)
def test_a_layer_that_is_always_zero_is_no_problem(tmp_path, method):
    model = perceptron()
    dead = next(tensor for tensor in model.graph.initializer if tensor.name == "w1")
    dead.CopyFrom(numpy_helper.from_array(-np.abs(numpy_helper.to_array(dead)), "w1"))
    source = saved(model, tmp_path / "a.onnx")
    quantize.quantize(source, tmp_path / "b.onnx", random_images(), recipe="cpu", method=method)
    assert not onnx.load(tmp_path / "b.onnx")(random_images()).any()


def test_percentile_leaves_out_a_lonely_outlier_and_minmax_does_not(tmp_path):
    source = saved(graph("f = Flatten(x) y = MatMul(f, w)", {"w": normal(12, 4)}, out="n,4"), tmp_path / "a.onnx")
    images = np.full((20_000, 3, 2, 2), 0.25, np.float32)
    images[1234, 0, 0, 0] = 1
    scales = {}
    for method in ("minmax", "percentile"):
        quantize.quantize(source, tmp_path / "b.onnx", images, recipe="trt", method=method)
        scales[method] = float(constants(tmp_path / "b.onnx")[1]["f_scale"])
    assert scales["minmax"] == pytest.approx(1 / 127)
    assert scales["percentile"] == pytest.approx(0.25 / 127, rel=0.01)


# Layers in fp32.


def test_kept_layers_stay_in_fp32_and_are_named(made, trunk, images, tmp_path):
    recipe, _, all_of_them = made
    keep = [all_of_them.layers[-1], all_of_them.layers[0]]
    result = quantize.quantize(trunk, tmp_path / "b.onnx", images, recipe=recipe, keep=keep)
    assert result.kept == (keep[1], keep[0])
    assert result.layers == all_of_them.layers
    assert result.census["fp32"] == (3 if recipe == "trt" else 4) * 16 * 9 + 32 * 8
    assert weighted_in(tmp_path / "b.onnx") == {
        name: name not in keep for name in all_of_them.layers if not name.startswith("node_add")
    }
    assert json.loads(onnx.load(tmp_path / "b.onnx").metadata["compress.kept_fp32"]) == list(result.kept)


def outlying(units, widths=(12, 16, 16, 16, 4)):
    """A perceptron with one unit far above the others behind some layers: in one scale, the others are rounded away."""
    model = perceptron(widths)
    for tensor in model.graph.initializer:
        weight = numpy_helper.to_array(tensor).copy()
        if tensor.name in {f"w{unit}" for unit in units}:
            weight[:, 0] *= 1000
        if tensor.name in {f"w{unit + 1}" for unit in units}:
            weight[0] /= 1000
        tensor.CopyFrom(numpy_helper.from_array(weight, tensor.name))
    return model


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_layer_that_rounds_most_away_is_found(tmp_path, recipe):
    source, images = saved(outlying([1]), tmp_path / "a.onnx"), random_images(32)
    harms = quantize.sensitive_first(source, images, recipe=recipe)
    first = next(iter(harms))
    assert sorted(harms) == ["f0", "f1", "f2", "f3"]
    assert list(harms.values()) == sorted(harms.values(), reverse=True)
    # The layer in front of it rounds the same activations where outputs are rounded too.
    assert first in (["f2"] if recipe == "trt" else ["f1", "f2"])
    assert harms["f2"] > 10 * max(harms["f0"], harms["f3"])


def test_harm_is_the_noise_over_the_signal(tmp_path):
    """For a single layer, the harm is the error of the whole quantised graph."""
    source = saved(graph("f = Flatten(x) y = MatMul(f, w)", {"w": normal(12, 4)}, out="n,4"), tmp_path / "a.onnx")
    images = random_images(100, levels=1000)
    ((_, harm),) = quantize.sensitive_first(source, images, recipe="trt").items()
    quantize.quantize(source, tmp_path / "b.onnx", images, recipe="trt")
    probes = images[np.linspace(0, 99, 64).round().astype(int)]
    expected, found = (onnx.load(path)(probes) for path in (source, tmp_path / "b.onnx"))
    assert harm == pytest.approx(float(np.mean((found - expected) ** 2) / expected.var()))
    assert 1e-7 < harm < 1e-3


class Drop:
    """Points lost by a candidate, as a function of how many layers it keeps; remembers what it was asked."""

    def __init__(self, lost):
        self.lost, self.asked = lost, []

    def __call__(self, candidate):
        runner = onnx.load(candidate)
        assert runner.precision == "int8"
        self.asked.append(json.loads(runner.metadata["compress.kept_fp32"]))
        return self.lost(len(self.asked[-1]))


WIDE = (12, 8, 8, 8, 8, 8, 8, 8, 256)  # most weights are in the last of eight layers


@pytest.mark.heavy
@pytest.mark.parametrize("needed", range(8))
def test_as_few_layers_are_kept_as_meet_the_drop(tmp_path, needed):
    source, images = saved(outlying(range(6), WIDE), tmp_path / "a.onnx"), random_images(32)
    ranked = list(quantize.sensitive_first(source, images, recipe="cpu"))
    assert ranked[-1] == "f7"
    drop = Drop(lambda kept: 0.4 if kept >= needed else 5.0 - kept / 10)
    result = quantize.quantize_within(source, tmp_path / "b.onnx", images, recipe="cpu", drop=drop, max_drop=0.4)
    assert set(result.kept) == set(ranked[:needed])
    assert result.drop == 0.4
    assert json.loads(onnx.load(tmp_path / "b.onnx").metadata["compress.kept_fp32"]) == list(result.kept)
    assert len(drop.asked) == len({len(asked) for asked in drop.asked}) <= 7
    # All of it could have been written at once.
    quantize.quantize(source, tmp_path / "c.onnx", images, recipe="cpu", keep=result.kept)
    assert (tmp_path / "b.onnx").read_bytes() == (tmp_path / "c.onnx").read_bytes()


def test_a_layer_with_most_weights_is_ranked_where_the_source_says_its_precision(tmp_path):
    model = perceptron(WIDE)
    model.metadata_props.add(key="compress.precision", value="fp32")
    source = saved(model, tmp_path / "a.onnx")
    assert "f7" in quantize.sensitive_first(source, random_images(), recipe="cpu")


def test_layers_kept_in_any_case_are_not_ranked(tmp_path):
    source = saved(perceptron(WIDE), tmp_path / "a.onnx")
    drop = Drop(lambda kept: 0.0 if kept >= 3 else 9.0)
    result = quantize.quantize_within(
        source, tmp_path / "b.onnx", random_images(), recipe="trt", drop=drop, max_drop=1.0, keep=["f4"]
    )
    assert "f4" in result.kept
    assert len(result.kept) == 3
    assert all("f4" in asked for asked in drop.asked)


@pytest.mark.parametrize("lost", [lambda kept: 3.0 - kept / 10, lambda kept: float("nan") if kept else 3.0])
def test_a_drop_that_cannot_be_met_names_the_best(tmp_path, lost):
    source, drop = saved(outlying(range(6), WIDE), tmp_path / "a.onnx"), Drop(lost)
    with pytest.raises(ExportFailed) as failed:
        quantize.quantize_within(source, tmp_path / "b.onnx", random_images(), recipe="cpu", drop=drop, max_drop=0.5)
    best = 2.3 if lost(0) - lost(1) < 1 else 3.0
    assert failed.value.message == (
        f"INT8 loses {best:.2f} points at best, more than 0.5, with up to 7 of 8 layers kept in fp32"
    )
    assert "allow a larger drop" in failed.value.hint
    assert [len(asked) for asked in drop.asked] == [0, 1, 2, 4, 7]
    assert not (tmp_path / "b.onnx").exists()


@pytest.mark.parametrize("needed", [0, 1, 5])
def test_layers_are_kept_until_a_candidate_is_not_refused(tmp_path, needed):
    def lost(kept):
        if kept < needed:
            raise ExportFailed("it answers otherwise")
        return 0.1

    source, drop = saved(outlying(range(6), WIDE), tmp_path / "a.onnx"), Drop(lost)
    result = quantize.quantize_within(
        source, tmp_path / "b.onnx", random_images(), recipe="cpu", drop=drop, max_drop=0.5
    )
    assert (len(result.kept), result.drop) == (needed, 0.1)


def test_where_every_candidate_is_refused_the_last_refusal_is_told(tmp_path):
    def lost(kept):
        raise ExportFailed(f"it answers otherwise with {kept}", hint="keep more")

    source, drop = saved(outlying(range(6), WIDE), tmp_path / "a.onnx"), Drop(lost)
    with pytest.raises(ExportFailed) as failed:
        quantize.quantize_within(source, tmp_path / "b.onnx", random_images(), recipe="cpu", drop=drop, max_drop=0.5)
    assert failed.value.message == "it answers otherwise with 7; that is with up to 7 of 8 layers kept in fp32"
    assert failed.value.hint == "calibrate on other images, or export with precision fp16"
    assert not (tmp_path / "b.onnx").exists()


@pytest.mark.parametrize("keep", [[], ["f4"]])
def test_no_more_layers_are_kept_than_leave_most_weights_in_int8(tmp_path, keep):
    source = saved(perceptron((12, 16, 16, 16, 16, 16, 4)), tmp_path / "a.onnx")
    drop = Drop(lambda kept: 8.0 - kept)
    with pytest.raises(ExportFailed, match=r"up to \d of \d layers kept in fp32, and keeping more would leave most"):
        quantize.quantize_within(
            source, tmp_path / "b.onnx", random_images(), recipe="trt", drop=drop, max_drop=1.0, keep=keep
        )
    weights = {f"f{i}": size for i, size in enumerate([192, 256, 256, 256, 256, 64])}
    ranked = [name for name in quantize.sensitive_first(source, random_images(), recipe="trt") if name not in keep]
    most = len(drop.asked[-1]) - len(keep)
    assert set(drop.asked[-1]) == {*keep, *ranked[:most]}
    assert 2 * sum(weights[name] for name in drop.asked[-1]) < 1280
    assert 2 * sum(weights[name] for name in [*keep, *ranked[: most + 1]]) >= 1280


# Planted mistakes.


def in_front(model, *nodes, **tensors):
    """Put nodes between the input `input` and the graph; the last of them writes `fixed`."""
    for node in model.graph.node:
        node.input[:] = ["fixed" if name == "input" else name for name in node.input]
    for index, node in enumerate(nodes):
        model.graph.node.insert(index, node)
    model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in tensors.items())


def changed(model, name, change):
    for tensor in model.graph.initializer:
        if tensor.name == name:
            value = numpy_helper.to_array(tensor)
            tensor.CopyFrom(numpy_helper.from_array(np.asarray(change(value), value.dtype), name))
            return
    raise KeyError(name)


def saturate(model):
    first = next(node for node in model.graph.node if node.op_type == "QuantizeLinear")
    changed(model, first.input[1], lambda scale: scale / 3)


def saturate_weights(model):
    name = next(t.name for t in model.graph.initializer if t.name.startswith("block.3") and t.name.endswith("_scale"))
    changed(model, name, lambda scale: scale / 8)


def mistake_mean(model):
    name = next(node.input[1] for node in model.graph.node if node.op_type == "Sub")
    changed(model, name, lambda mean: mean[:, ::-1] if mean.ndim else mean + 0.2)  # of one colour, or of all


def transpose(model):
    in_front(model, helper.make_node("Transpose", ["input"], ["fixed"], perm=[0, 1, 3, 2]))


def mistake_layout(model):
    in_front(
        model,
        helper.make_node("Reshape", ["input", "layout"], ["reshaped"]),
        helper.make_node("Transpose", ["reshaped"], ["fixed"], perm=[0, 3, 1, 2]),
        layout=np.array([-1, 12, 12, 3]),
    )


def swap_channels(model):
    in_front(model, helper.make_node("Gather", ["input", "order"], ["fixed"], axis=1), order=np.array([2, 1, 0]))


@pytest.mark.heavy
@pytest.mark.parametrize("count", [32, 512])
@pytest.mark.parametrize(
    "mistake", [saturate, saturate_weights, mistake_mean, transpose, mistake_layout, swap_channels]
)
def test_parity_finds_a_planted_mistake_and_passes_the_healthy_file(made, trunk, tmp_path, mistake, count):
    _, path, _ = made
    held_out, _ = stripes(count, seed=7)
    model = onnx_format.load(path)
    mistake(model)
    reference = onnx.load(trunk)
    files = (path, saved(model, tmp_path / "broken.onnx"))
    healthy, broken = (parity.compare(reference(held_out), onnx.load(file)(held_out)) for file in files)
    assert parity.verdict(healthy, "int8") is None, healthy
    assert parity.verdict(broken, "int8") is not None, broken


# Refusals.


def refused(source, images, kind=ArtifactRejected, recipe="cpu", **options):
    """Return the sentence and the hint with which a quantisation is refused; no file is left."""
    with pytest.raises(kind) as failed:
        quantize.quantize(source, source.with_name("never.onnx"), images, recipe=recipe, **options)
    assert not source.with_name("never.onnx").exists()
    assert not failed.value.message.endswith(".")
    assert "\n" not in failed.value.message
    return failed.value.message, failed.value.hint


@pytest.fixture
def plain(tmp_path):
    return saved(perceptron(), tmp_path / "a.onnx")


@pytest.mark.heavy
def test_a_graph_of_lower_precision_is_refused(tmp_path, tiny):
    path = tmp_path / "half.onnx"
    onnx.export(tiny(), tmp_path / "a.onnx", input_shape=(3, 8, 8))
    onnx.convert(tmp_path / "a.onnx", path, precision="fp16")
    message, hint = refused(path, random_images(shape=(3, 8, 8)))
    assert message == f"{path} computes in fp16, INT8 is made of an fp32 graph"
    assert hint == "export it with precision fp32"


def test_a_graph_that_is_quantised_already_is_refused(made, images):
    _, path, _ = made
    message, hint = refused(path, images)
    assert message == f"{path} is quantised already"
    assert hint == "quantise the fp32 graph that it was made of"


def test_uint8_pixels_come_after_quantisation(tmp_path):
    model = graph("f = Flatten(c) y = MatMul(f, w)", {"w": normal(12, 4)}, out="n,4")
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.UINT8
    model.graph.node.insert(0, helper.make_node("Cast", ["x"], ["c"], to=TensorProto.FLOAT))
    path = saved(model, tmp_path / "a.onnx")
    message, hint = refused(path, random_images())
    assert message == f"{path} takes uint8 pixels, INT8 is made of a graph that takes float32"
    assert hint == "quantise first, then convert the input to uint8"


def test_a_graph_without_weights_is_refused(tmp_path):
    path = saved(graph("f = Flatten(x) y = Relu(f)", {}, out="n,12"), tmp_path / "a.onnx")
    message, _ = refused(path, random_images())
    assert message == f"{path} has no convolution or matrix product that could be quantised"


def test_no_calibration_images_are_refused(plain):
    message, hint = refused(plain, random_images()[:0])
    assert message == "there are no calibration images"
    assert "128 to 512" in hint


def test_images_of_another_size_are_refused(plain):
    message, _ = refused(plain, random_images(shape=(1, 4, 5)))
    assert message == f"the calibration images are 1x4x5, {plain} takes 3x2x2"


@pytest.mark.parametrize(("pixels", "found"), [(2.5, "0 to 2.5"), (-1.0, "-1 to 1"), (np.nan, "nan to nan")])
def test_pixels_outside_the_range_are_refused(plain, pixels, found):
    images = random_images()
    images[3, 1, 1, 1] = pixels
    message, hint = refused(plain, images)
    assert message == f"the calibration images have pixels from {found}, not in [0, 1]"
    assert "inside the graph" in hint


def test_pixels_of_another_type_are_a_mistake_of_the_caller(plain):
    with pytest.raises(ValueError, match=r"float32 \[N, C, H, W\], not float64"):
        quantize.quantize(plain, plain.with_name("b.onnx"), random_images().astype(np.float64), recipe="cpu")


@pytest.mark.parametrize("method", quantize.METHODS)
@pytest.mark.parametrize("step", ["Log", "Sqrt"])
def test_activations_that_are_not_finite_are_refused(tmp_path, method, step):
    """The logarithm of black is infinite, the root of a negative number is none; behind them, a Relu hides it."""
    body = f"f = Flatten(x) c = Sub(f, s) l = {step}(c) r = Relu(l) m = MatMul(r, v) q = Relu(m) y = MatMul(q, w)"
    weights = {"s": np.float32(0 if step == "Log" else 0.1), "v": np.abs(normal(12, 4)), "w": normal(4, 4)}
    path = saved(graph(body, weights, out="n,4"), tmp_path / "a.onnx")
    message, hint = refused(path, random_images(), method=method)
    assert message.startswith(f"{path} computes values that are not finite on the calibration images, in '")
    assert hint == "validate the fp32 graph first"


def test_unknown_names_are_refused_with_those_that_are_known(plain):
    assert refused(plain, random_images(), ExportFailed, recipe="gpu") == (
        "there is no recipe 'gpu' for INT8",
        "known: cpu, trt",
    )
    assert refused(plain, random_images(), ExportFailed, method="mean") == (
        "there is no calibration method 'mean' for INT8",
        "known: minmax, entropy, percentile",
    )
    assert refused(plain, random_images(), keep=["f1", "head"]) == (
        f"{plain} has no layer 'head' to keep in fp32",
        "its layers: f0, f1, f2, f3",
    )


def test_keeping_most_weights_in_fp32_is_refused(plain):
    message, hint = refused(plain, random_images(), ExportFailed, keep=["f1", "f2"])
    assert message == f"only 33 % of the weights of {plain} would be int8, with 2 of 4 layers kept in fp32"
    assert "keep fewer layers" in hint


def test_a_file_that_is_not_onnx_is_refused(tmp_path):
    (tmp_path / "a.onnx").write_bytes(b"no graph")
    message, _ = refused(tmp_path / "a.onnx", random_images())
    assert "is not an ONNX file" in message


@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        ({"QuantizeBias": True}, "is not in int8, which is all that TensorRT takes"),
        ({"ActivationSymmetric": False}, "has a zero point other than 0, which TensorRT does not take"),
    ],
)
def test_a_graph_that_tensorrt_would_refuse_is_not_written(trunk, images, monkeypatch, option, sentence):
    options = SCHEMES["trt"].options
    monkeypatch.setitem(options, next(iter(option)), next(iter(option.values())))
    message, _ = refused(trunk, images, ExportFailed, recipe="trt")
    assert message.endswith(sentence)


def test_what_the_quantiser_raises_is_one_sentence(plain, monkeypatch):
    import onnxruntime.quantization

    def broken(*_, **__):
        raise IndexError("index 4 is out of bounds\nfor axis 0.")

    monkeypatch.setattr(onnxruntime.quantization, "QDQQuantizer", broken)
    message, _ = refused(plain, random_images(), ExportFailed)
    assert message == f"ONNX Runtime cannot quantise {plain}: index 4 is out of bounds"


def test_a_file_that_does_not_run_is_not_written(plain, monkeypatch):
    release = calibrated.release_logits

    def misname(model):
        model.graph.node[-1].op_type = "Nonsense"

    monkeypatch.setattr(calibrated, "release_logits", misname)
    message, _ = refused(plain, random_images(), ExportFailed)
    assert message.startswith(f"the quantised graph of {plain} does not run: ")

    def lose(model):
        release(model)
        changed(model, "w3_scale", lambda scale: np.nan * scale)

    monkeypatch.setattr(calibrated, "release_logits", lose)
    message, _ = refused(plain, random_images(), ExportFailed)
    assert message.endswith("has NaN in 'w3_scale': every answer would be NaN")
