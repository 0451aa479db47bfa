"""`compress export`: what each kind of artifact leaves in a run, and what is made of an ONNX file from elsewhere."""

import json
import re
import shutil
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx as onnx_package
import pytest
import torch
from PIL import Image
from shell import ran, refused, typed

from compressor import checkpoint
from exporters import exporter, onnx
from exporters.parity import LIMITS

RTX = pytest.mark.skipif(
    find_spec("tensorrt_rtx") is None,
    reason="TensorRT-RTX is not installed: pip install 'compressor[trt-rtx]'",
)
OPENVINO = pytest.mark.skipif(
    find_spec("openvino") is None,
    reason="OpenVINO is not installed: pip install 'compressor[openvino]'",
)


openvino_exporter = exporter("openvino")


@pytest.fixture
def run(here, tmp_path, monkeypatch):
    """A copy of the student's run without artifacts, in a folder of its own."""
    shutil.copytree(here / "runs/student-1", tmp_path / "run")
    shutil.rmtree(tmp_path / "run/export")
    record = json.loads((tmp_path / "run/result.json").read_text())
    (tmp_path / "run/result.json").write_text(json.dumps({**record, "artifacts": [], "gates": []}))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "run"


def exported(*flags: str) -> dict:
    return json.loads(ran(["export", "run", *flags, "--json"]).out)["artifacts"][-1]


@pytest.mark.parametrize(
    ("flags", "name"),
    [
        (["--precision", "fp16"], "student.fp16.onnx"),
        (["--precision", "int8"], "student.int8.onnx"),
        (["--precision", "int8", "--quantization", "trt"], "student.trt.int8.onnx"),
        (["--input", "uint8"], "student.uint8.fp32.onnx"),
        (["--output", "probabilities", "--precision", "fp16"], "student.probabilities.fp16.onnx"),
        pytest.param(["-f", "openvino"], "student.fp32.xml", marks=OPENVINO),
    ],
)
def test_an_artifact_is_named_by_what_it_is_and_proved(run, flags, name):
    artifact = exported(*flags)

    assert artifact["path"] == f"export/{name}"
    assert artifact["precision"] == name.split(".")[-2]
    assert artifact["provider"] == "cpu"
    assert artifact["parity"]["samples"] > 300
    assert max(artifact["census"], key=artifact["census"].get) == artifact["precision"]
    assert (run / artifact["path"]).is_file()
    assert not list((run / "export").glob(".*"))
    sizes = [(run / each).stat().st_size for each in (artifact["path"], *artifact["companions"])]
    assert artifact["size_bytes"] == sum(sizes)


def test_an_int8_file_says_what_it_was_calibrated_with(run):
    artifact = exported("--precision", "int8", "--set", "calibration={samples: 100, boundary: 0.5}")

    known = artifact["calibration"]
    assert known["samples"] == 100
    assert 40 <= known["boundary"] <= 50
    assert known["recipe"] == "cpu"
    assert known["kept_fp32"] == []
    assert known["drop"] is None


def test_the_way_to_choose_ranges_is_chosen_on_validation_images_and_said(run):
    done = ran(["export", "run", "--precision", "int8", "--set", "calibration.method=auto", "--json"])

    known = json.loads(done.out)["artifacts"][-1]["calibration"]
    lost = re.search(r"calibration.method (\w+): .*: minmax (\S+), entropy (\S+), percentile (\S+)", done.err)
    assert known["method"] == lost[1]
    by_method = dict(zip(("minmax", "entropy", "percentile"), map(float, lost.groups()[1:]), strict=True))
    assert by_method[lost[1]] == min(by_method.values())


@OPENVINO
def test_a_search_measures_candidates_in_the_runtime_that_the_file_is_for(run, monkeypatch):
    opened = []
    load = openvino_exporter.load
    monkeypatch.setattr(
        openvino_exporter, "load", lambda path, **more: opened.append(path.suffix) or load(path, **more)
    )

    exported("-f", "openvino", "--precision", "int8", "--max-drop", "5")

    assert ".onnx" in opened  # candidates are graphs still; the finished file is an .xml


def test_max_drop_is_measured_on_validation_images(run):
    done = ran(["export", "run", "--precision", "int8", "--max-drop", "5", "--json"])

    known = json.loads(done.out)["artifacts"][-1]["calibration"]
    assert known["drop"] <= 5
    assert re.search(r"INT8 loses -?[\d.]+ points on validation images, 5 are allowed", done.err)


def test_max_drop_keeps_layers_until_the_proof_passes(run, monkeypatch):
    whole = LIMITS["int8"]
    monkeypatch.setitem(LIMITS, "int8", replace(whole, rms_error=0.01))
    refused(["export", "run", "--precision", "int8", "--quiet"], 6, "root mean square", "--max-drop")

    kept = exported("--precision", "int8", "--max-drop", "5")["calibration"]["kept_fp32"]
    assert kept


@RTX
def test_a_plan_that_cannot_run_here_is_kept_with_its_graph_and_says_so(run):
    done = ran(["export", "run", "-f", "trt-rtx", "--precision", "fp16", "--batch", "1:4:16", "--json"])

    artifact = json.loads(done.out)["artifacts"][-1]
    assert re.fullmatch(r"export/student\.fp16\.rtx[\d.]+\.plan", artifact["path"])
    assert (artifact["provider"], artifact["parity"]) == (None, None)
    assert re.search("built, not run here: .*; the ONNX graph that it was built from was", artifact["note"])
    assert artifact["note"] in done.err
    assert (run / "export/student.fp16.onnx").is_file()
    assert [Path(each).suffix for each in artifact["companions"]] == [".json"]

    validated = ran(["validate", "run"])
    assert f"left out: {artifact['path']}" in validated.err
    timed = ran(["bench", "run", "--batch-sizes", "1", "--duration", "0.01"])
    assert f"left out: {artifact['path']}" in timed.err


def test_bf16_is_written_and_said_not_to_have_run(run):
    artifact = exported("--precision", "bf16")

    assert artifact["precision"] == "bf16"
    assert artifact["provider"] is None
    assert "built, not run here" in artifact["note"]


def test_a_gate_on_an_artifact_that_did_not_run_stays_open(run):
    recipe = run / "recipe.resolved.yaml"
    recipe.write_text(recipe.read_text().replace("max_parity_error: null", "max_parity_error: 0.1"))

    result = json.loads(ran(["export", "run", "--precision", "bf16", "--json"]).out)

    (gate,) = result["gates"]
    assert (gate["value"], gate["passed"]) == (None, None)
    assert "could not be run where it was built" in gate["detail"]
    assert result["passed"] is None


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--batch", "1:8"], "smallest, usual and largest batch, not '1:8'"),
        (["--batch", "8:4:1", "-f", "trt-rtx"], "the smallest, the usual and the largest batch"),
        (["--batch", "1:2:3"], "is for the formats trt and trt-rtx"),
        (["--max-drop", "1"], "is for precision int8"),
        (["--quantization", "cpu", "--precision", "int8", "-f", "trt-rtx"], "must be trt"),
        (["--set", "calibration.sample=3", "--precision", "int8"], "sample"),
        (["--format", "tensorrt"], "tensorrt"),
        (["--mean", "0.5"], "--mean does not go with a run"),
        (["--data", "digits"], "--data does not go with a run"),
    ],
)
def test_settings_without_a_meaning_are_refused(run, flags, words):
    refused(["export", "run", *flags, "--quiet"], 2, re.escape(words))


@pytest.mark.skipif(find_spec("tensorrt") is not None, reason="TensorRT is installed")
def test_a_runtime_that_is_missing_is_said_with_how_to_get_it(run):
    refused(["export", "run", "-f", "trt", "--quiet"], 3, "TensorRT", "pip install")
    assert not list((run / "export").glob("*"))


# A graph from elsewhere

MEAN, STD = (0.3,), (0.4,)


@pytest.fixture
def foreign(here, tmp_path, monkeypatch):
    """`model.onnx`: the digits teacher as others export it. It takes normalised images and has no metadata."""
    network = checkpoint.load_network(here / "runs/teacher-1/student/student.safetensors")
    bare = network.module.network
    monkeypatch.chdir(tmp_path)
    onnx.export(bare, Path("trunk.onnx"), input_shape=network.input_shape)
    model = onnx_package.load("trunk.onnx")
    del model.metadata_props[:]
    onnx_package.save(model, "model.onnx")
    Path("trunk.onnx").unlink()
    return network


def known(network) -> list[str]:
    return ["--mean", ",".join(map(str, network.mean)), "--std", ",".join(map(str, network.std))]


@pytest.mark.starts
def test_a_graph_is_exported_with_its_normalisation_inside(foreign):
    artifact = json.loads(ran(["export", "--from", "model.onnx", *known(foreign), "--json"]).out)

    assert artifact["path"] == "model.fp32.onnx"
    images = np.random.default_rng(0).random((5, *foreign.input_shape), np.float32)
    with torch.no_grad():
        expected = foreign.module(torch.from_numpy(images)).numpy()
    np.testing.assert_allclose(onnx.load(Path("model.fp32.onnx"))(images), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.starts
def test_labelled_data_find_the_normalisation_and_measure_the_loss(foreign, here):
    done = ran(["export", "--from", "model.onnx", "--data", "digits", "--precision", "int8", "--json"])

    artifact = json.loads(done.out)
    top1 = json.loads((here / "runs/teacher-1/result.json").read_text())["student"]["top1"]
    assert "model.onnx: right on" in done.err
    assert abs(artifact["top1"] - top1) < 3
    assert artifact["agreement"] > 0.95
    assert artifact["calibration"]["boundary"] == 0


@pytest.mark.starts
def test_a_wrong_normalisation_is_seen_by_its_accuracy(foreign):
    wrong = ["--mean", "-2", "--std", "5", "--data", "digits"]
    refused(
        ["export", "--from", "model.onnx", *wrong, "--quiet"], 4, "model.onnx is right on .* normalisation", "--mean"
    )

    done = ran(["export", "--from", "model.onnx", *wrong, "--normalize", "auto", "--json"])
    assert "using that" in done.err


@pytest.mark.starts
def test_validate_finds_the_normalisation_too(foreign, here):
    done = json.loads(ran(["validate", "model.onnx", "--data", "digits", "--json"]).out)

    top1 = json.loads((here / "runs/teacher-1/result.json").read_text())["student"]["top1"]
    assert abs(done["top1"] - top1) < 2
    assert done["format"] == "onnx"


@pytest.mark.starts
def test_boundary_samples_come_from_a_teacher_where_there_is_one(foreign, here):
    done = ran(
        [
            *("export", "--from", "model.onnx", "--data", "digits", "--precision", "int8", "--json"),
            *("--teacher", str(here / "runs/teacher-1"), "--set", "calibration.samples=64"),
        ]
    )

    assert json.loads(done.out)["calibration"]["boundary"] > 8


@pytest.mark.starts
def test_an_export_of_ours_needs_nothing_said(foreign):
    ran(["export", "--from", "model.onnx", *known(foreign)])

    artifact = json.loads(ran(["export", "--from", "model.fp32.onnx", "--precision", "fp16", "--json"]).out)

    assert artifact["path"] == "model.fp32.fp16.onnx"
    assert artifact["parity"]["relative_error"] < 0.03


@pytest.mark.starts
def test_a_refusal_names_no_file_of_a_scratch_folder(foreign):
    ran(["export", "--from", "model.onnx", *known(foreign), "--precision", "fp16"])

    refused(
        ["export", "--from", "model.fp16.onnx", "--quiet"], 6, "^error: model.fp16.onnx computes in fp16", "fp32 file"
    )


@pytest.mark.starts
def test_nothing_is_written_over_unless_asked(foreign):
    command = ["export", "--from", "model.onnx", *known(foreign)]
    ran(command)
    refused([*command, "--quiet"], 2, "model.fp32.onnx exists already", "--overwrite")

    ran([*command, "--overwrite"])
    ran([*command, "--out", "elsewhere"])
    assert Path("elsewhere/model.fp32.onnx").is_file()


@pytest.mark.parametrize(
    ("flags", "code", "words"),
    [
        ([], 2, "not known how the images of model.onnx are normalised"),
        (["--mean", "0.5"], 2, "--mean and --std go together"),
        (["--mean", "0.5,0.5", "--std", "1,1"], 2, "need 1 values each"),
        (["--mean", "a", "--std", "1"], 2, "--mean takes numbers"),
        (["--mean", "0.5", "--std", "0"], 2, "std above zero"),
        (["--mean", "0.5", "--std", "0.5", "--precision", "int8"], 4, "INT8 needs images to calibrate with"),
        (["--mean", "0.5", "--std", "0.5", "--opset", "18"], 2, "operator set of model.onnx stays"),
        (["--data", "digits", "--precision", "int8", "--set", "calibration.boundary=0.5"], 4, "network with gradients"),
    ],
)
@pytest.mark.starts
def test_what_is_missing_for_a_graph_is_said(foreign, flags, code, words):
    refused(["export", "--from", "model.onnx", *flags, "--quiet"], code, re.escape(words))


@pytest.mark.parametrize(("images", "words"), [(0, "the folder .* is empty"), (3, "holds images but no class folders")])
def test_calibration_data_that_are_empty_or_without_classes_are_refused(foreign, images, words):
    Path("pictures").mkdir()
    for number in range(images):
        Image.new("L", (8, 8)).save(f"pictures/{number}.png")

    refused(["export", "--from", "model.onnx", "--data", "folder:pictures", "--precision", "int8", "--quiet"], 4, words)
    assert not Path("model.int8.onnx").exists()


@pytest.mark.parametrize("content", [b"", b"<html>", b"\x08\x07"])
def test_a_file_that_is_no_onnx_is_refused(tmp_path, monkeypatch, content):
    monkeypatch.chdir(tmp_path)
    Path("model.onnx").write_bytes(content)
    refused(["export", "--from", "model.onnx", "--quiet"], 4, "model.onnx is not an ONNX file")
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]


def test_a_missing_graph_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refused(["export", "--from", "model.onnx", "--quiet"], 4, "cannot read model.onnx: no such file")


def test_a_run_and_a_graph_at_once_are_refused(foreign):
    done = typed(["export", "run", "--from", "model.onnx"])
    assert done.code == 2
    assert "not both" in done.err
