"""The file of a student that was trained to be rounded: the rounding is the training's, no image decides it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from compressor.models.quantised import Plan, Quantised, placed, tensor_ranges
from compressor.recipe import Export, Quantize
from compressor.runs import record
from exporters import Exporter, quantize
from exporters.errors import ExportFailed


@dataclass(frozen=True)
class Rounding:
    """What a student was trained with, and the ranges of its graph's tensors in an operator set."""

    plan: Plan
    ranges: Callable[[int], Mapping[str, quantize.Range]]

    @staticmethod
    def of(student: Quantised, input_shape: tuple[int, int, int]) -> Rounding:
        """Return that of a trained student. Its graph is looked at when the ranges are asked for."""
        plan = student.described()

        @cache
        def ranges(opset: int) -> Mapping[str, quantize.Range]:
            where = placed(
                student.plain(),
                input_shape,
                weights=plan.weights,
                activations=plan.activations,
                recipe=plan.recipe,
                opset=opset,
            )
            return tensor_ranges(where, plan)

        return Rounding(plan, ranges)

    def expect_carried(self, target: Export, exporter: Exporter) -> None:
        """Refuse a target that would round otherwise.

        Raises:
            ExportFailed: it would; a recipe of formats that are known says so when it is read.
        """
        plan = self.plan
        wanted = Quantize(weights=plan.weights, activations=plan.activations, recipe=plan.recipe)
        problem = target.unsuited(wanted, exporter)
        if problem is not None:
            raise ExportFailed(f"{problem[0]}: {problem[1]}")

    def write(self, trunk: Path, target: Export) -> tuple[Path, record.Calibration]:
        """Write the graph that rounds as the student does beside its fp32 graph, and return what to record of it."""
        plan = self.plan
        ranges = self.ranges(target.operators)
        path = trunk.with_name("rounded.onnx")
        if target.precision == "int8":
            quantize.quantize_trained(trunk, path, recipe=plan.recipe, ranges=ranges)
        else:
            quantize.simulate(trunk, path, recipe=plan.recipe, ranges=ranges, weights=plan.weights)
        return path, record.Calibration(
            recipe=plan.recipe,
            method="running minmax",
            samples=0,
            boundary=0,
            kept_fp32=(),
            drop=None,
            images="trained",
            simulated=None if target.precision == "int8" else plan.title,
        )
