"""The machine, its packages, and which of them do not go together. Nothing is imported to find out."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from compressor.doctor.finding import Finding
from compressor.machine import hardware

LEAST_FREE_BYTES = 1_000_000_000
EVERYTHING = "everything"
_PACKAGE = "compressor"
_GB = 1e9


def machine() -> tuple[Finding, ...]:
    """Return what is found of the processor, the memory, the working folder, Python and the packages."""
    return (_processor(), _folder(Path.cwd()), _python(), _packages())


def clashes(runtimes: Iterable[Finding]) -> tuple[Finding, ...]:
    """Return what is installed side by side and does not go together, given what the runtimes told of themselves."""
    facts = {runtime.check: runtime.facts for runtime in runtimes}
    found = [
        Finding(
            "clash-onnxruntime",
            "packages that clash",
            "broken",
            sentence,
            "pip uninstall -y onnxruntime onnxruntime-gpu, then pip install onnxruntime-gpu",
        )
        for sentence in hardware.clashes()
    ]
    torch, ort = (facts.get(name, {}).get("cuda") for name in ("torch-cpu", "onnxruntime-cpu"))
    if torch and ort and _major(torch) != _major(ort):
        newer = "torch" if _major(torch) < _major(ort) else "onnxruntime-gpu"
        found.append(
            Finding(
                "clash-cuda",
                "packages that clash",
                "broken",
                f"torch is built for CUDA {torch} and onnxruntime-gpu for CUDA {ort}: ONNX Runtime does not find the "
                "CUDA libraries that come with torch",
                f"pip install --upgrade {newer}",
            )
        )
    versions = hardware.versions()
    tensorrt = versions.get("tensorrt") or versions.get("tensorrt-cu13")
    if tensorrt and "onnxruntime-gpu" in versions and _major(tensorrt) != 10:
        found.append(
            Finding(
                "clash-tensorrt",
                "packages that clash",
                "broken",
                f"ONNX Runtime's provider tensorrt loads TensorRT 10, and TensorRT {tensorrt} is installed; plans of "
                "the format trt run with both",
                "pip install 'tensorrt-cu13>=10.13,<11', if ONNX files are to run on that provider",
            )
        )
    return tuple(found)


def _processor() -> Finding:
    here = hardware.machine()
    memory = here["memory_bytes"]
    parts = [str(here["cpu"]), f"{here['cores']} cores"]
    if isinstance(memory, int):
        parts.append(f"{memory / _GB:.1f} GB memory")
    return Finding("machine", "machine", "ok", ", ".join([*parts, str(here["os"])]), facts=here)


def _folder(folder: Path) -> Finding:
    free = shutil.disk_usage(folder).free
    facts = {"folder": str(folder), "free_bytes": free}
    title, check = "working folder", "disk"
    if not os.access(folder, os.W_OK | os.X_OK):
        return Finding(
            check, title, "broken", f"{folder} cannot be written to", "--out DIR chooses another", (EVERYTHING,), facts
        )
    room = f"{free / _GB:.1f} GB free in {folder}"
    if free < LEAST_FREE_BYTES:
        return Finding(check, title, "broken", f"only {room}", f"df -h {folder}, and free some space", (), facts)
    return Finding(check, title, "ok", room, facts=facts)


def _python() -> Finding:
    version = platform.python_version()
    try:
        wanted = metadata.metadata(_PACKAGE)["Requires-Python"] or ""
    except metadata.PackageNotFoundError:
        wanted = ""
    if not SpecifierSet(wanted).contains(version, prereleases=True):
        return Finding(
            "python",
            "Python",
            "broken",
            f"Python {version} is not {wanted}",
            "make an environment with a newer Python: python3.12 -m venv .venv",
            (EVERYTHING,),
        )
    return Finding("python", "Python", "ok", version)


def _packages() -> Finding:
    """Return whether what this package is built on is installed, in the versions that it asks for."""
    check, title = "packages", "packages"
    try:
        lines = metadata.requires(_PACKAGE) or []
    except metadata.PackageNotFoundError:
        return Finding(check, title, "broken", f"{_PACKAGE} itself is not installed", f"pip install {_PACKAGE}")
    wanted = [Requirement(line) for line in lines]
    wanted = [each for each in wanted if each.marker is None or each.marker.evaluate({"extra": ""})]
    wrong = [(each, version) for each in wanted if not _satisfied(each, version := _version(each.name))]
    if wrong:
        told = [f"{each.name} {version or 'is absent'}, wanted {each.specifier}" for each, version in wrong]
        line = "pip install " + " ".join(f"'{each.name}{each.specifier}'" for each, _ in wrong)
        return Finding(check, title, "broken", "; ".join(told), line, (EVERYTHING,))
    return Finding(check, title, "ok", f"{len(wanted)} packages in the versions that {_PACKAGE} asks for")


def _satisfied(wanted: Requirement, version: str | None) -> bool:
    return version is not None and wanted.specifier.contains(version, prereleases=True)


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _major(version: str) -> int:
    return int(version.split(".")[0])
