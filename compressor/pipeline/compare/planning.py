"""Which trainings a comparison takes, what is there of them already, and that each could start."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from compressor.checkpoint.network import refuse_undifferentiable
from compressor.dotted import dotted
from compressor.errors import InputRejected, UsageError
from compressor.inputs import Prepared, prepare
from compressor.machine.workers import Workers
from compressor.measure.paired import Cell
from compressor.pipeline.compare.choosing import choices
from compressor.pipeline.compare.places import HERE, Place
from compressor.pipeline.compare.sharing import of_cell
from compressor.pipeline.finished_run import teachers_of
from compressor.pipeline.staged import require_buildable
from compressor.pipeline.train import check
from compressor.progress import Tell
from compressor.recipe import Recipe, load
from compressor.runs import record
from compressor.runs.folder import Run
from compressor.runs.stages import Stages


@dataclass(frozen=True)
class Plan:
    """What is to be trained: the resolved recipe of each cell, and what runs them."""

    folder: Path
    prepared: Prepared
    recipes: Mapping[Cell, Recipe]
    workers: Workers
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
        autoattacked = result.data.autoattack_samples is not None or measured.autoattack_samples == 0
        return result if walked and attacked and autoattacked else None

    def finished(self, cell: Cell) -> bool:
        """Whether a cell is trained and examined."""
        return self.result(cell) is not None

    @property
    def lengths(self) -> tuple[int, ...]:
        """How many epochs the trainings take: one number, where that does not vary."""
        return tuple(sorted({recipe.epochs for recipe in self.recipes.values()}))

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
    teachers: Sequence[str | Path] = (),
    vary: Mapping[str, Sequence[Any]] | None = None,
    out: Path | None = None,
    place: Place = HERE,
    overwrite: bool = False,
) -> Plan:
    """Open all that the trainings need and see that each could start; nothing is written.

    Args:
        methods: names, plug-ins, files with a section `method`, or names of such files that come along.
        students: by default the recipe's.
        teachers: checkpoints or run folders in place of the recipe's. A method of one teacher learns from each in turn,
            one of several from all.
        vary: keys of the recipe and the values that each takes; all are combined.
        out: the folder, instead of `runs/NAME-compare`.
        place: where the trainings run.
        overwrite: cells that are there will be trained anew.

    Raises:
        UsageError: an unknown name, one named twice, no test images, or a cell in the folder was made with another
            recipe.
        EnvironmentMissing: the place is not there.
        InputRejected: teacher or data cannot be used, or a cell in the folder was made with others.
    """
    place.require()
    chosen = choices(recipe, methods, teachers, vary or {})
    cells = chosen.cells(students or [recipe.student.arch], seeds)
    if recipe.student.init is not None and {cell.student for cell in cells} != {recipe.student.arch}:
        raise UsageError(f"student.init holds weights of {recipe.student.arch}", hint="leave out student.init")
    distinct = [cell for cell in cells if cell.seed == seeds[0]]
    for cell in distinct:
        check(chosen.recipe(cell))
    some = next(iter(chosen.methods.values()))
    opened = prepare(some, tell)
    if len(opened.data.test) == 0:
        raise UsageError(
            f"a comparison is one of accuracies, and the data are {opened.data.source}",
            hint="--set data.check=NAME or folder:PATH measures on real images",
        )
    chosen = chosen.found(opened.recipe)
    recipes = {cell: chosen.recipe(cell) for cell in cells}
    for cell in distinct:
        _try_out(of_cell(opened, recipes[cell]))
    prepared = replace(opened, recipe=opened.recipe.model_copy(update={"method": recipe.method}))
    folder = out or Path("runs") / f"{recipe.name}-compare"
    if not overwrite:
        for cell, wanted in recipes.items():
            _require_same(Run(folder / cell.name), of_cell(prepared, wanted))
    return Plan(folder, prepared, recipes, place.workers(prepared, recipes), overwrite)


def _try_out(trial: Prepared) -> None:
    """Build what a cell trains: a layer that is not there, or a teacher without gradients, is known before hours."""
    if any(part.method.needs.gradients for part in trial.recipe.parts):
        for network in trial.teachers:
            refuse_undifferentiable(network.module, trial.data.input_shape, network.called)
    require_buildable(trial)


def _require_same(run: Run, wanted: Prepared) -> None:
    """See that what a cell's folder holds was made with the recipe, the data and the teachers of today."""
    if not run.recipe.is_file():
        return
    there, now = (dotted(json.loads(each.model_dump_json(by_alias=True))) for each in (load(run.recipe), wanted.recipe))
    changed = [key for key in now | there if now.get(key) != there.get(key)]
    hint = "--overwrite trains it anew, --out DIR keeps it"
    if changed:
        key = changed[0]
        raise UsageError(f"{run.folder} was made with {key} {there.get(key)}, not {now.get(key)}", hint=hint)
    if not (run.folder / record.NAME).exists():
        return
    result = record.read(run.folder)
    if result.data.fingerprint != wanted.data.fingerprint:
        raise InputRejected(f"{run.folder} was trained on other images of {wanted.data.source}", hint=hint)
    first = result.teacher and result.teacher.sha256
    others = teachers_of(Stages(run).inputs("train"))[1:]  # which the record does not name
    if [sha for sha in (first, *others) if sha] != [network.sha256 for network in wanted.teachers]:
        raise InputRejected(f"{run.folder} was compared with another teacher", hint=hint)
