"""A comparison of methods, shown: a table for the terminal, Markdown with a plot, and all of it as JSON."""

from pathlib import Path

from compressor.files import write_text
from compressor.report.comparison.compared import NAME, Comparison, Failure
from compressor.report.comparison.plot import to_svg
from compressor.report.comparison.text import sentences, table, to_json, to_markdown

__all__ = ["Comparison", "Failure", "sentences", "table", "to_json", "to_markdown", "to_svg", "write"]


def write(compared: Comparison, folder: Path) -> None:
    """Write `compare.json`, `compare.md` and `compare.svg`."""
    write_text(folder / f"{NAME}.json", to_json(compared) + "\n")
    write_text(folder / f"{NAME}.svg", to_svg(compared))
    write_text(folder / f"{NAME}.md", to_markdown(compared))
