"""Promises of a recipe, held against what the record says of each file."""

from compressor.gates.foresight import require_same_data, unmeasurable
from compressor.gates.regression import read_baseline
from compressor.gates.units import REGRESSIONS, UNITS
from compressor.gates.verdict import broken, enforce, judge, promised

__all__ = [
    "REGRESSIONS",
    "UNITS",
    "broken",
    "enforce",
    "judge",
    "promised",
    "read_baseline",
    "require_same_data",
    "unmeasurable",
]
