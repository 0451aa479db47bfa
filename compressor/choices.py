"""The sets of words that a recipe and an option share. Only names, so that `--help` comes at once."""

from typing import Literal

EMBEDDED = "digits"  # the data set that needs no files
OFFICIAL = ("cifar10", "cifar100", "mnist", "fashion_mnist")  # those with files of a known name, and a test split
FOLDER = "folder:"  # before the path of a folder with one folder a class
DATA = f"{EMBEDDED}, {', '.join(OFFICIAL)} or {FOLDER}PATH"

Normalize = Literal["given", "auto"]
TrainPrecision = Literal["fp32", "bf16", "fp16"]
ExportPrecision = Literal["fp32", "fp16", "bf16", "int8"]
ExportInput = Literal["float32", "uint8"]
ExportOutput = Literal["logits", "probabilities"]
Quantization = Literal["cpu", "trt"]
Provider = Literal["cpu", "cuda", "tensorrt", "openvino"]
