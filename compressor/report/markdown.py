"""The result as Markdown: what a pull request shows. All text that is not ours is escaped."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from compressor.report.lost import lost_most
from compressor.report.numbers import megabytes, milliseconds, number
from compressor.report.rendering import escape_markdown
from compressor.report.tally import tally
from compressor.runs.record import Gate, Metrics, Network, Result, batches

_WORST_CLASSES = 3


def markdown(result: Result) -> str:
    """Return the verdict, a table of the files, the gates, and what they were measured on."""
    parts = [
        f"## {_headline(result)}",
        _sentence(result),
        _files(result),
        _doubts(result),
        _gates(result.gates),
        _classes(result),
        _boundary(result.student),
        _environment(result),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _headline(result: Result) -> str:
    name, found = escape_markdown(result.name), tally(result.gates)
    if not found.total:
        return f"{name}: no gates were set"
    if found.broken:
        return f"❌ {name}: {found.broken} of {found.total} gates broken"
    if found.unmeasured:
        return f"❌ {name}: {found.unmeasured} of {found.total} gates not measured"
    if found.undecided:
        return f"⚠️ {name}: no gate broken, {found.undecided} of {found.total} undecided"
    return f"✅ {name}: " + ("the gate held" if found.total == 1 else f"all {found.total} gates held")


def _sentence(result: Result) -> str:
    student = result.student
    if student.top1 is None:
        return _without_labels(student)
    images = f"of {student.samples:,} test images of {escape_markdown(result.data.source)}"
    right = f"The student is right on {student.top1:.2f} % {images}"
    if student.accuracy_drop is None:
        return right + "."
    below = f"{abs(student.accuracy_drop):.2f} points {'below' if student.accuracy_drop > 0 else 'above'} its teacher"
    ends = student.accuracy_drop_ci
    interval = "" if ends is None else f" (95 % interval of the drop: {ends[0]:.2f} to {ends[1]:.2f})"
    return f"{right}, {below if student.accuracy_drop else 'as many as its teacher'}{interval}."


def _without_labels(student: Network) -> str:
    """Return what is known of a student that was measured on no image with a label."""
    if not student.made_agreement:
        return ""
    return f"There are no test images: no accuracy is known. The student decides as its teacher on {student.agreed}."


def _files(result: Result) -> str:
    files = result.files()
    timed = batches(file.metrics for file in files)
    heads = [
        "file",
        "format",
        "MB",
        "top-1 %",
        "agreement",
        "boundary",
        "ECE",
        *(f"p50 ms, batch {batch}" for batch in timed),
    ]
    rows = [[file.name, *_row(file.metrics, timed)] for file in files]
    return _table(heads, rows, numbers=len(heads) - 2)


def _doubts(result: Result) -> str:
    """Name the latencies that other processes disturbed."""
    found = [
        f"{escape_markdown(file.name)} at batch {batch}: {timing.disturbed}"
        for file in result.files()
        for batch, timing in (file.metrics.latency_ms or {}).items()
        if timing.disturbed
    ]
    return f"⚠️ Times are not reliable: {'; '.join(found)}." if found else ""


def _row(file: Metrics, timed: Sequence[str]) -> list[str]:
    arch = f", {file.arch}" if isinstance(file, Network) and file.arch else ""
    shown = [(file.top1, ".2f"), (file.agreement, ".4f"), (file.boundary_agreement, ".4f"), (file.ece, ".4f")]
    return [
        f"{file.label}{arch}",
        megabytes(file.size_bytes),
        *(number(value, form) for value, form in shown),
        *(milliseconds(None if timing is None else timing.p50) for timing in map(file.timing, timed)),
    ]


def _gates(gates: Sequence[Gate]) -> str:
    if not gates:
        return ""
    rows = [[f"{_sign(gate)} {gate.verdict}", gate.gate, gate.artifact, gate.detail] for gate in gates]
    return "### Gates\n\n" + _table(["verdict", "gate", "file", "why"], rows)


def _sign(gate: Gate) -> str:
    if gate.passed:
        return "✅"
    return "⚠️" if gate.passed is None and gate.verdict == "undecided" else "❌"


def _classes(result: Result) -> str:
    worst = lost_most(result, _WORST_CLASSES)
    named = (f"{escape_markdown(each.name)} {each.change:+.2f} points" for each in worst)
    return f"Classes that lost most: {', '.join(named)}." if worst else ""


def _boundary(student: Network) -> str:
    """Return how alike the ways to the boundary are, which only the network itself can tell."""
    if student.magsim is None or student.angsim is None:
        return ""
    return (
        f"The student's boundary against the teacher's, over {student.similarity_walks} walks in both: "
        f"MagSim {student.magsim:.3f}, AngSim {student.angsim:.3f} (1 is the same)."
    )


def _environment(result: Result) -> str:
    facts = {
        "created": result.created,
        "recipe": f"{result.name}, sha256 {result.recipe_sha256[:12]}",
        "data": f"{result.data.source}, {result.data.measured}",
        "training": f"{_stages(result)}, seed {result.training.seed}, epochs {result.training.epochs}, "
        f"{result.training.seconds:.0f} s",
        **{key: str(value) for key, value in result.hardware.items() if value not in (None, [])},
        **result.versions,
    }
    table = _table(["", ""], [[name, value] for name, value in facts.items()])
    return f"<details><summary>Environment</summary>\n\n{table}\n\n</details>"


def _stages(result: Result) -> str:
    """Return the method, or those of all stages in their order."""
    if not result.training.stages:
        return result.training.method
    return " then ".join(
        f"{stage.method} for {stage.epochs}" + (f" without {', '.join(stage.frozen)}" if stage.frozen else "")
        for stage in result.training.stages
    )


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]], *, numbers: int = 0) -> str:
    """Return a table whose last `numbers` columns are set to the right; cells are escaped, heads are ours."""
    marks = ["---"] * (len(heads) - numbers) + ["---:"] * numbers
    lines = [heads, marks, *([escape_markdown(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
