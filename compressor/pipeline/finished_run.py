"""A run whose student is trained, opened to do more with it: what every stage after training starts from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from compressor import checkpoint
from compressor.artifacts.opening import open_artifact, torch_runner
from compressor.errors import InputRejected
from compressor.files import sha256
from compressor.gates import judge, promised
from compressor.inputs import Prepared, prepare
from compressor.progress import Tell
from compressor.recipe import Override, load
from compressor.runs import manifest, record
from compressor.runs.folder import Run
from exporters import Runner


@dataclass(frozen=True)
class FinishedRun:
    """A run, what its recipe names, its trained student, and the record so far."""

    folder: Run
    prepared: Prepared
    student: checkpoint.Network
    result: record.Result

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
        """Open every file of the run that runs here, by name: teacher, student, then the artifacts by their paths."""
        device = self.prepared.device
        files: dict[str, Runner] = {}
        if self.prepared.teacher is not None:
            files["teacher"] = torch_runner(
                self.prepared.teacher, device=device, threads=threads, cuda_graph=cuda_graph
            )
        files["student"] = torch_runner(self.student, device=device, threads=threads, cuda_graph=cuda_graph)
        for artifact in self.result.artifacts:
            if artifact.provider is None:
                tell(f"left out: {artifact.path}, {artifact.note}")
                continue
            path = self.folder.folder / artifact.path
            if path.is_file() and sha256(path) != artifact.sha256:
                raise InputRejected(
                    f"{path} is not the file that was exported and proved: its hash differs", hint="export it again"
                )
            files[artifact.path] = open_artifact(path, device=device, threads=threads, cuda_graph=cuda_graph)
        return files


def open_run(folder: Run, tell: Tell, *, device: str | None = None, overrides: Sequence[Override] = ()) -> FinishedRun:
    """Open a run whose student is trained; `overrides` replace what its recipe says, for now only.

    Raises:
        InputRejected: it has no record yet.
    """
    tell.keep(folder.log)
    result = record.read(folder.folder)
    recipe = load(folder.recipe, overrides)
    if device is not None:
        recipe = recipe.model_copy(update={"device": device})
    tell(f"run: {folder.folder}")
    prepared = prepare(recipe, Tell(quiet=True), examine=False)  # all was said when the student was trained
    return FinishedRun(folder, prepared, open_student(folder, prepared), result)


def open_student(folder: Run, prepared: Prepared) -> checkpoint.Network:
    """Return the trained student of a run, on the run's device."""
    student = checkpoint.load_network(folder.student, arch=prepared.recipe.student.arch)
    student.module.to(prepared.device)
    return student
