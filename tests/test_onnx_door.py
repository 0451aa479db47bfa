"""ONNX files of anyone: what would hang, crash or fill the memory of who opens it is refused at the door."""

import itertools
import random

import numpy as np
import onnx as onnx_format
import pytest
from onnx import TensorProto, helper, numpy_helper

from compressor.errors import CompressError
from compressor.pipeline.inspect import inspect
from exporters import onnx
from exporters.errors import ArtifactRejected, UserError
from exporters.onnx import sizes, structure

node = helper.make_node


def value(name, shape, element=TensorProto.FLOAT):
    return helper.make_tensor_value_info(name, element, shape)


def numbers(name, *values):
    return numpy_helper.from_array(np.array(values, np.int64), name)


def scalar(name, number):
    return numpy_helper.from_array(np.array(number, np.int64), name)


def model_of(nodes, *weights, functions=(), domains=("",)):
    """Images [n, 3, 2, 2] to 12 logits."""
    ends = [value("x", ["n", 3, 2, 2])], [value("y", ["n", 12])]
    graph = helper.make_graph([*nodes], "g", *ends, [*weights])
    opsets = [helper.make_opsetid(domain, 20 if not domain else 1) for domain in domains]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10, functions=[*functions])


FLATTEN = node("Flatten", ["x"], ["f"])
PLAIN = node("Flatten", ["x"], ["y"])


def cycle():
    return model_of(
        [node("Add", ["f", "b"], ["a"]), node("Identity", ["a"], ["b"]), FLATTEN, node("Relu", ["a"], ["y"])]
    )


def cycle_behind_the_output():
    return model_of([PLAIN, node("Identity", ["b"], ["a"]), node("Identity", ["a"], ["b"])])


def cycle_through_a_subgraph():
    inner = helper.make_graph([node("Identity", ["y"], ["i"])], "inner", [], [value("i", ["n", 12])])
    other = helper.make_graph([node("Identity", ["f"], ["j"])], "other", [], [value("j", ["n", 12])])
    condition = helper.make_tensor("c", TensorProto.BOOL, [], [True])
    return model_of([FLATTEN, node("If", ["c"], ["y"], then_branch=inner, else_branch=other)], condition)


def doubling(times=40):
    """Functions of which each calls the one before it twice."""
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("mine", 1)]
    functions = [helper.make_function("mine", "F0", ["a"], ["b"], [node("Relu", ["a"], ["b"])], opsets)]
    for level in range(1, times + 1):
        calls = [node(f"F{level - 1}", [a], [b], domain="mine") for a, b in (("a", "c"), ("c", "b"))]
        functions.append(helper.make_function("mine", f"F{level}", ["a"], ["b"], calls, opsets))
    nodes = [FLATTEN, node(f"F{times}", ["f"], ["y"], domain="mine")]
    return model_of(nodes, functions=functions, domains=("", "mine"))


def calling_itself():
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("mine", 1)]
    body = [node("F", ["a"], ["b"], domain="mine")]
    function = helper.make_function("mine", "F", ["a"], ["b"], body, opsets)
    return model_of([FLATTEN, node("F", ["f"], ["y"], domain="mine")], functions=[function], domains=("", "mine"))


def loop(trips):
    body = helper.make_graph(
        [node("Identity", ["go"], ["on"]), node("Relu", ["before"], ["after"])],
        "body",
        [value("i", [], TensorProto.INT64), value("go", [], TensorProto.BOOL), value("before", ["n", 12])],
        [value("on", [], TensorProto.BOOL), value("after", ["n", 12])],
    )
    weights = [helper.make_tensor("go", TensorProto.BOOL, [], [True])]
    weights += [] if trips is None else [scalar("trips", trips)]
    name = "" if trips is None else "trips"
    return model_of([FLATTEN, node("Loop", [name, "go", "f"], ["y"], body=body)], *weights)


def nested(depth=20):
    condition = helper.make_tensor("c", TensorProto.BOOL, [], [True])
    inner = helper.make_graph([node("Relu", ["f"], ["i"])], "inner", [], [value("i", None)])
    for _ in range(depth):
        inner = helper.make_graph([node("If", ["c"], ["i"], then_branch=inner)], "inner", [], [value("i", None)])
    return model_of([FLATTEN, node("If", ["c"], ["y"], then_branch=inner, else_branch=inner)], condition)


def without_a_type():
    model = model_of([PLAIN])
    model.graph.input[0].ClearField("type")
    return model


def unreadable_dimension():
    model = model_of([PLAIN])
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "batch"
    return onnx_format.ModelProto.FromString(model.SerializeToString().replace(b"batch", b"\xc3atch"))


def of_no_known_type():
    model = model_of([PLAIN])
    model.graph.output[0].type.tensor_type.elem_type = 99
    return model


def without_a_value():
    return model_of([node("Constant", [], ["c"]), FLATTEN, node("Add", ["f", "c"], ["y"])])


def short_weight():
    weight = helper.make_tensor("w", TensorProto.FLOAT, [12], np.ones(12, np.float32).tobytes(), raw=True)
    weight.dims[0] = 2**40
    return model_of([FLATTEN, node("Add", ["f", "w"], ["y"])], weight)


def sparse_weight():
    one = helper.make_sparse_tensor(
        numpy_helper.from_array(np.ones(1, np.float32), "w"), numbers("", 0), [2**30, 2**30]
    )
    model = model_of([PLAIN])
    model.graph.sparse_initializer.append(one)
    return model


def elsewhere(location, **more):
    weight = numpy_helper.from_array(np.ones((1, 12), np.float32), "w")
    model = model_of([FLATTEN, node("Add", ["f", "w"], ["y"])], weight)
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, text in {"location": location, **more}.items():
        tensor.external_data.add(key=key, value=text)
    return model


def reduced(*nodes_and_weights):
    """The logits are those of the image and the largest number of a tensor `big`."""
    nodes = [one for one in nodes_and_weights if isinstance(one, onnx_format.NodeProto)]
    weights = [one for one in nodes_and_weights if isinstance(one, TensorProto)]
    ending = [node("ReduceMax", ["big"], ["m"], keepdims=0), FLATTEN, node("Add", ["f", "m"], ["y"])]
    return model_of([*nodes, *ending], *weights)


def ten_tiles(start):
    names = [start, *(f"t{step}" for step in range(9)), "big"]
    return [node("Tile", [a, "r"], [b]) for a, b in itertools.pairwise(names)]


ONE = numpy_helper.from_array(np.ones((1, 1), np.float32), "one")
SIDE = numbers("side", 2**20, 2**20)
BOMBS = {
    "Expand": reduced(node("Expand", ["one", "side"], ["big"]), ONE, SIDE),
    "ConstantOfShape": reduced(node("ConstantOfShape", ["side"], ["big"]), SIDE),
    "tiles": reduced(*ten_tiles("one"), ONE, numbers("r", 16, 16)),
    "tiles of an image": reduced(node("Relu", ["x"], ["z"]), *ten_tiles("z"), numbers("r", 1, 1, 16, 16)),
    "tiles of an image beyond 64 bits": reduced(node("Tile", ["x", "r"], ["big"]), numbers("r", 1, 1, 2, 2**62 + 1)),
    "a computed shape": reduced(
        node("Mul", ["h", "h"], ["s"]), node("ConstantOfShape", ["s"], ["big"]), numbers("h", 2**10, 2**11)
    ),
    "a shape that cannot be told": reduced(
        node("Cast", ["h"], ["float"], to=TensorProto.FLOAT),
        node("Exp", ["float"], ["e"]),
        node("Cast", ["e"], ["s"], to=TensorProto.INT64),
        node("ConstantOfShape", ["s"], ["big"]),
        numbers("h", 20, 20),
    ),
    "a sum of doubles": reduced(
        *(node("Concat", [f"d{step}", f"d{step}"], [f"d{step + 1}"], axis=0) for step in range(39)),
        node("Concat", ["d39", "d39"], ["big"], axis=0),
        numpy_helper.from_array(np.ones(1, np.float32), "d0"),
    ),
    "many large ones": reduced(
        *(node("ConstantOfShape", ["s"], [f"c{step}"]) for step in range(8)),
        node("Sum", [f"c{step}" for step in range(8)], ["big"]),
        numbers("s", 2**13, 2**13),
    ),
}

REFUSED = {
    "cycle": (cycle, "has a cycle: the node"),
    "cycle behind the output": (cycle_behind_the_output, "has a cycle: the node"),
    "cycle through a subgraph": (cycle_through_a_subgraph, "has a cycle: the node 'y'"),
    "functions that double": (doubling, "functions that call themselves, or more than 16 deep"),
    "functions that double, not deep": (lambda: doubling(15), None),
    "function that calls itself": (calling_itself, "functions that call themselves"),
    "endless loop": (lambda: loop(2**62), "runs more than 1,000,000 nodes for one image"),
    "loop without a count": (lambda: loop(None), "the Loop 'y' of .* does not say how often it runs"),
    "deep subgraphs": (nested, "graphs within graphs, more than 16 deep"),
    "missing type": (without_a_type, "does not say of what type 'x' is"),
    "unknown type": (of_no_known_type, "does not say of what type 'y' is"),
    "text that is not UTF-8": (unreadable_dimension, "its text is not UTF-8"),
    "node without input": (lambda: model_of([node("Relu", [], ["y"])]), "the Relu 'y' of .* has 0 inputs"),
    "node without output": (lambda: model_of([PLAIN, node("Relu", ["x"], [])]), "the node 'Relu' of .* makes nothing"),
    "node without attribute": (
        lambda: model_of([node("Cast", ["x"], ["c"]), node("Flatten", ["c"], ["y"])]),
        "the Cast 'c' of .* does not state its 'to'",
    ),
    "Constant without value": (without_a_value, "the Constant 'c' of .* has no value"),
    "unknown tensor": (
        lambda: model_of([node("Flatten", ["unknown"], ["y"])]), "the node 'y' of .* reads 'unknown', which nothing"
    ),
    "unknown output": (lambda: model_of([FLATTEN]), "nothing makes the output 'y'"),
    "two of one name": (lambda: model_of([PLAIN, node("Relu", ["x"], ["y"])]), "two tensors of the name 'y'"),
    "short weight": (short_weight, "'w' does not hold the numbers that it states"),
    "sparse weight": (sparse_weight, "a sparse tensor of 1,152,921,504,606,846,976 numbers"),
    "NUL in a location": (lambda: elsewhere("a\0b"), r"from 'a\\x00b', outside its own folder"),
    "no location": (lambda: elsewhere(""), "needs the file '' beside it"),
    "offset that is no number": (lambda: elsewhere("w.bin", offset="-1"), "does not say where in 'w.bin'"),
    "offset behind the end": (lambda: elsewhere("w.bin", offset="4096"), "needs more of 'w.bin' than there is"),
    **{
        name: ((lambda made=made: made), "would have the shape|cannot be told|numbers out of constants")
        for name, made in BOMBS.items()
    },
}  # fmt: skip


@pytest.mark.heavy
@pytest.mark.parametrize("name", REFUSED)
def test_what_would_hang_or_crash_is_refused_in_a_sentence_by_inspect_too(tmp_path, capfd, name):
    make, words = REFUSED[name]
    path = tmp_path / "x.onnx"
    (tmp_path / "w.bin").write_bytes(bytes(48))
    path.write_bytes(make().SerializeToString())
    if words is None:  # the control: 2 ** 15 calls are bearable
        assert onnx.read(path).functions
        return
    for opening in (onnx.read, onnx.load, inspect):
        with pytest.raises(ArtifactRejected, match=words) as refused:
            opening(path)
        assert refused.value.exit_code == 4
        assert "\n" not in refused.value.message
    assert capfd.readouterr() == ("", "")


def test_a_loop_that_ends_is_read_and_run(tmp_path):
    path = tmp_path / "x.onnx"
    path.write_bytes(loop(3).SerializeToString())
    np.testing.assert_array_equal(onnx.load(path)(np.ones((2, 3, 2, 2), np.float32)), np.ones((2, 12)))


def test_a_file_of_too_many_nodes_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "x.onnx"
    path.write_bytes(model_of([FLATTEN, node("Relu", ["f"], ["y"])]).SerializeToString())
    monkeypatch.setattr(structure, "_NODES", 2)
    assert len(onnx.read(path).graph.node) == 2
    monkeypatch.setattr(structure, "_NODES", 1)
    with pytest.raises(ArtifactRejected, match="more than 1 nodes"):
        onnx.read(path)


def test_a_tensor_of_an_image_may_be_as_large_as_the_bound(tmp_path, monkeypatch):
    path = tmp_path / "x.onnx"
    path.write_bytes(model_of([PLAIN]).SerializeToString())
    monkeypatch.setattr(sizes, "_NUMBERS", 12)
    onnx.read(path)
    monkeypatch.setattr(sizes, "_NUMBERS", 11)
    with pytest.raises(ArtifactRejected, match=r"'y' of .* would have the shape \[1, 12\]"):
        onnx.read(path)


def test_a_long_chain_of_nodes_is_read(tmp_path):
    path = tmp_path / "x.onnx"
    weight = numpy_helper.from_array(np.eye(12, dtype=np.float32), "c0")
    casts = [node("Cast", [f"c{step}"], [f"c{step + 1}"], to=TensorProto.FLOAT) for step in range(2000)]
    model = model_of([*casts, FLATTEN, node("MatMul", ["f", "c2000"], ["y"])], weight)
    path.write_bytes(model.SerializeToString())
    assert inspect(path)["weights by type"] == {"fp32": 144}


def test_nodes_in_no_order_are_sorted_and_those_in_order_stay(tmp_path):
    """As onnxconverter-common writes them with keep_io_types."""
    path = tmp_path / "x.onnx"
    weight = numpy_helper.from_array(np.arange(24, dtype=np.float32).reshape(12, 2), "w")
    nodes = [node("Relu", ["m"], ["y"]), node("MatMul", ["f", "w"], ["m"]), FLATTEN]
    model = model_of(nodes, weight)
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 2
    path.write_bytes(model.SerializeToString())
    images = np.random.default_rng(0).random((3, 3, 2, 2), dtype=np.float32)

    onnx.convert(path, tmp_path / "z.onnx")

    assert [one.op_type for one in onnx.read(path).graph.node] == ["Flatten", "MatMul", "Relu"]
    wanted = images.reshape(3, 12) @ np.arange(24, dtype=np.float32).reshape(12, 2)
    for file in (path, tmp_path / "z.onnx"):
        np.testing.assert_allclose(onnx.load(file)(images), wanted, rtol=1e-5)
    sorted_nodes = [FLATTEN, node("Relu", ["f"], ["a"]), node("Neg", ["f"], ["b"]), node("Add", ["a", "b"], ["y"])]
    path.write_bytes(model_of(sorted_nodes).SerializeToString())
    assert [one.op_type for one in onnx.read(path).graph.node] == ["Flatten", "Relu", "Neg", "Add"]


def test_mutants_of_a_file_are_read_or_refused_in_a_sentence(tmp_path, capfd):
    weight = numpy_helper.from_array(np.random.default_rng(0).random((4, 3, 1, 1), dtype=np.float32), "w")
    nodes = [node("Conv", ["x", "w"], ["c"]), node("Relu", ["c"], ["r"]), node("GlobalAveragePool", ["r"], ["p"])]
    model = model_of([*nodes, node("Flatten", ["p"], ["y"])], weight)
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 4
    model.metadata_props.add(key="arch", value="tiny")
    whole = model.SerializeToString()
    path = tmp_path / "x.onnx"
    path.write_bytes(whole)
    images = np.ones((1, 3, 2, 2), np.float32)
    control = onnx.load(path)(images)
    assert control.shape == (1, 4)
    chance = random.Random(0)
    messages = []
    for _ in range(40):
        mutant = bytearray(whole)
        for _ in range(chance.randint(1, 4)):
            mutant[chance.randrange(len(mutant))] = chance.randrange(256)
        path.write_bytes(mutant)
        for opening in (inspect, onnx.load):
            try:
                opening(path)
            except (UserError, CompressError) as error:
                messages.append(error.message)
    assert len(messages) > 10
    assert not any("\n" in message for message in messages)
    assert capfd.readouterr() == ("", "")
