"""The manifest of a run: every file with its hash, the lineage, and what `compress verify` says of a changed one."""

import json
import shutil
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path

import pytest
from shell import ran, refused, typed

from compressor.runs import manifest


@pytest.fixture
def run(work, tmp_path, monkeypatch):
    shutil.copytree(work / "runs/student-1", tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "run"


def test_every_file_that_stays_is_named_with_its_hash(run):
    known = {file.path: file for file in manifest.read(run).files}

    there = {path.relative_to(run).as_posix() for path in run.rglob("*") if path.is_file()}
    assert there - set(known) == {"manifest.json", "run.log", ".lock", "stages.json"}
    student = (run / "student/student.safetensors").read_bytes()
    assert known["student/student.safetensors"].sha256 == sha256(student).hexdigest()
    assert known["student/student.safetensors"].size_bytes == len(student)
    assert known["export/student.fp32.onnx"].role == "artifact"
    assert known["checkpoints/last.ckpt"].role == "checkpoint"
    assert {file.role for file in known.values()} >= {"recipe", "record", "student"}


def test_the_lineage_goes_from_the_teacher_to_the_artifact(run):
    record = json.loads((run / "result.json").read_text())

    taught, made = manifest.read(run).lineage

    assert (taught.source_sha256, taught.sha256) == (record["teacher"]["sha256"], record["student"]["sha256"])
    assert (made.source_sha256, made.sha256) == (record["student"]["sha256"], record["artifacts"][0]["sha256"])
    assert made.made == "export/student.fp32.onnx"


@pytest.mark.skipif(
    find_spec("tensorrt_rtx") is None, reason="TensorRT-RTX is not installed: pip install 'compressor[trt-rtx]'"
)
def test_a_plan_comes_from_its_graph(run):
    ran(["export", "run", "-f", "trt-rtx", "--precision", "fp16", "--quiet"])

    links = {link.made: link.source for link in manifest.read(run).lineage}

    plan = next(name for name in links if name.endswith(".plan"))
    assert links[plan] == "export/student.fp16.onnx"
    assert links["export/student.fp16.onnx"] == "student/student.safetensors"


def test_a_run_as_it_was_left_is_verified(run):
    done = ran(["verify", "run", "--json"])

    assert json.loads(done.out)["problems"] == []
    assert "files are as the manifest says" in done.err


def tampered(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda run: tampered(run / "export/student.fp32.onnx"), r"export/student\.fp32\.onnx was changed"),
        (lambda run: tampered(run / "student/student.safetensors"), r"student/student\.safetensors was changed"),
        (lambda run: tampered(run / "recipe.resolved.yaml"), r"recipe\.resolved\.yaml was changed"),
        (lambda run: (run / "export/student.fp32.onnx").unlink(), r"export/student\.fp32\.onnx is missing"),
        (lambda run: (run / "export/other.onnx").write_bytes(b"x"), r"export/other\.onnx is not in the manifest"),
    ],
)
def test_what_was_tampered_with_is_named(run, change, words):
    change(run)

    refused(["verify", "run", "--quiet"], 4, words)


@pytest.mark.parametrize("command", [["bench", "--batch-sizes", "1"], ["validate"], ["report"]])
def test_to_measure_or_to_report_does_not_make_a_tampered_file_right(run, command):
    tampered(run / "export/student.fp32.onnx")

    done = typed([command[0], "run", *command[1:], "--quiet"])

    if command[0] != "report":
        assert done.code == 4
        assert "is not the file that was exported and proved" in done.err
    refused(["verify", "run", "--quiet"], 4, r"export/student\.fp32\.onnx was changed")


@pytest.mark.skipif(
    find_spec("openvino") is None, reason="OpenVINO is not installed: pip install 'compressor[openvino]'"
)
def test_weights_beside_an_artifact_that_were_tampered_with_stay_wrong(run):
    ran(["export", "run", "-f", "openvino", "--quiet"])
    tampered(run / "export/student.fp32.bin")

    ran(["report", "run", "--quiet"])

    refused(["verify", "run", "--quiet"], 4, r"export/student\.fp32\.bin was changed")


def test_a_lost_artifact_stays_in_the_manifest(run):
    (run / "export/student.fp32.onnx").unlink()

    ran(["report", "run", "--quiet"])

    refused(["verify", "run", "--quiet"], 4, r"export/student\.fp32\.onnx is missing")


def test_what_a_command_writes_is_as_the_manifest_says(run):
    for command in (["bench", "run", "--batch-sizes", "1"], ["validate", "run"], ["report", "run"], ["export", "run"]):
        ran([*command, "--quiet"])
        ran(["verify", "run", "--quiet"])


def test_a_manifest_may_not_look_outside_the_run(run):
    path = run / "manifest.json"
    content = json.loads(path.read_text())
    content["files"][0]["path"] = "../secret"
    path.write_text(json.dumps(content))

    refused(["verify", "run", "--quiet"], 4, "../secret lies outside the run")


@pytest.mark.parametrize("content", ["", "{", '{"manifest": 2, "name": "x", "files": [], "lineage": []}'])
def test_another_schema_or_a_damaged_manifest_is_refused(run, content):
    (run / "manifest.json").write_text(content)

    refused(["verify", "run", "--quiet"], 4, "not a manifest of schema 1")


def test_a_run_without_a_manifest_is_refused(run):
    (run / "manifest.json").unlink()

    refused(["verify", "run", "--quiet"], 4, "has no manifest.json")
