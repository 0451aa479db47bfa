"""The gates there are, each in one entry: to add one, write it here and its limit in `recipe.schema.Gates`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from compressor.gates import reading, regression
from compressor.gates.reading import Reading, Subject
from compressor.recipe.schema import PerBatch
from compressor.runs.record import Metrics

if TYPE_CHECKING:
    from compressor.recipe import Gates

# `running`: that the file can be run. `one device`: that it runs where the teacher runs. `images`: that there are real
# ones to measure on. `same images`: that the baseline is of these test images. The others are what they are called.
Need = Literal["running", "one device", "teacher", "images", "boundary", "attack", "export", "baseline", "same images"]


@dataclass(frozen=True, kw_only=True)
class GateType:
    """All that is known of a gate.

    `unit` is that of limit and value, with the space before it. `direction` "min" promises at least the limit, "max" at
    most. `read` takes the value from the record. `batch` is the batch size whose latency it is about, where its limit
    does not name one. `lacking` says of the files of a baseline what none of them has, so that nothing could be
    compared, given the batch sizes that will be timed.

    `proof` says when it matters that the limit lies within the 95 % interval of the value: `always`; to break the
    promise (`breaking`) and, where the recipe asks for proof, to hold it too; or `asked`, only where the recipe does.
    """

    read: Callable[[Subject], Reading]
    unit: str = ""
    direction: Literal["max", "min"] = "max"
    needs: tuple[Need, ...] = ("running",)
    proof: Literal["always", "breaking", "asked"] = "asked"
    batch: int | None = None
    lacking: Callable[[Sequence[Metrics], Sequence[int]], str | None] | None = None

    def needed_batch(self, limit: float | PerBatch) -> int | None:
        """Return the batch size whose latency the gate is about; None where it is about no latency."""
        return limit.batch if isinstance(limit, PerBatch) else self.batch

    def keeps(self, value: float, limit: float) -> bool:
        """Whether a value keeps the promise."""
        return value >= limit if self.direction == "min" else value <= limit


GATES: dict[str, GateType] = {
    "max_accuracy_drop": GateType(
        read=reading.accuracy_drop, unit=" points", needs=("running", "images", "teacher"), proof="always"
    ),
    "min_top1": GateType(read=reading.top1, unit=" %", direction="min", needs=("running", "images")),
    "min_agreement": GateType(read=reading.agreement, direction="min", needs=("running", "images", "teacher")),
    "min_boundary_agreement": GateType(
        read=reading.boundary_agreement, direction="min", needs=("running", "images", "teacher", "boundary")
    ),
    "max_class_drop": GateType(read=reading.class_drop, unit=" points", needs=("running", "images", "teacher")),
    "max_parity_error": GateType(read=reading.parity_error, needs=("running", "export")),
    "p50_ms": GateType(read=reading.p50, unit=" ms"),
    "p99_ms": GateType(read=reading.p99, unit=" ms"),
    "min_speedup": GateType(
        read=reading.speedup, unit="x", direction="min", needs=("running", "teacher", "one device"), batch=1
    ),
    "max_size_mb": GateType(read=reading.size, unit=" MB", needs=()),
    "min_robust_top1": GateType(
        read=reading.robust_top1, unit=" %", direction="min", needs=("running", "images", "attack")
    ),
    "max_ece": GateType(read=reading.ece, needs=("running", "images")),
    "max_confidence_spread": GateType(read=reading.confidence_spread, needs=("running", "images", "teacher")),
    "max_top1_regression": GateType(
        read=regression.of(regression.top1),
        unit=" points",
        needs=("running", "images", "baseline", "same images"),
        proof="breaking",
        lacking=regression.without("top1", "accuracies"),
    ),
    "max_agreement_regression": GateType(
        read=regression.of(regression.agreement),
        needs=("running", "images", "teacher", "baseline", "same images"),
        proof="breaking",
        lacking=regression.without("agreement", "agreements with the teacher"),
    ),
    "max_latency_regression": GateType(
        read=regression.of(regression.latency),
        unit=" %",
        needs=("running", "baseline"),
        proof="breaking",
        lacking=regression.without_batches,
    ),
    "max_size_regression": GateType(
        read=regression.of(regression.size), unit=" %", needs=("baseline",), proof="breaking"
    ),
}


def needing(need: Need) -> list[str]:
    """Return the names of the gates that need something."""
    return [name for name, gate in GATES.items() if need in gate.needs]


def limits(gates: Gates) -> dict[str, float | PerBatch]:
    """Return the limits that a recipe sets, by the name of the gate."""
    asked = {name: getattr(gates, name) for name in GATES}
    return {name: limit for name, limit in asked.items() if limit is not None}
