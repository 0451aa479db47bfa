"""Formats a student leaves in, and the runtimes that run them. Knows torch, onnx and numpy, never `compressor`.

An exporter is a module with `export` and `load`; `EXPORTERS` is the list of them, by the name a recipe uses. Modules
are imported when asked for, since each pulls in a runtime.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import nn


class Runner(Protocol):
    """An opened artifact: images `[B, C, H, W]` float32 in `[0, 1]` to logits `[B, K]` float32, both on the host.

    `provider` and `precision` are what is really used, asserted when the artifact was opened: never a fallback.
    """

    path: Path | None
    format: str  # "pytorch", "onnx", ...
    provider: str  # "cpu", "cuda", ...
    precision: str  # "fp32", "fp16", "int8", ...
    input_shape: tuple[int, int, int]
    classes: int
    metadata: Mapping[str, str]
    threads: int | None

    def __call__(self, images: NDArray[np.float32]) -> NDArray[np.float32]: ...

    def prepare(self, images: NDArray[np.float32]) -> Callable[[], object]:
        """Place `images` where the runtime wants them and return one inference: it returns when the result is there.

        For timing: the returned call moves nothing between host and device.
        """
        ...


class Exporter(Protocol):
    """A module of this package."""

    SUFFIX: str

    def export(
        self,
        network: nn.Module,
        path: Path,
        *,
        input_shape: tuple[int, int, int],
        precision: str = "fp32",
        metadata: Mapping[str, str] | None = None,
        **options: Any,
    ) -> None:
        """Write `network` (pixels in `[0, 1]` to logits, normalisation inside) to `path`, whole or not at all."""
        ...

    def load(self, path: Path, *, provider: str = "cpu", threads: int | None = None) -> Runner: ...


# format -> module. To add one: its module, then this line.
EXPORTERS: dict[str, str] = {"onnx": "exporters.onnx"}


def exporter(name: str) -> Exporter:
    """Return the exporter of a format in `EXPORTERS`, importing it."""
    return cast(Exporter, import_module(EXPORTERS[name]))
