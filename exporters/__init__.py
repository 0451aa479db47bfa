"""Formats a student leaves in, and the runtimes that run them. Knows torch, onnx and numpy, never `compressor`.

ONNX is the trunk: `onnx.export` writes a network as an fp32 graph, `quantize` and `onnx.convert` give it the precision
and the borders that are wanted, and an `Exporter` builds from that graph what its runtime loads. A graph that comes
from elsewhere enters at the same place. `EXPORTERS` lists the exporters by the name a recipe uses; they are imported
when asked for, since each pulls in a runtime.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol, cast

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# ONNX Runtime counts its use in files below the home folder, from its first import on, unless it is told not to.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

Pixels = Literal["float32", "uint8"]
"""What the file takes: float32 NCHW in [0, 1], or uint8 NHWC as an image decoder gives them."""
Output = Literal["logits", "probabilities"]


class Runner(Protocol):
    """An opened artifact: images `[B, C, H, W]` float32 in `[0, 1]` to logits `[B, K]` float32, both on the host.

    `provider` and `precision` are what is really used, asserted when the artifact was opened: never a fallback.
    An artifact that takes uint8 pixels is given the images rounded to 1/255; one that returns probabilities answers
    with their logarithms, which are logits up to a constant.
    """

    path: Path | None
    format: str  # "pytorch", "onnx", "trt", "trt-rtx", "openvino"
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


class Exporter(Protocol):
    """A module of this package, or an object in one."""

    @property
    def SUFFIX(self) -> str: ...

    @property
    def QUANTIZATION(self) -> Literal["cpu", "trt"]:
        """The INT8 recipe that its runtime wants, see `quantize`."""
        ...

    def require(self) -> None:
        """Return if this machine can build the format.

        Raises:
            RuntimeMissing: the runtime, or the device that it builds for, is not here.
        """
        ...

    def build(self, source: Path, folder: Path, stem: str, *, precision: str, engine: Engine) -> Built:
        """Make an artifact of an ONNX file in `folder`, whole or not at all, named `stem`, its precision, what else
        tells it from others, and `SUFFIX`.

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


# format -> module, or module:object. To add one: its module, then this line.
EXPORTERS: dict[str, str] = {
    "onnx": "exporters.onnx",
    "trt": "exporters.tensorrt:TENSORRT",
    "trt-rtx": "exporters.tensorrt:TENSORRT_RTX",
    "openvino": "exporters.openvino",
}


def exporter(name: str) -> Exporter:
    """Return the exporter of a format in `EXPORTERS`, importing its module. No runtime is needed yet."""
    module, _, attribute = EXPORTERS[name].partition(":")
    found = import_module(module)
    return cast(Exporter, getattr(found, attribute) if attribute else found)
