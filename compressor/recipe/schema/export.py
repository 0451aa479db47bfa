"""The files that a recipe writes."""

import json
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, NonNegativeFloat, PositiveInt, field_validator, model_validator

from compressor.choices import CalibrationImages, ExportInput, ExportOutput, ExportPrecision, Quantization
from compressor.errors import did_you_mean
from compressor.methods import Config
from compressor.methods.protocol import refusal
from compressor.plugins import PLUGIN, is_plugin
from compressor.recipe.schema.networks import Quantize
from compressor.recipe.schema.numbers import Fraction
from exporters import EXPORTERS, PRECISIONS, Exporter, exporter

FORMATS = tuple(EXPORTERS)
ENGINES = tuple(name for name in FORMATS if exporter(name).COMPILED)


def _known_format(name: str) -> str:
    if name in FORMATS or is_plugin(name):
        return name
    known, hint = ", ".join(map(repr, FORMATS)), did_you_mean(name, FORMATS) or ""
    raise refusal(f"must be {known} or package.module:name, got {json.dumps(name)}", hint=hint)


Format = Annotated[
    str,
    AfterValidator(_known_format),
    Field(json_schema_extra={"anyOf": [{"enum": list(FORMATS)}, {"pattern": PLUGIN}]}),
]
"""A name in `EXPORTERS`, or `package.module:name`: then the facts of the exporter are known when it is loaded."""


class Calibration(Config):
    """The images that the ranges of INT8 are read from: of the training split, never augmented, never random."""

    images: CalibrationImages = Field(
        default="training", description="or synthetic: made from the statistics in the network's BatchNorm, 128 of them"
    )
    samples: PositiveInt = 512
    boundary: Fraction | None = Field(
        default=None,
        description="share of boundary supporting samples; null: 0.25 where there is a network whose boundary can be "
        "walked to",
    )
    method: Literal["minmax", "entropy", "percentile", "auto"] = Field(
        default="minmax",
        description="how ranges follow from images; auto: the one that loses least on validation images",
    )

    @model_validator(mode="after")
    def _boundary_is_of_training_images(self) -> Self:
        if self.images == "synthetic" and self.boundary:
            raise refusal("is walked to from training images, not from synthetic ones", key="boundary")
        return self


class Engine(Config):
    """How TensorRT builds. The profile is the target's `batch`."""

    workspace_mb: PositiveInt | None = Field(default=None, description="scratch memory in MiB; null: all there is")
    tf32: bool = Field(default=False, description="fp32 with the 10 bits of mantissa of TF32")
    optimization_level: Annotated[int, Field(ge=0, le=5)] = Field(
        default=3, description="5 builds longest, runs fastest"
    )
    hardware: Literal["this", "ampere+", "same-sm"] = Field(default="this", description="which GPUs may load the plan")
    version_compatible: bool = Field(default=False, description="newer minor versions of TensorRT may load the plan")
    timing_cache: Path | None = Field(default=None, description="a file that makes the next build faster")


class Export(Config):
    """One file to write."""

    format: Format = Field(default="onnx", description="or package.module:name, an exporter of your own")
    precision: ExportPrecision = Field(default="fp32", description="bf16 is experimental")
    opset: PositiveInt | None = Field(default=None, description="ONNX operator set; null: 20, for bf16 22")
    input: ExportInput = Field(
        default="float32", description="float32: NCHW in [0, 1]; uint8: NHWC, as an image decoder gives them"
    )
    output: ExportOutput = "logits"
    batch: Annotated[tuple[PositiveInt, ...], Field(min_length=3, max_length=3)] = Field(
        default=(1, 8, 32), description="smallest, usual and largest batch of an engine"
    )
    quantization: Quantization | None = Field(
        default=None, description="of int8: what ONNX Runtime and OpenVINO want, or TensorRT; null: as the format needs"
    )
    calibration: Calibration = Calibration()
    max_drop: NonNegativeFloat | None = Field(
        default=None, description="of int8: keep layers in fp32 until it is proved and loses no more points of top-1"
    )
    engine: Engine = Engine()

    @field_validator("batch")
    @classmethod
    def _grows(cls, batch: tuple[int, ...]) -> tuple[int, ...]:
        if list(batch) != sorted(batch):
            raise refusal("must be the smallest, the usual and the largest batch, in this order")
        return batch

    @model_validator(mode="after")
    def _settings_have_an_effect(self) -> Self:
        fields = type(self).model_fields
        given = {name for name in fields if getattr(self, name) != fields[name].default}
        if self.precision != "int8" and (idle := sorted(given & {"quantization", "calibration", "max_drop"})):
            raise refusal(f"is for precision int8, not {self.precision}", key=idle[0])
        found = self.misfit(exporter(self.format)) if self.format in EXPORTERS else None
        if found is not None:
            raise refusal(found[1], key=found[0])
        return self

    def misfit(self, exporter: Exporter) -> tuple[str, str] | None:
        """Return a setting that does not go with the exporter of `format`, and what is wrong with it; None: all do."""
        fields = type(self).model_fields
        idle = [name for name in ("batch", "engine") if getattr(self, name) != fields[name].default]
        if idle and not exporter.COMPILED:
            return idle[0], f"is for the formats {' and '.join(ENGINES)}, not {self.format}"
        if self.quantization not in (None, *exporter.QUANTIZATIONS):
            return "quantization", f"must be {' or '.join(exporter.QUANTIZATIONS)} for the format {self.format}"
        precisions = [each for each in PRECISIONS if any(each in p.precisions for p in exporter.PROVIDERS.values())]
        if self.precision not in precisions:
            return "precision", f"must be {' or '.join(precisions)} for the format {self.format}, got {self.precision}"
        return None

    def unsuited(self, quantize: Quantize, exporter: Exporter) -> tuple[str, str] | None:
        """Return a setting that a student of so many bits cannot be exported with, and what is wrong with it."""
        kept = f"a student quantised to {quantize.title}"
        if self.precision not in ("int8", "fp32"):
            return "precision", f"{kept} is exported in fp32 with its rounding, or in int8, not in {self.precision}"
        if self.precision == "fp32":
            return None
        if not quantize.integer:
            return "precision", f"{kept} is no INT8: fp32 holds its rounding, computed in floating point"
        if quantize.recipe not in exporter.QUANTIZATIONS or self.quantization not in (None, quantize.recipe):
            wanted = self.quantization or exporter.QUANTIZATIONS[0]
            return "quantization", f"{kept} learned the rounding of {quantize.recipe}, and this would round as {wanted}"
        fields = type(self).model_fields
        idle = [name for name in ("calibration", "max_drop") if getattr(self, name) != fields[name].default]
        return (idle[0], f"{kept} has its ranges from its training, and all its layers in INT8") if idle else None

    @property
    def operators(self) -> int:
        """The ONNX operator set to write: bf16 convolutions came with 22."""
        return self.opset or (22 if self.precision == "bf16" else 20)

    @property
    def variant(self) -> str:
        """What sets the file apart from others of its format and precision, as a part of its name: `""` or `.uint8`."""
        usual = exporter(self.format).QUANTIZATIONS[0] if self.format in EXPORTERS else None
        unusual = None if self.quantization == usual else self.quantization
        parts = (self.input == "uint8" and "uint8", self.output == "probabilities" and "probabilities", unusual)
        return "".join(f".{part}" for part in parts if part)
