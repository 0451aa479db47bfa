"""The top of the page: whether the promises hold, each gate, and the few numbers that people ask for first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from compressor.report.contents import Contents
from compressor.report.numbers import count, megabytes, signed
from compressor.report.sections.speed import fastest
from compressor.report.tally import tally
from compressor.runs.record import Gate, Named, Network, Result

State = Literal["held", "broken", "open", "plain"]


@dataclass(frozen=True)
class Verdict:
    """The first thing on the page."""

    state: State
    title: str
    sentence: str


@dataclass(frozen=True)
class Promise:
    """One gate, as it is shown: its verdict in a `word`, and `why`."""

    state: State
    word: str
    why: str
    gate: Gate


@dataclass(frozen=True)
class Tile:
    """A number in large letters, with what it is above and what to hold it against below."""

    label: str
    value: str
    note: str


def verdict(contents: Contents) -> Verdict:
    """Say whether the promises hold; without promises, what was kept and what was lost."""
    result = contents.result
    if result is None:
        done = len(contents.epochs)
        return Verdict("open", "Not finished", f"{done} epoch{'s' * (done != 1)} trained so far; nothing is measured.")
    sentence = kept_and_lost(contents)
    found = tally(result.gates)
    if not found.total:
        return Verdict("plain", _right(result), f"{sentence} No gates were set.")
    if found.broken:
        return Verdict("broken", f"{found.broken} of {found.total} gates broken", sentence)
    if found.unmeasured:
        return Verdict("open", f"{found.unmeasured} of {found.total} gates wait for a measurement", sentence)
    if found.undecided:
        return Verdict("open", f"No gate broken, {found.undecided} of {found.total} undecided", sentence)
    return Verdict("held", "The gate held" if found.total == 1 else f"All {found.total} gates held", sentence)


def kept_and_lost(contents: Contents) -> str:
    """Say of a finished run what the student kept of its teacher, what it lost, and what that bought."""
    assert contents.result is not None
    student, teacher = contents.result.student, contents.result.teacher
    if student.top1 is None and student.made_agreement:
        return (
            f"There are no test images: no accuracy is known. The student decides as its teacher on {student.agreed}."
        )
    if student.top1 is None:
        return "The student is trained and nothing of it is measured."
    subject = "network" if teacher is None else "student"
    right = f"The {subject} is right on {student.top1:.2f} % of {student.samples:,} test images"
    if teacher is None or teacher.top1 is None or student.accuracy_drop is None:
        return f"{right}{_within(student.top1_ci, ' %')}."
    drop = student.accuracy_drop
    moved = f"{abs(drop):.2f} points {'below' if drop > 0 else 'above'}" if drop else "just as"
    sentence = f"{right}, {moved} its teacher{_within(student.accuracy_drop_ci, ' points lost')}"
    low, high = student.accuracy_drop_ci or (1.0, 1.0)
    if drop and low <= 0 <= high:
        sentence += ", a difference too small for this test set to prove"
    return f"{sentence}.{_bought(contents.files, student, teacher)}"


def promises(gates: Sequence[Gate]) -> tuple[Promise, ...]:
    """Return the gates, the broken ones first."""
    shown = [_promise(gate) for gate in gates]
    return tuple(sorted(shown, key=lambda promise: ("broken", "open", "held").index(promise.state)))


def tiles(contents: Contents) -> tuple[Tile, ...]:
    """Return the few numbers that people ask for first."""
    if contents.result is None:
        return ()
    student, teacher = contents.result.student, contents.result.teacher
    found = []
    if student.top1 is not None:
        before = "" if teacher is None or teacher.top1 is None else f"teacher {teacher.top1:.2f} %"
        found.append(Tile("Top-1 accuracy", f"{student.top1:.2f} %", before))
    if student.agreement is not None:
        found.append(Tile("Agreement", f"{100 * student.agreement:.1f} %", "same answer as the teacher"))
    if student.boundary_agreement is not None:
        share = f"{100 * student.boundary_agreement:.1f} %"
        found.append(Tile("Boundary agreement", share, "on the teacher's boundary"))
    for kind, agreed in (student.made_agreement or {}).items():
        title = f"Agreement, {kind}"
        found.append(Tile(title, f"{100 * agreed:.1f} %", "same answer as the teacher on images made here"))
    if student.parameters is not None:
        before = "" if teacher is None or teacher.parameters is None else f"teacher {count(teacher.parameters)}"
        found.append(Tile("Parameters", count(student.parameters), before))
    best = fastest(contents.files)
    file = contents.files[-1 - len(contents.result.artifacts)] if best is None else best.file
    before = "" if teacher is None else f", teacher {megabytes(teacher.size_bytes)} MB"
    found.append(Tile("File size", f"{megabytes(file.metrics.size_bytes)} MB", f"{file.label}{before}"))
    if best is not None:
        note = f"{best.file.label}, batch {best.batch}, against the teacher in PyTorch"
        note += f": {best.parts}" if best.parts else ""
        found.append(Tile("Speed-up", f"{best.times:.1f}×", note + (f"; {best.doubt}" if best.doubt else "")))
    return tuple(found)


def _right(result: Result) -> str:
    before, now = result.teacher.top1 if result.teacher else None, result.student.top1
    if now is None:
        agreed = result.student.agreed
        return f"No test images; as the teacher on {agreed}" if agreed else "Trained, not measured"
    return f"{now:.2f} % right" if before is None else f"{now:.2f} % right, the teacher {before:.2f} %"


def _within(ends: tuple[float, float] | None, unit: str) -> str:
    return "" if ends is None else f" (95 % interval {signed(ends[0])} to {signed(ends[1])}{unit})"


def _bought(files: Sequence[Named], student: Network, teacher: Network) -> str:
    """Say how much smaller and faster the student is, where both are known."""
    best = fastest(files)
    if not teacher.parameters or not student.parameters or best is None:
        return ""
    smaller = _times(teacher.parameters / student.parameters, "fewer parameters", "more parameters")
    faster = _times(best.times, "faster", "slower")
    doubt = f" The times are not reliable: {best.doubt}." if best.doubt else ""
    parts = f" ({best.parts})" if best.parts else ""
    return f" It has {smaller} and is {faster} at batch {best.batch} as {best.file.label}{parts}.{doubt}"


def _times(ratio: float, more: str, less: str) -> str:
    return f"{ratio:.1f}× {more}" if ratio >= 1 else f"{1 / ratio:.1f}× {less}"


def _promise(gate: Gate) -> Promise:
    state: State = "open" if gate.passed is None else "held" if gate.passed else "broken"
    word = state if state != "open" else "not measured" if gate.value is None else "undecided"
    return Promise(state, word, gate.detail.removeprefix(f"{word}: "), gate)
