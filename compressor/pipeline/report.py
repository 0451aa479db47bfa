"""The last stage: a page for people, of one run or of several beside each other."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from compressor.attack import BoundaryAttack
from compressor.bench import Benchmark, baseline
from compressor.checkpoint import Network
from compressor.data import Split, open_data
from compressor.errors import CompressError, InputRejected, UsageError
from compressor.files import write_text
from compressor.inputs import Prepared, prepare
from compressor.machine.devices import choose_device
from compressor.measure import gallery
from compressor.measure.predictions import StoredPredictions
from compressor.methods.bss import BSS
from compressor.pipeline.finished_run import FinishedRun, open_student, stored_recipe
from compressor.pipeline.identity import stage_inputs
from compressor.progress import Tell
from compressor.recipe import Recipe
from compressor.report.contents import Contents, Gallery, Missing
from compressor.runs import manifest, record
from compressor.runs.folder import Run, find, resume_command
from compressor.runs.record import STUDENT, TEACHER
from compressor.runs.stages import Stages

COMPARISON = Path("report.html")
EXAMPLES = 8
DISAGREEMENTS = 12


def report(
    runs: Sequence[Path], tell: Tell, *, out: Path | None = None, overwrite: bool = False, allow: Sequence[str] = ()
) -> Path:
    """Write the report of a run, or the comparison of several, as far as they came, and return where it is.

    Args:
        runs: folders; none means the latest run.
        out: the file to write, by default `report/report.html` in the run's folder, which is always replaced, or for
            several runs `report.html` here.
        overwrite: replace the file, where it is not the run's own.
        allow: code of the user's own that a run names and that may be imported, to show images.

    Raises:
        UsageError: a folder is not that of a run, or the file is there and `overwrite` is not set.
    """
    folders = [find(where) for where in runs] or [find(None)]
    place = out or (folders[0].report if len(folders) == 1 else COMPARISON)
    if place != folders[0].report and place.exists() and not overwrite:
        raise UsageError(f"{place} exists already", hint="--overwrite replaces it, --out FILE writes another")
    if len(folders) == 1:
        return _write_page(folders[0], None, place, tell, allow)
    from compressor.report import html  # imports Matplotlib, which no other stage needs

    names = _names(folders)
    several = [_contents(folder, name, None, None) for folder, name in zip(folders, names, strict=True)]
    write_text(place, html.comparison(several))
    return place


def report_stage(opened: FinishedRun, tell: Tell) -> FinishedRun:
    """Write the report of an open run into its folder."""
    with Stages(opened.folder).doing("report", stage_inputs("report", opened)):
        tell(f"report: {_write_page(opened.folder, opened, opened.folder.report, tell, ())}")
    return opened


def _write_page(folder: Run, opened: FinishedRun | None, place: Path, tell: Tell, allow: Sequence[str]) -> Path:
    from compressor.report import html

    contents = _contents(folder, _names([folder])[0], opened, allow)
    for each in contents.missing:
        tell(f"not in the report: {each.what}" + (f" ({each.command} adds it)" if each.command else ""))
    if contents.gallery.reason is not None:
        tell(f"not in the report: boundary samples and decision regions: {contents.gallery.reason}")
    write_text(place, html.page(contents))
    if place == folder.report and contents.result is not None:
        manifest.write(folder, contents.result)
    return place


def _names(folders: Sequence[Run]) -> list[str]:
    """Return what to call the runs: their folders' names, or their paths where two have the same name."""
    names = [folder.folder.resolve().name for folder in folders]
    return names if len(set(names)) == len(names) else [str(folder.folder) for folder in folders]


def _contents(folder: Run, name: str, opened: FinishedRun | None, allow: Sequence[str] | None) -> Contents:
    """Collect what is there, and images to look at unless `allow` is None."""
    missing: list[Missing] = []
    result = opened.result if opened else _result(folder, missing)
    benchmark, answers = (None, None) if result is None else (_benchmark(folder, missing), _answers(folder, missing))
    contents = Contents(
        name=name,
        folder=folder.folder,
        recipe=folder.recipe.read_text(encoding="utf-8", errors="replace"),
        environment=_environment(folder),
        epochs=_epochs(folder, missing),
        result=result,
        benchmark=benchmark,
        answers=answers,
    )
    missing += _unmeasured(contents, folder)
    looked = _looked(contents, folder, opened, allow) if allow is not None and result is not None else Gallery()
    return replace(contents, missing=tuple(missing), gallery=looked)


def _typed(folder: Run) -> str:
    """Return the folder as a shell takes it."""
    return shlex.quote(str(folder.folder))


def _result(folder: Run, missing: list[Missing]) -> record.Result | None:
    try:
        return record.read(folder.folder)
    except InputRejected as error:
        there = (folder.folder / record.NAME).exists()
        what = error.message if there else "all that is measured after training, which is not finished"
        missing.append(Missing(what, resume_command(folder.folder)))
        return None


def _benchmark(folder: Run, missing: list[Missing]) -> Benchmark | None:
    try:
        return baseline.read(folder.bench)
    except InputRejected as error:
        what = error.message if folder.bench.exists() else "latencies"
        missing.append(Missing(what, f"compress bench {_typed(folder)}"))
        return None


def _answers(folder: Run, missing: list[Missing]) -> StoredPredictions | None:
    try:
        return StoredPredictions.read(folder.predictions)
    except InputRejected as error:
        there = folder.predictions.exists()
        what = error.message if there else "agreement at the boundary, robustness, confusions and disagreements"
        missing.append(Missing(what, f"compress validate {_typed(folder)}"))
        return None


def _epochs(folder: Run, missing: list[Missing]) -> list[dict[str, Any]]:
    try:
        epochs = folder.epochs()
        if not all(isinstance(row, dict) and {"epoch", "losses"} <= row.keys() for row in epochs):
            raise ValueError("not the metrics of epochs")
    except (ValueError, OSError):
        missing.append(Missing(f"training curves: {folder.metrics.name} is damaged"))
        return []
    if not epochs:
        missing.append(Missing(f"training curves: {folder.metrics.name} holds no finished epoch"))
    return epochs


def _environment(folder: Run) -> dict[str, Any]:
    try:
        known = json.loads(folder.environment.read_text(encoding="utf-8"))
    except (ValueError, OSError):
        return {}
    return {key: value for key, value in known.items() if isinstance(value, dict)} if isinstance(known, dict) else {}


def _unmeasured(contents: Contents, folder: Run) -> list[Missing]:
    """Say which artifacts are gone, were not measured, or have changed since they were."""
    result, where = contents.result, _typed(folder)
    if result is None:
        return []
    if not result.artifacts:
        return [Missing("exported files", f"compress export {where} --format onnx")]
    gone = [each for each in result.artifacts if not (folder.folder / each.path).exists()]
    found = [Missing(f"{each.path}, which is not on disk any more", f"compress export {where}") for each in gone]
    here = [each for each in result.artifacts if each.provider is not None]
    untimed = [each.path for each in here if each.latency_ms is None]
    if untimed and contents.benchmark is not None:
        found.append(Missing(f"latencies of {', '.join(untimed)}", f"compress bench {where}"))
    silent = [each.path for each in here if contents.answer(each.path) is None]
    if silent and contents.answers is not None:
        found.append(Missing(f"accuracies of {', '.join(silent)} as it is now", f"compress validate {where}"))
    return found


def _looked(contents: Contents, folder: Run, opened: FinishedRun | None, allow: Sequence[str]) -> Gallery:
    """Find the images to show; what cannot be opened any more is left out, with the reason."""
    try:
        prepared, student = (opened.prepared, opened.student) if opened else _open(folder, allow)
    except CompressError as error:
        disagreements, notes = _apart(contents, _test_split(folder, allow))
        return Gallery(disagreements=disagreements, notes=notes, reason=error.message)
    disagreements, notes = _apart(contents, prepared.data.test)
    if prepared.teacher is None or len(prepared.data.test) == 0:
        return Gallery(disagreements=disagreements, notes=notes)
    assert contents.result is not None
    macs = [each.macs for each in (contents.result.teacher, contents.result.student) if each and each.macs]
    images, side = gallery.affordable(sum(macs) or None, prepared.device)
    networks = prepared.teacher.module, student.module
    seed = prepared.recipe.seed
    pool = gallery.pool(
        *networks,
        prepared.data.test,
        count=images,
        attack=_attack(prepared.recipe),
        scale=torch.tensor(prepared.teacher.std),
        seed=seed,
        device=prepared.device,
    )
    examples = gallery.boundary_examples(pool, count=EXAMPLES, seed=seed)
    plane = gallery.decision_slice(pool, side=side)
    if plane is not None:
        asked = f", the regions from {side} × {side} points with straight lines between"
    else:
        asked = "; none of those tried had two walks to draw a plane through"
    chosen = f"Boundary samples come from {len(pool.labels):,} of the test images{asked}."
    return Gallery(examples, plane, disagreements, (*notes, chosen))


def _attack(recipe: Recipe) -> BoundaryAttack:
    """Return the walk of the training; of a method without one, the published."""
    return recipe.method.attack.build() if isinstance(recipe.method, BSS) else BoundaryAttack()


def _open(folder: Run, allow: Sequence[str]) -> tuple[Prepared, Network]:
    recipe = stored_recipe(folder, allow=allow).model_copy(
        update={"device": "auto"}
    )  # to look needs no particular device
    prepared = prepare(recipe, Tell(quiet=True), examine=False)
    return prepared, open_student(folder, prepared)


def _test_split(folder: Run, allow: Sequence[str]) -> Split | None:
    """Return the test images alone, for when the networks cannot be had."""
    try:
        data = stored_recipe(folder, allow=allow).data
        return None if data.name is None else open_data(data, device=choose_device("auto")).test
    except CompressError:
        return None


def _apart(contents: Contents, split: Split | None) -> tuple[tuple[gallery.Disagreement, ...], tuple[str, ...]]:
    """Return the disagreements to show, and a note where they cannot be shown."""
    teacher, student = contents.answer(TEACHER), contents.answer(STUDENT)
    if teacher is None or student is None:
        return (), ()
    if split is None:
        return (), ("The test images cannot be read any more, so the disagreements are counted and not shown.",)
    places = gallery.disagreements(teacher, student)[:DISAGREEMENTS].tolist()
    try:
        return gallery.shown_disagreements(teacher, student, split, places), ()
    except CompressError as error:
        return (), (f"The disagreements are counted and not shown: {error.message}.",)
