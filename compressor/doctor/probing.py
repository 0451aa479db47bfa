"""The asking side of a probe: a process for each, its answer in a file, its chatter kept from the user."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from compressor.doctor.finding import Finding
from exporters import EXPORTERS, exporter

TIMEOUT_S = 120.0
_AT_ONCE = 2  # each imports a runtime of several hundred megabytes
_MODULE = "compressor.doctor.probes"

_PACKAGES = {"timm": "timm", "autoattack": "AutoAttack", "tensorboard": "TensorBoard", "mlflow": "MLflow"}
_PACKAGES |= {name: name for name in ("datasets", "webdataset")}
TITLES = {
    "driver": "NVIDIA driver",
    "torch-cpu": "PyTorch on the CPU",
    "torch-cuda": "PyTorch on CUDA",
    **{each.check: each.title for name in EXPORTERS for each in exporter(name).PROVIDERS.values()},
    **_PACKAGES,
}
# What is tried for everyone; the rest when a recipe needs it.
RUNTIMES = tuple(name for name in TITLES if name not in _PACKAGES)
# Without these nothing can be trained or exported.
_CORE = ("torch-cpu", "onnxruntime-cpu")


def probe(names: Iterable[str], *, timeout_s: float = TIMEOUT_S) -> tuple[Finding, ...]:
    """Try runtimes, some at the same time, and return what was found of each, in the order of `names`.

    Beside those in `TITLES`, a name may be that of a plug-in's format and a device: `package.module:name@cpu`.
    """
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return tuple(pool.map(lambda name: _ask(name, timeout_s), names))


def _ask(name: str, timeout_s: float) -> Finding:
    title, needed = TITLES.get(name, name.partition("@")[0]), ("everything",) if name in _CORE else ()
    places = [*sys.path, *([] if name in TITLES else [str(Path.cwd())])]  # where the user's own module may lie
    with tempfile.TemporaryDirectory(prefix="compress-doctor-") as folder:
        answer = Path(folder) / "answer.json"
        command = [sys.executable, "-W", "ignore", "-m", _MODULE, name, str(answer)]
        process = subprocess.Popen(
            command,
            # Not the user's: a file there may be called like a package, and libraries leave files where they start.
            cwd=folder,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, places))},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        try:
            said = process.communicate(timeout=timeout_s)[1].decode(errors="replace")
        except subprocess.TimeoutExpired:
            _end(process)
            return Finding(
                name, title, "broken", f"it did not answer within {timeout_s:g} s", _again(name), needed=needed
            )
        if not answer.is_file():
            return Finding(name, title, "broken", _crash(process.returncode, said), _again(name), needed=needed)
        return Finding(check=name, title=title, needed=needed, **json.loads(answer.read_text(encoding="utf-8")))


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a process that hangs, and what it has started."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except (AttributeError, ProcessLookupError):  # no process groups on this system, or it has just ended
        process.kill()
    process.communicate()


def _crash(code: int, said: str) -> str:
    if code < 0:
        return f"its process was ended by {signal.Signals(-code).name}"
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    return f"its process ended with exit code {code}" + (f": {lines[-1]}" if lines else "")


def _again(name: str) -> str:
    """Return the line that shows all that the library says."""
    return f"python -m {_MODULE} {name}"
