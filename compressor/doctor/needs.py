"""What a recipe needs of a machine: runtimes, a device, packages, and files that must be there. Imports PyTorch."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from compressor.choices import HF, WDS
from compressor.data.named import OFFICIAL, root_of
from compressor.doctor.finding import Finding
from compressor.doctor.probing import TIMEOUT_S, probe
from compressor.errors import CompressError, InputRejected, UsageError, did_you_mean
from compressor.recipe import Recipe, require_runnable
from compressor.recipe.code import is_code
from compressor.runs.folder import Run, is_run
from compressor.tracking import require
from exporters import EXPORTERS, exporter, provider_on

_FOLDER, _EMBEDDED = "folder:", "digits"
_TIMM = "timm/"
_LIBRARIES = {HF: "datasets", WDS: "webdataset"}  # what opens the data that a name begins with


def demand(findings: Iterable[Finding], recipe: Recipe, *, timeout_s: float = TIMEOUT_S) -> tuple[Finding, ...]:
    """Return the findings marked with what the recipe needs them for, and those of its packages and files."""
    known = {finding.check: finding for finding in findings}
    purposes = _purposes(recipe, known)
    packages = probe([name for name in purposes if name not in known], timeout_s=timeout_s)
    every = [*known.values(), *packages]
    marked = [replace(each, needed=(*each.needed, *purposes.get(each.check, ()))) for each in every]
    working = {each.check for each in packages if each.status == "ok"}
    return (*marked, *_device(recipe, known), *_files(recipe), *_compiler(recipe), *_server(recipe, working))


def _purposes(recipe: Recipe, known: dict[str, Finding]) -> dict[str, list[str]]:
    """Return the probes that must succeed, and what for."""
    purposes: dict[str, list[str]] = {}

    def need(check: str, purpose: str) -> None:
        if purpose not in purposes.setdefault(check, []):
            purposes[check].append(purpose)

    cuda = _on_cuda(recipe, known)
    if cuda:
        need("torch-cuda", f"device {recipe.device}")
    for target in recipe.export:
        need(_check(target.format, "cuda" if cuda else "cpu"), f"export {target.format}")
    if recipe.student.arch.startswith(_TIMM):
        need("timm", f"student {recipe.student.arch}")
    if recipe.teacher is not None and (recipe.teacher.arch or "").startswith(_TIMM):
        need("timm", f"teacher {recipe.teacher.arch}")
    for place in filter(None, (recipe.data.name, recipe.data.unlabelled, recipe.data.target, recipe.data.check)):
        scheme = next((each for each in _LIBRARIES if place.startswith(each)), None)
        if scheme is not None:
            need(_LIBRARIES[scheme], f"data {place}")
    if recipe.validation.autoattack_samples > 0:
        need("autoattack", "validate.autoattack_samples")
    for tracker in recipe.tracking:
        need(tracker.kind, "tracking")
    return purposes


def _check(format_: str, device: str) -> str:
    """Return the probe of what runs a format on a kind of device. A plug-in is loaded by its probe only."""
    if format_ not in EXPORTERS:
        return f"{format_}@{device}"
    exporter_ = exporter(format_)
    return exporter_.PROVIDERS[provider_on(exporter_, device)].check


def _on_cuda(recipe: Recipe, known: dict[str, Finding]) -> bool:
    if recipe.device == "auto":
        return "torch-cuda" in known and known["torch-cuda"].status == "ok"
    return recipe.device.startswith("cuda")


def _server(recipe: Recipe, working: set[str]) -> tuple[Finding, ...]:
    """Return whether the server of the one tracker that has one answers, where its package works."""
    check, title, needed = "mlflow-server", "MLflow server", ("tracking",)
    if check.removesuffix("-server") not in working:
        return ()
    try:
        require(recipe)
    except CompressError as error:
        return (Finding(check, title, "absent", error.message, error.hint, needed),)
    return (Finding(check, title, "ok", "it answers", needed=needed),)


def _device(recipe: Recipe, known: dict[str, Finding]) -> tuple[Finding, ...]:
    """Return what is wrong with the number of a GPU. That there is one at all is the business of `torch-cuda`."""
    name, _, index = recipe.device.partition(":")
    count = known["torch-cuda"].facts.get("devices", 0) if "torch-cuda" in known else 0
    if name != "cuda" or not index.isdecimal() or not count or int(index) < count:
        return ()
    return (
        Finding(
            "device",
            "device",
            "absent",
            f"{recipe.device} is not here: there are {count} GPUs, counted from 0",
            "--device cuda",
            (f"device {recipe.device}",),
        ),
    )


def _files(recipe: Recipe) -> tuple[Finding, ...]:
    """Return what is found of the files that the recipe names."""
    found = [_runnable(recipe)]
    if recipe.teacher is not None:
        given = recipe.teacher.checkpoint
        hint = "--teacher FILE names another"
        found.append(_file("teacher", Run(given).student if is_run(given) else given, hint))
    if recipe.student.init is not None:
        found.append(_file("student.init", recipe.student.init, "--set student.init=FILE names another"))
    if ":" in recipe.student.arch:
        found.append(_factory(recipe.student.arch.partition(":")[0]))
    if recipe.data.name is not None:
        found.append(_data(recipe))
    if recipe.gates.baseline is not None:
        found.append(_baseline(recipe.gates.baseline))
    return tuple(each for each in found if each is not None)


def _runnable(recipe: Recipe) -> Finding | None:
    try:
        require_runnable(recipe)
    except UsageError as error:
        return Finding("recipe", "recipe", "absent", error.message, error.hint, ("everything",))
    return None


def _file(name: str, path: Path, hint: str) -> Finding:
    if not path.is_file():
        return Finding(name, name, "absent", f"there is no file {path}", hint, ("training",))
    if not os.access(path, os.R_OK):
        return Finding(name, name, "broken", f"{path} cannot be read", f"ls -l {path}", ("training",))
    return Finding(name, name, "ok", str(path), needed=("training",))


def _factory(module: str, what: str = "student") -> Finding:
    """Return whether a plug-in's module can be found. Its top package only: a look at more would execute it."""
    name = module.partition(".")[0]
    needed = ("training",)
    if importlib.util.find_spec(name) is None:
        return Finding(what, what, "absent", f"there is no module {name}", 'export PYTHONPATH="$PWD"', needed)
    return Finding(what, what, "ok", f"module {name}", needed=needed)


def _data(recipe: Recipe) -> Finding:
    name = recipe.data.name or ""
    needed = ("training",)
    if name.startswith(_FOLDER):
        folder = Path(name.removeprefix(_FOLDER))
        if not folder.is_dir():
            return Finding(
                "data", "data", "absent", f"there is no folder {folder}", "--data folder:PATH names another", needed
            )
        return Finding("data", "data", "ok", str(folder), needed=needed)
    if name.startswith(HF) and not Path(name.removeprefix(HF)).is_absolute():
        return Finding("data", "data", "ok", f"{name}, which the library fetches", needed=needed)
    if name.startswith(HF) and not Path(name.removeprefix(HF)).is_dir():
        missing = f"there is no folder {name.removeprefix(HF)}"
        return Finding("data", "data", "absent", missing, "--data hf:PATH names another", needed)
    if name.startswith((HF, WDS)):
        return Finding("data", "data", "ok", name, needed=needed)
    if is_code(name):
        return _factory(name.partition(":")[0], "data")
    if name == _EMBEDDED:
        return Finding("data", "data", "ok", name, needed=needed)
    if name not in OFFICIAL:
        hint = did_you_mean(name, (_EMBEDDED, *OFFICIAL, "folder:PATH"))
        return Finding("data", "data", "absent", f"there is no data set {name!r}", hint, needed)
    try:
        root = root_of(name, OFFICIAL[name], recipe.data)
    except InputRejected as error:
        return Finding("data", "data", "absent", error.message, error.hint, needed)
    return Finding("data", "data", "ok", f"{name} in {root}", needed=needed)


def _baseline(path: Path) -> Finding:
    file = path / "result.json" if path.is_dir() else path
    return replace(_file("gates.baseline", file, "--set gates.baseline=FILE names another"), needed=("gates",))


def _compiler(recipe: Recipe) -> tuple[Finding, ...]:
    """Return whether there is a C++ compiler, which torch.compile wants on a CPU."""
    if recipe.train.compile is not True or recipe.device.startswith("cuda"):
        return ()
    name = os.environ.get("CXX", "g++")
    where = shutil.which(name)
    if where is None:
        return (
            Finding(
                "compiler",
                "C++ compiler",
                "absent",
                f"there is no {name}",
                "--set train.compile=false, or install a C++ compiler",
                ("train.compile",),
            ),
        )
    return (Finding("compiler", "C++ compiler", "ok", where, needed=("train.compile",)),)
