"""Distillation methods. To add one: its module, then its line in `METHODS` and in `AnyMethod`."""

import inspect
from typing import Annotated, Any

from pydantic import Field

from compressor.methods.bss import BSS
from compressor.methods.ce import CE
from compressor.methods.kd import KD
from compressor.methods.protocol import Config, Method, Moment, Needs, Objective, Setting, Taps, Update

METHODS: dict[str, type[CE] | type[KD] | type[BSS]] = {"ce": CE, "kd": KD, "bss": BSS}
AnyMethod = Annotated[CE | KD | BSS, Field(discriminator="kind")]


def describe() -> list[dict[str, Any]]:
    """Return name, one line, and the hyper-parameters with their defaults of every method."""
    return [
        {
            "kind": kind,
            "summary": (inspect.getdoc(method) or "").partition("\n")[0],
            "defaults": method().model_dump(mode="json", exclude={"kind"}),
        }
        for kind, method in METHODS.items()
    ]


__all__ = [
    "METHODS",
    "AnyMethod",
    "Config",
    "Method",
    "Moment",
    "Needs",
    "Objective",
    "Setting",
    "Taps",
    "Update",
    "describe",
]
