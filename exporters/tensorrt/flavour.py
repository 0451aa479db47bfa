"""TensorRT and TensorRT-RTX: one API under two names, imported when needed, and what they write to their log."""

from __future__ import annotations

import platform
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING

from exporters.errors import RuntimeMissing

if TYPE_CHECKING:
    import tensorrt as trt

OLDEST = (10, 13)  # of TensorRT: strong typing and the inspector's formats as they are used here


@dataclass(frozen=True)
class Gpu:
    """The GPU that plans are built and run on: the first that torch sees."""

    name: str
    sm: int  # compute capability times ten, 90 for an H200

    def __str__(self) -> str:
        return f"{self.name} (sm{self.sm})"


@dataclass(frozen=True)
class Flavour:
    """One of the two runtimes."""

    format: str
    module: str
    title: str
    tag: str  # in file names, before the version
    install: str
    portable: bool  # builds without a GPU, for all that it supports

    def require(self) -> str:
        """Return the version, or refuse with the line that installs it.

        Raises:
            RuntimeMissing: not installed, its libraries are not found, or older than `OLDEST`.
        """
        try:
            with _quiet():
                version = str(import_module(self.module).__version__)
        except (ImportError, OSError, RuntimeError) as error:
            raise RuntimeMissing(f"{self.title} is not installed", hint=self.install) from error
        if not self.portable and _numbers(version) < OLDEST:
            oldest = ".".join(map(str, OLDEST))
            raise RuntimeMissing(f"{self.title} {version} is too old, {oldest} is needed", hint=self.install)
        return version

    def tagged(self, version: str) -> str:
        """Return the version as it stands in a file name, e.g. `trt11.4`."""
        return self.tag + short(version)


def short(version: str) -> str:
    """`11.4.0.12` is 11.4."""
    return ".".join(version.split(".")[:2])


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:2])


def gpu() -> Gpu | None:
    """Return the GPU, None where there is none or torch cannot use it."""
    import torch

    with _quiet():  # torch warns of a driver that is too old for it
        if not torch.cuda.is_available():
            return None
        major, minor = torch.cuda.get_device_capability()
        return Gpu(torch.cuda.get_device_name(), 10 * major + minor)


def system() -> str:
    """Return the system and processor that plans are bound to, e.g. `linux-x86_64`."""
    return f"{platform.system()}-{platform.machine()}".lower()


@contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@dataclass
class Log:
    """What the runtime says; nothing of it reaches the terminal. A failed call returns None or False, no reason."""

    errors: list[str] = field(default_factory=list)
    layers: str = ""  # the builder's listing of the engine's layers

    def clear(self) -> None:
        self.errors.clear()
        self.layers = ""

    def add(self, message: str, *, error: bool) -> None:
        if error:
            self.errors += reasons(message)
        elif message.startswith("Layers:"):
            self.layers = message

    def reason(self, *, most: int = 3) -> str:
        """Return the last errors, each once, as one line."""
        return "; ".join(list(dict.fromkeys(self.errors))[-most:])


# What every call without a driver adds, and the parser's announcements of the error that follows.
_NOISE = re.compile(r"cudaError 35\b|^While parsing node|^--- (Begin|End) node|^Node name:|^ERROR: ")
_PREFIX = re.compile(r"^(?:\[\d+\] |\w+\.cpp:\d+: |(?:\w+::)+\w+: |Error Code \d+: (?:[\w ]+(?=\())?)+")
_PLACE = re.compile(r"\s+In \S+ at /\S*$")  # a line of TensorRT's own source


def reasons(message: str) -> list[str]:
    """Return the lines of an error that tell a user something, without source positions and codes."""
    lines = [_PREFIX.sub("", line.strip()) for line in message.splitlines()]
    found = []
    for line in lines:
        if line and not _NOISE.search(line):
            inner = line[1:-1] if line.startswith("(") and line.endswith(")") else line
            found.append(_PLACE.sub("", inner).rstrip(". "))
    return [line for line in found if line]


@cache
def listener(flavour: Flavour) -> tuple[trt.ILogger, Log]:
    """Return the flavour's logger and what it hears.

    One for the whole process: the library keeps a pointer to the first that it is given.
    """
    if TYPE_CHECKING:
        import tensorrt as trt
    else:
        trt = import_module(flavour.module)

    log = Log()

    class Listener(trt.ILogger):
        def log(self, severity: trt.ILogger.Severity, msg: str) -> None:
            serious = (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR)
            log.add(msg, error=severity in serious)

    return Listener(), log
