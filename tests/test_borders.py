"""The ends of hand-written graphs: found, and replaced."""

import copy

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, numpy_helper, parser
from onnxruntime import InferenceSession

from exporters.borders import find, rebuild, softmax
from exporters.errors import ArtifactRejected
from exporters.precision import lower

FLAT = "y = Flatten(x)"
EVERY = np.arange(256, dtype=np.uint8)


def model(signature: str, body: str = FLAT, weights: dict[str, np.ndarray] | None = None, *, opset=20, ir=10):
    made = parser.parse_model(f'<ir_version: {ir}, opset_import: ["" : {opset}]> g {signature} {{ {body} }}')
    made.graph.initializer.extend(numpy_helper.from_array(value, key) for key, value in (weights or {}).items())
    return made


def pixels_out(size: int = 2):
    """A graph whose logits are its pixels, in the order of the channels."""
    return model(f"(float[n,3,{size},{size}] x) => (float[n,{3 * size * size}] y)")


def rebuilt(source, **wanted):
    made = copy.deepcopy(source)
    rebuild(made, find("g.onnx", made), **{"pixels": "float32", "output": "logits", **wanted})
    onnx.checker.check_model(made, full_check=True)
    return made


def run(made, images):
    session = InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run([end.name for end in made.graph.output], {made.graph.input[0].name: images})[0]


def images(count=4, size=2, seed=0):
    return np.random.default_rng(seed).random((count, 3, size, size), dtype=np.float32)


def ends(made):
    return [
        (end.name, end.type.tensor_type.elem_type, [d.dim_param or d.dim_value for d in end.type.tensor_type.shape.dim])
        for end in (*made.graph.input, *made.graph.output)
    ]


# What is found.


@pytest.mark.parametrize(
    ("signature", "body", "batch", "shape", "layout", "returns"),
    [
        ("(float[n,3,4,2] x) => (float[n,24] y)", FLAT, None, (3, 4, 2), "float32", "logits"),
        ("(float16[8,1,4,2] x) => (float16[8,8] y)", FLAT, 8, (1, 4, 2), "float32", "logits"),
        ("(bfloat16[n,3,4,3] x) => (bfloat16[n,36] y)", FLAT, None, (3, 4, 3), "float32", "logits"),
        ("(float[n,12,4,2] x) => (float[n,96] y)", FLAT, None, (12, 4, 2), "float32", "logits"),
        (
            "(uint8[n,4,2,3] x) => (float[n,24] y)", "c = Cast<to=1>(x) y = Flatten(c)",
            None, (3, 4, 2), "uint8", "logits",
        ),
        (
            "(uint8[5,4,2,1] x) => (float[5,8] y)", "c = Cast<to=1>(x) f = Flatten(c) y = Softmax(f)",
            5, (1, 4, 2), "uint8", "probabilities",
        ),
    ],
)  # fmt: skip
def test_the_ends_are_found_in_the_graph(signature, body, batch, shape, layout, returns):
    found = find("g.onnx", model(signature, body))
    assert (found.input, found.output) == ("x", "y")
    assert (found.batch, found.input_shape, found.pixels, found.returns) == (batch, shape, layout, returns)


@pytest.mark.parametrize(
    ("body", "returns"),
    [
        ("f = Flatten(x) y = Softmax(f)", "probabilities"),
        ("f = Flatten(x) y = Softmax<axis = -1>(f)", "probabilities"),
        ("f = Flatten(x) y = Softmax<axis = 1>(f)", "probabilities"),
        ("f = Flatten(x) s = Softmax(f) y = Identity(s)", "probabilities"),
        ("f = Flatten(x) h = Cast<to = 10>(f) s = Softmax(h) y = Cast<to = 1>(s)", "probabilities"),
        ("m = GlobalAveragePool(x) s = Softmax<axis = 1>(m) y = Flatten(s)", "probabilities"),
        ("f = Flatten(x) y = Softmax<axis = 0>(f)", "logits"),  # over the batch
        ("f = Flatten(x) y = LogSoftmax(f)", "logits"),
        ("f = Flatten(x) s = Softmax(f) y = Neg(s)", "logits"),
        ("s = Softmax(x) r = Relu(s) y = Flatten(r)", "logits"),  # attention, not an end
    ],
)
def test_a_softmax_over_the_classes_makes_probabilities(body, returns):
    assert find("g.onnx", model("(float[n,3,2,2] x) => (float[n,k] y)", body)).returns == returns


def test_an_image_size_that_is_left_open_is_taken_from_the_metadata_in_either_layout():
    sized = model("(uint8[n,h,w,3] x) => (float[n,k] y)", "c = Cast<to=1>(x) y = Flatten(c)")
    with pytest.raises(ArtifactRejected, match="leaves the size of its images open"):
        find("g.onnx", sized)
    onnx.helper.set_model_props(sized, {"compress.input_shape": "[3, 4, 6]"})
    assert find("g.onnx", sized).input_shape == (3, 4, 6)


@pytest.mark.parametrize(
    ("signature", "body", "sentence", "hint"),
    [
        (
            "(float[n,32,24,3] x) => (float[n,k] y)", FLAT,
            "g.onnx takes floating-point pixels [batch, 32, 24, 3], with the channels last",
            "convert it to [batch, C, H, W] first, for example with tf2onnx --inputs-as-nchw",
        ),
        (
            "(uint8[n,3,32,24] x) => (float[n,k] y)", "c = Cast<to=1>(x) y = Flatten(c)",
            "g.onnx takes uint8 pixels [batch, 3, 32, 24], not [batch, H, W, C] with 1 or 3 channels",
            "give a graph that takes uint8 NHWC or float NCHW",
        ),
        (
            "(float[n,3,2,2] x) => (float[n,3,1,2] y)", "y = MaxPool<kernel_shape = [2, 1]>(x)",
            "g.onnx returns FLOAT [n, 3, 1, 2], not logits [batch, classes]",
            "export the network up to its logits, without what chooses the class",
        ),
    ],
)  # fmt: skip
def test_what_is_not_a_classifier_of_images_is_refused_in_one_sentence(signature, body, sentence, hint):
    with pytest.raises(ArtifactRejected) as refused:
        find("g.onnx", model(signature, body))
    assert (refused.value.message, refused.value.hint, refused.value.exit_code) == (sentence, hint, 4)


# What is put there.


def test_a_graph_that_has_the_ends_already_is_left_alone():
    source = model("(float[batch,3,2,2] input) => (float[batch,12] logits)", "logits = Flatten(input)")
    assert rebuilt(source) == source


def test_all_uint8_values_are_divided_by_255_to_the_last_bit():
    made = rebuilt(pixels_out(16), pixels="uint8")
    assert ends(made) == [
        ("input", TensorProto.UINT8, ["n", 16, 16, 3]),
        ("logits", TensorProto.FLOAT, ["n", 768]),
    ]
    grey = np.broadcast_to(EVERY.reshape(1, 16, 16, 1), (1, 16, 16, 3))
    expected = np.tile(EVERY.astype(np.float32) / np.float32(255), 3)
    np.testing.assert_array_equal(run(made, grey)[0], expected)


@settings(max_examples=25)
@given(st.integers(1, 4), st.integers(1, 5), st.integers(0, 2**16))
def test_channels_rows_and_columns_come_out_in_their_places(height, width, seed):
    decoded = np.random.default_rng(seed).integers(0, 256, (2, height, width, 3), np.uint8)
    made = rebuilt(model(f"(float[n,3,{height},{width}] x) => (float[n,k] y)"), pixels="uint8")
    planes = decoded.transpose(0, 3, 1, 2).astype(np.float32) / np.float32(255)
    np.testing.assert_array_equal(run(made, decoded), planes.reshape(2, -1))


MEAN, STD = [0.5, 0.25, 0.125], [0.5, 0.25, 2.0]


@pytest.mark.parametrize(("mean", "std"), [(MEAN, STD), (MEAN, None), (None, STD)])
def test_pixels_are_normalised_channel_by_channel(mean, std):
    made = rebuilt(pixels_out(), mean=mean, std=std)
    assert ends(made)[0] == ("input", TensorProto.FLOAT, ["n", 3, 2, 2])
    shift = np.array(mean or [0, 0, 0], np.float32).reshape(3, 1, 1)
    scale = np.array(std or [1, 1, 1], np.float32).reshape(3, 1, 1)
    np.testing.assert_allclose(run(made, images()), ((images() - shift) / scale).reshape(4, -1), rtol=1e-6)


def test_uint8_pixels_are_divided_before_they_are_normalised():
    made = rebuilt(pixels_out(16), pixels="uint8", mean=MEAN, std=STD)
    grey = np.broadcast_to(EVERY.reshape(1, 16, 16, 1), (1, 16, 16, 3))
    wanted = (EVERY.astype(np.float32) / np.float32(255) - np.array(MEAN, np.float32)[:, None]) / np.array(STD)[:, None]
    np.testing.assert_allclose(run(made, grey)[0], wanted.reshape(-1), rtol=1e-6, atol=1e-7)


def test_probabilities_are_the_softmax_of_the_logits():
    made = rebuilt(pixels_out(), output="probabilities")
    assert ends(made)[1] == ("probabilities", TensorProto.FLOAT, ["n", 12])
    powers = np.exp(images().reshape(4, -1))
    np.testing.assert_allclose(run(made, images()), powers / powers.sum(1, keepdims=True), rtol=1e-6)


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_the_ends_of_a_lowered_graph_are_in_fp32(precision):
    lowered = model("(float[n,3,2,2] x) => (float[n,12] y)", opset=22)
    lower(lowered, precision)
    made = rebuilt(lowered, pixels="uint8", output="probabilities", mean=MEAN, std=STD)
    assert [node.op_type for node in made.graph.node] == [
        "Cast", "Transpose", "Div", "Sub", "Div", "Cast", "Flatten", "Cast", "Softmax",
    ]  # fmt: skip
    casts = [node.attribute[0].i for node in made.graph.node if node.op_type == "Cast"]
    element = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}[precision]
    assert casts == [TensorProto.FLOAT, element, TensorProto.FLOAT]
    assert {tensor.data_type for tensor in made.graph.initializer} == {TensorProto.FLOAT}


@pytest.mark.parametrize(
    "body",
    [
        "f = Flatten(x) y = Softmax(f)",
        "f = Flatten(x) h = Cast<to = 10>(f) s = Softmax(h) c = Cast<to = 1>(s) y = Identity(c)",
    ],
)
def test_logits_are_what_a_softmax_at_the_end_was_given(body):
    source = model("(float[n,3,2,2] x) => (float[n,12] y)", body)
    made = rebuilt(source)
    assert softmax(made.graph) is None
    np.testing.assert_allclose(run(made, images()), images().reshape(4, -1), atol=1e-3)


def test_a_fixed_batch_stays_fixed():
    made = rebuilt(model("(float[4,3,2,2] x) => (float[4,12] y)"), pixels="uint8", output="probabilities")
    assert [shape[0] for _, _, shape in ends(made)] == [4, 4]


def test_a_batch_without_a_name_and_unknown_classes_get_names():
    source = model("(float[n,3,2,2] x) => (float[n,12] y)")
    source.graph.input[0].type.tensor_type.shape.dim[0].ClearField("dim_param")
    source.graph.output[0].type.tensor_type.ClearField("shape")
    made = rebuilt(source)
    assert [shape for _, _, shape in ends(made)] == [["batch", 3, 2, 2], ["batch", "classes"]]


@pytest.mark.parametrize("output", ["logits", "probabilities"])
@pytest.mark.parametrize("layout", ["float32", "uint8"])
def test_the_names_of_other_tensors_are_kept_out_of_the_way(layout, output):
    body = (
        "input = Relu(x) logits = Add(input, input_cast) probabilities = Neg(logits) "
        "input_inner = Neg(probabilities) y = Flatten(input_inner)"
    )
    source = model("(float[n,3,2,2] x) => (float[n,12] y)", body, {"input_cast": np.float32([[[1]]])})
    made = rebuilt(source, pixels=layout, output=output)
    assert [name for name, _, _ in ends(made)] == ["input", output]
    decoded = np.rint(images() * 255)
    given = decoded.transpose(0, 2, 3, 1).astype(np.uint8) if layout == "uint8" else decoded / np.float32(255)
    found = run(made, given)
    wanted = (decoded / np.float32(255)).reshape(4, -1) + 1
    if output == "probabilities":
        wanted = np.exp(wanted) / np.exp(wanted).sum(1, keepdims=True)
    np.testing.assert_allclose(found, wanted, rtol=1e-6)


def test_ends_with_each_others_names_are_told_apart():
    source = model("(float[n,3,2,2] logits) => (float[n,12] input)", "input = Flatten(logits)")
    made = rebuilt(source, mean=MEAN)
    assert [name for name, _, _ in ends(made)] == ["input", "logits"]
    shift = np.array(MEAN, np.float32).reshape(3, 1, 1)
    np.testing.assert_allclose(run(made, images()), (images() - shift).reshape(4, -1), rtol=1e-6)


def test_a_subgraph_that_sees_the_input_sees_what_stands_in_front_of_it():
    body = (
        "b = Constant<value = bool {1}>() "
        "y = If (b) <then_branch = t () => (float[n,12] u) { u = Flatten(x) }, "
        "else_branch = e () => (float[n,12] v) { w = Neg(x) v = Flatten(w) }>"
    )
    made = rebuilt(model("(float[n,3,2,2] x) => (float[n,12] y)", body), std=STD)
    scale = np.array(STD, np.float32).reshape(3, 1, 1)
    np.testing.assert_allclose(run(made, images()), (images() / scale).reshape(4, -1), rtol=1e-6)


def test_weights_that_an_old_file_lists_as_inputs_become_constants():
    signature = "(float[n,3,2,2] x, float[12,2] w) => (float[n,2] y)"
    weight = np.random.default_rng(0).random((12, 2), dtype=np.float32)
    old = model(signature, "f = Flatten(x) y = MatMul(f, w)", {"w": weight}, opset=9, ir=3)
    made = rebuilt(old, mean=MEAN, output="probabilities")
    assert [end.name for end in made.graph.input] == ["input"]
    assert made.ir_version == 4
    logits = (images() - np.array(MEAN, np.float32).reshape(3, 1, 1)).reshape(4, -1) @ weight
    np.testing.assert_allclose(run(made, images()), np.exp(logits) / np.exp(logits).sum(1, keepdims=True), rtol=1e-5)
