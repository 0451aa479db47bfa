"""The stages of a run, typed as a user does: what each leaves in the run folder, and how it stops and goes on."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from PIL import Image
from shell import DISTILL, QUICK, ran, refused, typed
from sklearn.datasets import load_digits

from compressor.runs.folder import find
from exporters import onnx

# The stages


def test_a_run_folder_holds_what_the_design_says(here):
    names = {path.relative_to("runs/student-1").as_posix() for path in Path("runs/student-1").rglob("*")}

    assert {
        "recipe.resolved.yaml",
        "env.json",
        "metrics.jsonl",
        "run.log",
        "result.json",
        "checkpoints/last.ckpt",
        "checkpoints/best.ckpt",
        "student/student.safetensors",
        "export/student.fp32.onnx",
    } <= names
    assert not [name for name in names if ".part" in name]


def test_validate_examines_every_file_with_the_same_images(here):
    record = json.loads(ran(["validate", "runs/student-1", "--json"]).out)

    teacher, student, (onnx,) = record["teacher"], record["student"], record["artifacts"]
    assert teacher["samples"] == student["samples"] == onnx["samples"] == record["data"]["test"]
    assert onnx["top1"] == student["top1"]
    assert onnx["agreement"] == student["agreement"]
    assert onnx["boundary_agreement"] == pytest.approx(student["boundary_agreement"], abs=0.05)
    assert onnx["pgd_top1"] == student["pgd_top1"] <= student["fgsm_top1"] < student["top1"]
    assert record["data"]["boundary_samples"] > 0
    assert 0 < student["magsim"] <= 1
    assert 0 < student["similarity_walks"] <= 8 * 9
    assert [file[name] for file in (teacher, onnx) for name in ("magsim", "angsim")] == [None] * 4  # no gradients
    assert teacher["agreement"] is None
    assert set(student["class_change"]) == set("0123456789")


def test_bench_times_every_file_and_keeps_every_sample(here):
    record = json.loads(ran(["bench", "runs/student-1", "--batch-sizes", "1,4", "--json"]).out)

    for file in (record["teacher"], record["student"], *record["artifacts"]):
        assert set(file["latency_ms"]) == {"1", "4"}
        assert 0 < file["latency_ms"]["1"]["p50"] <= file["latency_ms"]["1"]["p99"]
    samples = json.loads(Path("runs/student-1/bench.json").read_text())["latencies"]
    timed = record["artifacts"][0]["latency_ms"]["4"]["iterations"]
    assert len(samples["export/student.fp32.onnx"][1]["samples_ms"]) == timed

    again = ran(["bench", "runs/student-1", "--batch-sizes", "1,4", "--baseline", "runs/student-1/bench.json"])
    assert re.search(r"student batch 4 p50: .* ms, .*x the baseline's", again.err)

    before = json.loads(Path("runs/student-1/bench.json").read_text())
    del before["latencies"]["export/student.fp32.onnx"]
    Path("before.json").write_text(json.dumps(before))
    fewer = ran(["bench", "runs/student-1", "--batch-sizes", "1,4", "--baseline", "before.json"])
    assert "export/student.fp32.onnx is not in the baseline" in fewer.err


def test_a_baseline_that_does_not_fit_costs_no_measurement(here):
    ran(["bench", "runs/student-1", "--batch-sizes", "1"])
    Path("one.json").write_bytes(Path("runs/student-1/bench.json").read_bytes())

    refused(["bench", "runs/student-1", "--batch-sizes", "3", "--baseline", "one.json"], 4, "the baseline measured no")

    record = json.loads(Path("runs/student-1/result.json").read_text())
    assert set(record["student"]["latency_ms"]) == {"3"}


@pytest.mark.starts
def test_one_artifact_alone_is_validated_and_timed(here):
    path = "runs/student-1/export/student.fp32.onnx"

    alone = json.loads(ran(["validate", path, "--data", "digits", "--teacher", "runs/teacher-1", "--json"]).out)
    timed = json.loads(ran(["bench", path, "--batch-sizes", "2", "--duration", "0.05", "--json"]).out)

    assert alone["top1"] == json.loads(Path("runs/student-1/result.json").read_text())["student"]["top1"]
    assert alone["agreement"] is not None
    assert set(timed["latency_ms"]) == {"2"}


def test_a_student_file_is_an_artifact_too(here):
    alone = json.loads(
        ran(["validate", "runs/student-1/student/student.safetensors", "--data", "digits", "--json"]).out
    )

    assert alone["format"] == "pytorch"
    assert alone["top1"] == json.loads(Path("runs/student-1/result.json").read_text())["student"]["top1"]


def test_the_best_weights_are_a_checkpoint_like_any_other(here):
    facts = json.loads(ran(["inspect", "runs/student-1/checkpoints/best.ckpt", "--json"]).out)

    assert "lenet5-half" in json.dumps(facts)


def test_inspect_knows_checkpoints_exports_and_runs(here):
    assert "lenet5-half" in ran(["inspect", "runs/student-1/student/student.safetensors"]).out
    assert "compress.precision" in ran(["inspect", "runs/student-1/export/student.fp32.onnx"]).out
    assert "student" in ran(["inspect", "runs/student-1"]).out


@pytest.mark.trains
def test_the_smoke_recipe_runs_the_whole_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    record = json.loads(ran(["run", "smoke", "--set", "student.arch=lenet5-half", "--json"]).out)

    assert record["passed"] is True
    assert record["artifacts"][0]["latency_ms"]["1"]["p50"] > 0


@pytest.mark.trains
def test_a_broken_promise_ends_with_7_and_is_recorded(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    done = typed(["run", "smoke", "--set", "student.arch=lenet5-half", "--set", "gates.min_top1=99.9"])

    assert done.code == 7
    assert re.search("error: 1 of 2 gates failed: min_top1 of export/student.fp32.onnx", done.err)
    assert "broken" in done.out
    assert json.loads(Path("runs/smoke-1/result.json").read_text())["passed"] is False


@pytest.mark.trains
def test_a_file_made_from_a_folder_of_images_tells_nothing_of_where_they_lie(tmp_path, monkeypatch):
    digits = load_digits()
    for number, (image, label) in enumerate(zip(digits.images[:200], digits.target[:200], strict=True)):
        path = tmp_path / "pictures" / f"class-{label}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((image * 15).astype("uint8")).save(path)
    monkeypatch.chdir(tmp_path)

    ran(["train", "--arch", "lenet5-half", "--data", "folder:pictures", "--epochs", "2", "--out", "run", *QUICK])
    ran(["export", "run"])

    record = json.loads(Path("run/result.json").read_text())
    assert record["data"]["source"] == f"folder:{tmp_path / 'pictures'}"
    assert set(record["student"]["class_accuracy"]) == {f"class-{digit}" for digit in range(10)}
    metadata = onnx.load(Path("run/export/student.fp32.onnx")).metadata
    assert metadata["compress.data"] == "pictures"
    assert json.loads(metadata["compress.classes"])[3] == "class-3"
    assert str(tmp_path).encode() not in Path("run/export/student.fp32.onnx").read_bytes()


# Stopping and going on


@pytest.mark.starts
def test_a_signal_saves_and_the_resumed_run_ends_with_the_same_weights(tmp_path, here):
    common = ["--teacher", str(here / "runs/teacher-1"), "--student", "lenet5-half", "--epochs", "8", *QUICK]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    whole = [sys.executable, "-m", "compressor", "distill", *common, "--out", "whole", "--quiet"]
    subprocess.run(whole, cwd=tmp_path, check=True, stdout=subprocess.DEVNULL, env=environment)
    stopped = subprocess.Popen(
        [sys.executable, "-m", "compressor", "distill", *common, "--out", "stopped"],
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )
    metrics = tmp_path / "stopped" / "metrics.jsonl"
    while stopped.poll() is None and not metrics.exists():
        time.sleep(0.01)
    stopped.send_signal(signal.SIGTERM)
    _, said = stopped.communicate(timeout=120)

    assert stopped.returncode == 130, said
    assert re.search(r"interrupted in epoch \d+ of 8; the state is saved", said)
    assert not (tmp_path / "stopped" / "student").exists()
    hint = re.search("hint: compress (distill --resume .*)", said)
    resume = [sys.executable, "-m", "compressor", *hint[1].split(), "--quiet"]
    subprocess.run(resume, cwd=tmp_path, check=True, stdout=subprocess.DEVNULL, env=environment)
    one, other = (tmp_path / name / "student" / "student.safetensors" for name in ("whole", "stopped"))
    assert one.read_bytes() == other.read_bytes()
    epochs = [json.loads(line)["epoch"] for line in metrics.read_text().splitlines()]
    assert epochs == list(range(1, 9))


def test_resuming_a_finished_run_keeps_what_was_exported_and_measured(here):
    shutil.copytree("runs/student-1", "runs/kept")
    before = json.loads(Path("runs/kept/result.json").read_text())
    assert before["artifacts"]

    done = ran(["distill", "--resume", "runs/kept", "--json"])

    assert json.loads(done.out) == json.loads(Path("runs/kept/result.json").read_text()) == before
    ran(["verify", "runs/kept"])
    Path("runs/kept/result.json").write_text("{")
    assert json.loads(ran(["distill", "--resume", "runs/kept", "--json"]).out)["artifacts"] == []


def test_the_next_command_names_a_run_that_is_not_the_latest(here, monkeypatch):
    shutil.copytree("runs/student-1", "runs/an older run")
    older = ["validate", "runs/an older run"]
    (latest,) = {find(None).folder}

    assert ran(older).err.splitlines()[-1] == "next: compress bench 'runs/an older run'"
    assert ran(["validate", str(latest)]).err.splitlines()[-1] == "next: compress bench"
    monkeypatch.chdir("runs")
    assert ran(["validate", "an older run"]).err.splitlines()[-1] == "next: compress bench 'an older run'"


def test_resume_takes_no_other_setting(here):
    refused(["distill", "--resume", "runs/student-1", "--epochs", "9"], 2, "takes no other setting")


def test_a_diverging_loss_ends_with_5_and_names_its_term(here):
    refused(
        [*DISTILL, "--lr", "1e30", "--epochs", "3", "--set", "train.schedule.kind=constant", "--quiet"],
        5,
        r"loss term '(ce|kd|bss)' became (NaN|infinite) at step \d+ \(epoch \d\)",
        "lower --lr, or try --set train.clip_norm=1",
    )


# What a run or an export that fails leaves


@pytest.mark.trains
def test_a_disk_that_takes_no_more_ends_with_4_and_leaves_only_whole_files(tmp_path, monkeypatch):
    resource = pytest.importorskip("resource", reason="limits of file sizes are POSIX")
    monkeypatch.chdir(tmp_path)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        done = typed(["train", "--arch", "resnet8", "--data", "digits", "--epochs", "1", "--out", "run"])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)

    assert done.code == 4, done.err
    assert re.search(r"error: cannot write run/checkpoints/(best|last)\.ckpt: the file would be larger", done.err)
    assert list((tmp_path / "run" / "checkpoints").iterdir()) == []


def test_an_export_that_cannot_be_written_leaves_nothing(here, monkeypatch, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree("runs/student-1", folder)
    shutil.rmtree(folder / "export")

    def broken(*_arguments, **_options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(onnx, "export", broken)
    refused(["export", str(folder), "--format", "onnx", "--quiet"], 4, "the disk is full")
    assert list((folder / "export").iterdir()) == []


def test_an_export_that_answers_otherwise_is_not_kept(here, monkeypatch, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree("runs/student-1", folder)
    shutil.rmtree(folder / "export")
    honest = onnx.export

    def wrong(network, path, **options):
        class Upside(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.network = network

            def forward(self, images):
                return self.network(images.flip(2))

        honest(Upside(), path, **options)

    monkeypatch.setattr(onnx, "export", wrong)
    refused(
        ["export", str(folder), "--format", "onnx", "--quiet"], 6, "does not answer as its source does", "was not kept"
    )
    assert list((folder / "export").iterdir()) == []
