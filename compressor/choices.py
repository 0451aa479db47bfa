"""The sets of words that a recipe and an option share. Only names, so that `--help` comes at once."""

from typing import Literal

from exporters import Output as ExportOutput
from exporters import Pixels as ExportInput
from exporters import Precision as ExportPrecision
from exporters import Quantization

EMBEDDED = "digits"  # the data set that needs no files
OFFICIAL = ("cifar10", "cifar100", "mnist", "fashion_mnist")  # those with files of a known name, and a test split
FOLDER = "folder:"  # before the path of a folder with one folder a class
HF = "hf:"  # before the name or folder of a data set that Hugging Face datasets opens
WDS = "wds:"  # before a pattern of shards as webdataset writes them
NOTHING = "none"  # no images: for methods that make their own
FILES = f"{FOLDER}PATH, {HF}NAME, {HF}PATH, {WDS}PATTERN"  # of encoded images
DATA = f"{EMBEDDED}, {', '.join(OFFICIAL)}, {FILES}, package.module:factory or {NOTHING}"


def is_elsewhere(shard: str) -> bool:
    """Whether a shard of `wds:` is an address or a command, for which a network or a shell would be asked."""
    return "://" in shard or shard.startswith("pipe:")


Normalize = Literal["given", "auto"]
ChannelOrder = Literal["rgb", "bgr"]
CalibrationImages = Literal["training", "synthetic"]
TrainPrecision = Literal["fp32", "bf16", "fp16"]
Provider = Literal["cpu", "cuda", "tensorrt", "openvino"]
Where = Literal["local", "ray"]

__all__ = [
    "DATA",
    "EMBEDDED",
    "FILES",
    "FOLDER",
    "HF",
    "NOTHING",
    "OFFICIAL",
    "WDS",
    "CalibrationImages",
    "ChannelOrder",
    "ExportInput",
    "ExportOutput",
    "ExportPrecision",
    "Normalize",
    "Provider",
    "Quantization",
    "TrainPrecision",
    "Where",
    "is_elsewhere",
]
