"""ONNX: a network as one self-contained file, the file changed into the form that is wanted, and that run.

A file that leaves here maps `input`, pixels in `[0, 1]` or uint8, to `logits` or `probabilities`, has its batch size
free unless it came with a fixed one, and bears no trace of the machine it was made on. In that of a network, mean and
standard deviation are inside, and BatchNorm is folded into the convolutions.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from exporters import Provider, Quantization, on_first_use

if TYPE_CHECKING:
    from exporters.onnx.adaptation import adapt, stated_shape
    from exporters.onnx.conversion import convert
    from exporters.onnx.exporter import build, census, export, require, versions
    from exporters.onnx.graph import EXPORTER_VERSION
    from exporters.onnx.reading import read
    from exporters.onnx.runner import OnnxRunner, load

__all__ = [
    "COMPILED",
    "EXPORTER_VERSION",
    "FORMAT",
    "PROVIDERS",
    "QUANTIZATIONS",
    "RUNTIME_MODULES",
    "SUFFIXES",
    "TITLE",
    "OnnxRunner",
    "adapt",
    "build",
    "census",
    "convert",
    "export",
    "load",
    "read",
    "require",
    "stated_shape",
    "versions",
]

FORMAT = "onnx"
TITLE = "ONNX"
SUFFIXES = (".onnx",)
PROVIDERS: Mapping[str, Provider] = {
    "cpu": Provider(check="onnxruntime-cpu", title="ONNX Runtime, cpu", precisions=("fp32", "fp16", "int8")),
    "cuda": Provider(check="onnxruntime-cuda", title="ONNX Runtime, cuda"),
    "tensorrt": Provider(check="onnxruntime-tensorrt", title="ONNX Runtime, tensorrt"),
}
RUNTIME_MODULES = ("onnxruntime",)
COMPILED = False
QUANTIZATIONS: tuple[Quantization, ...] = ("cpu", "trt")

__getattr__ = on_first_use(
    __name__,
    {
        **dict.fromkeys(("adapt", "stated_shape"), "adaptation"),
        **dict.fromkeys(("build", "census", "export", "require", "versions"), "exporter"),
        **dict.fromkeys(("OnnxRunner", "load"), "runner"),
        "EXPORTER_VERSION": "graph",
        "convert": "conversion",
        "read": "reading",
    },
)
