"""A recipe, an epoch and a record as flat names and numbers, the same for every tracker."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from compressor.dotted import dotted
from compressor.recipe import Recipe
from compressor.runs import record

_MEASURES = (
    *("top1", "top5", "ece", "nll", "agreement", "boundary_agreement", "accuracy_drop", "worst_class_drop"),
    *("teacher_mistakes_fixed", "new_mistakes", "confidence_drop", "confidence_spread", "confidence_changed"),
    *("fgsm_top1", "pgd_top1", "autoattack_top1", "size_bytes"),
)
_TIMES = ("p50", "p99", "images_per_s")


def parameters(recipe: Recipe) -> dict[str, str]:
    """Return the recipe by dotted names, `train.lr`, without what is null and what the trackers are told about."""
    values = recipe.model_dump(mode="json", by_alias=True, exclude={"tracking"})
    return {
        name: value if isinstance(value, str) else json.dumps(value)
        for name, value in dotted(values).items()
        if value is not None
    }


def of_epoch(row: Mapping[str, Any]) -> dict[str, float]:
    """Return the metrics of an epoch: `loss/TERM`, `lr`, `validation_top1` in percent, `images_per_s`, `seconds`."""
    names = ("lr", "validation_top1", "images_per_s", "seconds")
    losses = {f"loss/{name}": value for name, value in row["losses"].items()}
    notes = {f"note/{name}": value for name, value in row.get("notes", {}).items()}
    return losses | notes | {name: float(row[name]) for name in names if row[name] is not None}


def of_result(result: record.Result) -> dict[str, float]:
    """Return what was measured of each file, `student/top1` or `student.int8.onnx/p50_ms_b1`, in the record's units."""
    return {
        f"{file.file_name}/{measure}": value for file in result.files() for measure, value in _of_file(file.metrics)
    }


def _of_file(file: record.Metrics) -> Iterator[tuple[str, float]]:
    for name in _MEASURES:
        value = getattr(file, name)
        if value is not None:
            yield name, float(value)
    if isinstance(file, record.Artifact) and file.parity is not None:
        yield "parity_max_error", file.parity.max_error
    for batch, timing in (file.latency_ms or {}).items():
        for name in _TIMES:
            yield f"{name}_ms_b{batch}" if name.startswith("p") else f"{name}_b{batch}", getattr(timing, name)
