"""Where a quantised network rounds: calls of its own forward pass, by name. Stored in a student's file."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field, model_validator

from exporters import Quantization

_FEWEST, _MOST = 2, 8  # bits
_MACHINES = {"cpu": "CPUs", "trt": "TensorRT"}


class Point(BaseModel):
    """A call whose result is rounded: `module.path/function.number`. Points of one `range` have one grid."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    call: str
    range: int = Field(ge=0)
    bits: int = Field(ge=_FEWEST, le=_MOST)


class Pixels(BaseModel):
    """The convolution that reads the image itself, less `centre`, and a channel of ones."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    call: str
    centre: float


class Plan(BaseModel):
    """All of it: bits of weights and of activations, the export's recipe, and what is rounded.

    `layers` are the calls whose weights are rounded; `low` and `high` are the ranges, by number, when it was written.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    weights: int = Field(ge=_FEWEST, le=_MOST)
    activations: int = Field(ge=_FEWEST, le=_MOST)
    recipe: Quantization
    points: tuple[Point, ...]
    layers: tuple[str, ...]
    pixels: Pixels | None = None
    low: tuple[float, ...]
    high: tuple[float, ...]

    @model_validator(mode="after")
    def _ranges_are_there(self) -> Plan:
        ranges = {point.range for point in self.points}
        if len(self.low) != len(self.high) or ranges != set(range(len(self.low))):
            raise ValueError("its ranges are not those of its points")
        return self

    @property
    def title(self) -> str:
        """`W8A8`: the bits of weights and activations."""
        return f"W{self.weights}A{self.activations}"

    @property
    def sentence(self) -> str:
        """What to say beside the network's name."""
        return f"quantised to {self.title}, rounded as the INT8 file for {_MACHINES[self.recipe]} is"

    @property
    def integer(self) -> bool:
        """Whether an INT8 file computes it, in integers."""
        return self.weights == self.activations == 8

    def same_places(self, other: Plan) -> bool:
        """Whether it rounds the same calls alike, whatever the ranges."""
        return self.model_copy(update={"low": other.low, "high": other.high}) == other
