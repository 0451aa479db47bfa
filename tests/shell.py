"""Typing `compress` commands in a test: run in this process, ended as `main` would end them."""

import re

import pytest
from typer.testing import CliRunner

from compressor import cli

DISTILL = ["distill", "--teacher", "runs/teacher-1", "--student", "lenet5-half"]
QUICK = [
    *("--lr", "0.05", "--batch-size", "32", "--set", "train.schedule={kind: cosine, warmup: 1}"),
    *("--set", "bench.duration_s=0.05", "--set", "bench.warmup_s=0.01", "--set", "bench.min_iterations=5"),
    *("--set", "validate.boundary_samples=32", "--set", "validate.attack_samples=32"),
    *("--set", "validate.similarity_images=8"),
]


COMPARED = """
recipe: 1
name: mine
data: {name: digits, batch_size: 64}
teacher: {checkpoint: teacher}
student: {arch: lenet5-half}
method: {kind: bss, temperature: 2.5, attack: {steps: 2, size: 16}}
validate: {boundary_samples: 16, attack_samples: 16}
"""


class Ran:
    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err


def typed(arguments: list[str]) -> Ran:
    """Run `compress` in this process, as `main` would end it."""
    runner = CliRunner()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cli, "app", lambda: _app(prog_name="compress", args=arguments))
        with runner.isolation() as (out, err, _):
            code = 0
            try:
                cli.main()
            except SystemExit as end:
                code = end.code or 0
            return Ran(code, out.getvalue().decode(), err.getvalue().decode())


_app = cli.app


def ran(arguments: list[str]) -> Ran:
    """Run a command that must succeed."""
    done = typed(arguments)
    assert done.code == 0, done.err
    return done


def refused(arguments: list[str], code: int, words: str, hint: str = "") -> None:
    """Run a command that must end with `code` and one sentence, and without a traceback."""
    done = typed(arguments)
    assert done.code == code, done.err
    assert re.search(words, done.err), done.err
    assert re.search(hint, done.err), done.err
    assert "Traceback" not in done.err
    assert done.out == ""
