"""What came of the cells of a comparison."""

from __future__ import annotations

import json
from collections.abc import Mapping

from compressor.errors import CompressError, InputRejected
from compressor.files import sha256
from compressor.measure.paired import TEACHER, Cell, Outcome, analyse
from compressor.pipeline.compare.places import at_a_time
from compressor.pipeline.compare.planning import Plan
from compressor.report.comparison import Comparison, Failure
from compressor.runs import record
from compressor.runs.folder import Run


def collect(planned: Plan, failures: Mapping[str, Failure], *, bench: bool) -> Comparison:
    """Return what the finished cells of a plan gave, those that failed beside it, and latencies with `bench`.

    Raises:
        InputRejected: no cell finished; with the exit code of the first that failed.
    """
    results = {cell: result for cell in planned.recipes if (result := planned.result(cell))}
    if not results:
        first = next(iter(failures.values()))
        error = InputRejected(f"every training failed; {first.cell}: {first.reason}", hint=f"see {planned.folder}")
        error.exit_code = first.exit_code
        raise error
    outcomes = {cell: _outcome(planned, cell, result, bench=bench) for cell, result in results.items()}
    some = next(iter(results.values()))
    return Comparison(
        name=planned.prepared.recipe.name,
        recipe_sha256=sha256(planned.folder / "recipe.yaml"),
        data=some.data,
        epochs=planned.lengths[0] if len(planned.lengths) == 1 else None,
        teachers=_teachers(results),
        rows=analyse(tuple(planned.recipes), outcomes),
        outcomes=outcomes,
        recipes={cell: result.recipe_sha256 for cell, result in results.items()},
        failures=tuple(failures.values()),
        notes=_notes(planned, results),
        versions=some.versions,
        hardware=some.hardware,
    )


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


def _outcome(planned: Plan, cell: Cell, result: record.Result, *, bench: bool) -> Outcome:
    rows, student = planned.run(cell).epochs(), result.student
    assert student.top1 is not None
    seconds = sum(row["seconds"] for row in rows)
    images = sum(row["images_per_s"] * row["seconds"] for row in rows)
    latencies = (student.latency_ms or {}) if bench else {}
    smallest = min(latencies, key=int, default=None)
    return Outcome(
        top1=student.top1,
        target_top1=student.target_top1,
        agreement=student.agreement,
        boundary_agreement=student.boundary_agreement,
        pgd_top1=student.pgd_top1,
        autoattack_top1=student.autoattack_top1,
        seconds=seconds,
        images_per_s=images / seconds if seconds > 0 else 0.0,
        p50_ms=None if smallest is None else latencies[smallest].p50,
    )


def _teachers(results: Mapping[Cell, record.Result]) -> dict[str, record.Network]:
    """Return whom students were compared with: by what the table calls them, or by no name where it is one."""
    found: dict[str, record.Network] = {}
    for cell, result in results.items():
        if result.teacher is not None:
            found.setdefault(dict(cell.varied).get(TEACHER, ""), result.teacher)
    return found if set(found) == {""} else {name: network for name, network in found.items() if name}


def _notes(planned: Plan, results: Mapping[Cell, record.Result]) -> tuple[str, ...]:
    """Return what a reader must know before comparing times, or results at all."""
    notes = []
    jobs = {_jobs(planned.run(cell)) for cell in results}
    if len(jobs) > 1:
        notes.append("trained with different numbers side by side, so the seconds do not compare; --jobs 1 --overwrite")
    elif (most := jobs.pop()) != 1:
        notes.append(f"trained {at_a_time(most)}: the seconds hold what they cost each other, --jobs 1 leaves that out")
    for package in ("compressor", "torch"):
        found = sorted({result.versions.get(package, "?") for result in results.values()})
        if len(found) > 1:
            notes.append(f"trained with different versions of {package}: {', '.join(found)}")
    kinds = {str(result.hardware.get("gpus") or result.hardware.get("cpu")) for result in results.values()}
    if len(kinds) > 1:
        notes.append("trained on different machines, so the seconds do not compare")
    return tuple(notes)


def _jobs(run: Run) -> int | None:
    environment = json.loads(run.environment.read_text(encoding="utf-8"))
    jobs: int | None = environment["side_by_side"]["jobs"]
    return jobs
