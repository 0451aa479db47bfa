"""`inspect` says what a file is and holds, runs nothing of it, and answers in plain JSON."""

import json
import pickle
import warnings
from pathlib import Path

import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from compressor import models
from compressor.checkpoint import save_student
from compressor.errors import InputRejected
from compressor.files import sha256
from compressor.pipeline.inspect import inspect
from compressor.runs import record

SHAPE = (3, 32, 32)


@pytest.fixture
def network():
    return models.build("resnet8-conv", classes=10, input_shape=SHAPE)


def looked(path):
    """What is known of a file, as JSON brings it back."""
    facts = inspect(path)
    assert json.loads(json.dumps(facts)) == facts
    return facts


def test_a_checkpoint_tells_wrapper_prefix_size_and_architecture(network, tmp_path):
    path = tmp_path / "x.pt"
    state = {f"module.{name}": tensor for name, tensor in network.state_dict().items()}
    torch.save({"state_dict": state, "epoch": 7, "best_prec1": 91.5, "optimizer": {"state": {}}}, path)

    facts = looked(path)

    assert facts["format"] == "torch.save archive"
    assert (facts["wrapper"], facts["prefix"], facts["tensors"]) == ("state_dict", "module.", 56)
    assert facts["parameters"] == models.parameters(network) == 78042
    assert facts["numbers by type"] == {"float32": 78714, "int64": 9}
    assert facts["architecture"] == "resnet8-conv (CIFAR), 10 classes, 56/56 tensors matched"
    assert facts["beside the weights"] == {"epoch": 7, "best_prec1": 91.5, "optimizer": {"state": {}}}
    assert (facts["size_bytes"], facts["sha256"]) == (path.stat().st_size, sha256(path))
    assert facts["last"] == "linear.bias [10]"


def test_a_student_of_ours_shows_its_metadata(network, tmp_path):
    path = tmp_path / "s.safetensors"
    save_student(
        path, network, arch="resnet8-conv", classes=10, class_names=None, input_shape=SHAPE, mean=(0.5,) * 3,
        std=(0.5,) * 3, data="cifar10", metrics={"top1": 90.0},
    )  # fmt: skip

    facts = looked(path)

    assert facts["format"] == "safetensors"
    assert facts["student"]["arch"] == "resnet8-conv"
    assert facts["student"]["metrics"] == {"top1": 90.0}
    assert "beside the weights" not in facts


def test_ambiguity_and_broken_weights_are_shown_not_refused(tmp_path):
    state = models.build("resnet8", classes=10, input_shape=SHAPE).state_dict()
    state["linear.bias"][0] = float("nan")
    torch.save({"model": state, "ema": dict(state)}, tmp_path / "x.pt")

    facts = looked(tmp_path / "x.pt")

    assert len(facts["architectures that fit"]) == 2
    assert facts["NaN or infinite"] == ["linear.bias"]
    assert facts["notes"] == ["took 'model', not 'ema' (teacher.weights chooses)"]


class Trap:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("kind", ["archive", "legacy", "pickle"])
def test_a_pickle_with_code_is_described_and_not_run(tmp_path, kind):
    path = tmp_path / "x.t7"
    if kind == "pickle":
        path.write_bytes(pickle.dumps(Trap(tmp_path / "ran")))
    else:
        torch.save(Trap(tmp_path / "ran"), path, _use_new_zipfile_serialization=kind == "archive")

    facts = looked(path)

    assert facts["loadable"] is False
    assert any(name.endswith((".getattr", "Path.touch")) for name in facts["would import"])
    assert "torch.save(checkpoint.state_dict(), 'weights.pt')" in facts["hint"]
    assert not (tmp_path / "ran").exists()


def test_a_torchscript_archive_shows_its_code_files(tiny, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch deprecates TorchScript; users' files remain
        torch.jit.script(tiny()).save(str(tmp_path / "x.pt"))

    facts = looked(tmp_path / "x.pt")

    assert facts["format"] == "TorchScript archive"
    assert "code/__torch__/conftest.py" in facts["code"]


def test_an_onnx_file_shows_signature_operators_and_precision(tmp_path):
    weight = numpy_helper.from_array(torch.rand(4, 12).half().numpy(), "w")
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"]), helper.make_node("Relu", ["y"], ["logits"])],
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT16, ["batch", 4])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT16, ["batch", 12])],
        [weight],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], producer_name="hand", ir_version=10)
    model.metadata_props.add(key="arch", value="resnet8")
    onnx.save(model, tmp_path / "x.onnx")

    facts = looked(tmp_path / "x.onnx")

    assert facts["inputs"] == {"x": "float16 [batch, 4]"}
    assert facts["outputs"] == {"logits": "float16 [batch, 12]"}
    assert facts["nodes"] == {"MatMul": 1, "Relu": 1}
    assert (facts["precision"], facts["weights by type"]) == ("fp16", {"fp16": 48})
    assert (facts["opset"], facts["ir version"], facts["producer"]) == ({"ai.onnx": 20}, 10, "hand")
    assert facts["metadata"] == {"arch": "resnet8"}
    assert facts["sha256"] == sha256(tmp_path / "x.onnx")


def test_a_run_shows_its_files_and_what_was_measured(tmp_path):
    (tmp_path / "recipe.resolved.yaml").write_text("recipe: 1\n")
    (tmp_path / "student").mkdir()
    (tmp_path / "student" / "student.safetensors").write_bytes(b"12345")

    facts = looked(tmp_path)
    assert facts["files"] == {"recipe.resolved.yaml": 10, "student/student.safetensors": 5}
    assert facts["result"].startswith("none yet")

    file = {"path": "student/student.safetensors", "format": "pytorch", "precision": "fp32", "provider": "cpu"}
    student = file | {"sha256": "0", "size_bytes": 5, "arch": "resnet8", "classes": 10, "input_shape": SHAPE}
    student |= {"parameters": 75290, "macs": None, "top1": 87.5}
    data = {"source": "digits", "fingerprint": "0", "classes": 10, "train": 3, "validation": 1, "test": 1}
    training = {"method": "ce", "seed": 0, "epochs": 2, "seconds": 1.0}
    training |= dict.fromkeys(("validation_top1", "best_validation_top1", "best_epoch"))
    record.Result(
        name="first", created="2026-01-01", recipe_sha256="0", data=data, training=training, teacher=None,
        student=student, versions={}, hardware={},
    ).write(tmp_path)  # fmt: skip

    facts = looked(tmp_path)
    assert facts["student"] == {"arch": "resnet8", "classes": 10, "parameters": 75290, "top1": 87.5}
    assert facts["data"] == "digits"
    assert "teacher" not in facts


def test_what_is_nothing_of_the_kind_is_refused(tmp_path):
    with pytest.raises(InputRejected, match="not that of a run"):
        inspect(tmp_path)
    with pytest.raises(InputRejected, match="no such file"):
        inspect(tmp_path / "x.onnx")
    (tmp_path / "x.pt").write_text("hello\n")
    with pytest.raises(InputRejected, match="text file"):
        inspect(tmp_path / "x.pt")
