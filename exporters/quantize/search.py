"""The fewest layers in fp32 with which a file is of use: it is not refused, and meets a limit on the accuracy lost."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from exporters.errors import ExportFailed
from exporters.precision import weights_by_type
from exporters.quantize.calibrated import Calibrated
from exporters.quantize.graph import Quantized
from exporters.quantize.scheme import WEIGHTED
from exporters.quantize.tools import constants_of


class LosesTooMuch(ExportFailed):
    """However many layers stay in fp32, INT8 does not meet the limit, or is refused."""


@dataclass
class Search:
    """The fewest layers to keep in fp32, found by measuring candidates."""

    calibrated: Calibrated
    drop: Callable[[Path], float]
    max_drop: float
    best: float = np.inf  # points lost by the best candidate so far, of those that were not refused
    refusal: ExportFailed | None = None  # the last

    def run(self) -> tuple[bytes, Quantized]:
        """Return the file and what is in it, with the fewest kept layers that meet the limit."""
        found = self._measured(())
        if found is not None:
            return found
        ranked = list(self.calibrated.harms())
        most = self._most(ranked)
        failed, count = 0, min(1, most)
        while found is None:
            if failed == most:
                raise self._missed(most, len(ranked))
            found = self._measured(ranked[:count])
            if found is None:
                failed, count = count, min(2 * count, most)
        while count - failed > 1:
            middle = (failed + count) // 2
            fewer = self._measured(ranked[:middle])
            if fewer is None:
                failed = middle
            else:
                found, count = fewer, middle
        return found

    def _measured(self, kept: Sequence[str]) -> tuple[bytes, Quantized] | None:
        """Return the candidate that keeps these layers if it meets the limit."""
        content, result = self.calibrated.build(kept)
        candidate = self.calibrated.folder / f"kept{len(kept)}.onnx"  # a name of its own: `drop` may hold it open
        candidate.write_bytes(content)
        try:
            drop = self.drop(candidate)
        except ExportFailed as refusal:
            self.refusal = refusal
            return None
        self.best = min(self.best, drop)
        return (content, replace(result, drop=drop)) if drop <= self.max_drop else None

    def _most(self, ranked: Sequence[str]) -> int:
        """Return how many layers can be kept while most weights, and one layer at least, are in int8."""
        constants = constants_of(self.calibrated.model)
        sizes = {
            node.name: int(np.prod(constants[node.input[1]].dims)) if node.op_type in WEIGHTED else 0
            for node in self.calibrated.nodes
        }
        total = sum(weights_by_type(self.calibrated.model).values())
        int8 = sum(sizes[name] for name in ranked) - np.cumsum([sizes[name] for name in ranked[:-1]], dtype=int)
        return int((2 * int8 > total).sum())

    def _missed(self, most: int, layers: int) -> LosesTooMuch:
        kept = f"with up to {most} of {layers} layers kept in fp32"
        if most < layers - 1:
            kept += ", and keeping more would leave most weights in fp32"
        if self.refusal is not None and not np.isfinite(self.best):
            return LosesTooMuch(
                f"{self.refusal.message}; that is {kept}",
                hint="calibrate on other images, or export with precision fp16",
            )
        return LosesTooMuch(
            f"INT8 loses {self.best:.2f} points at best, more than {self.max_drop:g}, {kept}",
            hint="allow a larger drop, calibrate on other images, or export with precision fp16",
        )
