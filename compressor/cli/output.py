"""What users read: sentences on standard error, results on standard output."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from compressor.printable import one_line

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from compressor.progress import Tell
    from compressor.runs.record import Metrics, Result


_UNBOUNDED = 10_000  # columns, more than any table has


def tell_of(quiet: bool) -> Tell:
    from compressor.progress import Tell

    return Tell(quiet=quiet)


def draw(*parts: RenderableType, width: int = 160) -> None:
    """Print tables and sentences, as wide as the terminal, or `width` where there is none, and unpadded.

    A table of which no column may be wrapped goes over the edge of a terminal that is too narrow: cut numbers are none.
    """
    from rich.console import Console

    page = Console(width=None if sys.stdout.isatty() else width, highlight=False)
    for part in parts:
        console = Console(width=max(page.width, _rigid(part, page)), highlight=False)
        with console.capture() as drawn:
            console.print(part, soft_wrap=isinstance(part, str))
        typer.echo("\n".join(line.rstrip() for line in drawn.get().splitlines()))


def _rigid(part: RenderableType, page: Console) -> int:
    """Return how many columns a table needs whose cells cannot be wrapped, else 0."""
    from rich.measure import Measurement
    from rich.table import Table

    if not isinstance(part, Table) or not all(column.no_wrap for column in part.columns):
        return 0
    return Measurement.get(page, page.options.update(max_width=_UNBOUNDED), part).maximum


def echo_json(text: str) -> None:
    """Print JSON; characters that the stream's encoding lacks are escaped, so that none is lost."""
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        text = json.dumps(json.loads(text), indent=2)
    typer.echo(text)


def show(result: Result | Metrics, *, as_json: bool) -> None:
    if as_json:
        echo_json(result.model_dump_json(indent=2))
        return
    from compressor import report

    if not isinstance(result, report.Result):
        draw(report.single(result))
    elif result.gates:
        draw(report.summary(result), report.gates(result.gates))
    else:
        draw(report.summary(result))


def hold(result: Result, *, complete: bool, asked: Collection[str] = ()) -> None:
    """End the command where a gate is broken, after marking each such gate where GitHub shows it; see `gates.broken`.

    GitHub reads both streams, so that standard output stays data.
    """
    from compressor.gates import broken, enforce
    from compressor.report.github import workflow_commands

    if os.environ.get("GITHUB_ACTIONS") == "true":
        failed = broken(result.gates, complete=complete, asked=asked)
        for command in workflow_commands(result.gates, failed=failed):
            typer.echo(command, err=True)
    enforce(result.gates, complete=complete, asked=asked)


def publish(result: Result, *, junit: Path | None, markdown: Path | None) -> None:
    """Write the result where the user, and GitHub's job summary, want it. A summary that fails costs a warning only."""
    from compressor.errors import InputRejected
    from compressor.files import append_text, write_text
    from compressor.report.junit import junit as junit_of
    from compressor.report.markdown import markdown as markdown_of

    if junit is not None:
        write_text(junit, junit_of(result))
    if markdown is not None:
        write_text(markdown, markdown_of(result))
    summary = os.environ.get("GITHUB_STEP_SUMMARY")
    if summary:
        try:
            append_text(Path(summary), markdown_of(result) + "\n")
        except (OSError, InputRejected) as error:
            typer.echo(f"warning: the job summary is not written: {error}", err=True)


def show_facts(facts: dict[str, Any], indent: str = "") -> None:
    for key, value in facts.items():
        if isinstance(value, dict) and value:
            typer.echo(f"{indent}{one_line(key)}:")
            show_facts(value, indent + "  ")
        else:
            typer.echo(f"{indent}{one_line(key)}: {one_line(value) if isinstance(value, str) else json.dumps(value)}")
