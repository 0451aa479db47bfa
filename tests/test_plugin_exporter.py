"""An exporter of the user's own, `package.module:name`: the same verbs, and never imported because a record says so."""

import importlib
import json
import re
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from shell import ran, refused

from compressor import pipeline
from compressor.artifacts.formats import exporter_for, exporter_of, format_of, provider_of
from compressor.doctor import probe
from compressor.errors import InputRejected, UsageError
from compressor.progress import Tell
from compressor.recipe import Export, Override, build
from exporters import EXPORTERS, Compiler, Exporter, Provider, exporter, onnx, provider_on

MODULE = "example_plugin.exporter"
NAME = f"{MODULE}:ZIPPED"


@pytest.fixture
def run(here, tmp_path, monkeypatch):
    """A copy of the student's run without artifacts, in a folder of its own."""
    shutil.copytree(here / "runs/student-1", tmp_path / "run")
    shutil.rmtree(tmp_path / "run/export")
    record = json.loads((tmp_path / "run/result.json").read_text())
    (tmp_path / "run/result.json").write_text(json.dumps({**record, "artifacts": [], "gates": []}))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "run"


@pytest.fixture
def unloaded(monkeypatch):
    """A function that forgets the plug-in, so that a later import of it shows."""

    def forget():
        monkeypatch.delitem(sys.modules, MODULE, raising=False)

    forget()
    return forget


def members(protocol: type) -> list[str]:
    return [name for name in vars(protocol) if not name.startswith("_")]


def facts_of(**changes) -> SimpleNamespace:
    """What has all that the example has, but for the changes; None takes a member away."""
    zipped = exporter_of(NAME)
    facts = {name: getattr(zipped, name) for name in members(Exporter)} | changes
    return SimpleNamespace(**{name: value for name, value in facts.items() if value is not None})


# The facts of every format.


@pytest.mark.parametrize("name", EXPORTERS)
def test_each_exporter_has_all_that_the_contract_asks_for(name):
    found = exporter(name)
    contract = [*members(Exporter), *(members(Compiler) if found.COMPILED else [])]

    assert len(contract) >= 11
    assert [each for each in contract if not hasattr(found, each)] == []
    assert name == found.FORMAT
    assert found.PROVIDERS
    assert all(suffix.startswith(".") for suffix in found.SUFFIXES)


@pytest.mark.parametrize(
    ("name", "device", "expected"),
    [
        ("onnx", "cpu", "cpu"),
        ("onnx", "cuda", "cuda"),
        ("openvino", "cuda", "cpu"),
        ("trt", "cpu", "cuda"),
        ("trt-rtx", "cuda", "cuda"),
        (NAME, "cuda", "cpu"),
    ],
)
def test_a_format_runs_where_its_user_works_or_where_it_can(name, device, expected):
    assert provider_of(name, device) == provider_on(exporter_of(name), device) == expected


def test_no_two_formats_write_the_same_suffix_but_plans():
    written = {name: exporter(name).SUFFIXES[0] for name in EXPORTERS}

    assert {name: format_of(Path(f"a{suffix}")) for name, suffix in written.items()} == {
        **{name: name for name in written},
        "trt-rtx": "trt",  # until a plan says what it is
    }
    assert format_of(Path("a.safetensors")) is None


# A plug-in is used like the others.


@pytest.mark.starts
def test_a_plugin_is_exported_proved_validated_and_timed(run):
    artifact = json.loads(ran(["export", "run", "--format", NAME, "--json"]).out)["artifacts"][0]

    assert (artifact["path"], artifact["format"]) == ("export/student.fp32.zonnx", NAME)
    assert (artifact["provider"], artifact["precision"]) == ("cpu", "fp32")
    assert artifact["parity"]["samples"] > 300
    assert artifact["parity"]["max_error"] < 1e-3

    quiet = Tell(quiet=True)
    validated = pipeline.validate(run, quiet, allow=[NAME])
    assert validated.artifacts[0].top1 == pytest.approx(validated.student.top1, abs=0.5)
    assert validated.artifacts[0].boundary_agreement is not None

    fast = [Override.typed(text) for text in ("bench.batch_sizes=[1]", "bench.duration_s=0.01", "bench.memory=true")]
    latency = pipeline.bench(run, quiet, overrides=fast, allow=[NAME]).artifacts[0].latency_ms["1"]
    assert latency.p50 > 0
    assert latency.memory_mb is None or latency.memory_mb > 0
    ran(["verify", "run"])


@pytest.mark.trains
def test_a_recipe_of_ones_own_names_a_plugin(here, tmp_path):
    recipe = build(
        {
            "student": {"arch": "lenet5-half"},
            "method": {"kind": "ce"},
            "data": {"name": "digits"},
            "train": {"epochs": 1},
            "validate": {"boundary_samples": 8, "attack_samples": 8},
            "export": [{"format": NAME}],
            "bench": {"batch_sizes": [1], "duration_s": 0.01, "min_iterations": 5, "warmup_s": 0.01},
            "gates": {"max_parity_error": 0.01, "max_size_mb": 5},
            "device": "cpu",
        },
        base=tmp_path,
    )
    result, _ = pipeline.run(recipe, Tell(quiet=True), out=tmp_path / "own", latest=False, page=False)

    (artifact,) = result.artifacts
    assert (artifact.format, artifact.top1 is None, artifact.latency_ms is None) == (NAME, False, False)
    assert result.passed


def test_a_run_whose_recipe_names_a_plugin_wants_it_named_again(run, unloaded):
    recipe = run / "recipe.resolved.yaml"
    recipe.write_text(re.sub("format: onnx", f"format: {NAME}", recipe.read_text()))

    for command in ("export", "validate", "bench"):
        refused([command, "run", "--quiet"], 4, f"names code of its own, {NAME}", f"--allow {NAME}")
    assert MODULE not in sys.modules
    exported = pipeline.export(run, Tell(quiet=True), allow=[NAME])
    assert exported.artifacts[0].path == "export/student.fp32.zonnx"


def test_a_file_of_a_plugin_is_measured_where_its_format_is_named(run):
    ran(["export", "run", "--format", NAME])
    file = str(run / "export/student.fp32.zonnx")

    timed = json.loads(ran(["bench", file, "--format", NAME, "--duration", "0.01", "--json"]).out)
    assert timed["format"] == NAME
    assert timed["latency_ms"]["1"]["p50"] > 0
    graded = json.loads(ran(["validate", file, "--format", NAME, "--data", "digits", "--json"]).out)
    assert graded["top1"] > 50
    refused(["bench", "run", "--format", NAME], 2, "--format goes with a single artifact")


def test_int8_is_quantised_as_the_plugin_says(run):
    artifact = json.loads(ran(["export", "run", "-f", NAME, "--precision", "int8", "--json"]).out)["artifacts"][0]

    assert (artifact["path"], artifact["precision"]) == ("export/student.int8.zonnx", "int8")
    assert artifact["calibration"]["recipe"] == "cpu"


@pytest.mark.starts
def test_a_graph_from_elsewhere_is_given_a_format_of_ones_own(run):
    ran(["export", "run", "--format", "onnx"])
    shutil.copy(run / "export/student.fp32.onnx", "model.onnx")
    artifact = json.loads(ran(["export", "--from", "model.onnx", "--format", NAME, "--json"]).out)

    assert (artifact["path"], artifact["format"]) == ("model.fp32.zonnx", NAME)


@pytest.mark.starts
def test_doctor_builds_and_runs_a_file_of_it():
    (found,) = probe([f"{NAME}@cuda"])

    assert (found.check, found.title, found.status) == (f"{NAME}@cuda", NAME, "ok")
    assert found.found.startswith(str(onnx.versions()["version"]))


@pytest.mark.starts
def test_doctor_says_what_cannot_be_imported():
    (found,) = probe(["no_such_package.formats:ZIPPED@cpu"])

    assert (found.status, found.found) == ("absent", "there is no module 'no_such_package'")


def test_doctor_asks_a_recipes_plugin_in_a_process_of_its_own(monkeypatch, unloaded):
    from compressor.doctor import needs

    asked = []
    monkeypatch.setattr(needs, "probe", lambda names, timeout_s: asked.extend(names) or [])
    needs.demand(
        (), build({"student": {"arch": "lenet5"}, "device": "cpu", "export": [{"format": NAME}]}, base=Path.cwd())
    )

    assert asked == [f"{NAME}@cpu"]
    assert MODULE not in sys.modules


# What is not imported.


def test_what_a_record_names_is_not_imported(run, unloaded):
    ran(["export", "run", "--format", NAME])
    unloaded()

    for command in (["validate", "run"], ["bench", "run", "--batch-sizes", "1", "--duration", "0.01"]):
        done = ran(command)
        left_out = f"left out: export/student.fp32.zonnx, its format is code of its own: --allow {NAME} opens it"
        assert left_out in done.err
    for command in (["verify", "run"], ["report", "run"]):
        ran(command)
    assert MODULE not in sys.modules


def test_a_recipe_with_a_plugin_is_checked_and_shown_without_it(tmp_path, unloaded):
    file = tmp_path / "mine.yaml"
    file.write_text(f"student: {{arch: lenet5}}\nexport: [{{format: {NAME}, precision: int8, quantization: cpu}}]\n")
    ran(["recipes", "check", str(file)])

    assert MODULE not in sys.modules
    assert Export(format=NAME, precision="int8", quantization="cpu").variant == ".cpu"


# What is refused.


@pytest.mark.parametrize(
    ("name", "words", "hint"),
    [
        ("zipped", "--format: must be 'onnx', 'trt', 'trt-rtx', 'openvino' or package.module:name, got", "known"),
        ("openvin", 'got "openvin"', "did you mean 'openvino'"),
        ("no_such_package:ZIPPED", "there is no module 'no_such_package'", "PYTHONPATH"),
        (f"{MODULE}:ZIPED", f"{MODULE} has no 'ZIPED'", "did you mean 'ZIPPED'"),
        (f"{MODULE}:Zipped", "is no exporter: it is a class, and an object of it is wanted", "docs/extending.md"),
        (f"{MODULE}:MEMBER", "is no exporter: it has no FORMAT", "docs/extending.md"),
    ],
)
def test_a_name_that_is_no_exporter_is_refused(run, name, words, hint):
    refused(["export", "run", "--format", name, "--quiet"], 2, re.escape(words), hint)


@pytest.mark.parametrize("member", members(Exporter))
def test_a_member_that_is_missing_is_named(monkeypatch, member):
    monkeypatch.setattr(importlib.import_module(MODULE), "LESS", facts_of(**{member: None}), raising=False)

    with pytest.raises(UsageError, match=rf"^{MODULE}:LESS is no exporter: it has no {member}$"):
        exporter_of(f"{MODULE}:LESS")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "its FORMAT is 'example_plugin.exporter:ZIPPED', and must be the name that it is asked for by"),
        ({"COMPILED": True}, "it has no described"),
        ({"SUFFIXES": ".zonnx"}, "its SUFFIXES are not a tuple such as"),
        ({"SUFFIXES": (".onnx",)}, "its suffix .onnx is that of the format onnx"),
        ({"SUFFIXES": (".plan",)}, "its suffix .plan is that of the format trt"),
        ({"PROVIDERS": {}}, "its PROVIDERS are not a mapping of names to exporters.Provider"),
        ({"PROVIDERS": ("cpu",)}, "its PROVIDERS are not a mapping of names to exporters.Provider"),
        ({"PROVIDERS": {"cpu": "zipped"}}, "its PROVIDERS are not a mapping of names to exporters.Provider"),
        ({"QUANTIZATIONS": ()}, "its QUANTIZATIONS are not a tuple such as"),
    ],
)
def test_facts_that_would_mislead_are_refused(monkeypatch, changes, words):
    name = f"{MODULE}:OTHER"
    found = facts_of(**({"FORMAT": name} if changes else {}), **changes)
    monkeypatch.setattr(importlib.import_module(MODULE), "OTHER", found, raising=False)

    with pytest.raises(UsageError, match=re.escape(f"{name} is no exporter: {words}")):
        exporter_of(name)


def test_a_name_that_is_neither_is_refused():
    with pytest.raises(InputRejected, match="unknown format 'onx'") as refusal:
        exporter_of("onx")
    assert refusal.value.hint == "did you mean 'onnx'?"


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"batch": (1, 2, 3)}, "batch is for the formats trt and trt-rtx, not"),
        ({"precision": "fp16"}, "precision must be fp32 or int8 for the format"),
        ({"precision": "int8", "quantization": "trt"}, "quantization must be cpu for the format"),
    ],
)
def test_settings_that_do_not_go_with_a_plugin_are_refused_before_anything_slow(settings, words):
    with pytest.raises(UsageError, match=re.escape(words)):
        exporter_for(Export(format=NAME, **settings))


def test_a_damaged_file_is_refused(tmp_path):
    (tmp_path / "a.zonnx").write_bytes(b"no archive")
    refused(["bench", str(tmp_path / "a.zonnx"), "--format", NAME], 4, "is not a zipped ONNX file")


def test_the_example_answers_as_the_graph_it_holds(run):
    ran(["export", "run", "--format", "onnx"])
    graph = run / "export/student.fp32.onnx"
    zipped = exporter_of(NAME)
    built = [zipped.build(graph, run, stem, precision="fp32", engine=None).path for stem in ("one", "two")]
    images = np.random.default_rng(0).random((5, 1, 8, 8), np.float32)

    np.testing.assert_array_equal(zipped.load(built[0])(images), onnx.load(graph)(images))
    assert built[0].read_bytes() == built[1].read_bytes()
    assert isinstance(zipped.PROVIDERS["cpu"], Provider)
