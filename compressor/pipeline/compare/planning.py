"""Which trainings a comparison takes, what is there of them already, and that each could start."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from compressor import models
from compressor.dotted import dotted
from compressor.errors import InputRejected, UsageError, did_you_mean
from compressor.inputs import Prepared, prepare
from compressor.measure.paired import Cell, grid
from compressor.methods import METHODS
from compressor.pipeline.compare.sharing import shares
from compressor.pipeline.train import check
from compressor.progress import Tell
from compressor.recipe import Gates, Recipe, build, load
from compressor.runs import record
from compressor.runs.folder import Run


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

    def result(self, cell: Cell) -> record.Result | None:
        """Return the record of a cell when it holds all that is compared."""
        folder, wanted = self.run(cell).folder, self.recipes[cell]
        if not (folder / record.NAME).exists():
            return None
        result, measured = record.read(folder), wanted.validation
        walked = result.data.boundary_samples is not None or wanted.teacher is None or measured.boundary_samples == 0
        attacked = result.data.attack_samples is not None or measured.attack_samples == 0
        return result if walked and attacked else None

    def finished(self, cell: Cell) -> bool:
        """Whether a cell is trained and examined."""
        return self.result(cell) is not None

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
    jobs, threads = shares(prepared, recipes, jobs)
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


def _require_same(run: Run, wanted: Recipe, prepared: Prepared) -> None:
    """See that what a cell's folder holds was made with the recipe, the data and the teacher of today."""
    if not run.recipe.is_file():
        return
    there, now = (dotted(json.loads(each.model_dump_json(by_alias=True))) for each in (load(run.recipe), wanted))
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
