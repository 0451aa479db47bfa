"""The commands that only look: inspect, models, methods, recipes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from compressor.cli.options import Json, Set, changes, recipe_of
from compressor.cli.output import draw, show_facts, tell_of


def inspect(
    path: Annotated[Path, typer.Argument(help="A checkpoint, an exported file or a run folder.")],
    triton: Annotated[
        bool, typer.Option("--triton", help="Print the config.pbtxt that serves this ONNX file instead.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Print what is known of a file, executing nothing."""
    from compressor.pipeline.inspect import inspect as look
    from compressor.pipeline.inspect import triton_config

    if triton:
        typer.echo(triton_config(path), nl=False)
        return
    facts = look(path)
    if as_json:
        typer.echo(json.dumps(facts, indent=2))
    else:
        show_facts(facts)


def models(
    torchvision: Annotated[bool, typer.Option("--torchvision", help="List torchvision's classifiers too.")] = False,
    as_json: Json = False,
) -> None:
    """List networks with parameters and MACs."""
    from dataclasses import asdict

    from rich.table import Table

    from compressor.models import catalogue

    entries = catalogue(torchvision=torchvision)
    if as_json:
        typer.echo(json.dumps([asdict(entry) for entry in entries], indent=2))
        return
    table = Table("name", "parameters", "MACs", "input", "description", box=None)
    for entry in entries:
        shape = "x".join(map(str, entry.input_shape))
        macs = "-" if entry.macs is None else f"{entry.macs / 1e6:,.1f} M"
        table.add_row(entry.name, f"{entry.parameters:,}", macs, shape, entry.description)
    draw(table, width=140)


def methods(as_json: Json = False) -> None:
    """List methods and losses: when to use each, what it needs and costs, what was measured, its keys."""
    from compressor.methods import describe
    from compressor.methods.guide import cost_protocol
    from compressor.presets import method_presets

    entries = describe()
    if as_json:
        typer.echo(json.dumps(entries, indent=2))
        return
    titles = {
        "method": "methods (method.kind)",
        "soft": "losses between logits (method.soft.kind)",
        "features": "losses between inner outputs (method.features, a list)",
    }
    for what, title in titles.items():
        typer.echo(f"{title}\n")
        for entry in (each for each in entries if each["what"] == what):
            typer.echo(f"{entry['kind']}: {entry['summary']}")
            typer.echo(f"    when: {entry['when']}")
            if entry["needs"]:
                typer.echo(f"    needs {entry['needs']}")
            if entry["source"]:
                typer.echo(f"    source: {entry['source']}")
            typer.echo(f"    cost: {_cost(entry['cost'])}")
            for sentence in entry["measured"] or ["nothing yet"]:
                typer.echo(f"    measured: {sentence}")
            for key in entry["required"]:
                typer.echo(f"    {key}: (must be given)")
            for key, value in entry["defaults"].items():
                typer.echo(f"    {key}: {json.dumps(value)}")
        typer.echo()
    typer.echo(f"costs: {cost_protocol()}\n\nwith settings of their own (compress compare --methods)\n")
    for preset in method_presets():
        typer.echo(f"{preset.name}: {preset.summary}")


def _cost(steps: float | None) -> str:
    return "not measured" if steps is None else f"{steps:.2f} steps of kd"


def recipes_ls(as_json: Json = False) -> None:
    """List the recipes that come with the tool."""
    from compressor.presets import presets

    found = presets()
    if as_json:
        typer.echo(json.dumps([{"name": each.name, "summary": each.summary} for each in found], indent=2))
        return
    width = max(len(each.name) for each in found)
    for each in found:
        typer.echo(f"{each.name:<{width}}  {each.summary}")


def recipes_show(name: Annotated[str, typer.Argument(help="A name from `recipes ls`, or a file.")]) -> None:
    """Print a recipe as it is written."""
    from compressor.presets import find

    typer.echo(find(name).read_text(encoding="utf-8"), nl=False)


def recipes_cp(
    name: Annotated[str, typer.Argument(help="A name from `recipes ls`.")],
    destination: Annotated[Path, typer.Argument(help="A file that does not exist yet, or a folder.")],
) -> None:
    """Copy a recipe, to change it."""
    from compressor.presets import copy

    written = copy(name, destination)
    typer.echo(str(written))
    tell_of(quiet=False)(f"next: compress recipes check {written}")


def recipes_check(
    name: Annotated[str, typer.Argument(help="A recipe file, or a name from `recipes ls`.")], set_: Set = None
) -> None:
    """Check a recipe and print it with every default written out."""
    from compressor.inputs import require_known
    from compressor.pipeline import check
    from compressor.recipe import dump

    recipe, tell = recipe_of(name, changes(set_=set_)), tell_of(quiet=False)
    if recipe.teacher is None and recipe.method.needs.teachers:
        require_known(recipe)
        tell("the recipe is well-formed and leaves the teacher to --teacher")
    else:
        check(recipe)
        tell("the recipe is well-formed")
    typer.echo(dump(recipe), nl=False)


def recipes_schema() -> None:
    """Print the JSON Schema of a recipe, for editors."""
    from compressor.recipe import schema

    typer.echo(json.dumps(schema(), indent=2))
