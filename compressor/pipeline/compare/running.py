"""The cells of a comparison in processes of their own: trained side by side, then timed one at a time."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from typing import Any

from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from compressor.errors import Interrupted
from compressor.files import write_text
from compressor.machine.hardware import clashes, cores, hardware, versions
from compressor.machine.workers import Ended, SideBySide, Task
from compressor.measure.paired import Cell
from compressor.pipeline.compare.places import at_a_time
from compressor.pipeline.compare.planning import Plan
from compressor.progress import Tell
from compressor.recipe import Recipe, dump
from compressor.recipe.code import code_named
from compressor.report.comparison import Failure
from compressor.runs import record
from compressor.runs.folder import new_run


def train_cells(planned: Plan, tell: Tell) -> dict[str, Failure]:
    """Bring all cells to their end, side by side; return those that failed, by name.

    Raises:
        Interrupted: by a signal; the trainings have saved their states.
    """
    todo = {planned.run(cell).log: cell for cell in planned.recipes if not planned.finished(cell)}
    _say_plan(planned, len(todo), tell)
    for cell in todo.values():
        _lay_out(planned, cell)
    failures: dict[str, Failure] = {}
    tasks = [
        Task(("compare-cell", str(log.parent), *_allowed(planned.recipes[cell])), log) for log, cell in todo.items()
    ]
    done, begun = len(planned.recipes) - len(todo), time.monotonic()
    with _bar(planned, tell) as tick:
        for number, ended in enumerate(planned.workers.run(tasks, tick), 1):
            if ended.interrupted:
                continue
            cell = todo[ended.task.log]
            left = (time.monotonic() - begun) / number * (len(todo) - number)
            if not planned.finished(cell):
                failures[cell.name] = Failure(cell.name, ended.code, ended.reason)
                tell(f"{done + number}/{len(planned.recipes)}  {cell.name} failed: {ended.reason}")
                continue
            result = record.read(planned.run(cell).folder)
            tell(
                f"{done + number}/{len(planned.recipes)}  {cell.name}  {result.student.top1:.2f} %  "
                f"{result.training.seconds:.1f} s of training  about {left / 60:.0f} min left"
            )
    open_ = [cell for cell in todo.values() if cell.name not in failures and not planned.finished(cell)]
    if open_:
        raise Interrupted(
            f"interrupted with {len(open_)} of {len(planned.recipes)} trainings unfinished; their states are saved",
            hint="the same command goes on",
        )
    return failures


def time_students(planned: Plan, tell: Tell) -> dict[str, Failure]:
    """Time the students that are not timed, one after the other: side by side they would time each other.

    Returns:
        Those that failed, by name.

    Raises:
        Interrupted: by a signal.
    """
    runs = [(planned.run(cell), recipe) for cell, recipe in planned.recipes.items() if planned.finished(cell)]
    todo = [(run, recipe) for run, recipe in runs if record.read(run.folder).student.latency_ms is None]
    tell(f"timing {len(todo)} students, one at a time")
    tasks = [Task(("bench", str(run.folder), "--quiet", *_allowed(recipe)), run.log) for run, recipe in todo]
    ended = list(SideBySide(jobs=1, threads=len(cores())).run(tasks))
    if len(ended) < len(tasks) or any(each.interrupted for each in ended):
        raise Interrupted("interrupted while timing", hint="the same command goes on")
    return {name: Failure(name, each.code, each.reason) for each in ended if each.code and (name := _name(each))}


def _allowed(recipe: Recipe) -> list[str]:
    """Return the flags that let a cell import what the recipe of the comparison names."""
    return [word for name in code_named(recipe) for word in ("--allow", name)]


def _say_plan(planned: Plan, todo: int, tell: Tell) -> None:
    total, workers = len(planned.recipes), planned.workers
    number = "one at a time" if workers.jobs == 1 else at_a_time(workers.jobs)
    threads = f"{workers.threads} thread{'s' * (workers.threads > 1)} each"
    tell(f"compare: {total} trainings in {planned.folder}, {total - todo} finished, {number}, {threads}")
    for clash in clashes():
        tell(f"warning: {clash}")


def _lay_out(planned: Plan, cell: Cell) -> None:
    """Make the folder of a cell that was not begun; the recipe comes last, it makes the folder a run."""
    run = planned.run(cell)
    if not run.recipe.is_file():
        with new_run(cell.name, out=run.folder, overwrite=False, latest=False):
            pass
    side = {"jobs": planned.workers.jobs, "threads": planned.workers.threads}
    environment = {"versions": versions(), "hardware": hardware(), "side_by_side": side}
    write_text(run.environment, json.dumps(environment, indent=2) + "\n")
    run.becomes(dump(planned.recipes[cell]))


@contextlib.contextmanager
def _bar(planned: Plan, tell: Tell) -> Iterator[Any]:
    """Show the epochs of all cells as one bar on a terminal; yields what moves it."""
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f} %"))
    shown = not tell.quiet and tell.console.is_terminal
    total = sum(recipe.epochs for recipe in planned.recipes.values())
    looked = 0.0
    with Progress(*columns, TimeRemainingColumn(), console=tell.console, transient=True, disable=not shown) as bar:
        task = bar.add_task("epochs", total=total)

        def tick() -> None:
            nonlocal looked
            if shown and time.monotonic() - looked > 1:
                looked = time.monotonic()
                bar.update(task, completed=sum(map(planned.epochs, planned.recipes)))

        yield tick


def _name(ended: Ended) -> str:
    return ended.task.log.parent.name
