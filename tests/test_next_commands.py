"""What is said where INT8 is refused: the next commands, typed out so that they work as they stand."""

import json
import re
import shlex
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from shell import QUICK, ran, typed

from compressor.artifacts.proof import NotProved
from compressor.pipeline import next_commands
from compressor.recipe import Data, Export
from exporters.parity import LIMITS

OTHERS = "--set calibration.method=auto tries other ranges"


@pytest.fixture
def strict(monkeypatch):
    """INT8 of a network that is INT8 everywhere is refused; with a layer or two in fp32 it is not."""
    monkeypatch.setitem(LIMITS, "int8", replace(LIMITS["int8"], rms_error=0.01))


def said(arguments):
    """Return the hint of a refused export and the commands in it, as they are typed after `compress`."""
    done = typed(arguments)
    assert done.code == 6, done.err
    hint = " ".join(done.err.partition("hint: ")[2].split())
    return hint, [shlex.split(command)[1:] for command in re.findall("`(compress .*?)`", hint)]


def trained_through_rounding(command):
    """Type a command of quantisation-aware distillation, for one epoch and with little measured."""
    command[command.index("--epochs") + 1] = "2"
    ran([*command, *QUICK[2:], "--name", "aware", "--quiet"])
    assert json.loads(Path("runs/aware-1/result.json").read_text())["student"]["quantized"] == "W8A8"


@pytest.mark.trains
def test_a_run_is_told_to_keep_layers_and_then_to_learn_its_rounding(here, strict):
    hint, (again, distil) = said(["export", "runs/student-1", "--precision", "int8", "--input", "uint8", "--quiet"])

    assert hint.startswith("the file was not kept; `compress export ")
    assert hint.index("--max-drop 1`") < hint.index("; then `compress distill ") < hint.index(OTHERS)
    assert again[-4:] == ["--set", "input=uint8", "--max-drop", "1"]
    again[-1] = "5"  # of some hundred images, one is a point
    done = json.loads(ran([*again, "--json", "--quiet"]).out)
    assert done["artifacts"][-1]["calibration"]["kept_fp32"]
    assert distil[:7] == [
        "distill",
        "--teacher",
        "runs/student-1",
        "--student",
        "lenet5-half",
        "--init",
        "runs/student-1",
    ]
    trained_through_rounding(distil)


def test_a_network_trained_on_labels_alone_is_its_own_teacher(here, monkeypatch):
    monkeypatch.setitem(LIMITS, "int8", replace(LIMITS["int8"], rms_error=1e-3))
    _, (again, distil) = said(["export", "runs/teacher-1", "--precision", "int8", "--quiet"])

    assert again == ["export", "runs/teacher-1", "--precision", "int8", "--max-drop", "1"]
    assert distil == [
        *("distill", "--teacher", "runs/teacher-1", "--student", "lenet5", "--init", "runs/teacher-1"),
        *("--quantize", "int8", "--method", "kd", "--data", "digits", "--epochs", "3", "--lr", "0.005"),
        *("--set", "data.batch_size=32"),
    ]


@pytest.mark.starts
def test_an_onnx_file_without_a_checkpoint_is_not_told_to_be_trained(here, strict, tmp_path):
    (graph,) = Path("runs/student-1/export").glob("*.onnx")
    shutil.copy(graph, tmp_path / "my model.onnx")
    file = str(tmp_path / "my model.onnx")

    hint, (again,) = said(["export", "--from", file, "--precision", "int8", "--data", "digits", "--quiet"])

    assert again == ["export", "--from", file, "--precision", "int8", "--data", "digits", "--max-drop", "1"]
    assert "distill" not in hint
    again[-1] = "5"
    assert json.loads(ran([*again, "--json", "--quiet"]).out)["calibration"]["kept_fp32"]


@pytest.mark.starts
@pytest.mark.trains
def test_the_checkpoint_beside_an_onnx_file_can_be_trained(here, strict, tmp_path):
    (graph,) = Path("runs/student-1/export").glob("*.onnx")
    shutil.copy(graph, tmp_path / "model.onnx")
    weights = "runs/student-1/student/student.safetensors"

    wanted = ["export", "--from", str(tmp_path / "model.onnx"), "--precision", "int8", "--data", "digits", "--quiet"]
    _, (again, distil) = said([*wanted, "--teacher", weights, "--set", "quantization=trt"])

    assert again[-6:] == ["--data", "digits", "--teacher", weights, "--max-drop", "1"]
    assert distil[:7] == ["distill", "--teacher", weights, "--student", "lenet5-half", "--init", weights]
    assert distil[-2:] == ["--set", "student.quantize.recipe=trt"]
    trained_through_rounding(distil)


@pytest.mark.starts
def test_an_onnx_file_given_as_the_teacher_is_not_told_to_be_trained(here, strict, tmp_path):
    (graph,) = Path("runs/student-1/export").glob("*.onnx")
    for name in ("model", "teacher"):
        shutil.copy(graph, tmp_path / f"{name}.onnx")

    wanted = ["export", "--from", str(tmp_path / "model.onnx"), "--precision", "int8", "--data", "digits", "--quiet"]
    hint, (again,) = said([*wanted, "--teacher", str(tmp_path / "teacher.onnx")])

    assert "--teacher" in again
    assert "distill" not in hint


@pytest.mark.heavy
def test_where_keeping_layers_was_tried_only_the_rest_is_said(here, monkeypatch):
    monkeypatch.setitem(LIMITS, "int8", replace(LIMITS["int8"], rms_error=1e-9))

    hint, (distil,) = said(["export", "runs/student-1", "--precision", "int8", "--max-drop", "5", "--quiet"])

    assert distil[0] == "distill"
    assert hint.startswith("calibrate on other images, or export with precision fp16; `compress distill ")
    assert "--max-drop" not in hint


def test_other_precisions_keep_their_own_hint(here, monkeypatch):
    monkeypatch.setitem(LIMITS, "fp16", replace(LIMITS["fp16"], rms_error=1e-9))

    hint, commands = said(["export", "runs/student-1", "--precision", "fp16", "--quiet"])

    assert (hint, commands) == ("the file was not kept; try --precision fp32", [])


def test_an_export_is_typed_as_it_was_asked_for():
    target = Export(
        format="trt", precision="int8", batch=(1, 2, 4), output="probabilities", calibration={"samples": 64}, max_drop=2
    )

    words = next_commands._flags(target)

    assert words[:4] == ["--format", "trt", "--precision", "int8"]
    assert set(words[5::2]) == {"output=probabilities", "batch=[1, 2, 4]", "calibration.samples=64"}
    assert set(words[4::2]) == {"--set"}


def test_the_images_of_a_run_are_named_with_all_that_says_which_they_are():
    data = Data(
        name="folder:my photos", image_size=(64, 48), channels=3, validation=200, class_order="natural", workers=7
    )

    words = next_commands._distil("runs/a b", "resnet20", data, Export(precision="int8"), lr=0.01)

    assert shlex.split(shlex.join(words)) == words
    assert words[words.index("--data") + 1] == "folder:my photos"
    assert set(words[words.index("--set") + 1 :: 2]) == {
        "data.image_size=[64, 48]",
        "data.channels=3",
        "data.validation=200",
        "data.class_order=natural",
    }


def test_a_refusal_of_the_proof_is_a_kind_of_its_own():
    assert NotProved("it differs").exit_code == 6
