"""The precision of hand-written graphs, where the answer is known."""

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from onnx import TensorProto, numpy_helper, parser
from onnx.reference import ReferenceEvaluator

from exporters.errors import ExportFailed
from exporters.precision import precision_of, to_fp16, weights_by_type

WEIGHT = np.arange(12, dtype=np.float32).reshape(4, 3)
SCALE, ZERO, UNSIGNED_ZERO = np.float32(0.5), np.int8(0), np.uint8(128)


def model(body: str, weights: dict[str, np.ndarray], *, kind: str = "float"):
    made = parser.parse_model(
        f'<ir_version: 10, opset_import: ["" : 20]> g ({kind}[n,4] x) => ({kind}[n,3] y) {{ {body} }}'
    )
    made.graph.initializer.extend(numpy_helper.from_array(np.asarray(value), key) for key, value in weights.items())
    return made


QUANTISED = {"w": WEIGHT.astype(np.int8), "s": SCALE, "z": ZERO, "u": UNSIGNED_ZERO}


@pytest.mark.parametrize(
    ("body", "weights", "kind", "counts"),
    [
        ("y = MatMul(x, w)", {"w": WEIGHT}, "float", {"fp32": 12}),
        ("y = MatMul(x, w)", {"w": WEIGHT.astype(np.float16)}, "float16", {"fp16": 12}),
        ("t = Transpose(v) y = MatMul(x, t)", {"v": WEIGHT.T.copy()}, "float", {"fp32": 12}),
        ("y = Gemm(x, w, b)", {"w": WEIGHT, "b": np.zeros(3, np.float32)}, "float", {"fp32": 12}),
        # Stored in fp16, computed in fp32.
        ("c = Cast<to=1>(w) y = MatMul(x, c)", {"w": WEIGHT.astype(np.float16)}, "float", {"fp32": 12}),
        # Weights and data quantised: unsigned data with signed weights, and weights quantised in the graph.
        ("q = QuantizeLinear(x, s, u) d = DequantizeLinear(q, s, u) e = DequantizeLinear(w, s, z) y = MatMul(d, e)",
         QUANTISED, "float", {"int8": 12}),
        ("q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z) p = QuantizeLinear(v, s, z) "
         "e = DequantizeLinear(p, s, z) y = MatMul(d, e)", QUANTISED | {"v": WEIGHT}, "float", {"int8": 12}),
        ("q = QuantizeLinear<output_dtype=21>(x, s) d = DequantizeLinear(q, s) "
         "p = QuantizeLinear<output_dtype=17>(v, s) e = DequantizeLinear(p, s) y = MatMul(d, e)",
         {"s": SCALE, "v": WEIGHT}, "float", {"fp8": 12}),
        ("r, a, b = DynamicQuantizeLinear(x) i = MatMulInteger(r, w) y = Cast<to=1>(i)", QUANTISED, "float",
         {"int8": 12}),
        # Only the weights are quantised: the arithmetic is fp32.
        ("e = DequantizeLinear(w, s, z) y = MatMul(x, e)", QUANTISED, "float", {"fp32": 12}),
        # No product of data and weights at all.
        ("y = Add(x, b)", {"b": np.zeros(5, np.float32)}, "float", {"fp32": 5}),
        ("y = Relu(x)", {}, "float", {}),
    ],
)  # fmt: skip
def test_weights_are_counted_by_the_type_they_are_computed_in(body, weights, kind, counts):
    assert weights_by_type(model(body, weights, kind=kind)) == counts


def test_a_product_of_two_activations_counts_nothing():
    assert weights_by_type(model("t = Transpose(x) m = MatMul(x, t) y = MatMul(m, x)", {})) == {}


def test_a_network_has_the_precision_of_most_of_its_weights():
    assert precision_of({"fp32": 100, "int8": 900}) == "int8"
    assert precision_of({"fp16": 900, "fp32": 100}) == "fp16"
    assert precision_of({}) == "fp32"


def run(graph, images):
    return ReferenceEvaluator(graph).run(None, {"x": images})[0]


@settings(deadline=None)
@given(arrays(np.float32, (2, 4), elements=st.floats(-4, 4, width=32)))
def test_a_lowered_product_is_the_product_of_the_rounded_numbers(images):
    lowered = model("y = MatMul(x, w)", {"w": WEIGHT / 7})
    to_fp16(lowered)
    exact = images.astype(np.float16).astype(np.float64) @ (WEIGHT / 7).astype(np.float16).astype(np.float64)
    np.testing.assert_allclose(run(lowered, images), exact, rtol=4e-3, atol=4e-3 * 12)


def test_a_lowered_graph_is_valid_and_keeps_its_inputs_and_outputs():
    body = "m = MatMul(x, w) c = Constant<value = float {2.0}>() k = Cast<to=1>(i) a = Mul(m, c) y = Add(a, k)"
    lowered = model(body, {"w": WEIGHT, "i": np.array([1, 2, 3])})
    images = np.ones((2, 4), np.float32)
    before = run(lowered, images)
    to_fp16(lowered)
    onnx.checker.check_model(lowered, full_check=True)
    assert [value.type.tensor_type.elem_type for value in (*lowered.graph.input, *lowered.graph.output)] == [1, 1]
    assert weights_by_type(lowered) == {"fp16": 12}
    assert {tensor.name: tensor.data_type for tensor in lowered.graph.initializer}["i"] == TensorProto.INT64
    np.testing.assert_array_equal(run(lowered, images), before)  # small whole numbers are exact in fp16


def test_the_scales_of_a_resize_stay_in_fp32():
    resized = parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 20]> g (float[n,1,2,2] x) => (float[n,1,4,4] y)'
        "{ y = Resize<mode = \"nearest\">(x, , s) }"
    )  # fmt: skip
    resized.graph.initializer.append(numpy_helper.from_array(np.array([1, 1, 2, 2], np.float32), "s"))
    to_fp16(resized)
    onnx.checker.check_model(resized, full_check=True)
    assert resized.graph.initializer[0].data_type == TensorProto.FLOAT
    assert [node.op_type for node in resized.graph.node] == ["Cast", "Resize", "Cast"]


@pytest.mark.parametrize("value", [65520.0, -1e5, 3e38])
def test_a_weight_that_fp16_cannot_hold_is_refused_by_name(value):
    weight = WEIGHT.copy()
    weight[1, 2] = value
    with pytest.raises(ExportFailed, match=rf"'w' holds {value:.6g}, beyond fp16".replace("+", r"\+")):
        to_fp16(model("y = MatMul(x, w)", {"w": weight}))


def test_infinities_and_the_largest_number_are_kept():
    weight = WEIGHT.copy()
    weight[0] = [np.inf, -np.inf, 65504]
    lowered = model("y = MatMul(x, w)", {"w": weight})
    to_fp16(lowered)
    np.testing.assert_array_equal(numpy_helper.to_array(lowered.graph.initializer[0])[0], weight[0])
