"""The table of all files: a row a measure, a column a file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from compressor.report.numbers import NONE, count, megabytes, milliseconds, number, signed, times
from compressor.runs.record import Artifact, Metrics, Named, Timing, batches


@dataclass(frozen=True)
class Cell:
    """One number of one file; the note below it is its interval."""

    text: str
    note: str = ""


@dataclass(frozen=True)
class Measure:
    """A row of the table: one number of every file."""

    label: str
    unit: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Group:
    """Rows that belong together, under a title."""

    title: str
    measures: tuple[Measure, ...]


@dataclass(frozen=True)
class Row:
    """What a row is called, and how it shows a file."""

    label: str
    unit: str
    show: Callable[[Named], Cell]


def measures(files: Sequence[Named]) -> tuple[Group, ...]:
    """Return the table of all files; rows that nobody has are left out."""
    timed = batches(file.metrics for file in files)
    rows = _ROWS | {f"Latency, batch {batch}": _latency(batch) for batch in timed}
    groups = [Group(title, _measures(files, wanted)) for title, wanted in rows.items()]
    return tuple(group for group in groups if group.measures)


def _measures(files: Sequence[Named], rows: Sequence[Row]) -> tuple[Measure, ...]:
    found = [Measure(row.label, row.unit, tuple(map(row.show, files))) for row in rows]
    return tuple(row for row in found if any(cell.text != NONE for cell in row.cells))


def _cell(value: float | None, form: str) -> Cell:
    return Cell(number(value, form))


def _with_interval(value: float | None, ends: tuple[float, float] | None) -> Cell:
    if value is None or ends is None:
        return _cell(value, ".2f")
    return Cell(f"{value:.2f}", f"{signed(ends[0])} to {signed(ends[1])}")


def _similar(file: Named, value: float | None) -> Cell:
    return Cell(NONE) if value is None else Cell(signed(value, 3), f"{file.metrics.similarity_walks} walks")


def _spread(metrics: Metrics) -> Cell:
    if metrics.confidence_spread is None or metrics.confidence_kappa is None:
        return _cell(metrics.confidence_spread, ".3f")
    verdict = "preserved: at most" if metrics.confidence_preserved else "not preserved: over"
    return Cell(f"{metrics.confidence_spread:.3f}", f"{verdict} {metrics.confidence_kappa:.3f}")


def _parity(file: Named) -> Cell:
    known = file.metrics.parity if isinstance(file.metrics, Artifact) else None
    return _cell(None if known is None else known.max_error, ".2g")


_ROWS: dict[str, tuple[Row, ...]] = {
    "Accuracy on the test images": (
        Row("Top-1, with 95 % interval", "%", lambda file: _with_interval(file.metrics.top1, file.metrics.top1_ci)),
        Row(
            "Top-1 in the target domain, with 95 % interval",
            "%",
            lambda file: _with_interval(file.metrics.target_top1, file.metrics.target_top1_ci),
        ),
        Row("Top-5", "%", lambda file: _cell(file.metrics.top5, ".2f")),
        Row("Calibration error (ECE)", "", lambda file: _cell(file.metrics.ece, ".4f")),
        Row("Negative log-likelihood", "nats", lambda file: _cell(file.metrics.nll, ".4f")),
    ),
    "Against the teacher": (
        Row(
            "Accuracy lost, with 95 % interval",
            "points",
            lambda file: _with_interval(file.metrics.accuracy_drop, file.metrics.accuracy_drop_ci),
        ),
        Row("Largest loss of a class", "points", lambda file: _cell(file.metrics.worst_class_drop, ".2f")),
        Row("Agreement", "", lambda file: _cell(file.metrics.agreement, ".3f")),
        Row("Teacher's mistakes fixed", "", lambda file: _cell(file.metrics.teacher_mistakes_fixed, ".3f")),
        Row("New mistakes", "", lambda file: _cell(file.metrics.new_mistakes, ".3f")),
        Row("Spread of the confidence lost", "", lambda file: _spread(file.metrics)),
        Row("Largest logit error against the student", "", _parity),
    ),
    "Under attack and at the boundary": (
        Row("Boundary agreement", "", lambda file: _cell(file.metrics.boundary_agreement, ".3f")),
        Row("Ways to the boundary, likeness of length (MagSim)", "", lambda file: _similar(file, file.metrics.magsim)),
        Row("Ways to the boundary, likeness of angle (AngSim)", "", lambda file: _similar(file, file.metrics.angsim)),
        Row("Top-1 under FGSM", "%", lambda file: _cell(file.metrics.fgsm_top1, ".2f")),
        Row("Top-1 under PGD", "%", lambda file: _cell(file.metrics.pgd_top1, ".2f")),
        Row("Top-1 under AutoAttack", "%", lambda file: _cell(file.metrics.autoattack_top1, ".2f")),
    ),
    "Size": (
        Row("Parameters", "", lambda file: Cell(count(file.network.parameters))),
        Row("Multiply-accumulates an image", "", lambda file: Cell(count(file.network.macs))),
        Row("File size", "MB", lambda file: Cell(megabytes(file.metrics.size_bytes))),
    ),
}


def _latency(batch: str) -> tuple[Row, ...]:
    """Return the rows of a batch size, which files that were not timed at it have no number in."""

    def timed(show: Callable[[Timing], Cell]) -> Callable[[Named], Cell]:
        return lambda file: Cell(NONE) if (timing := file.metrics.timing(batch)) is None else show(timing)

    return (
        Row("Median (p50), with 95 % interval", "ms", timed(_median)),
        Row("p90", "ms", timed(lambda timing: Cell(milliseconds(timing.p90)))),
        Row("p99", "ms", timed(lambda timing: Cell(milliseconds(timing.p99)))),
        Row("Throughput", "images/s", timed(lambda timing: _cell(timing.images_per_s, ",.0f"))),
        Row("Speed-up over the teacher", "", lambda file: Cell(times(file.speed_up(batch)))),
        Row("Of it by the network, in the same runtime", "", lambda file: Cell(times(_by_network(file, batch)))),
        Row("Energy a call", "J", timed(lambda timing: _cell(timing.energy_j, ".4g"))),
        Row("Peak memory", "MB", timed(lambda timing: _cell(timing.peak_memory_mb, ".4g"))),
    )


def _by_network(file: Named, batch: str) -> float | None:
    split = file.split(batch)
    return None if split is None else split[1]


def _median(timing: Timing) -> Cell:
    ends = timing.median_ci
    return Cell(milliseconds(timing.p50), "" if ends is None else " to ".join(map(milliseconds, ends)))
