"""Formats a student leaves in, and the runtimes that run them. Knows torch, onnx and numpy, never `compressor`.

ONNX is the trunk: `onnx.export` writes a network as an fp32 graph, `quantize` and `onnx.convert` give it the precision
and the borders that are wanted, and an `Exporter` builds from that graph what its runtime loads. A graph that comes
from elsewhere enters at the same place. `EXPORTERS` lists the exporters by the name a recipe uses. All that others need
to know of a format are facts of its exporter, which are read without importing a runtime, torch, onnx or numpy.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, cast, get_args

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# ONNX Runtime counts its use in files below the home folder, from its first import on, unless it is told not to.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

Pixels = Literal["float32", "uint8"]
"""What the file takes: float32 NCHW in [0, 1], or uint8 NHWC as an image decoder gives them."""
Output = Literal["logits", "probabilities"]
Quantization = Literal["cpu", "trt"]
"""A recipe of INT8: for ONNX Runtime and OpenVINO on a CPU, or for TensorRT; see `quantize`."""
Precision = Literal["fp32", "fp16", "bf16", "int8"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)


class Runner(Protocol):
    """An opened artifact: images `[B, C, H, W]` float32 in `[0, 1]` to logits `[B, K]` float32, both on the host.

    `provider` and `precision` are what is really used, asserted when the artifact was opened: never a fallback.
    An artifact that takes uint8 pixels is given the images rounded to 1/255; one that returns probabilities answers
    with their logarithms, which are logits up to a constant.
    """

    path: Path | None
    format: str  # `Exporter.FORMAT`, or "pytorch"
    provider: str  # "cpu", "cuda", "tensorrt"
    precision: str  # "fp32", "fp16", "int8", ...
    input_shape: tuple[int, int, int]  # C, H, W of an image, whatever the layout in the file
    classes: int
    pixels: Pixels
    output: Output
    metadata: Mapping[str, str]
    threads: int | None

    def __call__(self, images: NDArray[np.float32]) -> NDArray[np.float32]: ...

    def prepare(self, images: NDArray[np.float32]) -> Callable[[], object]:
        """Place `images` where the runtime wants them and return one inference: it returns when the result is there.

        For timing: the returned call moves nothing between host and device.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class Engine:
    """How a runtime that compiles for a device does so. Formats that are not compiled have no use for it."""

    batch: tuple[int, int, int] = (1, 8, 32)  # smallest, usual and largest
    workspace_mb: int | None = None  # MiB of scratch memory; None: all there is
    tf32: bool = False  # fp32 with the 10 bits of mantissa of TF32
    optimization_level: int = 3  # 0 (fast to build) to 5 (fast to run)
    hardware: Literal["this", "ampere+", "same-sm"] = "this"  # which other GPUs may load the plan
    version_compatible: bool = False  # whether newer minor versions may load the plan
    timing_cache: Path | None = None  # measurements kept from one build to the next


@dataclass(frozen=True, kw_only=True)
class Built:
    """What a build left. `precision` and `census` were found in it, not taken from what was asked."""

    path: Path
    format: str
    precision: str
    census: Mapping[str, int] = field(default_factory=dict)
    companions: tuple[Path, ...] = ()  # files that it cannot do without: weights, sidecar


@dataclass(frozen=True, kw_only=True)
class Provider:
    """One of the things that run a format: a runtime on a kind of device.

    Args:
        check: its name in `compress doctor` for machines, such as `onnxruntime-cuda`.
        title: its name there for people.
        precisions: what it computes in, where the device can.
    """

    check: str
    title: str
    precisions: tuple[str, ...] = PRECISIONS


class Exporter(Protocol):
    """A module of this package, or an object in one. Its facts must be there without an import of anything heavy."""

    @property
    def FORMAT(self) -> str:
        """The name that it is asked for by: its key in `EXPORTERS`, or `package.module:name` of a plug-in."""
        ...

    @property
    def TITLE(self) -> str:
        """The format's name for people."""
        ...

    @property
    def SUFFIXES(self) -> tuple[str, ...]:
        """What its files end with, such as `.onnx`: first what it writes, then what else it opens."""
        ...

    @property
    def PROVIDERS(self) -> Mapping[str, Provider]:
        """What runs it, by name, the usual one first; `cpu` and `cuda` are for those who work on these devices."""
        ...

    @property
    def RUNTIME_MODULES(self) -> tuple[str, ...]:
        """What a service that serves such a file imports anyway. Its memory is not counted as the file's."""
        ...

    @property
    def COMPILED(self) -> bool:
        """Whether it is compiled for a device from an ONNX file that stays beside it, see `Compiler`."""
        ...

    @property
    def QUANTIZATIONS(self) -> tuple[Quantization, ...]:
        """The INT8 recipes that its runtimes take, the usual one first."""
        ...

    def versions(self) -> Mapping[str, str | None]:
        """Return what its runtime says of itself: `version`, and `cuda`, which it is built for, where there is that.

        Raises:
            RuntimeMissing: it is not here.
        """
        ...

    def require(self) -> None:
        """Return if this machine can build the format.

        Raises:
            RuntimeMissing: the runtime, or the device that it builds for, is not here.
        """
        ...

    def build(self, source: Path, folder: Path, stem: str, *, precision: str, engine: Engine) -> Built:
        """Make an artifact of an ONNX file in `folder`, whole or not at all, named `stem`, its precision, what else
        tells it from others, and its suffix.

        Raises:
            RuntimeMissing: the runtime, or the device that it builds for, is not here.
            ArtifactRejected: `source` is not a classifier that this runtime can read.
            ExportFailed: the build failed, or the artifact does not compute in `precision`.
        """
        ...

    def load(
        self, path: Path, *, provider: str = "cpu", threads: int | None = None, cuda_graph: bool = False
    ) -> Runner:
        """Open an artifact on a provider.

        Raises:
            RuntimeMissing: the runtime, provider or device is not here.
            ArtifactRejected: the file is not what it claims, or does not run on this machine.
        """
        ...


class Plan(Protocol):
    """What a compiled file says of itself."""

    @property
    def format(self) -> str: ...

    @property
    def source(self) -> str:
        """The name of the ONNX file beside it that it was built from."""
        ...

    @property
    def source_sha256(self) -> str: ...


class Compiler(Exporter, Protocol):
    """An `Exporter` with `COMPILED`: what it makes is bound to a machine, and is made anew elsewhere."""

    def described(self, path: Path) -> Plan:
        """Return what a file with its suffix says of itself; formats that share a suffix are told apart by it.

        Raises:
            ArtifactRejected: it says nothing, or what it says is damaged.
        """
        ...

    def rebuild(self, path: Path) -> Built:
        """Build a file again for this machine from the ONNX file beside it, with the same settings.

        Raises:
            ArtifactRejected: the ONNX file is absent or another one.
            RuntimeMissing, ExportFailed: see `build`.
        """
        ...


# format -> module, or module:object. To add one: its folder, then this line.
EXPORTERS: dict[str, str] = {
    "onnx": "exporters.onnx",
    "trt": "exporters.tensorrt:TENSORRT",
    "trt-rtx": "exporters.tensorrt:TENSORRT_RTX",
    "openvino": "exporters.openvino",
}


def exporter(name: str) -> Exporter:
    """Return the exporter of a format in `EXPORTERS`. No runtime is needed yet, and nothing heavy is imported."""
    module, _, attribute = EXPORTERS[name].partition(":")
    found = import_module(module)
    return cast(Exporter, getattr(found, attribute) if attribute else found)


def provider_on(exporter: Exporter, device: str) -> str:
    """Return what runs a format for someone who works on a kind of device, `cpu` or `cuda`: that, or all there is."""
    return device if device in exporter.PROVIDERS else next(iter(exporter.PROVIDERS))


def on_first_use(package: str, places: Mapping[str, str]) -> Callable[[str], Any]:
    """Return a `__getattr__` for a package whose names are in heavy modules of its own: name -> module."""

    def imported(name: str) -> Any:
        if name not in places:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(f"{package}.{places[name]}"), name)

    return imported
