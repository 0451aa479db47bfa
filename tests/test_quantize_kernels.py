"""Graphs rewritten for integer kernels: the same function, and what has no fast kernel is gone."""

import numpy as np
import onnx as onnx_format
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import checker, numpy_helper, parser, shape_inference

from exporters import onnx, parity, quantize
from exporters.quantize.kernels import suit_cpu


def graph(body, weights, *, shape="n,3,5,6", out="n,k,p,q"):
    """A hand-written graph whose shapes are known, as quantisation prepares it."""
    model = parser.parse_model(
        f'<ir_version: 10, opset_import: ["" : 20]> g (float[{shape}] x) => (float[{out}] y) {{ {body} }}'
    )
    for key, value in weights.items():
        value = np.asarray(value)
        value = value.astype(np.int64 if value.dtype.kind == "i" else np.float32)
        model.graph.initializer.append(numpy_helper.from_array(value, key))
    for index, node in enumerate(model.graph.node):
        node.name = node.name or f"{node.op_type}_{index}"
    return shape_inference.infer_shapes(model, strict_mode=True)


def normal(*shape):
    return torch.randn(shape).numpy()  # seeded for each test


def run(model, images):
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: images})[0]


def rewritten(model):
    changed = onnx_format.ModelProto()
    changed.CopyFrom(model)
    known = suit_cpu(changed)
    checker.check_model(shape_inference.infer_shapes(changed, strict_mode=True), full_check=True)
    return changed, known


def operators(model):
    return [node.op_type for node in model.graph.node]


# Shortcuts of option A.

PAD = {"starts": [0], "ends": [2**31 - 1], "rows": [2], "columns": [3], "step": [2], "pads": [0, 2, 0, 0, 0, 4, 0, 0]}
STRIDED = "r = Neg(x) a = Slice(r, starts, ends, rows, step) b = Slice(a, starts, ends, columns, step) y = Pad(b, pads)"


@pytest.mark.parametrize(
    ("body", "changes", "strides"),
    [
        (STRIDED, {}, [2, 2]),
        (STRIDED, {"rows": [-2], "columns": [-1], "ends": [6]}, [2, 2]),
        ("r = Neg(x) b = Slice(r, starts, ends, rows, step) y = Pad(b, pads)", {}, [2, 1]),
        (
            "r = Neg(x) b = Slice(r, starts, ends, rows, step) y = Pad<mode = 'constant'>(b, pads, zero)".replace(
                "'", '"'
            ),
            {"starts": [0, 0], "ends": [5, 6], "rows": [2, 3], "step": [1, 3], "zero": np.float32(0)},
            [1, 3],
        ),
        ("r = Neg(x) y = Pad(r, pads)", {}, [1, 1]),
        ("r = Neg(x) y = Pad(r, pads, , axes)", {"pads": [1, 4], "axes": [1]}, [1, 1]),
        ("r = Neg(x) y = Pad(r, pads, , axes)", {"pads": [0, 3, 0, 5], "axes": [0, -3]}, [1, 1]),
    ],
)
def test_a_strided_shortcut_is_one_convolution(body, changes, strides):
    model = graph(body, {**PAD, **changes})
    changed, _ = rewritten(model)
    _, node = changed.graph.node
    assert (node.op_type, node.name) == ("Conv", model.graph.node[-1].name)
    assert next(list(entry.ints) for entry in node.attribute if entry.name == "strides") == strides
    images = normal(2, 3, 5, 6)
    np.testing.assert_array_equal(run(changed, images), run(model, images))


@pytest.mark.parametrize(
    ("body", "changes"),
    [
        ("r = Neg(x) y = Pad(r, pads)", {"pads": [0, 1, 1, 0, 0, 1, 0, 0]}),  # rows as well
        ("r = Neg(x) y = Pad(r, pads)", {"pads": [0, 1, 0, 0, 1, 1, 0, 0]}),  # images as well
        ("r = Neg(x) y = Pad(r, pads)", {"pads": [0, 4, 0, 0, 0, -1, 0, 0]}),  # takes channels away
        ("r = Neg(x) y = Pad(r, pads, one)", {"one": np.float32(1)}),
        ('r = Neg(x) y = Pad<mode = "edge">(r, pads)', {}),
        ("i = Cast<to = 7>(x) m = ReduceMax<keepdims = 0>(i) s = Mul(pads, m) r = Neg(x) y = Pad(r, s)", {}),
    ],
)
def test_another_pad_stays(body, changes):
    model = graph(body, {**PAD, **changes})
    assert operators(rewritten(model)[0]) == operators(model)


@pytest.mark.parametrize(
    "changes",
    [
        {"starts": [1]},
        {"ends": [4]},
        {"ends": [-1]},
        {"rows": [1]},  # strides over channels
        {"starts": [-1], "ends": [-(2**31)], "step": [-2]},  # the other way round
    ],
)
def test_another_slice_stays_before_the_convolution(changes):
    body = "r = Neg(x) a = Slice(r, starts, ends, rows, step) y = Pad(a, pads)"
    model = graph(body, {**PAD, **changes})
    changed, _ = rewritten(model)
    assert operators(changed) == ["Neg", "Slice", "Conv"]
    images = normal(2, 3, 5, 6)
    np.testing.assert_array_equal(run(changed, images), run(model, images))


def test_a_slice_that_others_read_stays():
    body = STRIDED.replace("y = Pad", "p = Pad") + " s = ReduceMean(a) y = Add(p, s)"
    model = graph(body, PAD)
    changed, _ = rewritten(model)
    assert operators(changed) == ["Neg", "Slice", "Conv", "ReduceMean", "Add"]
    images = normal(2, 3, 5, 6)
    np.testing.assert_array_equal(run(changed, images), run(model, images))


def test_a_shortcut_of_unknown_size_stays():
    model = graph(STRIDED, PAD, shape="n,c,h,w")
    assert operators(rewritten(model)[0]) == ["Neg", "Slice", "Slice", "Pad"]


# The first convolution.

CONV = "y = Conv<pads = [1, 1, 1, 1], strides = [2, 1]>({}, w, b)"
MEAN, STD = np.array([0.49, 0.45, 0.41]), np.array([0.25, 0.2, 0.3])
COLUMN = (1, 3, 1, 1)


def weights(channels=3, **more):
    return {"w": normal(4, channels, 3, 3), "b": normal(4), **more}


def is_same(model, *, tolerance=1e-5, channels=3):
    """The rewritten graph computes the same, reads four channels at a time, and spans all 256 levels."""
    changed, known = rewritten(model)
    images = torch.rand(3, channels, 5, 6).numpy()
    images[0], images[1] = 0, 1
    expected = run(model, images)
    np.testing.assert_allclose(run(changed, images), expected, atol=tolerance * np.abs(expected).max(), rtol=0)
    ((name, (low, high)),) = known.items()
    convolution = next(node for node in changed.graph.node if node.op_type == "Conv")
    assert convolution.input[0] == name
    (weight,) = [entry for entry in changed.graph.initializer if entry.name == convolution.input[1]]
    assert weight.dims[1] % 4 == 0
    assert high - low == 1
    assert -low * 255 == pytest.approx(round(-low * 255), abs=1e-9)
    return changed, -low


@pytest.mark.parametrize(
    ("body", "constants", "centre"),
    [
        ("a = Sub(x, m) c = Div(a, s) " + CONV.format("c"), {"m": MEAN.reshape(COLUMN), "s": STD.reshape(COLUMN)}, 115),
        (
            "a = Mul(x, s) c = Add(a, m) " + CONV.format("c"),
            {"m": -MEAN.reshape(3, 1, 1), "s": np.ones((1, 1, 1))},
            115,
        ),
        ("a = Mul(s, x) c = Add(m, a) " + CONV.format("c"), {"m": np.float32(-1), "s": np.float32(2)}, 128),
        ("a = Mul(x, s) c = Sub(a, m) " + CONV.format("c"), {"m": 255 * MEAN.reshape(COLUMN), "s": [255.0]}, 115),
        ("c = Sub(x, m) " + CONV.format("c"), {"m": np.float32(-0.5)}, 0),  # no pixel is so dark
        ("c = Sub(x, m) " + CONV.format("c"), {"m": np.float32(1.5)}, 254),  # or so bright
    ],
)
def test_a_normalisation_ends_up_in_the_first_convolution(body, constants, centre):
    changed, found = is_same(graph(body, weights(**constants)))
    assert operators(changed) == ([] if centre == 0 else ["Sub"]) + ["Pad", "Conv"]
    assert round(found * 255) == centre


def test_pixels_that_are_not_normalised_have_no_centre():
    changed, centre = is_same(graph(CONV.format("x"), weights()), tolerance=0)
    assert operators(changed) == ["Pad", "Conv"]
    assert centre == 0


@pytest.mark.parametrize("attributes", ["", "pads = [2, 0, 1, 3]", 'auto_pad = "SAME_UPPER"', "dilations = [2, 2]"])
@pytest.mark.parametrize("bias", ["", ", b"])
def test_a_first_convolution_of_any_form(attributes, bias):
    """With any border: zeros behind a normalisation are the mean pixel."""
    body = f"a = Sub(x, m) c = Div(a, s) y = Conv<{attributes or 'strides = [1, 1]'}>(c, w{bias})"
    is_same(graph(body, weights(m=MEAN.reshape(COLUMN), s=STD.reshape(COLUMN))))


@settings(max_examples=25)
@given(
    channels=st.integers(1, 9),
    mean=st.floats(0.05, 0.95),
    spread=st.floats(0, 0.4),
    std=st.floats(0.05, 2),
    border=st.integers(0, 3),
)
def test_any_number_of_channels(channels, mean, spread, std, border):
    means = np.clip(mean + spread * np.linspace(-1, 1, channels), 0, 1).reshape(1, channels, 1, 1)
    body = f"a = Sub(x, m) c = Div(a, s) y = Conv<pads = [{border}, 1, 1, {border}]>(c, w, b)"
    model = graph(body, weights(channels, m=means, s=np.float32(std)), shape=f"n,{channels},5,6")
    is_same(model, channels=channels)


@pytest.mark.parametrize(
    "body",
    [
        "c = Sub(m, x) " + CONV.format("c"),
        "c = Div(m, x) " + CONV.format("c"),
        "c = Sub(x, x) " + CONV.format("c"),
        "c = Mul(x, zero) " + CONV.format("c"),
        "c = Div(x, zero) " + CONV.format("c"),
        "c = Add(x, endless) " + CONV.format("c"),
        "c = Mul(x, picture) " + CONV.format("c"),
        "c = Mul(x, row) " + CONV.format("c"),
        "c = Add(x, two) " + CONV.format("c"),
        "c = Relu(x) " + CONV.format("c"),
        "c = Sub(x, m) d = Relu(c) e = Sub(c, m) f = Add(d, e) " + CONV.format("f"),
        "y = Conv<group = 3, pads = [1, 1, 1, 1]>(x, depthwise)",
        "v = Relu(w) y = Conv(x, v)",
        "y = Conv(picture, x)",
        "y = Sub(x, m)",
    ],
)
def test_another_beginning_stays(body):
    constants = {
        "m": MEAN.reshape(COLUMN),
        "zero": np.array([1.0, 0, 1]).reshape(COLUMN),
        "endless": np.float32(np.inf),
        "picture": normal(1, 3, 5, 6),
        "row": normal(6),
        "two": normal(2, 3, 1, 1),
        "depthwise": normal(3, 1, 3, 3),
    }
    shape = "2,3,5,6"
    model = graph(body, weights(**constants), shape=shape)
    changed, known = rewritten(model)
    assert known == {}
    assert changed == model


def test_an_image_of_unknown_size_stays():
    model = graph(CONV.format("x"), weights(), shape="n,3,h,w")
    assert rewritten(model) == (model, {})


def test_names_that_are_taken_are_left_alone():
    body = "a = Sub(x, m) [f] f_pixels = Conv<pads = [1, 1, 1, 1]>(a, f_weight, f_one) y = Add(f_pixels, f_centred)"
    constants = {"m": MEAN.reshape(COLUMN), "f_weight": normal(4, 3, 3, 3), "f_one": normal(4), "f_centred": normal(1)}
    is_same(graph(body, constants))


# In INT8 files.


def student():
    """A classifier with a normalisation and a shortcut of option A."""
    body = (
        "a = Sub(x, m) c = Div(a, s) [first] d = Conv<pads = [1, 1, 1, 1]>(c, w, b) e = Relu(d) "
        "[second] f = Conv<pads = [1, 1, 1, 1], strides = [2, 2]>(e, v) "
        "g = Slice(e, starts, ends, rows, step) h = Slice(g, starts, ends, columns, step) "
        "[shortcut] i = Pad(h, pads) j = Add(f, i) k = Relu(j) l = GlobalAveragePool(k) o = Flatten(l) y = MatMul(o, t)"
    )
    constants = weights(
        m=MEAN.reshape(COLUMN), s=STD.reshape(COLUMN), v=normal(10, 4, 3, 3) / 4, t=normal(10, 5), **PAD
    )
    return graph(body, constants, shape="n,3,8,8", out="n,5")


@pytest.fixture
def source(tmp_path):
    onnx_format.save(student(), tmp_path / "a.onnx")
    return tmp_path / "a.onnx"


def pixels(count, seed=0, brightest=255):
    levels = np.random.default_rng(seed).integers(0, brightest + 1, (count, 3, 8, 8))
    return (levels / 255).astype(np.float32)


@pytest.mark.parametrize("method", quantize.METHODS)
def test_pixels_of_eight_bits_are_not_rounded_whatever_was_calibrated_on(source, tmp_path, method):
    path = tmp_path / "b.onnx"
    quantize.quantize(source, path, pixels(32, brightest=90), recipe="cpu", method=method)
    model = onnx_format.load(path)
    stored = {entry.name: numpy_helper.to_array(entry) for entry in model.graph.initializer}
    (pad,) = [node for node in model.graph.node if node.op_type == "Pad"]
    rounding = next(node for node in model.graph.node if node.input[0] == pad.output[0])
    assert rounding.op_type == "QuantizeLinear"
    assert stored[rounding.input[1]] == np.float32(1 / 255)
    assert stored[rounding.input[2]] == 115  # round(255 * 0.45)


def test_all_layers_are_computed_in_integers(source, tmp_path):
    path = tmp_path / "b.onnx"
    result = quantize.quantize(source, path, pixels(32), recipe="cpu")
    assert {"first", "second", "shortcut"} < set(result.layers)
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.log_severity_level = 3  # that the file fits this machine only
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    found = operators(onnx_format.load(tmp_path / "optimised.onnx"))
    assert found.count("QLinearConv") == 3
    assert not {"Conv", "Slice", "Add", "Div"} & set(found)
    assert found.count("Pad") == found.count("Sub") == found.count("QuantizeLinear") == 1


@pytest.mark.parametrize("keep", [(), ("first",), ("shortcut",), ("first", "shortcut")])
def test_the_answers_are_those_of_the_source(source, tmp_path, keep):
    path = tmp_path / "b.onnx"
    result = quantize.quantize(source, path, pixels(64), recipe="cpu", keep=keep)
    assert result.kept == keep
    images = pixels(64, seed=1)
    found = parity.compare(onnx.load(source)(images), onnx.load(path)(images))
    assert parity.verdict(found, "int8") is None, found


def test_uint8_pixels_are_taken_as_they_are(source, tmp_path):
    """Behind the cast of a service's images stand the same numbers."""
    quantize.quantize(source, tmp_path / "b.onnx", pixels(32), recipe="cpu")
    onnx.convert(tmp_path / "b.onnx", tmp_path / "c.onnx", precision="int8", pixels="uint8")
    images = pixels(16, seed=1)
    floats, bytes_ = (onnx.load(tmp_path / name)(images) for name in ("b.onnx", "c.onnx"))
    np.testing.assert_array_equal(floats, bytes_)


def test_the_recipe_for_tensorrt_keeps_the_graph(source, tmp_path):
    path = tmp_path / "b.onnx"
    quantize.quantize(source, path, pixels(32), recipe="trt")
    found = operators(onnx_format.load(path))
    assert (found.count("Conv"), found.count("Slice"), found.count("Pad"), found.count("Div")) == (2, 2, 1, 1)
