"""The sets of words that a recipe and an option share. Only names, so that `--help` comes at once."""

from typing import Literal

from exporters import Output as ExportOutput
from exporters import Pixels as ExportInput
from exporters import Precision as ExportPrecision
from exporters import Quantization

EMBEDDED = "digits"  # the data set that needs no files
OFFICIAL = ("cifar10", "cifar100", "mnist", "fashion_mnist")  # those with files of a known name, and a test split
FOLDER = "folder:"  # before the path of a folder with one folder a class
NOTHING = "none"  # no images: for methods that make their own
DATA = f"{EMBEDDED}, {', '.join(OFFICIAL)}, {FOLDER}PATH package.module:factory or {NOTHING}"

Normalize = Literal["given", "auto"]
ChannelOrder = Literal["rgb", "bgr"]
CalibrationImages = Literal["training", "synthetic"]
TrainPrecision = Literal["fp32", "bf16", "fp16"]
Provider = Literal["cpu", "cuda", "tensorrt", "openvino"]

__all__ = [
    "DATA",
    "EMBEDDED",
    "FOLDER",
    "NOTHING",
    "OFFICIAL",
    "CalibrationImages",
    "ChannelOrder",
    "ExportInput",
    "ExportOutput",
    "ExportPrecision",
    "Normalize",
    "Provider",
    "Quantization",
    "TrainPrecision",
]
