"""Promises of a recipe, held against what the record says of each file. `table` lists the gates there are."""

from compressor.gates.foresight import require_same_data, unmeasurable
from compressor.gates.regression import read_baseline
from compressor.gates.table import GATES, GateType
from compressor.gates.verdict import broken, enforce, judge, promised

__all__ = [
    "GATES",
    "GateType",
    "broken",
    "enforce",
    "judge",
    "promised",
    "read_baseline",
    "require_same_data",
    "unmeasurable",
]
