"""Several runs on one page: their files under one another, and whether their numbers may be compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from compressor.machine.hardware import differing
from compressor.report.contents import Contents
from compressor.runs.record import TEACHER, Named, Result


def compared(several: Sequence[Contents]) -> tuple[Named, ...]:
    """Return the files of all runs under labels that tell them apart; a teacher that several share comes once."""
    files: list[Named] = []
    for contents in several:
        for file in contents.files:
            if file.name != TEACHER:
                files.append(replace(file, label=f"{contents.name}: {file.label}"))
            elif file.metrics.sha256 not in {each.metrics.sha256 for each in files}:
                files.append(file)
    return tuple(files)


def same_data(results: Sequence[Result]) -> bool:
    """Whether all runs were measured on the same images."""
    return len({result.data.fingerprint for result in results}) <= 1


def same_machine(results: Sequence[Result]) -> bool:
    """Whether the latencies of all runs are of one kind of machine."""
    return not any(differing(results[0].hardware, result.hardware) for result in results)
