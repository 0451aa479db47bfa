"""The command that looks at the machine: doctor."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from compressor.cli.options import Data, Device, Json, Quiet, Set, Teacher, changes, recipe_of
from compressor.cli.output import draw, tell_of
from compressor.errors import EnvironmentMissing

if TYPE_CHECKING:
    from compressor.doctor import Finding

_COLOURS = {"ok": "green", "absent": "dim", "broken": "red"}


@dataclass(frozen=True)
class NeedOptions:
    """What a recipe will be run with."""

    teacher: Teacher = None
    data: Data = None
    device: Device = None


def doctor(
    needs: NeedOptions,
    recipe: Annotated[
        str | None, typer.Argument(help="A recipe file, or a name from `recipes ls`, to see whether it can run here.")
    ] = None,
    set_: Set = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Try every runtime and say what is missing.

    Ends with 3 when PyTorch or ONNX Runtime do not work, or when something that RECIPE needs is not here.
    """
    from compressor import presets
    from compressor.doctor import examine

    if recipe is not None:
        presets.find(recipe)  # what is not there need not be waited for
    tell_of(quiet)("trying each runtime, which takes a few seconds")
    findings = examine()
    works = {finding.check: finding.status == "ok" for finding in findings}
    if recipe is not None and works["torch-cpu"]:  # reading a recipe imports PyTorch
        from compressor.doctor.needs import demand

        findings = demand(findings, recipe_of(recipe, changes(needs, set_=set_)))
    if as_json:
        typer.echo(json.dumps({"findings": [asdict(each) | {"missing": each.missing} for each in findings]}, indent=2))
    else:
        _show(findings)
    missing = [finding for finding in findings if finding.missing]
    if missing:
        what = "; ".join(f"{each.title} (for {', '.join(each.needed)}): {each.found}" for each in missing)
        raise EnvironmentMissing(f"{recipe or 'compress'} needs what is not here: {what}", hint=missing[0].remedy)


def _show(findings: Sequence[Finding]) -> None:
    """Print a table, then the line to type for each problem: unwrapped, so that it can be copied."""
    from rich.box import SIMPLE_HEAD
    from rich.markup import escape
    from rich.table import Table

    box = SIMPLE_HEAD if sys.stdout.isatty() else None
    table = Table("", "check", "found", "needed for", box=box, pad_edge=False)
    for each in findings:
        colour = "bold red" if each.missing else _COLOURS[each.status]
        cells = [each.title, each.found, ", ".join(each.needed)]
        table.add_row(f"[{colour}]{each.status}[/]", *map(escape, cells))
    draw(table)
    remedies: dict[str, list[str]] = {}
    for each in findings:
        if each.remedy is not None and each.status != "ok":
            remedies.setdefault(each.remedy, []).append(each.title)
    if remedies:
        typer.echo("\nwhat to do, where it is wanted:")
    for remedy, titles in remedies.items():
        typer.echo(f"  {'; '.join(titles)}:\n    {remedy}")
