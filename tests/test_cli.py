"""The command line: what users type, what they read, and how it ends."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from shell import DISTILL, QUICK, ran, refused, typed

from compressor import models

# What is printed


@pytest.mark.parametrize(
    "command",
    [
        *(
            "",
            "train",
            "distill",
            "export",
            "validate",
            "bench",
            "run",
            "report",
            "diff",
            "compare",
            "verify",
            "doctor",
        ),
        *("inspect", "models", "methods", "recipes"),
    ],
)
def test_every_command_has_help(command):
    assert "Usage: compress" in ran([*command.split(), "--help"]).out


def test_help_and_listings_import_nothing_heavy():
    code = "import sys; sys.argv = ['compress', 'recipes', 'ls']\n" + (
        "from compressor.cli import main\ntry:\n    main()\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'numpy', 'onnx', 'compressor.recipe'} & set(sys.modules)\nassert not heavy, heavy"
    )

    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


def test_the_module_is_the_command():
    done = subprocess.run(
        [sys.executable, "-m", "compressor", "recipes", "ls", "--json"], check=True, capture_output=True, text=True
    )

    assert {"digits-teacher", "digits-bss"} <= {each["name"] for each in json.loads(done.stdout)}
    assert done.stderr == ""


def test_the_first_line_of_distill_names_the_data_and_the_last_the_next_command(here):
    done = ran([*DISTILL, "--epochs", "2", "--out", "runs/lines", "--overwrite", *QUICK])

    lines = done.err.splitlines()
    assert lines[0] == "data: digits (the checkpoint says so; --data chooses another)"
    assert any(re.search(r"lenet5.*10 classes.*tensors matched", line) for line in lines)
    assert any(re.search(r"right on \d", line) for line in lines)
    assert re.search(r"epoch +1/2  ce \d\.\d+  kd .*  bss .*  validation .* images/s", done.err)
    assert lines[-1] == "next: compress export --format onnx"
    assert "teacher" in done.out
    assert "student" in done.out


def test_the_line_of_the_readme_takes_its_data_from_the_family_and_says_where_they_may_lie(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("COMPRESS_DATA", raising=False)
    network = models.build("resnet110", classes=10, input_shape=(3, 32, 32))
    for layer in network.modules():  # BatchNorm that has seen images tells the kinds of shortcut apart
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.momentum = None
    with torch.no_grad():
        network.train()(torch.randn(16, 3, 32, 32))
    torch.save({"state_dict": {f"module.{key}": value for key, value in network.state_dict().items()}}, "resnet110.pt")

    done = typed(["distill", "--teacher", "resnet110.pt", "--student", "resnet20"])

    assert done.code == 4
    lines = done.err.splitlines()
    assert lines[0] == "data: cifar10 (usual for resnet110 with 10 classes; --data chooses another)"
    assert lines[1] == "teacher: resnet110 (CIFAR), 10 classes, 1.73 M parameters, 656/656 tensors matched"
    assert lines[2].startswith(f"error: cifar10 is not in {tmp_path / 'data'}")
    assert "cifar-10-python.tar.gz" in lines[3]


def test_json_on_standard_output_is_the_record(here):
    done = ran(["validate", "runs/student-1", "--json", "--quiet"])

    record = json.loads(done.out)
    assert done.err == ""
    assert record == json.loads(Path("runs/student-1/result.json").read_text())
    assert record["result"] == 1


def test_models_and_methods_are_listed():
    listed = json.loads(ran(["models", "--json"]).out)
    assert next(each for each in listed if each["name"] == "resnet20")["parameters"] == 269_722
    assert "resnet20" in ran(["models"]).out
    assert [each["kind"] for each in json.loads(ran(["methods", "--json"]).out)] == ["ce", "kd", "bss"]
    assert "temperature: 3.0" in ran(["methods"]).out


def test_recipes_are_shown_copied_checked_and_described(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    shown = ran(["recipes", "show", "digits-teacher"]).out
    ran(["recipes", "cp", "digits-teacher", "mine.yaml"])
    checked = ran(["recipes", "check", "mine.yaml", "--set", "train.epochs=7"]).out
    schema = json.loads(ran(["recipes", "schema"]).out)

    assert Path("mine.yaml").read_text() == shown
    assert "epochs: 7" in checked
    assert "train" in schema["properties"]


def test_a_dry_run_prints_the_recipe_and_does_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    done = ran(["run", "smoke", "--dry-run", "--epochs", "9", "--set", "train.lr=0.2"])

    assert "epochs: 9" in done.out
    assert "lr: 0.2" in done.out
    assert list(tmp_path.iterdir()) == []


# What is refused


def test_a_missing_teacher_is_said(here):
    refused(["distill", "--teacher", "nowhere.pt", "--student", "resnet8"], 4, r"nowhere\.pt")
    refused(["distill", "--student", "resnet8", "--data", "digits"], 2, "distill needs a teacher", "--teacher FILE")


def test_misspelt_names_get_a_suggestion(here):
    distill = ["distill", "--teacher", "runs/teacher-1"]
    refused([*distill, "--student", "restnet8"], 2, "restnet8", "did you mean")
    refused([*distill, "--student", "resnet8", "--method", "bbs"], 2, "bbs", "did you mean")
    refused([*distill, "--student", "resnet8", "--data", "digit"], 2, "digit", "did you mean")
    refused([*distill, "--student", "resnet8", "--set", "train.epoch=3"], 2, "epoch", "did you mean")
    refused([*distill, "--studnet", "resnet8"], 2, "--studnet", "--student")
    refused(["export", "--format", "onx"], 2, "onx", "did you mean")
    refused(["recipes", "show", "digits-bbs"], 2, "digits-bbs", "did you mean")
    refused(["distil"], 2, "distil", "distill")


def test_a_truncated_checkpoint_is_refused_and_no_run_is_left(here, tmp_path):
    whole = Path("runs/teacher-1/student/student.safetensors").read_bytes()
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(whole[: len(whole) // 2])

    refused(["distill", "--teacher", str(cut), "--student", "resnet8", "--out", "runs/none"], 4, r"cut\.safetensors")
    assert not Path("runs/none").exists()


def test_a_teacher_of_other_classes_is_refused(here, tmp_path):
    network = models.build("lenet5", classes=7, input_shape=(1, 8, 8))
    torch.save(network.state_dict(), tmp_path / "seven.pt")

    refused(
        ["distill", "--teacher", str(tmp_path / "seven.pt"), "--student", "lenet5-half", "--data", "digits"],
        4,
        r"7 classes.*10|10.*7 classes",
    )


def test_a_run_folder_is_not_written_over(here):
    refused(
        [*DISTILL, "--out", "runs/student-1"],
        2,
        "is not empty",
        "--overwrite",
    )


def test_formats_that_need_an_absent_runtime_end_with_3(here):
    refused(["export", "--format", "trt"], 3, "TensorRT is not installed", "pip install")


def test_an_absent_device_is_not_replaced(here):
    if torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    refused(
        [*DISTILL, "--device", "cuda"],
        3,
        "cuda is not here",
        "--device cpu",
    )


def test_a_gate_that_nothing_measures_is_refused_before_training(here):
    refused(
        ["run", "digits-bss", "--teacher", "runs/teacher-1", "--set", "gates.p99_ms={batch: 5, max: 1}"],
        2,
        "p99_ms needs the latency of batch 5",
    )


def test_commands_without_a_run_say_what_to_type(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    for command in ("export", "validate", "bench"):
        refused([command], 2, "no run yet", "compress distill --teacher")
