"""What CI servers read: JUnit XML, Markdown, GitHub's commands and benchmark file, the action, the examples."""

import json
import os
import re
import shlex
import subprocess
import sys
import textwrap
from pathlib import Path
from urllib.parse import unquote
from xml.etree import ElementTree

import pytest
import typer
import yaml
from hypothesis import given
from hypothesis import strategies as st
from layers import trains
from shell import ran, typed
from test_report import result as record_of

from compressor import cli
from compressor.gates import GATES
from compressor.printable import printable
from compressor.report.ci import write_ci
from compressor.report.github import benchmark, workflow_commands
from compressor.report.junit import junit
from compressor.report.markdown import markdown
from compressor.runs.record import Gate

ROOT = Path(__file__).resolve().parent.parent
ACTION = yaml.safe_load((ROOT / "action.yml").read_text(encoding="utf-8"))
ONNX = "export/student.fp32.onnx"


def gate(verdict="held", passed=..., name="min_top1", artifact=ONNX, value=97.5, detail="97.5 %, promised"):
    known = {"held": True, "broken": False}.get(verdict) if passed is ... else passed
    return Gate(gate=name, artifact=artifact, limit=90, value=value, verdict=verdict, passed=known, detail=detail)


HELD, BROKEN = gate(), gate("broken", name="max_ece", value=0.5)
OPEN, STRICT = gate("undecided", name="max_accuracy_drop"), gate("undecided", False, name="max_accuracy_drop")
WAITING = gate("unmeasured", name="p99_ms", value=None, detail="not measured: no latency of batch 1")


def parsed(*gates, **changes) -> ElementTree.Element:
    return ElementTree.fromstring(junit(record_of(gates=gates, **changes)).encode())


# JUnit


def test_each_artifact_is_a_suite_and_each_gate_a_case():
    root = parsed(HELD, BROKEN, gate(artifact="export/student.int8.onnx"))

    suites = root.findall("testsuite")
    assert root.tag == "testsuites"
    assert [suite.get("name") for suite in suites] == [ONNX, "export/student.int8.onnx"]
    assert [case.get("name") for case in suites[0].findall("testcase")] == ["min_top1", "max_ece"]
    assert [case.get("classname") for case in suites[0].findall("testcase")] == [f"try.{ONNX}"] * 2


@pytest.mark.parametrize(
    ("given", "tag"),
    [(HELD, "system-out"), (BROKEN, "failure"), (STRICT, "failure"), (OPEN, "skipped"), (WAITING, "error")],
)
def test_each_verdict_has_its_own_outcome(given, tag):
    (case,) = parsed(given).iter("testcase")
    (outcome,) = case

    assert outcome.tag == tag
    assert (outcome.text if tag == "system-out" else outcome.get("message")) == given.detail


def test_a_failure_has_limit_and_value():
    (failure,) = parsed(BROKEN).iter("failure")
    (error,) = parsed(WAITING).iter("error")

    assert (failure.get("type"), failure.text) == ("broken", "limit 90, value 0.5")
    assert (error.get("type"), error.text) == ("unmeasured", "limit 90, value none")


def test_counts_are_those_of_the_cases():
    root = parsed(HELD, BROKEN, STRICT, OPEN, WAITING, gate(artifact="b"))
    first, second = root.findall("testsuite")

    def counts(element):
        return [element.get(key) for key in ("tests", "failures", "errors", "skipped")]

    assert counts(root) == ["6", "2", "1", "1"]
    assert counts(first) == ["5", "2", "1", "1"]
    assert counts(second) == ["1", "0", "0", "0"]


def test_a_suite_says_which_file_and_which_versions():
    (suite,) = parsed(HELD).findall("testsuite")
    facts = {each.get("name"): each.get("value") for each in suite.iter("property")}

    assert suite.get("timestamp") == "2026-01-01T00:00:00"
    assert facts["sha256"] == "0" * 64
    assert facts["data"] == "digits"
    assert re.fullmatch(r"\d+\.\d+\.\d+.*", facts["version.torch"])


# What the common schemas (Jenkins, GitLab) allow: element -> attributes, children.
SHAPE = {
    "testsuites": ({"name", "tests", "failures", "errors", "skipped", "time"}, {"testsuite"}),
    "testsuite": (
        {"name", "tests", "failures", "errors", "skipped", "time", "timestamp"},
        {"properties", "testcase"},
    ),
    "properties": (set(), {"property"}),
    "property": ({"name", "value"}, set()),
    "testcase": ({"name", "classname", "time"}, {"failure", "error", "skipped", "system-out"}),
    "failure": ({"message", "type"}, set()),
    "error": ({"message", "type"}, set()),
    "skipped": ({"message"}, set()),
    "system-out": (set(), set()),
}


@given(st.lists(st.builds(gate, st.sampled_from(["held", "broken", "undecided", "unmeasured"]), detail=st.text())))
def test_any_text_gives_xml_of_the_common_shape(gates):
    for element in parsed(*gates).iter():
        attributes, children = SHAPE[element.tag]
        assert set(element.attrib) == attributes
        assert {child.tag for child in element} <= children


def test_what_xml_forbids_is_written_out():
    bad = 'a\x00\x1b\ufffe\udcff<b> & "c" ]]> é 😀'
    (case,) = parsed(gate("broken", artifact=bad, detail=bad + "\n")).iter("testcase")

    assert case.get("classname") == 'try.a\\x00\\x1b\\ufffe\\udcff<b> & "c" ]]> é 😀'
    assert case[0].get("message").endswith("😀\n")


def test_a_run_without_gates_has_no_suites():
    assert [element.tag for element in parsed().iter()] == ["testsuites"]


# Markdown


@pytest.mark.parametrize(
    ("gates", "headline"),
    [
        ((), "## try: no gates were set"),
        ((HELD,), "## ✅ try: the gate held"),
        ((HELD, HELD), "## ✅ try: all 2 gates held"),
        ((HELD, BROKEN, WAITING), "## ❌ try: 1 of 3 gates broken"),
        ((STRICT, OPEN), "## ❌ try: 1 of 2 gates broken"),
        ((HELD, WAITING), "## ❌ try: 1 of 2 gates not measured"),
        ((HELD, OPEN), "## ⚠️ try: no gate broken, 1 of 2 undecided"),
    ],
)
def test_the_verdict_comes_first(gates, headline):
    assert markdown(record_of(gates=gates)).splitlines()[0] == headline


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def tables(text: str) -> list[list[list[str]]]:
    found: list[list[list[str]]] = [[]]
    for line in text.splitlines():
        if line.startswith("|"):
            found[-1].append(cells(line))
        elif found[-1]:
            found.append([])
    return [table for table in found if table]


def test_the_table_has_every_file_with_a_dash_for_what_was_not_measured():
    files, gates, environment = tables(markdown(record_of(gates=(HELD, BROKEN))))

    assert files[0][-1] == "p50 ms, batch 1"
    assert [row[0] for row in files[2:]] == ["teacher", "student", ONNX]
    assert files[2][1:] == ["pytorch fp32, resnet20", "0.30", "98.00", "–", "–", "–", "–"]
    assert files[4][1:] == ["onnx fp32", "0.30", "97.50", "–", "–", "–", "2.00"]
    assert gates[2:] == [
        ["✅ held", r"min\_top1", ONNX, "97.5 %, promised"],
        ["❌ broken", r"max\_ece", ONNX, "97.5 %, promised"],
    ]
    assert ["torch", record_of().versions["torch"]] in environment


def test_the_likeness_of_boundaries_is_a_sentence_where_it_was_measured():
    record = record_of()
    student = record.student.model_copy(update={"magsim": 0.8125, "angsim": -0.375, "similarity_walks": 281})

    assert "MagSim" not in markdown(record)
    text = markdown(record.model_copy(update={"student": student}))
    assert "over 281 walks in both: MagSim 0.812, AngSim -0.375" in text


def test_every_table_is_rectangular_whatever_the_names():
    bad = "a|b\n`c` <script>*_x_* [l](u) ![i](u) \\| #1 & ~~s~~"
    text = markdown(record_of(gates=(gate(artifact=bad, detail=bad),), name="r"))

    for table in tables(text):
        assert {len(row) for row in table} == {len(table[0])}
    assert "<script>" not in text


def test_the_sentence_tells_the_loss_and_how_sure_it_is():
    before = record_of()
    measured = {"top1": 97.5, "samples": 359, "accuracy_drop": 0.5, "accuracy_drop_ci": (-0.3, 1.4)}
    classes = {"class_change": {"one": -1.0, "t|wo": -9.0, "three": 2.0, "four": None, "five": -3.0, "six": -2.0}}
    text = markdown(record_of(student=before.student.model_copy(update=measured | classes)))

    assert (
        "The student is right on 97.50 % of 359 test images of digits, 0.50 points below its teacher "
        "(95 % interval of the drop: -0.30 to 1.40)." in text
    )
    assert "Classes that lost most: t&#124;wo -9.00 points, five -3.00 points, six -2.00 points.\n" in text


def test_disturbed_times_are_named():
    before = record_of()
    (onnx,) = before.artifacts
    busy = onnx.latency_ms["1"].model_copy(update={"other_load": 0.25})
    text = markdown(record_of(artifacts=(onnx.model_copy(update={"latency_ms": {"1": busy}}),)))

    assert f"Times are not reliable: {ONNX} at batch 1: other processes used 25% of the CPU meanwhile." in text
    assert "not reliable" not in markdown(before)


# GitHub


def test_a_broken_gate_is_an_error_and_an_undecided_one_a_warning():
    assert workflow_commands([OPEN, HELD, BROKEN, WAITING], failed=[BROKEN, WAITING]) == [
        f"::error title=gate max_ece::{ONNX}: 97.5 %25, promised",
        f"::error title=gate p99_ms::{ONNX}: not measured: no latency of batch 1",
        f"::warning title=gate max_accuracy_drop::{ONNX}: 97.5 %25, promised",
    ]


@given(st.text(), st.text())
def test_any_text_stays_one_command_and_comes_out_as_it_was(artifact, detail):
    odd = gate("broken", name="p,5:0%\n", artifact=artifact, detail=detail)

    (command,) = workflow_commands([odd], failed=[odd])

    found = re.fullmatch(r"::error title=([^:,\r\n]*)::([^\r\n]*)", command)
    assert found
    assert unquote(found[1], errors="strict") == "gate p,5:0%\n"
    given_back = found[2].replace("%0D", "\r").replace("%0A", "\n").replace("%25", "%")
    assert given_back.replace("\r", "") == printable(f"{artifact}: {detail}".replace("\r", ""))


def test_the_benchmark_has_sizes_and_medians_with_half_their_interval():
    rows = json.loads(benchmark(record_of()))

    assert [(row["name"], row["unit"], row["value"]) for row in rows] == [
        ("student size", "MB", 0.3),
        ("student batch 1 p50", "ms", 3.0),
        (f"{ONNX} size", "MB", 0.3),
        (f"{ONNX} batch 1 p50", "ms", 2.0),
    ]
    assert rows[3]["range"] == "± 0.1"
    assert rows[3]["extra"] == "p99 3 ms\n476 images/s\non cpu\n100 samples"
    assert all(set(row) <= {"name", "unit", "value", "range", "extra"} for row in rows)


def test_all_files_are_written(tmp_path):
    result = record_of(gates=(BROKEN,))
    write_ci(result, tmp_path / "report")

    written = {path.name: path.read_text(encoding="utf-8") for path in (tmp_path / "report").iterdir()}
    assert written == {
        "junit.xml": junit(result),
        "report.md": markdown(result),
        "benchmark.json": benchmark(result),
    }


# compress run


SMOKE = ["run", "smoke", "--set", "student.arch=lenet5-half", "--quiet"]


@pytest.fixture(scope="module")
@trains
def place(tmp_path_factory):
    """A folder with a finished run, so that another takes no time."""
    folder = tmp_path_factory.mktemp("ci")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.delenv("GITHUB_STEP_SUMMARY", raising=False)
        ran(SMOKE)
    return folder


@pytest.fixture
def on_github(place, monkeypatch):
    monkeypatch.chdir(place)
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    summary = place / "summary.md"
    summary.write_text("of an earlier step\n")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    return summary


def test_a_run_on_github_marks_broken_gates_and_adds_to_the_summary(on_github):
    done = typed([*SMOKE, "--json", "--gate", "min_top1=99.9"])

    assert done.code == 7
    assert json.loads(done.out)["passed"] is False
    commands = [line for line in done.err.splitlines() if line.startswith("::")]
    assert len(commands) == 1
    assert re.match(rf"::error title=gate min_top1::{ONNX}: [\d.]+ %25, promised at least 99.9 %25; on", commands[0])
    text = on_github.read_text()
    assert text.startswith("of an earlier step\n## ❌ smoke: 1 of 2 gates broken\n")


def test_validate_and_bench_mark_broken_gates_too(on_github):
    for command in (["validate", "runs/smoke-1", "--gate", "min_top1=99.9"], ["bench", "runs/smoke-1"]):
        done = typed([*command, "--quiet", "--gate", "max_size_mb=0.0001"])
        assert done.code == 7
        assert f"::error title=gate max_size_mb::{ONNX}: " in done.err


def test_elsewhere_nothing_is_marked(place, monkeypatch):
    monkeypatch.chdir(place)
    monkeypatch.delenv("GITHUB_ACTIONS", raising=False)
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)

    assert "::" not in typed([*SMOKE, "--gate", "min_top1=99.9"]).err


def test_copies_are_written_where_they_are_asked_for_also_when_a_gate_is_broken(on_github):
    done = typed([*SMOKE, "--gate", "min_top1=99.9", "--junit", "a/gates.xml", "--markdown", "b.md"])

    assert done.code == 7
    assert ElementTree.parse("a/gates.xml").getroot().get("failures") == "1"
    assert Path("b.md").read_text() in on_github.read_text()


@pytest.mark.parametrize("path", ["nowhere/summary.md", "."])
def test_a_summary_that_cannot_be_written_costs_a_warning(on_github, monkeypatch, path):
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", path)

    assert "warning: the job summary is not written: " in ran(SMOKE).err


# The action


def steps() -> list[dict]:
    return ACTION["runs"]["steps"]


def test_the_action_is_composite_and_every_script_names_its_shell():
    assert ACTION["runs"]["using"] == "composite"
    for step in steps():
        assert ("uses" in step) != ("run" in step)
        assert "uses" in step or step["shell"] == "bash"


def test_the_action_pins_major_versions_and_needs_no_secret():
    text = (ROOT / "action.yml").read_text(encoding="utf-8")

    assert all(re.fullmatch(r"actions/[a-z-]+@v\d+", step["uses"]) for step in steps() if "uses" in step)
    assert "secrets" not in text
    assert "token" not in text.lower()


def test_no_input_is_pasted_into_a_script():
    assert [step for step in steps() if "${{" in step.get("run", "")] == []


def test_every_input_is_used_and_every_one_used_is_declared():
    text = (ROOT / "action.yml").read_text(encoding="utf-8")

    assert set(re.findall(r"inputs\.([a-z-]+)", text)) == set(ACTION["inputs"])
    assert [name for name, each in ACTION["inputs"].items() if each.get("required")] == ["recipe"]
    used = set(re.findall(r"steps\.([a-z]+)\.outputs", text))
    assert used == {step["id"] for step in steps() if "id" in step}


def script() -> dict:
    (found,) = (step for step in steps() if step.get("id") == "run")
    return found


FAKE = """#!/usr/bin/env bash
printf '%s\\n' "$@" > typed.txt
exit "${CODE:-0}"
"""


@pytest.fixture
def runner(tmp_path):
    """A function that runs the action's script with a `compress` that notes what it was given."""
    binaries = tmp_path / "temp" / "compress" / "bin"
    binaries.mkdir(parents=True)
    (binaries / "compress").write_text(FAKE)
    (binaries / "compress").chmod(0o755)
    (binaries / "python").write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} "$@"\n')
    (binaries / "python").chmod(0o755)

    def run(code=0, **inputs) -> tuple[int, list[str], str]:
        defaults = {name: each.get("default", "") for name, each in ACTION["inputs"].items()}
        values = {**defaults, **inputs}
        given = {
            name: re.sub(r"\$\{\{ inputs\.([a-z-]+) \}\}", lambda match: values[match[1]], text)
            for name, text in script()["env"].items()
        }
        output = tmp_path / "output"
        output.write_text("")
        environment = {**os.environ, **given, "RUNNER_TEMP": str(tmp_path / "temp"), "GITHUB_OUTPUT": str(output)}
        done = subprocess.run(
            ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", script()["run"]],
            cwd=tmp_path,
            env={**environment, "CODE": str(code)},
            capture_output=True,
            text=True,
            timeout=60,
        )
        typed_file = tmp_path / "typed.txt"
        words = typed_file.read_text().splitlines() if typed_file.exists() else []
        return done.returncode, words, output.read_text()

    return run


def flags_of(command: str) -> set[str]:
    """The flags that a command of the command line has."""
    found = typer.main.get_command(cli.app)
    for name in command.split():
        found = found.commands[name]
    return {option for parameter in found.params for option in [*parameter.opts, *parameter.secondary_opts]}


@pytest.mark.starts
def test_the_action_types_what_its_inputs_say(runner, tmp_path):
    (tmp_path / "base.json").write_text("{}")
    args = """--gate min_top1=92 --set "bench.batch_sizes=[1, 8]" --set 'name=$(touch bad)'"""

    code, words, output = runner(
        recipe="my recipe.yaml", teacher="t.pt", data="digits", baseline="base.json", args=args
    )

    assert (code, output) == (0, "run=runs/ci\npassed=true\n")
    assert words == [
        *("run", "my recipe.yaml", "--out", "runs/ci", "--teacher", "t.pt", "--data", "digits"),
        *("--baseline", "base.json", "--gate", "min_top1=92", "--set", "bench.batch_sizes=[1, 8]"),
        *("--set", "name=$(touch bad)"),
    ]
    assert {word for word in words if word.startswith("--")} <= flags_of("run")
    assert not (tmp_path / "bad").exists()


@pytest.mark.starts
def test_inputs_that_are_left_out_are_not_typed(runner):
    assert runner(recipe="smoke", baseline="not-there.json")[1] == ["run", "smoke", "--out", "runs/ci"]


@pytest.mark.starts
@pytest.mark.parametrize(("code", "passed"), [(7, "passed=false\n"), (4, ""), (130, "")])
def test_the_action_ends_as_the_command_does(runner, code, passed):
    ended, _, output = runner(code=code, recipe="smoke")

    assert (ended, output) == (code, f"run=runs/ci\n{passed}")


@pytest.mark.starts
def test_arguments_with_an_open_quote_run_nothing(runner):
    code, words, _ = runner(recipe="smoke", args='--gate "min_top1=9')

    assert code != 0
    assert words == []


# The document


DOCUMENT = (ROOT / "docs" / "ci.md").read_text(encoding="utf-8")


def examples() -> list[str]:
    """The `compress` commands of the document's blocks, and those in the middle of its sentences."""
    blocks = re.findall(r"^(?: {4}| +- )(compress .*)$", DOCUMENT, flags=re.M)
    return [*blocks, *re.findall(r"`(compress [^`]*)`", DOCUMENT)]


def test_the_document_has_examples():
    assert len(examples()) >= 3


@pytest.mark.parametrize("example", examples())
def test_every_command_of_the_document_exists_with_its_flags(example):
    _, command, *words = shlex.split(example)

    assert {word for word in words if word.startswith("-")} <= flags_of(command)


def test_the_tables_of_the_document_name_every_gate_and_verdict():
    named = re.findall(r"^\| `(\w+)` \|", DOCUMENT, flags=re.M)
    assert set(GATES) <= set(named)
    assert {"held", "broken", "undecided", "unmeasured"} <= set(named)


def test_the_examples_of_the_document_are_yaml_with_inputs_that_exist():
    found = [yaml.safe_load(textwrap.dedent(block)) for block in re.findall(r"```yaml\n(.*?)```", DOCUMENT, flags=re.S)]

    workflow, chart, job, _ = found
    (used,) = (step for step in workflow["jobs"]["compress"]["steps"] if step.get("id") == "compress")
    assert set(used["with"]) <= set(ACTION["inputs"])
    assert {word for word in shlex.split(used["with"]["args"]) if word.startswith("--")} <= flags_of("run")
    assert chart[0]["with"]["tool"] == "customSmallerIsBetter"
    assert job["compress"]["artifacts"]["reports"]["junit"] == "run/report/junit.xml"
    outputs = set(re.findall(r"steps\.compress\.outputs\.(\w+)", DOCUMENT))
    assert outputs == set(ACTION["outputs"])
