"""What users read: sentences on standard error, results on standard output."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from compressor.progress import Tell
    from compressor.report import Metrics, Result


def tell_of(quiet: bool) -> Tell:
    from compressor.progress import Tell

    return Tell(quiet=quiet)


def show(result: Result | Metrics, *, as_json: bool) -> None:
    if as_json:
        typer.echo(result.model_dump_json(indent=2))
        return
    from rich.console import Console

    from compressor import report

    console = Console(width=None if sys.stdout.isatty() else 160, highlight=False)
    if not isinstance(result, report.Result):
        console.print(report.single(result))
        return
    console.print(report.summary(result))
    if result.gates:
        console.print(report.gates(result.gates))


def show_facts(facts: dict[str, Any], indent: str = "") -> None:
    for key, value in facts.items():
        if isinstance(value, dict) and value:
            typer.echo(f"{indent}{key}:")
            show_facts(value, indent + "  ")
        else:
            typer.echo(f"{indent}{key}: {value if isinstance(value, str) else json.dumps(value)}")
