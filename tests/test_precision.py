"""The precision of hand-written graphs, where the answer is known."""

import copy

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from onnx import TensorProto, helper, numpy_helper, parser
from onnx.reference import ReferenceEvaluator
from onnxruntime import InferenceSession

from exporters.errors import ExportFailed
from exporters.precision import lower, precision_of, weights_by_type

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
        # As a node of its own, which is how some exporters write every weight.
        ("w = Constant<value = float[4,3] {0,1,2,3,4,5,6,7,8,9,10,11}>() r = Relu(x) y = MatMul(r, w)", {}, "float",
         {"fp32": 12}),
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
    """Run a lowered graph, which takes and returns its own type."""
    (answer,) = ReferenceEvaluator(graph).run(None, {"x": images.astype(graph_type(graph.graph.input[0]))})
    return answer.astype(np.float32)


def graph_type(value):
    return helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)


def rounded(values, precision):
    """What PyTorch makes of the numbers."""
    kind = {"fp16": torch.float16, "bf16": torch.bfloat16}[precision]
    return torch.from_numpy(np.array(values, np.float32)).to(kind).float().numpy()


@given(arrays(np.float32, (2, 4), elements=st.floats(-4, 4, width=32)))
def test_a_lowered_product_is_the_product_of_the_rounded_numbers(images):
    lowered = model("y = MatMul(x, w)", {"w": WEIGHT / 7})
    lower(lowered, "fp16")
    exact = rounded(images, "fp16").astype(np.float64) @ rounded(WEIGHT / 7, "fp16").astype(np.float64)
    np.testing.assert_allclose(run(lowered, images), exact, rtol=4e-3, atol=4e-3 * 12)


@given(arrays(np.float32, (4, 3), elements=st.floats(width=32, allow_infinity=True, allow_nan=True)))
def test_bf16_weights_are_rounded_to_the_nearest_and_ties_to_even(weight):
    lowered = model("y = MatMul(x, w)", {"w": weight})
    if (np.isfinite(weight) & np.isinf(rounded(weight, "bf16"))).any():
        with pytest.raises(ExportFailed, match="beyond bf16's largest number"):
            lower(lowered, "bf16")
        return
    lower(lowered, "bf16")
    tensor = lowered.graph.initializer[0]
    assert (tensor.data_type, list(tensor.dims), tensor.name) == (TensorProto.BFLOAT16, [4, 3], "w")
    upper = np.frombuffer(tensor.raw_data, np.uint16).astype(np.uint32) << 16
    np.testing.assert_array_equal(upper.view(np.float32).reshape(4, 3), rounded(weight, "bf16"))


def test_bf16_rounds_ties_to_even_and_keeps_what_is_no_number():
    ties = [1 + 2**-8, 1 + 3 * 2**-8, -1 - 2**-8, 2**-133, 3 * 2**-134]
    weight = np.array([*ties, np.inf, 0, 0, 0, 0, 0, 0], np.float32)
    weight[-3:] = np.array([0x7F800001, 0x7FFFFFFF, 0xFFFFFFFF], np.uint32).view(np.float32)
    lowered = model("y = MatMul(x, w)", {"w": weight.reshape(4, 3)})
    lower(lowered, "bf16")
    upper = np.frombuffer(lowered.graph.initializer[0].raw_data, np.uint16).astype(np.uint32) << 16
    np.testing.assert_array_equal(upper.view(np.float32), rounded(weight, "bf16"))


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_a_lowered_graph_is_valid_and_takes_and_returns_the_type(precision):
    body = (
        "m = MatMul(x, w) c = Constant<value = float {2.0}>() k = Cast<to=1>(i) a = Mul(m, c) b = Add(a, k) "
        "p = Constant<value_float = 0.5>() q = Constant<value_floats = [1.0, 2.0, 4.0]>() "
        "n = Constant<value_ints = [3]>() o = ConstantOfShape(n) d = Add(b, p) e = Mul(d, q) y = Add(e, o)"
    )
    lowered = model(body, {"w": WEIGHT, "i": np.array([1, 2, 3])})
    lowered.opset_import[0].version = 22
    images = np.ones((2, 4), np.float32)
    before = run(lowered, images)
    lower(lowered, precision)
    onnx.checker.check_model(lowered, full_check=True)
    element = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}[precision]
    ends = (*lowered.graph.input, *lowered.graph.output)
    assert [value.type.tensor_type.elem_type for value in ends] == [element] * 2
    assert weights_by_type(lowered) == {precision: 12}
    assert {tensor.name: tensor.data_type for tensor in lowered.graph.initializer}["i"] == TensorProto.INT64
    np.testing.assert_array_equal(run(lowered, images), before)  # halves of small whole numbers are exact


def test_the_scales_of_a_resize_stay_in_fp32():
    resized = parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 20]> g (float[n,1,2,2] x) => (float[n,1,4,4] y)'
        "{ y = Resize<mode = \"nearest\">(x, , s) }"
    )  # fmt: skip
    resized.graph.initializer.append(numpy_helper.from_array(np.array([1, 1, 2, 2], np.float32), "s"))
    lower(resized, "fp16")
    onnx.checker.check_model(resized, full_check=True)
    assert resized.graph.initializer[0].data_type == TensorProto.FLOAT


def test_a_hard_swish_becomes_its_definition_in_bf16_only():
    swish = model("a = HardSwish(x) y = MatMul(a, w)", {"w": np.eye(4, 3, dtype=np.float32)})
    swish.opset_import[0].version = 22
    half, sixteen = copy.deepcopy(swish), copy.deepcopy(swish)
    lower(half, "fp16")
    lower(sixteen, "bf16")
    onnx.checker.check_model(sixteen, full_check=True)
    assert [node.op_type for node in half.graph.node] == ["HardSwish", "MatMul"]
    assert [node.op_type for node in sixteen.graph.node] == ["HardSigmoid", "Mul", "MatMul"]
    images = np.array([[-4, -1.5, 1.5, 4]], np.float32)
    np.testing.assert_allclose(run(sixteen, images), run(swish, images), atol=0.01)


ATTENTION = parser.parse_model(
    '<ir_version: 10, opset_import: ["" : 20]> g (float[n,4,3] x) => (float[4,n,2] y)'
    "{ t = Transpose<perm = [1, 0, 2]>(x) q = MatMul(t, w) k = MatMul(t, v) y = Add(q, k) }"
)


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_a_product_behind_a_transpose_of_the_batch_comes_first(precision):
    """ONNX Runtime 1.31 ends the process where an fp16 graph keeps the order, which attention of PyTorch has."""
    source, lowered = copy.deepcopy(ATTENTION), copy.deepcopy(ATTENTION)
    for made in (source, lowered):
        made.graph.initializer.extend(
            numpy_helper.from_array(np.arange(6, dtype=np.float32).reshape(3, 2) * scale, name)
            for name, scale in (("w", 1), ("v", 0.5))
        )
    lower(lowered, precision)
    onnx.checker.check_model(lowered)
    assert [node.op_type for node in lowered.graph.node] == ["MatMul", "Transpose", "MatMul", "Transpose", "Add"]
    images = np.arange(24, dtype=np.float32).reshape(2, 4, 3) / 8
    np.testing.assert_allclose(run(lowered, images), run(source, images), rtol=0.02)
    if precision == "fp16":
        session = InferenceSession(lowered.SerializeToString(), providers=["CPUExecutionProvider"])
        np.testing.assert_allclose(
            session.run(None, {"x": images.astype(np.float16)})[0], run(source, images), rtol=0.01
        )


@pytest.mark.parametrize(
    "body", ["t = Transpose(x) y = MatMul(t, w)", "t = Transpose<perm = [1, 0]>(x) y = MatMul(t, w)"]
)
def test_a_transpose_of_what_is_summed_stays_in_front_of_a_product(body):
    other = model(body, {"w": WEIGHT[:2]})
    lower(other, "fp16")
    assert [node.op_type for node in other.graph.node] == ["Transpose", "MatMul"]


def test_a_quantised_graph_is_not_lowered():
    body = "q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z) e = DequantizeLinear(w, s, z) y = MatMul(d, e)"
    with pytest.raises(ExportFailed, match=r"quantised graph is not lowered to fp16 \(node 'q'\)") as refused:
        lower(model(body, QUANTISED), "fp16")
    assert refused.value.exit_code == 6


def test_control_flow_is_not_lowered():
    body = (
        "b = Constant<value = bool {1}>() "
        "y = If (b) <then_branch = t () => (float[n,3] u) { u = MatMul(x, w) }, "
        "else_branch = e () => (float[n,3] v) { v = MatMul(x, w) }>"
    )
    with pytest.raises(ExportFailed, match=r"control flow or functions \(node 'y'\)"):
        lower(model(body, {"w": WEIGHT}), "fp16")


@pytest.mark.parametrize(
    ("precision", "value"), [("fp16", 65520.0), ("fp16", -1e5), ("fp16", 3e38), ("bf16", 3.4e38), ("bf16", -3.4e38)]
)
def test_a_weight_that_the_type_cannot_hold_is_refused_by_name(precision, value):
    weight = WEIGHT.copy()
    weight[1, 2] = value
    with pytest.raises(ExportFailed, match=rf"'w' holds {value:.6g}, beyond {precision}'s".replace("+", r"\+")):
        lower(model("y = MatMul(x, w)", {"w": weight}), precision)


@pytest.mark.parametrize(("precision", "largest"), [("fp16", 65504), ("bf16", torch.finfo(torch.bfloat16).max)])
def test_infinities_and_the_largest_number_are_kept(precision, largest):
    weight = WEIGHT.copy()
    weight[0] = [np.inf, -np.inf, largest]
    lowered = model("y = MatMul(x, w)", {"w": weight})
    lower(lowered, precision)
    kept = numpy_helper.to_array(lowered.graph.initializer[0])
    np.testing.assert_array_equal(kept[0].astype(np.float32), weight[0])


def test_a_node_that_lacks_its_weights_counts_nothing():
    assert weights_by_type(model("y = MatMul(x)", {})) == {}
    assert weights_by_type(model("y = MatMul()", {})) == {}
