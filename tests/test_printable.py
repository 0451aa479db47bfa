"""Text of others, in every output."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from report_contents import contents, measured
from rich.console import Console
from shell import typed
from test_report import result as record_of

from compressor.printable import printable
from compressor.progress import Tell
from compressor.report import gates, summary
from compressor.report.github import workflow_commands
from compressor.report.html import page
from compressor.report.markdown import markdown
from compressor.runs.record import Gate

BAD = "cat\x1b[31m\x07\x9b2J\u202etac\n::add-mask::x"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\x1b[2J", "a\\x1b[2J"),
        ("\x00\x7f\x9b", "\\x00\\x7f\\x9b"),
        ("\u202eabc\u2066", "\\u202eabc\\u2066"),
        ("\ud800", "\\ud800"),
        ("a\tb\nc", "a\tb\nc"),
        ("می\u200cخواهم \ufffd", "می\u200cخواهم \ufffd"),
        ("Größe 犬 😀 é", "Größe 犬 😀 é"),
    ],
)
def test_what_a_terminal_would_act_on_is_written_out(text, shown):
    assert printable(text) == shown


@given(st.text())
def test_it_is_done_once_and_can_be_written(text):
    shown = printable(text)

    assert printable(shown) == shown
    shown.encode("utf-8")
    assert all(char.isprintable() or char.isspace() or ord(char) > 0xA0 for char in shown)


def drawn(table) -> str:
    console = Console(width=300, no_color=True)
    with console.capture() as capture:
        console.print(table)
    return capture.get()


def test_no_output_of_a_result_acts_on_what_shows_it():
    gate = Gate(gate="min_top1", artifact=BAD, limit=1, value=0, verdict="broken", passed=False, detail=f"0; {BAD}")
    names = (BAD, "b", "c")
    run = measured(names, gates=(gate,), name=BAD)
    student = run.student.model_copy(update={"arch": BAD, "class_change": {BAD: -5.0}})
    run = run.model_copy(update={"student": student})

    outputs = {
        "terminal": drawn(summary(run)) + drawn(gates(run.gates)),
        "markdown": markdown(run),
        "html": page(contents(names, result=run, name=BAD)),
        "github": "\n".join(workflow_commands(run.gates, failed=run.gates)),
    }

    for kind, text in outputs.items():
        assert "cat\\" in text or "cat\\\\" in text, kind  # it is shown
        assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e]", text), kind
    for kind in ("terminal", "markdown", "github"):
        assert not re.search(r"^\s*::add-mask::", outputs[kind], re.M), kind
    assert record_of().name in drawn(summary(record_of()))


def test_a_sentence_stays_on_one_line_whatever_names_it_holds(tmp_path, capsys):
    tell = Tell()
    tell.keep(tmp_path / "run.log")

    tell("class 'a\n::add-mask::secret\x1b[31m'")

    said = r"class 'a\n::add-mask::secret\x1b[31m'"
    assert said in capsys.readouterr().err
    assert (tmp_path / "run.log").read_text(encoding="utf-8").endswith(f" {said}\n")


def test_an_error_stays_on_one_line_whatever_names_it_holds():
    done = typed(["inspect", "no\n::error::such\x1b[2Jfile"])

    assert done.err.splitlines()[0] == r"error: no such file: no\n::error::such\x1b[2Jfile"
