"""A run whose student is trained: what every stage after training starts from, and leaves behind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count, takewhile, zip_longest
from typing import Any

from compressor import checkpoint
from compressor.artifacts.opening import open_artifact, torch_runner
from compressor.errors import InputRejected
from compressor.files import sha256
from compressor.gates import judge, promised
from compressor.inputs import Prepared, prepare
from compressor.measure.scores import Predictions
from compressor.progress import Tell
from compressor.recipe import FORMATS, Override, Recipe, load
from compressor.recipe.code import code_named
from compressor.runs import manifest, record
from compressor.runs.folder import Run
from compressor.runs.stages import Stages
from exporters import Runner


@dataclass(frozen=True)
class FinishedRun:
    """A run, what its recipe names, its trained student, and the record so far.

    `predictions` are what networks said of the test images since this process opened the run, by their name in `files`.
    `allow` names code of the user's own, beyond what the recipe names, that may be imported to open an artifact.
    """

    folder: Run
    prepared: Prepared
    student: checkpoint.Network
    result: record.Result
    predictions: Mapping[str, Predictions] = field(default_factory=dict)
    allow: Sequence[str] = ()

    def noting(self, **changes: Any) -> FinishedRun:
        """Return the same with changes in the record."""
        return replace(self, result=self.result.model_copy(update=changes))

    def saved(self) -> FinishedRun:
        """Judge the gates on what is known by now, write the record, and return the run with both."""
        verdicts = judge(self.prepared.recipe.gates, self.result)
        noted = self.noting(gates=verdicts, passed=promised(verdicts))
        noted.result.write(self.folder.folder)
        manifest.write(self.folder, noted.result)
        return noted

    def files(self, tell: Tell, *, threads: int | None = None, cuda_graph: bool = False) -> dict[str, Runner]:
        """Open teacher, student and all artifacts that can run here, by the names a record gives them.

        Raises:
            InputRejected: an artifact is not the file that was exported and proved.
        """
        device = self.prepared.device
        files: dict[str, Runner] = {}
        if self.prepared.teacher is not None:
            files["teacher"] = torch_runner(
                self.prepared.teacher, device=device, threads=threads, cuda_graph=cuda_graph
            )
        files["student"] = torch_runner(self.student, device=device, threads=threads, cuda_graph=cuda_graph)
        allowed = {*FORMATS, *code_named(self.prepared.recipe), *self.allow}
        for artifact in self.result.artifacts:
            if artifact.provider is None:
                tell(f"left out: {artifact.path}, {artifact.note}")
                continue
            if artifact.format not in allowed:  # a record is no reason to import anything
                tell(f"left out: {artifact.path}, its format is code of its own: --allow {artifact.format} opens it")
                continue
            path = self.folder.folder / artifact.path
            if path.is_file() and sha256(path) != artifact.sha256:
                raise InputRejected(
                    f"{path} is not the file that was exported and proved: its hash differs", hint="export it again"
                )
            files[artifact.path] = open_artifact(
                path, device=device, format_=artifact.format, threads=threads, cuda_graph=cuda_graph
            )
        return files


def stored_recipe(folder: Run, overrides: Sequence[Override] = (), *, allow: Sequence[str] = ()) -> Recipe:
    """Return the recipe of a run, after `overrides` apply.

    Args:
        allow: code of the user's own, `package.module:name`, that the user's command names too. A run folder may come
            from elsewhere, so what its recipe names is not imported for that alone.

    Raises:
        InputRejected: the recipe names code that is not allowed.
    """
    recipe = load(folder.recipe, overrides)  # imports nothing
    named = code_named(recipe)
    strange = [name for name in named if name not in allow]
    if strange:
        options = " ".join(f"--allow {name}" for name in named)
        raise InputRejected(
            f"{folder.folder} names code of its own, {strange[0]}, which is imported only where your command names it",
            hint=f"{options}, if you trust it",
        )
    return load(folder.recipe, overrides, trusted=True) if named else recipe


def open_run(
    folder: Run,
    tell: Tell,
    *,
    device: str | None = None,
    overrides: Sequence[Override] = (),
    allow: Sequence[str] = (),
) -> FinishedRun:
    """Open a run whose student is trained; `overrides` replace what its recipe says, for now only.

    Args:
        allow: as for `stored_recipe`.

    Raises:
        InputRejected: it has no record yet, or its data, its teacher or its student are not what the record tells of.
    """
    tell.keep(folder.log)
    result = record.read(folder.folder)
    recipe = stored_recipe(folder, overrides, allow=allow)
    if device is not None:
        recipe = recipe.model_copy(update={"device": device})
    tell(f"run: {folder.folder}")
    prepared = prepare(recipe, Tell(quiet=True), examine=False)  # all was said when the student was trained
    student = open_student(folder, prepared)
    first = None if result.teacher is None else result.teacher.sha256
    others = teachers_of(Stages(folder).inputs("train"))[1:]  # which the record does not name
    require_same(folder, prepared, fingerprint=result.data.fingerprint, teachers=[first, *others])
    if student.sha256 != result.student.sha256:
        raise InputRejected(
            f"{folder.student} is not the student that {record.NAME} tells of: its hash differs",
            hint="--from train trains a new run",
        )
    return FinishedRun(folder, prepared, student, result, allow=allow)


def open_student(folder: Run, prepared: Prepared) -> checkpoint.Network:
    """Return the trained student of a run, on the run's device."""
    student = checkpoint.load_network(folder.student, arch=prepared.recipe.student.arch)
    student.module.to(prepared.device)
    return student


def teachers_of(begun: Mapping[str, Any]) -> list[str | None]:
    """Return the hashes of the teachers in what a training was begun with, `identity.training_inputs`."""
    keys = takewhile(begun.__contains__, (f"teacher_{number}_sha256" for number in count(2)))
    return [begun.get("teacher_sha256"), *(begun[key] for key in keys)]


def require_same(folder: Run, prepared: Prepared, *, fingerprint: str | None, teachers: Sequence[str | None]) -> None:
    """See that a run is gone on with the data and the teachers it was trained with.

    Args:
        fingerprint, teachers: of then; None where there was none, or where it is not known.

    Raises:
        InputRejected: they are others now.
    """
    if fingerprint is not None and prepared.data.fingerprint != fingerprint:
        raise InputRejected(
            f"the data of {folder.folder} are not those it was trained on: files came, went or changed their names",
            hint="--from train trains a new run",
        )
    now = [network.sha256 for network in prepared.teachers]
    if any(then is not None and then != found for then, found in zip_longest(teachers, now)):
        raise InputRejected(
            f"the teacher of {folder.folder} is not the one it was trained with: its file has changed",
            hint="--from train trains a new run",
        )
