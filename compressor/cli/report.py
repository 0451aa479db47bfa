"""The command that writes a page for people: report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from compressor.cli.options import Allow, Json, Quiet
from compressor.cli.output import tell_of


def report(
    runs: Annotated[list[Path] | None, typer.Argument(help="Run folders; the latest run when left out.")] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="File to write, instead of RUN/report/report.html.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file of --out.")] = False,
    allow: Allow = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write the report of a run, or compare several.

    One HTML file that loads nothing: of one run into its folder, of several to report.html here. A run that is not
    finished is shown as far as it came.
    """
    from compressor import pipeline

    path = pipeline.report(runs or (), tell_of(quiet), out=out, overwrite=overwrite, allow=allow or ())
    typer.echo(json.dumps({"report": str(path)}) if as_json else str(path))
