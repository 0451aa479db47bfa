"""What GitHub reads: workflow commands in the log, and the file of github-action-benchmark."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from compressor.printable import printable
from compressor.runs.record import TEACHER, Gate, Result

_DATA = str.maketrans({"%": "%25", "\r": "%0D", "\n": "%0A"})
_PROPERTY = {**_DATA, **str.maketrans({":": "%3A", ",": "%2C"})}


def workflow_commands(gates: Sequence[Gate], *, failed: Collection[Gate]) -> list[str]:
    """Return a workflow command a gate that failed, and a warning for one that is undecided; errors come first.

    GitHub shows ten of each a step.
    """
    errors = [_command("error", gate) for gate in gates if gate in failed]
    return errors + [_command("warning", gate) for gate in gates if gate.verdict == "undecided" and gate not in failed]


def benchmark(result: Result) -> str:
    """Return sizes and median latencies as JSON for github-action-benchmark, tool `customSmallerIsBetter`.

    `range` is half the 95 % interval of the median.
    """
    rows: list[dict[str, Any]] = []
    ours = [(each.name, each.metrics) for each in result.files() if each.name != TEACHER]
    for name, file in ours:
        rows.append({"name": f"{name} size", "unit": "MB", "value": file.size_bytes / 1e6})
        for batch, timing in (file.latency_ms or {}).items():
            row = {"name": f"{name} batch {batch} p50", "unit": "ms", "value": timing.p50}
            if timing.median_ci is not None:
                low, high = timing.median_ci
                row["range"] = f"± {(high - low) / 2:.3g}"
            extra = [f"p99 {timing.p99:.3g} ms", f"{timing.images_per_s:.0f} images/s", f"on {file.provider}"]
            rows.append({**row, "extra": "\n".join([*extra, f"{timing.iterations} samples"])})
    return json.dumps(rows, indent=2, ensure_ascii=False) + "\n"


def _command(kind: str, gate: Gate) -> str:
    title, message = f"gate {gate.gate}", f"{gate.artifact}: {gate.detail}"
    return f"::{kind} title={_told(title, _PROPERTY)}::{_told(message, _DATA)}"


def _told(text: str, marks: Mapping[int, str | int | None]) -> str:
    """Return text as a command takes it: line ends as its marks, and other control characters written out."""
    return "".join(char if char in "\r\n" else printable(char) for char in text).translate(marks)
