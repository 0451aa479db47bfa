"""Distillation methods. To add one: its module, then its line in `METHODS` and in `AnyMethod`."""

from typing import Annotated

from pydantic import Field

from compressor.methods.bss import BSS
from compressor.methods.ce import CE
from compressor.methods.kd import KD
from compressor.methods.protocol import Batch, Config, Method, Moment, Needs, Objective, Setting, Taps, Update

METHODS: dict[str, type[Method]] = {"ce": CE, "kd": KD, "bss": BSS}
AnyMethod = Annotated[CE | KD | BSS, Field(discriminator="kind")]

__all__ = [
    "METHODS",
    "AnyMethod",
    "Batch",
    "Config",
    "Method",
    "Moment",
    "Needs",
    "Objective",
    "Setting",
    "Taps",
    "Update",
]
