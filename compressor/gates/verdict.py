"""From readings to verdicts, and from verdicts to the end of a command."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from math import isinf
from typing import TYPE_CHECKING

from compressor.errors import GateFailed, InputRejected
from compressor.gates.reading import Interval, Reading, Subject
from compressor.gates.regression import read_baseline
from compressor.gates.table import GATES, GateType, limits
from compressor.runs.record import Gate, Metrics, Result, Verdict

if TYPE_CHECKING:
    from compressor.recipe import Gates
    from compressor.recipe.schema import PerBatch


def judge(gates: Gates, result: Result) -> tuple[Gate, ...]:
    """Return a verdict for each gate that is set, on each artifact of a run, or on the student when there is none.

    A verdict is undecided while the limit lies within the 95 % interval of the value: another test set of this size,
    or another measurement, might well say the opposite. `gates.undecided` says whether that breaks the promise. Where
    it says nothing, differences to the teacher and to the baseline that cannot be proven pass, and limits on a value
    by itself are held against what was measured. A baseline that cannot be read costs its own gates only: by now
    there is much to lose.
    """
    before = _baseline(gates)
    judged: tuple[Metrics, ...] = result.artifacts or (result.student,)
    asked = limits(gates)
    return tuple(
        _judged(name, limit, Subject(file=file, result=result, before=before), undecided=gates.undecided)
        for file in judged
        for name, limit in asked.items()
    )


def promised(verdicts: Sequence[Gate]) -> bool | None:
    """Whether all promises hold: None while there are none, or while one waits for a measurement."""
    if any(verdict.passed is False for verdict in verdicts):
        return False
    return None if not verdicts or any(verdict.verdict == "unmeasured" for verdict in verdicts) else True


def broken(verdicts: Sequence[Gate], *, complete: bool, asked: Collection[str] = ()) -> tuple[Gate, ...]:
    """Return the verdicts that must end a command.

    Args:
        complete: all has been measured that will be, so that a gate that still waits is broken too.
        asked: gates that must be measured by now in any case.
    """
    return tuple(
        verdict
        for verdict in verdicts
        if verdict.passed is False or (verdict.verdict == "unmeasured" and (complete or verdict.gate in asked))
    )


def enforce(verdicts: Sequence[Gate], *, complete: bool, asked: Collection[str] = ()) -> None:
    """Accept the verdicts, or name those that are `broken`.

    Raises:
        GateFailed: a promise does not hold.
    """
    failed = broken(verdicts, complete=complete, asked=asked)
    if failed:
        raise GateFailed(
            f"{len(failed)} of {len(verdicts)} gates failed: "
            + "; ".join(f"{verdict.gate} of {verdict.artifact}: {verdict.detail}" for verdict in failed),
            hint="train longer, take a larger student or a wider precision, or change the limits under gates",
        )


def _baseline(gates: Gates) -> Result | str:
    """Return the record to compare with, or why there is none."""
    if gates.baseline is None:
        return "there is no baseline"
    try:
        return read_baseline(gates.baseline)
    except InputRejected as error:
        return error.message


def _judged(name: str, asked: float | PerBatch, subject: Subject, *, undecided: str | None) -> Gate:
    gate = GATES[name]
    limit = asked if isinstance(asked, int | float) else asked.max
    reading = _read(gate, replace(subject, batch=gate.needed_batch(asked)))
    word = _word(gate, limit, reading, undecided)
    passed = {"held": True, "broken": False, "undecided": False if undecided == "fail" else None}
    return Gate(
        gate=name,
        artifact=subject.file.path,
        limit=limit,
        value=reading.value,
        verdict=word,
        passed=passed.get(word),
        detail=_detail(gate, limit, reading, word),
    )


def _read(gate: GateType, subject: Subject) -> Reading:
    if "running" in gate.needs and subject.file.provider is None:
        return Reading(value=None, basis="the file could not be run where it was built")
    return gate.read(subject)


def _word(gate: GateType, limit: float, reading: Reading, undecided: str | None) -> Verdict:
    if reading.doubt is not None:
        return "undecided"
    if reading.value is None:
        return "unmeasured"
    held = gate.keeps(reading.value, limit)
    if _within(limit, reading.interval) and _needs_proof(gate, undecided, held=held):
        return "undecided"
    return "held" if held else "broken"


def _needs_proof(gate: GateType, undecided: str | None, *, held: bool) -> bool:
    """Whether it matters that the interval holds the limit: noise alone must not fail a build."""
    if gate.proof == "breaking":
        return not held or undecided == "fail"
    return gate.proof == "always" or undecided is not None


def _detail(gate: GateType, limit: float, reading: Reading, word: Verdict) -> str:
    if word == "unmeasured":
        return f"not measured: {reading.basis}"
    unit, side = gate.unit, "least" if gate.direction == "min" else "most"
    parts = [] if reading.doubt is None else [reading.doubt]
    if reading.value is not None:
        known = "" if reading.interval is None else _interval(reading.interval)
        parts.append(f"{reading.value:.4g}{unit}, promised at {side} {limit:g}{unit}; {reading.basis}{known}")
    return ("undecided: " if word == "undecided" else "") + "; ".join(parts)


def _within(limit: float, interval: Interval | None) -> bool:
    return interval is not None and interval[0] <= limit <= interval[1]


def _interval(ends: Interval) -> str:
    return "" if any(map(isinf, ends)) else f", 95 % interval {ends[0]:.4g} to {ends[1]:.4g}"
