"""OpenVINO: an ONNX graph written as IR, `.xml` with `.bin` beside it, and run on the CPU in the precision it has.

Left alone, OpenVINO computes fp32 graphs in bf16 where the CPU can, and saves their weights as fp16. Here the precision
is stated, read back after compiling, and counted once more in the kernels that the CPU was really given.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from exporters import Provider, Quantization, on_first_use

if TYPE_CHECKING:
    from exporters.openvino.exporter import build, load, require, versions
    from exporters.openvino.runner import OpenVinoRunner

__all__ = [
    "COMPILED",
    "FORMAT",
    "PROVIDERS",
    "QUANTIZATIONS",
    "RUNTIME_MODULES",
    "SUFFIXES",
    "TITLE",
    "OpenVinoRunner",
    "build",
    "load",
    "require",
    "versions",
]

FORMAT = "openvino"
TITLE = "OpenVINO"
SUFFIXES = (".xml", ".onnx")
PROVIDERS: Mapping[str, Provider] = {"cpu": Provider(check="openvino", title="OpenVINO")}
RUNTIME_MODULES = ("openvino",)
COMPILED = False  # a CPU compiles when it loads
QUANTIZATIONS: tuple[Quantization, ...] = ("cpu",)

__getattr__ = on_first_use(
    __name__, {**dict.fromkeys(("build", "load", "require", "versions"), "exporter"), "OpenVinoRunner": "runner"}
)
