"""The command that compares methods."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from compressor.choices import Where
from compressor.cli.options import (
    Allow,
    DataOptions,
    FolderOptions,
    Json,
    Quiet,
    Set,
    TeacherOptions,
    TrainingOptions,
    changes,
    recipe_of,
)
from compressor.cli.output import draw, echo_json, tell_of
from compressor.errors import UsageError
from compressor.printable import one_line

if TYPE_CHECKING:
    from compressor.pipeline.compare import Plan


def compare(
    recipe: Annotated[str, typer.Argument(help="A recipe file, or a name from `recipes ls`.")],
    teacher: TeacherOptions,
    images: DataOptions,
    training: TrainingOptions,
    kept: FolderOptions,
    methods: Annotated[
        str,
        typer.Option(help="Methods with commas between: names, files with a section method; kd and ce are baselines."),
    ] = "ce,kd,bss",
    seeds: Annotated[str, typer.Option(help="How many, 5 for 0 to 4, or which ones: 3,7,9.")] = "5",
    students: Annotated[str | None, typer.Option(help="Students with commas between, instead of the recipe's.")] = None,
    teachers: Annotated[
        str | None, typer.Option(help="Checkpoints or runs with commas between, instead of the recipe's teachers.")
    ] = None,
    vary: Annotated[
        list[str] | None, typer.Option(help="A recipe key and its values: train.lr=0.05,0.1. May be repeated.")
    ] = None,
    jobs: Annotated[
        str, typer.Option("--jobs", "-j", help="Trainings at a time; auto: as cores and memory allow.")
    ] = "auto",
    on: Annotated[
        Where, typer.Option(help="local: processes of this machine; ray: a Ray cluster, which shares this folder.")
    ] = "local",
    address: Annotated[
        str | None, typer.Option(help="Of the Ray cluster, HOST:PORT or auto; a local one when left out.")
    ] = None,
    cpus: Annotated[int | None, typer.Option(min=1, help="CPUs of one training on a Ray cluster.")] = None,
    gpus: Annotated[
        float | None, typer.Option(min=0, help="GPUs of one training on a Ray cluster, such as 1 or 0.25.")
    ] = None,
    bench: Annotated[
        bool, typer.Option("--bench", help="Time the students too, afterwards and one at a time.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the trainings and stop.")] = False,
    set_: Set = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Compare methods in pairs of the same seed.

    Trains each method on each student from each seed, and from each teacher and with each value of --vary, several at a
    time, and prints paired differences with confidence intervals; all is kept in runs/NAME-compare. Stopped at any
    moment, the same command goes on; more seeds, methods or students join what is there.
    """
    typed = changes(teacher, images, training, kept, set_=set_)
    from compressor.pipeline import compare as pipeline
    from compressor.report import comparison

    chosen = recipe_of(recipe, typed)
    tell = tell_of(quiet)
    planned = pipeline.plan(
        chosen,
        tell,
        methods=_names("--methods", methods),
        seeds=_seeds(seeds),
        students=() if students is None else _names("--students", students),
        teachers=() if teachers is None else _names("--teachers", teachers),
        vary=_varied(vary or ()),
        out=kept.out,
        place=pipeline.place_of(on, jobs=_jobs(jobs), address=address, cpus=cpus, gpus=gpus),
        overwrite=kept.overwrite,
    )
    if dry_run:
        _show_plan(planned, as_json=as_json)
        return
    compared = pipeline.compare(planned, tell, bench=bench)
    if as_json:
        echo_json(comparison.to_json(compared))
    else:
        draw(comparison.table(compared), width=180)
        for sentence in comparison.sentences(compared):
            typer.echo(one_line(sentence))
    tell(f"written: {planned.folder / 'compare.md'}, compare.svg and compare.json beside it")
    pipeline.require_all(compared)


def compare_cell(folder: Path, allow: Allow = None) -> None:
    """Train and examine one cell of a comparison; `compress compare` starts these itself."""
    from compressor.machine.workers import stop_with_parent
    from compressor.pipeline import compare as pipeline

    stop_with_parent()
    pipeline.compare_cell(folder, allow or ())


def _names(flag: str, text: str) -> tuple[str, ...]:
    names = tuple(part.strip() for part in text.split(","))
    if not all(names):
        raise UsageError(f"{flag} takes names with commas between, not {text!r}", hint=f"{flag} a,b,c")
    return names


def _varied(texts: Sequence[str]) -> dict[str, list[Any]]:
    """Return the values of each key, `train.lr=0.05,0.1` as YAML has them between brackets."""
    from compressor.recipe import Override

    found: dict[str, list[Any]] = {}
    for text in texts:
        key, equals, values = text.partition("=")
        listed = f"{key}=[{values}]" if equals else text
        override = Override.typed(listed, "--vary", example="method.temperature=1,2,4")
        name = ".".join(map(str, override.place))
        if name in found:
            raise UsageError(f"--vary {name} is given twice", hint=f"--vary {name}=1,2,4")
        found[name] = override.value
    return found


def _seeds(text: str) -> tuple[int, ...]:
    """Return `0` to `n - 1` for a count, or the seeds that are listed."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and part.isascii() for part in parts) or parts == ["0"]:
        raise UsageError(
            f"--seeds takes a count, or seeds with commas between, not {text!r}", hint="--seeds 5, or --seeds 3,7,9"
        )
    return tuple(range(int(text))) if len(parts) == 1 else tuple(map(int, parts))


def _jobs(text: str) -> int | None:
    if text == "auto":
        return None
    if not text.isdecimal() or int(text) < 1:
        raise UsageError(f"--jobs takes a number of trainings or auto, not {text!r}", hint="--jobs 2")
    return int(text)


def _show_plan(planned: Plan, *, as_json: bool) -> None:
    from compressor.pipeline.compare import at_a_time

    rows = [
        {
            "cell": cell.name,
            "done": planned.epochs(cell),
            "epochs": recipe.epochs,
            "finished": planned.finished(cell),
        }
        for cell, recipe in planned.recipes.items()
    ]
    if as_json:
        typer.echo(json.dumps({"folder": str(planned.folder), "jobs": planned.workers.jobs, "cells": rows}, indent=2))
        return
    for row in rows:
        state = "finished" if row["finished"] else f"{row['done']} of {row['epochs']} epochs done"
        typer.echo(f"{row['cell']}  {state}")
    open_ = sum(not row["finished"] for row in rows)
    images = len(planned.prepared.data.train)
    typer.echo(
        f"{open_} of {len(rows)} trainings to do in {planned.folder}, {at_a_time(planned.workers.jobs)}: "
        f"{' or '.join(map(str, planned.lengths))} epochs of {images:,} images each"
    )
