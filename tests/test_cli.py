"""The command line: what users type, what they read, and how it ends."""

import errno
import io
import json
import os
import re
import shlex
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
from typer.main import get_command

from compressor import __version__, checkpoint, cli, doctor, methods, models, pipeline
from compressor.cli import output
from compressor.errors import Interrupted
from compressor.methods import METHODS
from compressor.methods.losses import FEATURE_LOSSES, LOGIT_LOSSES
from compressor.runs.folder import resume_command

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


def commands(group=None, words=()):
    """Every command with the words that name it."""
    for name, command in (group or get_command(cli.app)).commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, (*words, name))
        elif not command.hidden:
            yield (*words, name), command


@pytest.mark.parametrize(("words", "command"), [pytest.param(*each, id="-".join(each[0])) for each in commands()])
def test_the_help_of_every_command_ends_with_an_example_that_can_be_typed(words, command):
    example = ran([*words, "--help"]).out.splitlines()[-1].strip()

    name, *line = shlex.split(example.removeprefix("Example: "))
    assert [name, *line[: len(words)]] == ["compress", *words]
    given = line[len(words) : line.index(">") if ">" in line else None]
    command.make_context("compress", given)  # raises where the example is no command


@pytest.mark.parametrize("typed_", [[], ["recipes"]])
def test_a_command_alone_shows_its_help(typed_):
    assert ran(typed_).out == ran([*typed_, "--help"]).out


def test_the_version_and_completion_are_there():
    assert ran(["--version"]).out == f"compress {__version__}\n"
    assert "--install-completion" in ran(["--help"]).out


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


@pytest.mark.heavy
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
    entries = json.loads(ran(["methods", "--json"]).out)
    assert [each["kind"] for each in entries if each["what"] == "method"] == list(METHODS)
    assert [each["kind"] for each in entries if each["what"] == "soft"] == list(LOGIT_LOSSES)
    assert [each["kind"] for each in entries if each["what"] == "features"] == list(FEATURE_LOSSES)
    shown = ran(["methods"]).out
    assert "temperature: 3.0" in shown
    assert "needs a teacher, labelled images, gradients through the teacher" in shown
    assert "needs 2 teachers or more, labelled images" in shown
    assert "student: (must be given)" in shown
    assert "kd+lskd: " in shown
    assert all(f"when: {each['when']}" in shown for each in entries)


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


@pytest.mark.parametrize(
    ("arguments", "first"),
    [
        (["train", "--arch", "lenet5-half"], "network"),
        ([*DISTILL[:-1], "lenet5-half"], "student"),
    ],
)
def test_a_network_that_learned_nothing_is_said_to_be_guessing(here, tmp_path, arguments, first):
    done = ran([*arguments, "--data", "digits", "--epochs", "1", "--lr", "1e-9", "--batch-size", "600",
                "--set", "train.schedule={kind: constant}", "--out", str(tmp_path / "run")])  # fmt: skip

    said = done.err.splitlines()
    assert re.search(
        rf"^warning: the {first} is no better than guessing: [\d.]+ % of 10 classes, after 3 steps of 600 images$",
        said[-2],
    )
    assert said[-1] == "next: the same command with more --epochs, or a smaller --batch-size"
    assert re.search(rf"^{first}: lenet5-half \(.*\), [\d,]+ parameters$", done.err, re.MULTILINE)
    assert first in done.out
    assert first == "student" or "student" not in done.out.lower()


def test_a_size_that_nobody_lists_is_said_before_it_is_trained(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("full").mkdir()
    Path("full/file").touch()  # so that it ends where the run folder would be made
    network = ["train", "--data", "digits", "--out", "full", "--arch"]

    rare = "none of the sizes that `compress models` lists"
    refused([*network, "resnet38"], 2, rf"(?m)^network: resnet38 \(CIFAR\), [\d,]+ parameters, {rare}$", "is not empty")
    refused([*network, "resnet20"], 2, r"(?m)^network: resnet20 \(CIFAR\), [\d,]+ parameters$")


def test_a_size_of_step_that_is_not_given_is_printed_and_stored(here, tmp_path):
    done = ran(["train", "--arch", "lenet5-half", "--data", "digits", "--epochs", "1", "--out", str(tmp_path / "run"),
                "--set", "train.schedule={kind: constant}"])  # fmt: skip

    assert "data: 32 of 1,294 training images a step; --batch-size chooses another" in done.err
    assert "batch_size: 32\n" in (tmp_path / "run" / "recipe.resolved.yaml").read_text()


# What is refused


@pytest.mark.parametrize(
    ("typed_", "words"),
    [
        ([*DISTILL[:-1], "restnet8"], "unknown architecture 'restnet8'"),
        ([*DISTILL, "--data", "digit"], "there is no data set 'digit'"),
        ([*DISTILL, "--method", "bbs"], "--method: must be one of"),
        ([*DISTILL, "--teacher-arch", "lenet55"], "lenet55"),
        ([*DISTILL[:-1], "torchvision/resnet81"], "torchvision has no classifier 'torchvision/resnet81'"),
        ([*DISTILL[:-1], "nowhere:make"], "there is no module 'nowhere'"),
        (["recipes", "check", "digits-bss", "--set", "student.arch=restnet8"], "unknown architecture 'restnet8'"),
    ],
)
def test_a_misspelt_name_is_found_before_the_teacher_is_looked_at(here, monkeypatch, typed_, words):
    def look(*_args, **_named):
        raise AssertionError("the teacher was opened")

    monkeypatch.setattr(checkpoint, "load_teacher", look)

    refused(typed_, 2, words)


@pytest.mark.starts
@pytest.mark.parametrize("line", ["--version", "--help", "models", "recipes ls", "methods --json"])
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no full device")
def test_an_output_that_takes_nothing_is_a_sentence(line):
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "compressor", *line.split()], stdout=full, stderr=subprocess.PIPE, text=True
        )

    assert (done.returncode, done.stderr) == (3, "error: the output cannot be written: no space left on device\n")


@pytest.mark.starts
def test_what_an_encoding_lacks_is_replaced_and_in_json_escaped(monkeypatch):
    monkeypatch.setenv("PYTHONIOENCODING", "iso8859-5")
    done = subprocess.run(
        [sys.executable, "-m", "compressor", "recipes", "show", "digits-bss"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "98.96 % ? 0.35" in done.stdout
    assert done.stderr == ""

    ascii_ = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", ascii_)
    output.echo_json('{"name": "gr\u00fcn"}')
    assert json.loads(ascii_.buffer.getvalue()) == {"name": "gr\u00fcn"}


@pytest.mark.starts
def test_a_reader_that_went_away_and_a_closed_output_end_without_a_traceback():
    command = [sys.executable, "-m", "compressor", "models", "--json"]
    gone = subprocess.run(["sh", "-c", f"{shlex.join(command)} | true"], stderr=subprocess.PIPE, text=True)
    closed = subprocess.run(["sh", "-c", f"{shlex.join(command)} >&-"], stderr=subprocess.PIPE, text=True)

    assert gone.stderr == closed.stderr == ""
    assert closed.returncode == 0


def test_a_date_that_is_none_is_refused_and_a_window_to_draw_in_is_left_aside(monkeypatch):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "abc")
    refused(["models"], 2, "SOURCE_DATE_EPOCH is 'abc', not a number of seconds", "unset SOURCE_DATE_EPOCH")

    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    monkeypatch.setenv("MPLBACKEND", "of-my-own")
    ran(["methods"])
    assert os.environ["MPLBACKEND"] == "agg"


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (MemoryError(), "there is not enough memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), "there is not enough memory"),
        (ImportError("libtorch.so: failed to map segment from shared object"), "there is not enough memory"),
        (OSError(errno.EIO, "x", "a.txt"), "a.txt cannot be written: input/output error"),
    ],
)
def test_what_the_system_refuses_is_a_sentence_and_all_else_is_raised(monkeypatch, error, words):
    def fail(*_args, **_named):
        raise error

    monkeypatch.setattr(methods, "describe", fail)
    refused(["methods"], 3, words)
    error = RuntimeError("a mistake of ours")
    with pytest.raises(RuntimeError, match="a mistake of ours"):
        typed(["methods"])


@pytest.mark.parametrize(("teacher", "verb"), [("", "train"), ("teacher: {checkpoint: a.pt}", "distill")])
def test_a_run_is_gone_on_with_by_the_verb_that_began_it(tmp_path, teacher, verb):
    (tmp_path / "recipe.resolved.yaml").write_text(f"student: {{arch: resnet8}}\n{teacher}\n")

    refused(["verify", str(tmp_path)], 4, "has no manifest", f"compress {verb} --resume {tmp_path}")
    assert resume_command(tmp_path / "nowhere") == f"compress distill --resume {tmp_path / 'nowhere'}"


def test_run_is_gone_on_with_by_run(here, monkeypatch):
    def stop(*_args, **_named):
        raise Interrupted("interrupted in epoch 2 of 3", hint="compress distill --resume runs/x")

    monkeypatch.setattr(pipeline, "run", stop)

    refused(["run", "smoke"], 130, "^error: interrupted in epoch 2 of 3\nhint: the same command goes on\n$")
    refused(["run", "smoke", "--overwrite"], 130, "", "hint: the same command without --overwrite goes on\n$")


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
        ([*DISTILL, "--method", "bbs"], "--method: must be one of 'ce', 'kd', 'bss', 'cckd'", "did you mean 'bss'"),
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
