"""The closed sets of words that a recipe and an option share. Only names, so that `--help` comes at once."""

from typing import Literal

Normalize = Literal["given", "auto"]
TrainPrecision = Literal["fp32", "bf16", "fp16"]
ExportPrecision = Literal["fp32", "fp16", "bf16", "int8"]
ExportInput = Literal["float32", "uint8"]
ExportOutput = Literal["logits", "probabilities"]
Quantization = Literal["cpu", "trt"]
Provider = Literal["cpu", "cuda", "tensorrt", "openvino"]
