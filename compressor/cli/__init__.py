"""The `compress` command: parse, one call, print. Data goes to standard output, everything else to standard error.

Nothing heavy is imported here: a command imports what it needs, so that help and listings come at once.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Annotated, NoReturn

import typer

from compressor import __version__
from compressor.cli import compare, diff, doctor, export, listing, measure, report, surroundings, train, verify
from compressor.cli.command import Command, laid_out
from compressor.machine.ranks import started_together
from compressor.printable import one_line, printable
from exporters.errors import UserError

# Each command, and what to type for a start.
COMMANDS: tuple[tuple[Callable[..., None], str], ...] = (
    (train.train, "compress train --arch resnet20 --data digits --epochs 30"),
    (train.distill, "compress distill --teacher resnet110.pt --student resnet20"),
    (export.export, "compress export --format onnx --precision int8"),
    (measure.validate, "compress validate runs/NAME-1 --gate min_top1=90"),
    (measure.bench, "compress bench --batch-sizes 1,32 --within 5"),
    (train.run, "compress run digits-bss --teacher runs/digits-teacher-1"),
    (compare.compare, "compress compare digits-bss --methods ce,kd,bss --seeds 3"),
    (diff.diff, "compress diff teacher.pt student.int8.onnx --data folder:PATH"),
    (report.report, "compress report runs/NAME-1"),
    (verify.verify, "compress verify runs/NAME-1"),
    (doctor.doctor, "compress doctor digits-bss"),
    (listing.inspect, "compress inspect resnet110.pt"),
    (listing.models, "compress models --torchvision"),
    (listing.methods, "compress methods --json"),
)
RECIPES: tuple[tuple[str, Callable[..., None], str], ...] = (
    ("ls", listing.recipes_ls, "compress recipes ls"),
    ("show", listing.recipes_show, "compress recipes show digits-bss"),
    ("cp", listing.recipes_cp, "compress recipes cp digits-bss mine.yaml"),
    ("check", listing.recipes_check, "compress recipes check mine.yaml --set train.epochs=10"),
    ("schema", listing.recipes_schema, "compress recipes schema > recipe.schema.json"),
)

app = typer.Typer(
    name="compress",
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Distil an image classifier into a smaller one, prove what was kept, export and measure it.",
    epilog="COMMAND --help shows its options and an example. --install-completion lets the shell complete both.",
)
recipes = typer.Typer(rich_markup_mode=None, help="List, show, copy and check recipes.")


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"compress {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _alone(
    context: typer.Context,
    version: Annotated[  # noqa: ARG001 (its callback answers)
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    _help_alone(context)


@recipes.callback(invoke_without_command=True)
def _help_alone(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


for command, example in COMMANDS:
    app.command(cls=Command, epilog=f"Example: {example}")(laid_out(command))
app.command(hidden=True)(compare.compare_cell)
for name, command, example in RECIPES:
    recipes.command(name, cls=Command, epilog=f"Example: {example}")(command)
app.add_typer(recipes, name="recipes")


def main() -> None:
    """Run the command line; a user's mistake, and what the system refuses, become one sentence, a hint and a code."""
    surroundings.settle()
    try:
        app()
    except SystemExit as end:
        _leave(end.code)
    except UserError as error:
        _end(error)
    except (OSError, MemoryError, RuntimeError, ImportError) as error:
        refused = surroundings.refused(error)
        if refused is None:
            raise
        _end(refused)


def _end(error: UserError) -> None:
    if started_together():
        from compressor.training.distributed import first_to_tell

        if not first_to_tell():
            os._exit(error.exit_code)
    with suppress(OSError):  # standard error may be what is full
        typer.echo(f"error: {one_line(error.message)}", err=True)
        if error.hint:
            typer.echo(f"hint: {printable(error.hint)}", err=True)
    if os.environ.get("COMPRESS_DEBUG"):
        raise error
    _leave(error.exit_code)


def _leave(code: str | int | None) -> NoReturn:
    """End with a code. One of several processes ends at once: torch's threads that carry messages between them may wait
    for one that is gone, and abort where they let go of a tensor while Python ends.
    """
    if started_together() and not isinstance(code, str):
        with suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code or 0)
    sys.exit(code)
