"""What trains: a network, a student from its teachers, all stages of a recipe, and many students in pairs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from compressor import pipeline
from compressor.api.given import Network, Settings, arch_of, data_name, overrides, path_of, tell_of, weights_file
from compressor.api.runs import Run
from compressor.choices import Where
from compressor.errors import UsageError
from compressor.models import Normalized
from compressor.pipeline import compare as comparing
from compressor.pipeline.finished_run import stored_recipe
from compressor.presets import find
from compressor.progress import Tell
from compressor.recipe import Override, Recipe, build, load
from compressor.recipe.code import code_named
from compressor.report.comparison import Comparison
from compressor.runs import folder as run_folder
from compressor.runs.stages import Stage


def train(
    student: Network | None = None,
    data: Any = None,
    *,
    recipe: str | Path | Recipe | None = None,
    settings: Settings | None = None,
    out: Path | str | None = None,
    overwrite: bool = False,
    tell: Tell | None = None,
) -> Run:
    """Train a network on labels alone: a teacher to be, or a baseline.

    Args:
        student: a name (`resnet20`), a function that makes a network of `classes` and `input_shape`, or a network;
            left out, as the recipe says, like all else.
        data: a name (`cifar10`, `folder:PATH`), a data set of yours, or a pair of them (train, test).
        recipe: a file, a shipped name or a recipe to start from.
        settings: recipe keys by dotted names that replace what the recipe says, `{"train.epochs": 10}`.
        out: the run folder; by default the next free one in `runs/`.
        tell: who is told of the progress; `Tell(quiet=True)` keeps silent.

    Raises:
        CompressError: as the command would say it.
    """
    given = {**({} if recipe is not None else {"method": {"kind": "ce"}}), **_sections(student, data)}
    return _trained(_recipe(recipe, given, settings), out=path_of(out), overwrite=overwrite, tell=tell)


def distill(
    teacher: Network | Run | Sequence[Network | Run] | None = None,
    student: Network | None = None,
    data: Any = None,
    *,
    method: str | Mapping[str, Any] | None = None,
    recipe: str | Path | Recipe | None = None,
    settings: Settings | None = None,
    out: Path | str | None = None,
    overwrite: bool = False,
    tell: Tell | None = None,
) -> Run:
    """Train a student from a teacher.

    Args:
        teacher: a checkpoint, a run, or a network of yours that is trained; several where the method takes them.
            Without `settings` for `teacher.mean` and `teacher.std`, a network is taken to expect the data's own.
        student, data: as for `train`; the student may come from the recipe, the data from the teacher.
        method: a name, `{"kind": "bss", ...}`, or nothing: as the recipe says, boundary supporting samples by default.
    """
    target = path_of(out)
    given = _sections(student, data)
    if teacher is None:
        pass  # the recipe names it
    elif isinstance(teacher, Sequence) and not isinstance(teacher, str):
        given["teachers"] = [_teacher(each, number, target) for number, each in enumerate(teacher)]
    else:
        given["teacher"] = _teacher(teacher, 0, target)
    if method is not None:
        given["method"] = {"kind": method} if isinstance(method, str) else dict(method)
    chosen = _recipe(recipe, given, settings)
    if chosen.teacher is None:
        raise UsageError("distill needs a teacher", hint="--teacher FILE, or compress train for a network alone")
    return _trained(chosen, out=target, overwrite=overwrite, tell=tell)


def run(
    recipe: str | Path | Recipe,
    *,
    settings: Settings | None = None,
    out: Path | str | None = None,
    overwrite: bool = False,
    start: Stage | None = None,
    page: bool = True,
    tell: Tell | None = None,
) -> Run:
    """Do all of a recipe: train, export, validate, bench, gates, report; what is done already is left alone.

    Gates are judged and recorded, `run(...).result.passed`, and raise nothing.

    Args:
        start: do this stage and all later ones again.
        page: write `report/report.html`.
    """
    chosen = _recipe(recipe, {}, settings)
    _, folder = pipeline.run(chosen, tell_of(tell), out=path_of(out), overwrite=overwrite, start=start, page=page)
    return Run(folder.folder, tuple(code_named(chosen)))


def resume(where: Path | str, *, allow: Sequence[str] = (), tell: Tell | None = None) -> Run:
    """Go on with a training that was stopped; on a CPU it ends with the weights of an undisturbed one.

    Args:
        allow: code of your own that the run names, see `Run`.
    """
    return Run(pipeline.resume(Path(where), tell_of(tell), allow=allow)[1].folder, tuple(allow))


def compare(
    recipe: str | Path | Recipe,
    *,
    methods: Sequence[str] = ("ce", "kd", "bss"),
    seeds: Sequence[int] = (0, 1, 2),
    students: Sequence[str] = (),
    teachers: Sequence[str | Path] = (),
    vary: Mapping[str, Sequence[Any]] | None = None,
    settings: Settings | None = None,
    out: Path | str | None = None,
    jobs: int | None = None,
    on: Where = "local",
    address: str | None = None,
    cpus: int | None = None,
    gpus: float | None = None,
    tell: Tell | None = None,
) -> Comparison:
    """Train every method on every student from every seed, in processes of their own, and compare in pairs.

    What is trained is named, not given as an object, since other processes must find it.

    Args:
        methods: names, `package.module:name`, or files with a section `method`.
        teachers: checkpoints or run folders, in place of the recipe's.
        vary: recipe keys by dotted names and the values that each takes, `{"train.lr": [0.05, 0.1]}`.
        jobs: trainings at a time; None: as many as cores or the device's memory allow, or a cluster has room for.
        on, address, cpus, gpus: `ray` hands the trainings to a Ray cluster, a local one or the one at an address; what
            each of them is given there.
    """
    chosen = _recipe(recipe, {}, settings)
    planned = comparing.plan(
        chosen,
        tell_of(tell),
        methods=methods,
        seeds=seeds,
        students=students,
        teachers=teachers,
        vary=vary,
        out=path_of(out),
        place=comparing.place_of(on, jobs=jobs, address=address, cpus=cpus, gpus=gpus),
    )
    return comparing.compare(planned, tell_of(tell))


def _trained(recipe: Recipe, *, out: Path | None, overwrite: bool, tell: Tell | None) -> Run:
    _, folder = pipeline.train(recipe, tell_of(tell), out=out, overwrite=overwrite)
    return Run(folder.folder, tuple(code_named(recipe)))


def _recipe(recipe: str | Path | Recipe | None, given: Mapping[str, Any], settings: Settings | None) -> Recipe:
    """Return the recipe to go by: `given` sections over what it says, and `settings` over both."""
    changes = [Override((key,), value) for key, value in given.items()] + overrides(settings)
    if isinstance(recipe, Recipe):
        return build(recipe.model_dump(mode="json", by_alias=True), changes, base=Path.cwd())
    if recipe is not None:
        return load(find(str(recipe)), changes, trusted=True)
    arch = given.get("student", {}).get("arch", "")
    name = "".join(letter if letter.isalnum() or letter in "_.+-" else "-" for letter in arch).strip("-.")
    return build({"name": name or "run"}, changes, base=Path.cwd())


def _sections(student: Network | None, data: Any) -> dict[str, Any]:
    """Return what a recipe says of the student and the data that were given."""
    sections: dict[str, Any] = {}
    if student is not None:
        sections["student"] = {"arch": arch_of(student, "student")}
    if data is not None:
        sections["data"] = {"name": data_name(data)}
    return sections


def _teacher(teacher: Network | Run, number: int, out: Path | None) -> dict[str, Any]:
    """Return the section of a teacher; the weights of a network are written to a file of their own first."""
    if isinstance(teacher, Run):
        trained = stored_recipe(run_folder.Run(teacher.folder), allow=teacher.allow)
        return {"checkpoint": str(teacher.folder), "arch": trained.student.arch}
    if isinstance(teacher, str | Path):
        return {"checkpoint": str(teacher)}
    if not isinstance(teacher, nn.Module):
        raise UsageError("a teacher is a network that is trained, and a function makes a new one")
    bare = teacher.network if isinstance(teacher, Normalized) else teacher
    made: dict[str, Any] = {"checkpoint": str(weights_file(bare, out)), "arch": arch_of(bare, f"teacher{number}")}
    if isinstance(teacher, Normalized):
        made |= {"mean": teacher.mean.flatten().tolist(), "std": teacher.std.flatten().tolist()}
    return made
