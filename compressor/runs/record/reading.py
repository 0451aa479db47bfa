"""A record, read back: it may be damaged, edited, or of another version."""

import re
from collections.abc import Iterator
from math import inf
from pathlib import Path

from pydantic import ValidationError

from compressor.errors import InputRejected
from compressor.runs.folder import resume_command
from compressor.runs.record.whole import NAME, Result


def read(folder: Path) -> Result:
    """Return the record of a run folder.

    Raises:
        InputRejected: there is none, it is damaged, or it is of another schema.
    """
    if not (folder / NAME).is_file():
        raise InputRejected(
            f"{folder} has no {NAME}",
            hint=f"finish the run first: {resume_command(folder)}",
        )
    return read_file(folder / NAME)


def read_file(path: Path) -> Result:
    """Return the record in a file that is there.

    Raises:
        InputRejected: it cannot be read, is damaged, of another schema, or holds what no measurement gives.
    """
    try:
        result = Result.model_validate_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputRejected(f"cannot read {path}: {error.strerror}") from error
    except (ValidationError, UnicodeDecodeError) as error:
        problem = error.errors()[0] if isinstance(error, ValidationError) else {"loc": (), "msg": "not text"}
        where = ".".join(str(part) for part in problem["loc"]) or "the file"
        if problem["loc"] == ("result",):
            raise InputRejected(
                f"{path} is not a result record of schema 1: its schema is {problem['input']}"
            ) from None
        raise InputRejected(f"{path} is not a result record of schema 1: {where}: {problem['msg']}") from None
    impossible = next(_impossible(result), None)
    if impossible is not None:
        raise InputRejected(f"{path} holds what was never measured: {impossible}", hint="measure the run again")
    return result


_TIMES = ("p50", "p90", "p95", "p99", "mean", "images_per_s")
_RANGES = {
    **dict.fromkeys(("top1", "top5", "target_top1", "fgsm_top1", "pgd_top1", "autoattack_top1"), (0.0, 100.0)),
    **dict.fromkeys(("ece", "agreement", "boundary_agreement", "teacher_mistakes_fixed", "new_mistakes"), (0.0, 1.0)),
    **dict.fromkeys(("confidence_spread", "confidence_changed", "confidence_kappa"), (0.0, 1.0)),
    "confidence_drop": (-1.0, 1.0),
    **dict.fromkeys(("accuracy_drop", "worst_class_drop"), (-100.0, 100.0)),
    **dict.fromkeys(("size_bytes", "samples"), (1, inf)),
}


def _impossible(result: Result) -> Iterator[str]:
    """Yield what no measurement gives: a record may have been edited, and a gate would divide by it or hold by it."""
    for file in result.files():
        for key, (low, high) in _RANGES.items():
            value = getattr(file.metrics, key)
            if value is not None and not low <= value <= high:  # NaN is in no range
                yield f"{file.name}: {key} {value}"
        for batch, timing in (file.metrics.latency_ms or {}).items():
            if re.fullmatch("[1-9][0-9]{0,8}", batch) is None:
                yield f"{file.name}: {batch!r} is no batch size"
            times = {key: getattr(timing, key) for key in _TIMES} | dict(enumerate(timing.median_ci or ()))
            yield from (
                f"{file.name}: batch {batch}: {'median_ci' if isinstance(key, int) else key} {value}"
                for key, value in times.items()
                if not 0 < value < inf
            )
        for batch, value in (file.teacher_ms or {}).items():
            if not 0 < value < inf:
                yield f"{file.name}: batch {batch}: teacher_ms {value}"
