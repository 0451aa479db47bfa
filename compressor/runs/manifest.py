"""`manifest.json`: every file of a run with its hash, and what was made from what."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, cast

from pydantic import BaseModel, ConfigDict, ValidationError

from compressor.errors import InputRejected
from compressor.files import sha256, write_text
from compressor.runs import record
from compressor.runs.folder import Run, resume_command
from exporters import EXPORTERS, Compiler, Plan, exporter

NAME = "manifest.json"
# What a run goes on writing, and what is only needed to resume it.
_LEFT_OUT = {NAME, "run.log", "stages.json", "tracking.json", "tensorboard", ".lock"}
_ROLES = {
    "recipe.resolved.yaml": "recipe",
    "env.json": "environment",
    "metrics.jsonl": "training curves",
    "result.json": "record",
    "bench.json": "latencies",
    "predictions.npz": "predictions",
    "checkpoints": "checkpoint",
    "student": "student",
    "export": "artifact",
    "report": "report",
}


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class File(_Part):
    """A file of the run; `path` is relative to its folder."""

    path: str
    role: str
    sha256: str
    size_bytes: int


class Link(_Part):
    """One step of the lineage: what was made, and from what. Hashes, since files move."""

    made: str
    sha256: str
    source: str
    source_sha256: str


class Manifest(_Part):
    """Schema 1."""

    manifest: Literal[1] = 1
    name: str
    files: tuple[File, ...]
    lineage: tuple[Link, ...]


def write(run: Run, result: record.Result) -> Manifest:
    """Write the manifest of a run, and return it.

    What was trained or proved keeps the hash that the record has of it, and what belongs to an artifact the hash that
    it had beside that artifact: to measure a file that was tampered with does not make it right.
    """
    known = _known(run, result)
    files = tuple(_file(run.folder, path, known.get(path)) for path in sorted({*_listed(run.folder), *known}))
    manifest = Manifest(name=result.name, files=files, lineage=_lineage(run.folder, result))
    write_text(run.folder / NAME, manifest.model_dump_json(indent=1) + "\n")
    return manifest


def read(folder: Path) -> Manifest:
    """Return the manifest of a run folder.

    Raises:
        InputRejected: there is none, it is damaged, or it is of another schema.
    """
    path = folder / NAME
    try:
        return Manifest.model_validate_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputRejected(
            f"{folder} has no {NAME}",
            hint=f"finish the run first: {resume_command(folder)}",
        ) from None
    except (ValidationError, UnicodeDecodeError):
        raise InputRejected(f"{path} is not a manifest of schema 1", hint="it was edited or cut short") from None


def verify(folder: Path) -> tuple[str, ...]:
    """Return a sentence for each file that is not as the manifest says; none when all are.

    Files that a manifest does not name are named only in `export/`, from where they would be deployed. The manifest
    itself is not signed: keep its hash where the run cannot be written to, or sign it with a tool made for that.
    """
    manifest = read(folder)
    problems = [problem for file in manifest.files if (problem := _problem(folder, file)) is not None]
    named = {file.path for file in manifest.files}
    strangers = [path for path in _listed(folder) if path.startswith("export/") and path not in named]
    return (*problems, *(f"{path} is not in the manifest" for path in strangers))


def _known(run: Run, result: record.Result) -> dict[str, str]:
    """Return the hashes that are not to be read from the files as they are now, by path."""
    try:
        before = {file.path: file.sha256 for file in read(run.folder).files}
    except InputRejected:  # there is none yet, or none that can be read
        before = {}
    known = {run.recipe.name: result.recipe_sha256, result.student.path: result.student.sha256}
    for artifact in result.artifacts:
        known[artifact.path] = artifact.sha256
        if before.get(artifact.path) == artifact.sha256:  # it was not made anew, nor what belongs to it
            beside = (*artifact.companions, *_graph_of(run.folder, artifact))
            known |= {path: before[path] for path in beside if path in before}
    return known


def _graph_of(folder: Path, artifact: record.Artifact) -> tuple[str, ...]:
    """Return the ONNX file that a plan was built from and stays beside it."""
    plan = _plan(folder, artifact)
    return () if plan is None else (str(Path(artifact.path).with_name(plan.source)),)


def _plan(folder: Path, artifact: record.Artifact) -> Plan | None:
    """Return what a compiled artifact says of itself. One of a plug-in is not asked: a record imports nothing."""
    known = exporter(artifact.format) if artifact.format in EXPORTERS else None
    if known is None or not known.COMPILED or not (folder / artifact.path).is_file():
        return None
    return cast(Compiler, known).described(folder / artifact.path)


def _problem(folder: Path, file: File) -> str | None:
    path = folder / file.path
    if not path.resolve().is_relative_to(folder.resolve()):
        return f"{file.path} lies outside the run"
    if not path.is_file():
        return f"{file.path} is missing"
    found = sha256(path)
    if found != file.sha256:
        return f"{file.path} was changed: sha256 {found[:12]}, in the manifest {file.sha256[:12]}"
    return None


def _listed(folder: Path) -> list[str]:
    """Return the files of a run, without those that are being written and those that never stay the same."""
    every = (path for path in sorted(folder.rglob("*")) if path.is_file())
    names = (path.relative_to(folder) for path in every)
    return [
        name.as_posix()
        for name in names
        if name.parts[0] not in _LEFT_OUT and not any(part.startswith(".") for part in name.parts)
    ]


def _file(folder: Path, name: str, known: str | None) -> File:
    path = folder / name
    role = _ROLES.get(name) or _ROLES.get(name.split("/")[0], "other")
    size = path.stat().st_size if path.is_file() else 0  # what is missing is named by `verify`
    return File(path=name, role=role, sha256=known or sha256(path), size_bytes=size)


def _lineage(folder: Path, result: record.Result) -> tuple[Link, ...]:
    student, links = result.student, []
    if result.teacher is not None:
        teacher = result.teacher
        links.append(
            Link(
                made=student.path,
                sha256=student.sha256,
                source=teacher.arch or Path(teacher.path).name,
                source_sha256=teacher.sha256,
            )
        )
    for artifact in result.artifacts:
        made, digest = artifact.path, artifact.sha256
        known = _plan(folder, artifact)
        if known is not None:
            graph = str(Path(made).with_name(known.source))
            links.append(Link(made=made, sha256=digest, source=graph, source_sha256=known.source_sha256))
            made, digest = graph, known.source_sha256
        links.append(Link(made=made, sha256=digest, source=student.path, source_sha256=student.sha256))
    return tuple(links)
