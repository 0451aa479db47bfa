"""The `compress` command: parse, one call, print. Data goes to standard output, everything else to standard error.

Nothing heavy is imported here: a command imports what it needs, so that help and listings come at once.
"""

from __future__ import annotations

import os
import sys

import typer

from compressor.cli import compare, diff, doctor, export, listing, measure, report, train, verify
from compressor.cli.command import Command, laid_out
from compressor.errors import CompressError
from exporters.errors import ExporterError

app = typer.Typer(
    name="compress",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Distil an image classifier into a smaller one, prove what was kept, export and measure it.",
)
for command in (
    *(train.train, train.distill, export.export, measure.validate, measure.bench),
    *(train.run, compare.compare, diff.diff, report.report, verify.verify, doctor.doctor),
    *(listing.inspect, listing.models, listing.methods),
):
    app.command(cls=Command)(laid_out(command))
app.command(hidden=True)(compare.compare_cell)

recipes = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="List, show, copy and check recipes.")
recipes.command("ls", cls=Command)(listing.recipes_ls)
recipes.command("show", cls=Command)(listing.recipes_show)
recipes.command("cp", cls=Command)(listing.recipes_cp)
recipes.command("check", cls=Command)(listing.recipes_check)
recipes.command("schema", cls=Command)(listing.recipes_schema)
app.add_typer(recipes, name="recipes")


def main() -> None:
    """Run the command line; a user's mistake becomes one sentence, a hint and an exit code."""
    try:
        app()
    except (CompressError, ExporterError) as error:
        typer.echo(f"error: {error.message}", err=True)
        if error.hint:
            typer.echo(f"hint: {error.hint}", err=True)
        if os.environ.get("COMPRESS_DEBUG"):
            raise
        sys.exit(error.exit_code)
