"""`report/model-card.md`: what is known of a student, for those who are to use it. Nothing that was not measured.

Markdown with the front matter of Hugging Face's model cards, https://huggingface.co/docs/hub/model-cards. What only
the publisher knows is left blank and marked.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from compressor.files import write_text
from compressor.report.bom import data_name
from compressor.report.lost import lost_most
from compressor.report.numbers import megabytes, milliseconds, number
from compressor.report.rendering import Verbatim, render
from compressor.runs import manifest, record
from compressor.runs.folder import Run

NAME = "model-card.md"
_LOST_MOST = 10


def write_card(run: Run, result: record.Result) -> Path:
    """Write the model card of a run whose manifest is written, and return where it is.

    Raises:
        InputRejected: the run has no manifest.
    """
    lineage = manifest.read(run.folder).lineage
    text = render(
        "model-card.md.j2",
        front_matter=Verbatim(_front_matter(result)),
        method=Verbatim(_method(run)),
        name=result.name,
        result=result,
        data=data_name(result.data),
        files=[(file.file_name, file.metrics) for file in result.files()],
        latencies=_latencies(result),
        lost=lost_most(result, _LOST_MOST),
        unmeasured=_unmeasured(result),
        lineage=lineage,
        placeholder=Verbatim("**To be filled in by the publisher.**"),
        number=_number,
        interval=_interval,
        points=_points,
        mb=megabytes,
        milliseconds=milliseconds,
    )
    path = run.report.with_name(NAME)
    write_text(path, text)
    return path


def _front_matter(result: record.Result) -> str:
    student = result.student
    facts: dict[str, Any] = {
        "library_name": "compressor",
        "pipeline_tag": "image-classification",
        "tags": ["image-classification", *(["knowledge-distillation"] if result.teacher else [])],
    }
    if student.top1 is not None:
        task = {"type": "image-classification"}
        data = {"name": data_name(result.data), "type": data_name(result.data), "split": "test"}
        # Hugging Face counts accuracy from 0 to 1.
        metrics = [{"type": "accuracy", "name": "top-1", "value": round(student.top1 / 100, 6)}]
        results = [{"task": task, "dataset": data, "metrics": metrics}]
        facts["model-index"] = [{"name": result.name, "results": results}]
    return yaml.safe_dump(facts, sort_keys=False, allow_unicode=True).rstrip()


def _method(run: Run) -> str:
    """Return the sections of the recipe that training went by, as a block of YAML."""
    recipe = yaml.safe_load(run.recipe.read_text(encoding="utf-8"))
    sections = {name: recipe[name] for name in ("method", "train", "stages") if name in recipe}
    return yaml.safe_dump(sections, sort_keys=False, allow_unicode=True).rstrip()


def _latencies(result: record.Result) -> list[tuple[str, str, str, record.Timing]]:
    """Return what was timed: the file, what ran it, the batch size, the times."""
    return [
        (file.file_name, file.metrics.provider or "", batch, timing)
        for file in result.files()
        for batch, timing in (file.metrics.latency_ms or {}).items()
    ]


def _unmeasured(result: record.Result) -> list[str]:
    """Return what a reader might look for and nobody measured."""
    student = result.student
    asked: dict[str, object] = {
        "accuracy": student.top1,
        "calibration": student.ece,
        "accuracy under attack": student.pgd_top1,
        "latency": student.latency_ms,
    }
    if result.teacher is not None:
        asked |= {"agreement with the teacher": student.agreement}
        asked |= {"agreement on the teacher's boundary": student.boundary_agreement}
    return [name for name, value in asked.items() if value is None]


def _number(value: float | None, digits: int = 2) -> str:
    return number(value, f",.{digits}f")


def _points(value: float | None) -> str:
    """Return a change in points, zero without a sign."""
    return "–" if value is None else f"{value:+.2f}" if round(value, 2) else "0.00"


def _interval(bounds: tuple[float, float] | None) -> Verbatim:
    return Verbatim("" if bounds is None else f" ({bounds[0]:.2f} to {bounds[1]:.2f})")
