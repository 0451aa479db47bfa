"""The built-in ablation: methods, students and seeds as a grid of runs, trained side by side, compared in pairs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from compressor.files import write_text
from compressor.pipeline.compare.outcome import collect, require_all
from compressor.pipeline.compare.places import at_a_time, place_of
from compressor.pipeline.compare.planning import Plan, plan
from compressor.pipeline.compare.running import time_students, train_cells
from compressor.pipeline.train import resume
from compressor.pipeline.validate import validate
from compressor.progress import Tell
from compressor.recipe import dump
from compressor.report.comparison import Comparison, write
from compressor.runs import record
from compressor.runs.folder import find, new_run
from compressor.runs.lock import free, working

__all__ = ["Plan", "at_a_time", "compare", "compare_cell", "place_of", "plan", "require_all"]

_LEAVING_S = 60.0  # in which an earlier process that was told to stop has saved its state


def compare(planned: Plan, tell: Tell, *, bench: bool = False) -> Comparison:
    """Train what is not finished, side by side, and compare; a cell that fails does not stop the others.

    Raises:
        Interrupted: by a signal; the trainings have saved their states, and the same call goes on.
        InputRejected: no cell finished.
    """
    with working(planned.folder):
        if planned.overwrite:
            for cell in planned.recipes:
                with new_run(cell.name, out=planned.folder / cell.name, overwrite=True, latest=False):
                    pass
        write_text(planned.folder / "recipe.yaml", dump(planned.prepared.recipe))
        failures = train_cells(planned, tell)
        if bench:
            failures |= time_students(planned, tell)
        compared = collect(planned, failures, bench=bench)
        write(compared, planned.folder)
        return compared


def compare_cell(where: Path, allow: Sequence[str] = ()) -> None:
    """Train and examine one cell, from where it stands; what `compare` starts processes for."""
    run = find(where)
    free(run.folder, _LEAVING_S)
    tell = Tell(quiet=True)  # all goes to the log of the run
    if not (run.folder / record.NAME).exists():
        resume(where, tell, allow=allow)
    validate(where, tell, allow=allow)
