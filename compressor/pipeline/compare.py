"""The built-in ablation: methods, students and seeds as a grid of runs, trained side by side, compared in pairs."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from compressor import models
from compressor.ablation import Cell, Outcome, analyse, grid
from compressor.errors import CompressError, InputRejected, Interrupted, UsageError, did_you_mean
from compressor.files import sha256, write_text
from compressor.hardware import clashes, cores, hardware, versions
from compressor.methods import METHODS
from compressor.pipeline.train import check, resume
from compressor.pipeline.validate import validate
from compressor.prepare import Prepared, prepare
from compressor.progress import Tell
from compressor.recipe import Gates, Recipe, build, dump, load
from compressor.report import record
from compressor.report.comparison import Comparison, Failure, write
from compressor.runs import Run, create, find, working
from compressor.student import new_state
from compressor.workers import Ended, Task, side_by_side

_THREADS = 4  # of a training on a CPU: small networks gain little from more
_CPU_BYTES = 2 * 2**30  # what one training on a CPU is reckoned with, networks and libraries
_CUDA_BYTES = 2**30  # what a CUDA process needs beside its tensors: context and libraries
_SPARE = 1.25  # peak memory of a training over that of one step


@dataclass(frozen=True)
class Plan:
    """What is to be trained: the resolved recipe of each cell, and how many run at a time with how many threads."""

    folder: Path
    prepared: Prepared
    recipes: Mapping[Cell, Recipe]
    jobs: int
    threads: int
    overwrite: bool = False

    def run(self, cell: Cell) -> Run:
        """Return the run folder of a cell."""
        return Run(self.folder / cell.name)

    def finished(self, cell: Cell) -> bool:
        """Whether a cell is trained and examined."""
        return _result(self.run(cell), self.recipes[cell]) is not None

    def epochs(self, cell: Cell) -> int:
        """Return how many epochs of a cell are done."""
        return len(self.run(cell).epochs())


def plan(
    recipe: Recipe,
    tell: Tell,
    *,
    methods: Sequence[str],
    seeds: Sequence[int],
    students: Sequence[str] = (),
    out: Path | None = None,
    jobs: int | None = None,
    overwrite: bool = False,
) -> Plan:
    """Open all that the trainings need and see that each could start; nothing is written.

    Args:
        students: by default the recipe's.
        out: the folder, instead of `runs/NAME-compare`.
        jobs: trainings at a time; None: as many as cores or the device's memory allow.
        overwrite: cells that are there will be trained anew.

    Raises:
        UsageError: an unknown name, one named twice, or a cell in the folder was made with another recipe.
        InputRejected: teacher or data cannot be used, or a cell in the folder was made with others.
    """
    for method in methods:
        if method not in METHODS:
            raise UsageError(f"unknown method {method!r}", hint=did_you_mean(method, METHODS))
    cells = grid(students or [recipe.student.arch], methods, seeds)
    if recipe.student.init is not None and {cell.student for cell in cells} != {recipe.student.arch}:
        raise UsageError(f"student.init holds weights of {recipe.student.arch}", hint="leave out student.init")
    for cell in cells[: len(cells) // len(seeds)]:
        check(recipe_of(recipe, cell))
    prepared = prepare(recipe, tell)
    data = prepared.data
    for student in dict.fromkeys(cell.student for cell in cells):
        models.build(student, classes=len(data.classes), input_shape=data.input_shape)
    recipes = {cell: recipe_of(prepared.recipe, cell) for cell in cells}
    folder = out or Path("runs") / f"{recipe.name}-compare"
    if not overwrite:
        for cell, wanted in recipes.items():
            _require_same(Run(folder / cell.name), wanted, prepared)
    jobs, threads = _shares(prepared, recipes, jobs)
    return Plan(folder, prepared, recipes, jobs, threads, overwrite)


def recipe_of(recipe: Recipe, cell: Cell) -> Recipe:
    """Return the recipe of one cell: its student, method and seed, and neither exports nor gates.

    A method keeps those of the recipe's hyper-parameters that it shares with the recipe's own method. One that learns
    without a teacher is still compared with it afterwards.
    """
    values = recipe.model_dump(mode="json", by_alias=True)
    switched = build(values, [f"method.kind={cell.method}"], base=Path.cwd())
    student = recipe.student.model_copy(update={"arch": cell.student})
    changes = {"seed": cell.seed, "student": student, "export": (), "gates": Gates()}
    return switched.model_copy(update=changes)


def compare(planned: Plan, tell: Tell, *, bench: bool = False) -> Comparison:
    """Train what is not finished, side by side, and compare; a cell that fails does not stop the others.

    Raises:
        Interrupted: by a signal; the trainings have saved their states, and the same call goes on.
        InputRejected: no cell finished.
    """
    with working(Run(planned.folder)):
        if planned.overwrite:
            for cell in planned.recipes:
                create(cell.name, out=planned.folder / cell.name, overwrite=True, latest=False)
        write_text(planned.folder / "recipe.yaml", dump(planned.prepared.recipe))
        failures = _train(planned, tell)
        if bench:
            failures |= _bench(planned, tell)
        compared = _compared(planned, failures, bench=bench)
        write(compared, planned.folder)
        return compared


def compare_cell(where: Path) -> None:
    """Train and examine one cell, from where it stands; what `compare` starts processes for."""
    run = find(where)
    tell = Tell(quiet=True)  # all goes to the log of the run
    if not (run.folder / record.NAME).exists():
        resume(where, tell)
    validate(where, tell)


# What is there already


def _require_same(run: Run, wanted: Recipe, prepared: Prepared) -> None:
    """See that what a cell's folder holds was made with the recipe, the data and the teacher of today."""
    if not run.recipe.is_file():
        return
    there, now = (_flat(json.loads(each.model_dump_json(by_alias=True))) for each in (load(run.recipe), wanted))
    changed = [key for key in now | there if now.get(key) != there.get(key)]
    hint = "--overwrite trains it anew, --out DIR keeps it"
    if changed:
        key = changed[0]
        raise UsageError(f"{run.folder} was made with {key} {there.get(key)}, not {now.get(key)}", hint=hint)
    if not (run.folder / record.NAME).exists():
        return
    result = record.read(run.folder)
    if result.data.fingerprint != prepared.data.fingerprint:
        raise InputRejected(f"{run.folder} was trained on other images of {prepared.data.source}", hint=hint)
    sha = prepared.teacher and prepared.teacher.sha256
    if (result.teacher and result.teacher.sha256) != sha:
        raise InputRejected(f"{run.folder} was compared with another teacher", hint=hint)


def _flat(section: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested sections by dotted names."""
    flat: dict[str, Any] = {}
    for key, value in section.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def _result(run: Run, recipe: Recipe) -> record.Result | None:
    """Return the record of a cell when it holds all that is compared."""
    if not (run.folder / record.NAME).exists():
        return None
    result, wanted = record.read(run.folder), recipe.validation
    walked = result.data.boundary_samples is not None or recipe.teacher is None or wanted.boundary_samples == 0
    attacked = result.data.attack_samples is not None or wanted.attack_samples == 0
    return result if walked and attacked else None


# Side by side


def _shares(prepared: Prepared, recipes: Mapping[Cell, Recipe], jobs: int | None) -> tuple[int, int]:
    """Return how many trainings run at a time, and with how many threads each."""
    usable = len(cores())
    asked = os.environ.get("OMP_NUM_THREADS", "")
    wanted = int(asked) if asked.isdecimal() and int(asked) > 0 else None
    if jobs is None:
        jobs = max(1, usable // (wanted or min(usable, _THREADS)))
        if prepared.device.type == "cuda":
            jobs = min(jobs, _fitting(*_cuda_memory(prepared, recipes)))
        elif (available := _available_bytes()) is not None:
            jobs = min(jobs, _fitting(available, _CPU_BYTES))
    jobs = min(jobs, len(recipes))
    return jobs, wanted or max(1, usable // jobs)


def _fitting(free: float, each: float) -> int:
    return max(1, int(free // each))


def _cuda_memory(prepared: Prepared, recipes: Mapping[Cell, Recipe]) -> tuple[float, float]:
    """Return the free memory of the device and what a training needs, by the peak of one step of the largest."""
    peak = 0
    for cell in {(cell.student, cell.method): cell for cell in recipes}.values():
        torch.cuda.reset_peak_memory_stats(prepared.device)
        try:
            dry_step(prepared, recipes[cell])
        except torch.OutOfMemoryError:
            return 0.0, 1.0  # one at a time, then; its own error says more
        peak = max(peak, torch.cuda.max_memory_reserved(prepared.device))
        torch.cuda.empty_cache()
    free, _ = torch.cuda.mem_get_info(prepared.device)
    return free, _SPARE * peak + _CUDA_BYTES


def dry_step(prepared: Prepared, recipe: Recipe) -> None:
    """Train one step of a cell and throw it away."""
    trial = Prepared(prepared.device, prepared.data, prepared.teacher, recipe)
    state = new_state(trial)
    state.enter_training()
    state.advance(next(iter(prepared.data.train.batches(recipe.data.batch_size, seed=recipe.seed, augment=True))))


def _available_bytes() -> int | None:
    """Return the memory that processes may still take, None where the system does not tell."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), None)


def _train(planned: Plan, tell: Tell) -> dict[str, Failure]:
    """Bring all cells to their end; return those that failed, by name."""
    todo = {str(planned.run(cell).log): cell for cell in planned.recipes if not planned.finished(cell)}
    _say_plan(planned, len(todo), tell)
    for cell in todo.values():
        _lay_out(planned, cell)
    failures: dict[str, Failure] = {}
    tasks = [Task(("compare-cell", str(Path(log).parent)), Path(log)) for log in todo]
    done, begun = len(planned.recipes) - len(todo), time.monotonic()
    with _bar(planned, tell) as tick:
        for number, ended in enumerate(side_by_side(tasks, jobs=planned.jobs, threads=planned.threads, tick=tick), 1):
            if ended.interrupted:
                continue
            cell = todo[str(ended.task.log)]
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


def _say_plan(planned: Plan, todo: int, tell: Tell) -> None:
    total, jobs = len(planned.recipes), planned.jobs
    at_a_time = "one at a time" if jobs == 1 else f"{jobs} at a time"
    threads = f"{planned.threads} thread{'s' * (planned.threads > 1)} each"
    tell(f"compare: {total} trainings in {planned.folder}, {total - todo} finished, {at_a_time}, {threads}")
    for clash in clashes():
        tell(f"warning: {clash}")


def _lay_out(planned: Plan, cell: Cell) -> None:
    """Make the folder of a cell that was not begun; the recipe comes last, it makes the folder a run."""
    run = planned.run(cell)
    if not run.recipe.is_file():
        create(cell.name, out=run.folder, overwrite=True, latest=False)
    side = {"jobs": planned.jobs, "threads": planned.threads}
    environment = {"versions": versions(), "hardware": hardware(), "side_by_side": side}
    write_text(run.environment, json.dumps(environment, indent=2) + "\n")
    write_text(run.recipe, dump(planned.recipes[cell]))


@contextlib.contextmanager
def _bar(planned: Plan, tell: Tell) -> Iterator[Any]:
    """Show the epochs of all cells as one bar on a terminal; yields what moves it."""
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f} %"))
    shown = not tell.quiet and tell.console.is_terminal
    total = sum(recipe.train.epochs for recipe in planned.recipes.values())
    looked = 0.0
    with Progress(*columns, TimeRemainingColumn(), console=tell.console, transient=True, disable=not shown) as bar:
        task = bar.add_task("epochs", total=total)

        def tick() -> None:
            nonlocal looked
            if shown and time.monotonic() - looked > 1:
                looked = time.monotonic()
                bar.update(task, completed=sum(map(planned.epochs, planned.recipes)))

        yield tick


def _bench(planned: Plan, tell: Tell) -> dict[str, Failure]:
    """Time the students, one after the other: side by side they would time each other."""
    runs = [planned.run(cell) for cell in planned.recipes if planned.finished(cell)]
    todo = [run for run in runs if record.read(run.folder).student.latency_ms is None]
    tell(f"timing {len(todo)} students, one at a time")
    tasks = [Task(("bench", str(run.folder), "--quiet"), run.log) for run in todo]
    ended = list(side_by_side(tasks, jobs=1, threads=len(cores())))
    if len(ended) < len(tasks) or any(each.interrupted for each in ended):
        raise Interrupted("interrupted while timing", hint="the same command goes on")
    return {name: Failure(name, each.code, each.reason) for each in ended if each.code and (name := _name(each))}


def _name(ended: Ended) -> str:
    return ended.task.log.parent.name


# What came out


def _compared(planned: Plan, failures: Mapping[str, Failure], *, bench: bool) -> Comparison:
    results = {
        cell: result for cell in planned.recipes if (result := _result(planned.run(cell), planned.recipes[cell]))
    }
    if not results:
        first = next(iter(failures.values()))
        error = InputRejected(f"every training failed; {first.cell}: {first.reason}", hint=f"see {planned.folder}")
        error.exit_code = first.exit_code
        raise error
    outcomes = {cell: _outcome(planned, cell, result, bench=bench) for cell, result in results.items()}
    some, teacher = (
        next(iter(results.values())),
        next((each.teacher for each in results.values() if each.teacher), None),
    )
    return Comparison(
        name=planned.prepared.recipe.name,
        recipe_sha256=sha256(planned.folder / "recipe.yaml"),
        data=some.data,
        epochs=planned.prepared.recipe.train.epochs,
        teacher=teacher,
        rows=analyse(tuple(planned.recipes), outcomes),
        outcomes=outcomes,
        recipes={cell: result.recipe_sha256 for cell, result in results.items()},
        failures=tuple(failures.values()),
        notes=_notes(planned, results),
        versions=some.versions,
        hardware=some.hardware,
    )


def _outcome(planned: Plan, cell: Cell, result: record.Result, *, bench: bool) -> Outcome:
    rows, student = planned.run(cell).epochs(), result.student
    assert student.top1 is not None
    seconds = sum(row["seconds"] for row in rows)
    images = sum(row["images_per_s"] * row["seconds"] for row in rows)
    latencies = (student.latency_ms or {}) if bench else {}
    smallest = min(latencies, key=int, default=None)
    return Outcome(
        top1=student.top1,
        agreement=student.agreement,
        boundary_agreement=student.boundary_agreement,
        pgd_top1=student.pgd_top1,
        seconds=seconds,
        images_per_s=images / seconds if seconds > 0 else 0.0,
        p50_ms=None if smallest is None else latencies[smallest].p50,
    )


def _notes(planned: Plan, results: Mapping[Cell, record.Result]) -> tuple[str, ...]:
    """Return what a reader must know before comparing times, or results at all."""
    notes = []
    jobs = {_jobs(planned.run(cell)) for cell in results}
    if len(jobs) > 1:
        notes.append("trained with different numbers side by side, so the seconds do not compare; --jobs 1 --overwrite")
    elif (most := max(jobs)) > 1:
        notes.append(f"trained {most} at a time: the seconds hold what they cost each other, --jobs 1 leaves that out")
    for package in ("compressor", "torch"):
        found = sorted({result.versions.get(package, "?") for result in results.values()})
        if len(found) > 1:
            notes.append(f"trained with different versions of {package}: {', '.join(found)}")
    kinds = {str(result.hardware.get("gpus") or result.hardware.get("cpu")) for result in results.values()}
    if len(kinds) > 1:
        notes.append("trained on different machines, so the seconds do not compare")
    return tuple(notes)


def _jobs(run: Run) -> int:
    environment = json.loads(run.environment.read_text(encoding="utf-8"))
    return int(environment["side_by_side"]["jobs"])


def require_all(compared: Comparison) -> None:
    """End a command whose table lacks cells.

    Raises:
        CompressError: with the exit code that the failed cells share, 1 when they differ.
    """
    if not compared.failures:
        return
    codes = {failure.exit_code for failure in compared.failures}
    failed = {failure.cell for failure in compared.failures}
    total = len(failed | {cell.name for cell in compared.outcomes})
    error = CompressError(
        f"{len(failed)} of {total} trainings failed: {', '.join(sorted(failed))}",
        hint="the same command tries them again",
    )
    error.exit_code = codes.pop() if len(codes) == 1 else 1
    raise error
