"""The command line: what users type, what they read, and how it ends."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from rich.table import Table
from shell import DISTILL, QUICK, ran, refused, typed

from compressor import doctor, models
from compressor.cli import output

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


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_command_in_a_sentence(monkeypatch, number):
    def slow(*_args, **_named):
        os.kill(os.getpid(), number)
        time.sleep(30)

    monkeypatch.setattr(doctor, "examine", slow)
    before = signal.getsignal(signal.SIGTERM)
    interrupt = signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where tests run in the background
    try:
        refused(["doctor", "--quiet"], 130, "^error: interrupted; what was finished before is kept$")
    finally:
        signal.signal(signal.SIGINT, interrupt)
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.starts
def test_help_and_listings_import_nothing_heavy():
    code = "import sys; sys.argv = ['compress', 'recipes', 'ls']\n" + (
        "from compressor.cli import main\ntry:\n    main()\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'numpy', 'onnx', 'compressor.recipe'} & set(sys.modules)\nassert not heavy, heavy"
    )

    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


@pytest.mark.starts
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


@pytest.mark.heavy
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


def test_what_is_printed_is_not_padded(here):
    printed = ran(["validate", "runs/student-1", "--quiet"]).out

    assert not any(line.endswith(" ") for line in printed.splitlines())
    assert printed.startswith("student: digits, 359 test images\n")


def test_a_narrow_terminal_wraps_words_and_never_cuts_numbers(monkeypatch, capsys):
    monkeypatch.setattr(output, "sys", SimpleNamespace(stdout=SimpleNamespace(isatty=lambda: True)))
    monkeypatch.setenv("COLUMNS", "20")
    numbers, words = Table(box=None), Table("word", "word", box=None)
    for column in range(8):
        numbers.add_column(f"column {column}", no_wrap=True)
    numbers.add_row(*["1234.56"] * 8)
    words.add_row("one two three four", "five six seven")

    output.draw(numbers, words, "a sentence that is left to the terminal")

    printed = capsys.readouterr().out
    assert printed.count("1234.56") == 8
    wrapped = printed[printed.index("word") : printed.index("a sentence")]
    assert max(map(len, wrapped.splitlines())) <= 20
    assert "\na sentence that is left to the terminal\n" in printed


@pytest.mark.parametrize(
    ("command", "following"),
    [("validate", "compress bench"), ("bench --duration 0.01", "compress report"), ("export", "compress validate")],
)
def test_each_command_on_a_run_ends_with_the_next_one(here, command, following):
    assert ran(command.split()).err.splitlines()[-1] == f"next: {following}"


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


@pytest.mark.parametrize(
    ("typed_", "words", "hint"),
    [
        (["train", "--data", "digits"], "no network to train is named", "--arch resnet20"),
        (["distill", "--teacher", "runs/teacher-1"], "no network to train is named", "--student resnet20"),
        (["train", "--arch", "", "--data", "digits"], "--arch: must be at least 1 character", ""),
        (["train", "--arch", "lenet5", "--data", ""], "--data is empty", "--data folder:PATH"),
        (["train", "--arch", "lenet5", "--data", "folder:"], "folder: names no folder", "folder:PATH"),
        (["train", "--recipe", "smoke", "--epochs", "0"], "--epochs: must be greater than 0, got 0", ""),
        (["train", "--recipe", "smoke", "--epochs", "ten"], "--epochs: must be a valid integer, got 'ten'", ""),
        (["train", "--recipe", "smoke", "--lr", "-1"], "--lr: must be greater than 0, got -1", ""),
        (["train", "--recipe", "smoke", "--batch-size", "0"], "--batch-size: must be greater than 0", ""),
        (["train", "--recipe", "smoke", "--seed", "-1"], "--seed: must be at least 0", ""),
        (["train", "--recipe", "smoke", "--name", "a/b"], "--name: must be of the form", "letters, digits"),
        (["train", "--recipe", "smoke", "--precision", "fp61"], "--precision: 'fp61' is not one of", "mean 'fp16'"),
        (["train", "--recipe", "digits-teacher", "--epochs", "1"], "train.schedule.warmup", "more epochs, or --set"),
        ([*DISTILL, "--method", "bbs"], "--method: must be one of 'ce', 'kd', 'bss'", "did you mean 'bss'"),
        ([*DISTILL, "--num-classes", "0"], "--num-classes: must be greater than 0", ""),
        (["run", "smoke", "--from", "trian"], "--from: 'trian' is not one of", "did you mean 'train'"),
        (["run"], "missing argument 'recipe'", "compress run --help"),
        (["run", "smoke", "--no-reprot"], "compress run has no option --no-reprot", "did you mean --no-report"),
        (["train", "--student", "lenet5"], "compress train has no option --student", "compress train --help"),
        (["compare", "smoke", "--lr", "0"], "--lr: must be greater than 0", ""),
        (["export", "--format", "onx"], "--format: must be 'onnx'", "did you mean 'onnx'"),
        (["export", "--max-drop", "1"], "--max-drop: is for precision int8", ""),
        (["export", "--format", "trt", "--batch", "8:1:32"], "--batch: must be the smallest", ""),
        (["export", "--set", "engine.tf23=true"], "--set engine.tf23=true: unknown key engine.tf23", "mean 'tf32'"),
        (["export", "--set", "engine.tf32=true"], "--set engine.tf32=true: engine: is for the formats trt", ""),
        (["export", "--rebuild", "--set", "opset=18"], "--set does not go with --rebuild", ""),
        (["validate", "--gate", "min_top=90"], "--gate min_top=90: unknown key min_top", "did you mean 'min_top1'"),
        (["bench", "--gate", "p99_ms=5"], "--gate p99_ms=5: p99_ms: must be a section", "write p99_ms.max=5"),
        (["bench", "--gate", "min_top1="], "--gate min_top1= has no limit", "--gate min_top1=90"),
        (["bench", "--duration", "0"], "--duration: must be greater than or equal to 0.001", ""),
        (["bench", "nowhere.onnx"], "no such file or folder: nowhere.onnx", ""),
        (["validate", "runs/studnet-1", "--data", "digits"], "no such file or folder", "did you mean 'student-1'"),
        (["validate", "runs/student-1/export/student.fp32.onnx", "--data", "digits", "--teacher-arch", "lenet5"],
         "--teacher-arch says what --teacher is, and there is none", "--teacher FILE"),
        (["diff", "runs/teacher-1", "runs/student-1", "--data", ""], "--data is empty", ""),
        (["diff", "runs/teacher-1", "runs/student-1", "--guide", "x.pt"], "--guide lends gradients", ""),
    ],
)  # fmt: skip
def test_a_mistake_is_one_sentence_that_names_what_was_typed(here, typed_, words, hint):
    done = typed(typed_)

    (error,) = [line for line in done.err.splitlines() if line.startswith("error: ")]
    assert words in error
    assert hint in "".join(line for line in done.err.splitlines() if line.startswith("hint: "))
    assert done.code == 2
    assert done.out == ""


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
