"""The files that a CI server reads, beside the report: `junit.xml`, `report.md`, `benchmark.json`."""

from __future__ import annotations

from pathlib import Path

from compressor.files import write_text
from compressor.report.github import benchmark
from compressor.report.junit import junit
from compressor.report.markdown import markdown
from compressor.runs.record import Result


def write_ci(result: Result, folder: Path) -> None:
    """Write the files for CI into the report folder of a run."""
    write_text(folder / "junit.xml", junit(result))
    write_text(folder / "report.md", markdown(result))
    write_text(folder / "benchmark.json", benchmark(result))
