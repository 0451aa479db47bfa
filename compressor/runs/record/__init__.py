"""`result.json`: the one record of a run, documented field by field in docs/result.md.

Accuracies and drops are percent and points, agreements, ECE and errors fractions, times milliseconds. A value that was
not measured is null, never zero.
"""

from compressor.runs.record.files import (
    Artifact,
    Calibration,
    Metrics,
    Network,
    Parity,
    Record,
    Timing,
    batches,
    speed_up,
)
from compressor.runs.record.reading import read, read_file
from compressor.runs.record.whole import (
    NAME,
    STUDENT,
    TEACHER,
    Data,
    Gate,
    Named,
    Part,
    Result,
    Training,
    Verdict,
)

__all__ = [
    "NAME",
    "STUDENT",
    "TEACHER",
    "Artifact",
    "Calibration",
    "Data",
    "Gate",
    "Metrics",
    "Named",
    "Network",
    "Parity",
    "Part",
    "Record",
    "Result",
    "Timing",
    "Training",
    "Verdict",
    "batches",
    "read",
    "read_file",
    "speed_up",
]
