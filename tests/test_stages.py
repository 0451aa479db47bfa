"""Stages that are skipped, gone on with or done again: what `stages.json` says, and what `compress run` makes of it."""

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
from layers import trains
from shell import ran, refused, typed

from compressor.runs.folder import Run
from compressor.runs.lock import working
from compressor.runs.stages import STAGES, Stages

SMALL = ["run", "smoke", "--set", "student.arch=lenet5-half", "--no-report"]


@pytest.fixture
def stages(tmp_path):
    return Stages(Run(tmp_path))


def test_nothing_is_done_at_first(stages):
    assert all(stages.finished(stage) is None for stage in STAGES)
    assert stages.changed("export", {"a": 1}) == ["a"]


def test_what_was_done_is_known_to_the_next_process_with_its_inputs(stages, tmp_path):
    stages.begin("export", {"a": {"b": 1, "c": (2, 3)}, "d": None})
    stages.done("export")

    later = Stages(Run(tmp_path))

    assert later.finished("export") is not None
    assert later.changed("export", {"a": {"b": 1, "c": [2, 3]}, "d": None}) == []
    assert later.changed("export", {"a": {"b": 2, "c": [2, 3]}, "e": 0}) == ["a.b", "e"]


def test_a_stage_that_was_begun_is_not_done(stages, tmp_path):
    stages.begin("train", {"a": 1})
    stages.done("train")
    stages.begin("train", {"a": 1})

    assert Stages(Run(tmp_path)).finished("train") is None
    assert Stages(Run(tmp_path)).changed("train", {"a": 1}) == []


def test_to_forget_a_stage_is_to_forget_all_after_it(stages):
    for stage in STAGES:
        stages.begin(stage, {})
        stages.done(stage)

    stages.forget("validate")

    assert [stage for stage in STAGES if stages.finished(stage)] == ["train", "export"]


@pytest.mark.parametrize("content", ["", "{", '["train"]', '{"train": 3}'])
def test_a_damaged_file_means_that_nothing_is_done(tmp_path, content):
    Run(tmp_path).stages.write_text(content)

    damaged = Stages(Run(tmp_path))

    assert damaged.finished("train") is None
    assert damaged.changed("train", {"a": 1}) == ["a"]


# compress run


@pytest.fixture(scope="module")
@trains
def done_once(tmp_path_factory):
    folder = tmp_path_factory.mktemp("smoke")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        ran(SMALL)
    return folder


@pytest.fixture
def finished(done_once, tmp_path, monkeypatch):
    """A folder in which `compress run smoke` was done once, to work in."""
    shutil.copytree(done_once, tmp_path, symlinks=True, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def said(done, stage: str) -> str:
    return next((line for line in done.err.splitlines() if line.startswith(f"{stage}:")), "")


def test_a_run_that_is_repeated_does_nothing_again(finished):
    before = Path("runs/smoke-1/result.json").read_bytes()

    again = ran(SMALL)

    for stage in ("train", "export", "validate", "bench"):
        assert "unchanged since" in said(again, stage)
    assert Path("runs/smoke-1/result.json").read_bytes() == before
    assert not Path("runs/smoke-2").exists()


def test_only_what_depends_on_a_change_is_done_again(finished):
    student = Path("runs/smoke-1/student/student.safetensors").stat().st_mtime_ns

    again = ran([*SMALL, "--set", "bench.batch_sizes=[2]", "--json"])

    assert "unchanged" in said(again, "validate")
    assert "again, since bench.batch_sizes changed" in said(again, "bench")
    assert set(json.loads(again.out)["student"]["latency_ms"]) == {"2"}
    assert Path("runs/smoke-1/student/student.safetensors").stat().st_mtime_ns == student
    assert "batch_sizes: [2]" in Path("runs/smoke-1/recipe.resolved.yaml").read_text()


def test_another_export_leads_to_all_that_measures_it(finished):
    again = json.loads(ran([*SMALL, "--set", "export=[{precision: fp16}]", "--set", "gates={}", "--json"]).out)

    assert [artifact["precision"] for artifact in again["artifacts"]] == ["fp16"]
    assert again["artifacts"][0]["top1"] is not None
    assert again["artifacts"][0]["latency_ms"] is not None


def test_gates_are_judged_anew_without_measuring_anew(finished):
    done = typed([*SMALL, "--set", "gates.min_top1=100"])

    assert done.code == 7
    assert "unchanged" in said(done, "validate")
    assert "unchanged" in said(done, "bench")


def test_an_artifact_that_was_changed_or_lost_is_made_again(finished):
    path = Path("runs/smoke-1/export/student.fp32.onnx")
    right = path.read_bytes()
    path.write_bytes(right + b"x")
    changed = ran(SMALL)
    assert "again, since export/student.fp32.onnx changed" in said(changed, "export")
    assert path.read_bytes() == right

    path.unlink()
    again = json.loads(ran([*SMALL, "--json"]).out)
    assert path.read_bytes() == right
    assert again["artifacts"][0]["top1"] is not None
    assert again["artifacts"][0]["latency_ms"] is not None

    assert "unchanged" in said(ran(SMALL), "export")


def test_what_is_exported_by_hand_is_measured_by_the_next_run(finished):
    ran(["export", "runs/smoke-1", "--format", "onnx"])

    again = ran([*SMALL, "--json"])

    assert "unchanged" not in said(again, "validate") + said(again, "bench")
    assert json.loads(again.out)["artifacts"][0]["top1"] is not None


def test_a_stage_that_is_begun_again_undoes_those_after_it(stages):
    for stage in STAGES:
        stages.begin(stage, {})
        stages.done(stage)

    stages.begin("export", {})

    assert [stage for stage in STAGES if stages.finished(stage)] == ["train"]


def test_other_training_is_another_run(finished):
    ran([*SMALL, "--seed", "1"])

    assert Path("runs/smoke-2/result.json").exists()
    assert "unchanged" in said(ran(SMALL), "train")  # the first is found again behind the newer


def test_from_does_a_stage_and_those_after_it_again(finished):
    again = ran([*SMALL, "--from", "validate"])

    assert "unchanged" in said(again, "export")
    assert "unchanged" not in said(again, "validate") + said(again, "bench")

    ran([*SMALL, "--from", "train"])
    assert Path("runs/smoke-2/result.json").exists()


def test_from_a_later_stage_needs_a_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refused([*SMALL, "--from", "bench"], 2, "there is no run of smoke to go on from")


def test_a_folder_with_another_run_is_not_gone_on_with(finished):
    refused(
        [*SMALL, "--out", "runs/smoke-1", "--seed", "5"], 2, "trained otherwise: seed differ", "--overwrite to replace"
    )

    ran([*SMALL, "--out", "runs/smoke-1", "--seed", "5", "--overwrite"])
    assert "seed: 5" in Path("runs/smoke-1/recipe.resolved.yaml").read_text()


def test_a_second_process_in_a_run_folder_is_refused(finished):
    with working(Path("runs/smoke-1")):
        for command in (SMALL, ["export"], ["validate"], ["bench"], [*SMALL, "--out", "runs/smoke-1", "--overwrite"]):
            refused([*command, "--quiet"], 2, rf"another process works in .*runs/smoke-1 \(process {os.getpid()}\)")

    ran([*SMALL])


@pytest.mark.starts
def test_a_run_that_was_killed_goes_on_where_it_was(tmp_path):
    command = [
        *(sys.executable, "-m", "compressor", "run", "smoke", "--set", "student.arch=lenet5-half"),
        *("--epochs", "40", "--set", "train.schedule.kind=constant", "--json"),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    killed = subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment
    )
    metrics = tmp_path / "runs/smoke-1/metrics.jsonl"
    while killed.poll() is None and not (metrics.exists() and metrics.read_text().count("\n") >= 3):
        time.sleep(0.01)
    killed.send_signal(signal.SIGKILL)
    killed.wait(timeout=60)
    assert killed.returncode == -signal.SIGKILL

    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment, check=True)

    assert re.search(r"resuming after \d+ of 40 epochs", done.stderr)
    assert json.loads(done.stdout)["training"]["epochs"] == 40
    assert [json.loads(line)["epoch"] for line in metrics.read_text().splitlines()] == list(range(1, 41))
    assert not (tmp_path / "runs/smoke-2").exists()


# compress run --smoke


def test_smoke_takes_the_whole_path_of_a_recipe_with_a_teacher(here):
    command = ["run", "digits-bss", "--teacher", "runs/teacher-1", "--smoke", "--json"]
    latest = Path("runs/latest").resolve()

    done = ran([*command, "--set", "gates.min_top1=100"])

    result = json.loads(done.out)
    assert result["training"]["method"] == "bss"
    assert result["training"]["epochs"] == 1
    assert result["student"]["arch"] == "lenet5-half"
    assert {gate["gate"] for gate in result["gates"]} >= {"min_top1", "min_agreement"}
    assert "teacher: right on" in done.err  # the real teacher was looked at
    assert "their values mean nothing" in done.err
    assert Path("runs/latest").resolve() == latest


def test_smoke_finds_what_is_wrong_with_the_real_inputs(here):
    refused(["run", "digits-bss", "--teacher", "missing.pt", "--smoke", "--quiet"], 4, "missing.pt")
