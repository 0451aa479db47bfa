"""What the page says, in words, tables and figures; `templates` give it its form. A dash is what is not known."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from markupsafe import Markup

from compressor.report import figures
from compressor.report.pictures import Picture, difference, picture
from compressor.report.record import Artifact, Gate, Metrics, Result, Timing
from compressor.report.story import STUDENT, TEACHER, File, Story

HEAT_MAP = 20  # classes; with more, a list of pairs is easier to read
PAIRS = 12
CLASSES = 10
NONE = "–"

State = Literal["held", "broken", "open", "plain"]


@dataclass(frozen=True)
class Verdict:
    """The first thing on the page."""

    state: State
    title: str
    sentence: str


@dataclass(frozen=True)
class Promise:
    """One gate, as it is shown."""

    state: State
    word: str
    why: str
    gate: Gate


@dataclass(frozen=True)
class Tile:
    label: str
    value: str
    note: str


@dataclass(frozen=True)
class Cell:
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
    title: str
    measures: tuple[Measure, ...]


@dataclass(frozen=True)
class Chart:
    """A figure with its title and a line below."""

    title: str
    svg: Markup
    note: str = ""


@dataclass(frozen=True)
class Key:
    """An entry of a legend: a colour of the page by number, or a colour of its own."""

    label: str
    series: int | None = None
    colour: str | None = None
    mark: str = ""


@dataclass(frozen=True)
class ClassChange:
    name: str
    images: int | None
    teacher: float | None
    student: float | None
    change: float


@dataclass(frozen=True)
class HeatCell:
    """A change of a count: `strength` in `[-1, 1]`, positive where the student says this more often."""

    change: int
    strength: float


@dataclass(frozen=True)
class Pair:
    """How often a true class was taken for another."""

    true: str
    said: str
    teacher: int
    student: int

    @property
    def change(self) -> int:
        return self.student - self.teacher


@dataclass(frozen=True)
class Confusion:
    """What changed from teacher to student. `heat` is by true class, then by what was said; None with many classes."""

    heat: tuple[tuple[HeatCell, ...], ...] | None
    pairs: tuple[Pair, ...]


@dataclass(frozen=True)
class Bar:
    """A probability of a class, `percent` of it as the width of a bar."""

    name: str
    percent: float


@dataclass(frozen=True)
class BoundaryCard:
    base: Picture
    sample: Picture
    change: Picture
    factor: str
    label: str
    target: str
    steps: int
    largest: str
    teacher: tuple[Bar, ...]
    student: tuple[Bar, ...]


@dataclass(frozen=True)
class DisagreementCard:
    picture: Picture
    label: str
    teacher: Bar
    student: Bar
    right: str  # which of them is


@dataclass(frozen=True)
class DisagreementCount:
    """Images that teacher and student decide differently, and who is right about them."""

    images: int
    total: int
    teacher: int
    student: int
    neither: int


@dataclass(frozen=True)
class Plane:
    charts: tuple[Chart, ...]
    keys: tuple[Key, ...]
    classes: tuple[str, ...]  # of the base and its two samples


def verdict(story: Story) -> Verdict:
    """Say whether the promises hold; without promises, what was kept and what was lost."""
    result = story.result
    if result is None:
        done = len(story.epochs)
        return Verdict("open", "Not finished", f"{done} epoch{'s' * (done != 1)} trained so far; nothing is measured.")
    sentence = kept_and_lost(story)
    if not result.gates:
        return Verdict("plain", _kept(result), f"{sentence} No gates were set.")
    total = len(result.gates)
    broken = sum(gate.passed is False for gate in result.gates)
    waiting = sum(gate.verdict == "unmeasured" for gate in result.gates)
    undecided = sum(gate.verdict == "undecided" and gate.passed is None for gate in result.gates)
    if broken:
        return Verdict("broken", f"{broken} of {total} gates broken", sentence)
    if waiting:
        return Verdict("open", f"{waiting} of {total} gates wait for a measurement", sentence)
    if undecided:
        return Verdict("open", f"No gate broken, {undecided} of {total} undecided", sentence)
    return Verdict("held", "The gate held" if total == 1 else f"All {total} gates held", sentence)


def kept_and_lost(story: Story) -> str:
    """Say in a sentence what the student kept of its teacher, what it lost, and what that bought."""
    result = story.result
    assert result is not None
    student, teacher = result.student, result.teacher
    if student.top1 is None:
        return "The student is trained and nothing of it is measured."
    subject = "network" if teacher is None else "student"
    right = f"The {subject} is right on {student.top1:.2f} % of {student.samples:,} test images"
    if teacher is None or teacher.top1 is None or student.accuracy_drop is None:
        return f"{right}{_within(student.top1_ci, ' %')}."
    drop = student.accuracy_drop
    moved = f"{abs(drop):.2f} points {'below' if drop > 0 else 'above'}" if drop else "just as"
    parts = [f"{right}, {moved} its teacher{_within(student.accuracy_drop_ci, ' points lost')}"]
    low, high = student.accuracy_drop_ci or (1.0, 1.0)
    if drop and low <= 0 <= high:
        parts.append(", a difference too small for this test set to prove")
    gains = []
    if teacher.parameters and student.parameters:
        gains.append(_times(teacher.parameters / student.parameters, "fewer parameters", "more parameters"))
    fastest = _fastest(story)
    if fastest is not None:
        file, batch, times = fastest
        gains.append(f"{_times(times, 'faster', 'slower')} at batch {batch} as {file.label}")
    return "".join(parts) + (f". It has {' and is '.join(gains)}." if len(gains) == 2 else ".")


def _kept(result: Result) -> str:
    before, now = result.teacher.top1 if result.teacher else None, result.student.top1
    if now is None:
        return "Trained, not measured"
    return f"{now:.2f} % right" if before is None else f"{now:.2f} % right, the teacher {before:.2f} %"


def promises(gates: Sequence[Gate]) -> tuple[Promise, ...]:
    """Return the gates, the broken ones first."""
    shown = [_promise(gate) for gate in gates]
    return tuple(sorted(shown, key=lambda promise: ("broken", "open", "held").index(promise.state)))


def tiles(story: Story) -> tuple[Tile, ...]:
    """Return the few numbers that people ask for first."""
    result, found = story.result, []
    if result is None:
        return ()
    student, teacher = result.student, result.teacher
    if student.top1 is not None:
        before = "" if teacher is None or teacher.top1 is None else f"teacher {teacher.top1:.2f} %"
        found.append(Tile("Top-1 accuracy", f"{student.top1:.2f} %", before))
    if student.agreement is not None:
        found.append(Tile("Agreement", f"{100 * student.agreement:.1f} %", "same answer as the teacher"))
    if student.boundary_agreement is not None:
        found.append(
            Tile("Boundary agreement", f"{100 * student.boundary_agreement:.1f} %", "on the teacher's boundary")
        )
    if student.parameters is not None:
        before = "" if teacher is None or teacher.parameters is None else f"teacher {_count(teacher.parameters)}"
        found.append(Tile("Parameters", _count(student.parameters), before))
    before = "" if teacher is None else f"teacher {teacher.size_bytes / 1e6:.2f} MB"
    found.append(Tile("File size", f"{student.size_bytes / 1e6:.2f} MB", before))
    fastest = _fastest(story)
    if fastest is not None:
        file, batch, times = fastest
        found.append(Tile("Speed-up", f"{times:.1f}×", f"{file.label}, batch {batch}, against the teacher"))
    return tuple(found)


def measures(files: Sequence[File]) -> tuple[Group, ...]:
    """Return the table of all files: a row a measure, a column a file; rows that nobody has are left out."""
    batches = sorted({batch for file in files for batch in file.metrics.latency_ms or {}}, key=int)
    groups = [
        Group("Accuracy on the test images", _rows(files, _ACCURACY)),
        Group("Against the teacher", _rows(files, _AGAINST)),
        Group("Under attack and at the boundary", _rows(files, _ATTACKED)),
        Group("Size", _rows(files, _SIZE)),
        *(Group(f"Latency, batch {batch}", _latency(files, batch)) for batch in batches),
    ]
    return tuple(group for group in groups if group.measures)


def training(stories: Sequence[Story]) -> tuple[Chart, ...]:
    """Draw the validation accuracy and each loss term over the epochs, a curve a run."""
    terms = list(dict.fromkeys(term for story in stories for row in story.epochs for term in row["losses"]))
    wanted = [("Validation accuracy", "top-1, %", "validation_top1"), *((f"Loss: {term}", "", term) for term in terms)]
    charts: list[Chart] = []
    for title, unit, key in wanted:
        lines = [_line(number, story, key) for number, story in enumerate(stories)]
        lines = [line for line in lines if line.x]
        if lines:
            description = f"{title} over epochs. " + " ".join(
                f"{stories[line.series].name}: from {line.y[0]:.4g} to {line.y[-1]:.4g}." for line in lines
            )
            svg = figures.curves(lines, unit=unit, description=description, name=f"curve{len(charts)}")
            charts.append(Chart(title, svg))
    return tuple(charts)


def frontiers(files: Sequence[File]) -> tuple[Chart, ...]:
    """Draw accuracy over latency with the Pareto front, a chart a batch size."""
    charts: list[Chart] = []
    for batch in sorted({batch for file in files for batch in file.metrics.latency_ms or {}}, key=int):
        placed = [
            (number, file, timing.p50, file.metrics.top1)
            for number, file in enumerate(files)
            if (timing := (file.metrics.latency_ms or {}).get(batch)) and file.metrics.top1 is not None
        ]
        if not placed:
            continue
        front = pareto([(latency, top1) for _, _, latency, top1 in placed])
        points = [
            figures.Point(number, latency, top1, file.metrics.top1_ci, on_front)
            for (number, file, latency, top1), on_front in zip(placed, front, strict=True)
        ]
        words = "; ".join(f"{file.label} {latency:.3g} ms, {top1:.2f} %" for _, file, latency, top1 in placed)
        best = ", ".join(file.label for (_, file, _, _), on in zip(placed, front, strict=True) if on)
        svg = figures.frontier(points, description=f"Top-1 over median latency: {words}.", name=f"front{batch}")
        charts.append(Chart(f"Batch {batch}", svg, f"On the front: {best}."))
    return tuple(charts)


def pareto(points: Sequence[tuple[float, float]]) -> tuple[bool, ...]:
    """Return whether each (latency, accuracy) is on the front: no other is as good in both and better in one."""
    return tuple(
        not any(
            other[0] <= own[0] and other[1] >= own[1] and other != own  # equal points do not push each other off
            for other in points
        )
        for own in points
    )


def latencies(story: Story) -> tuple[Chart, ...]:
    """Draw how the latencies of each file are spread, a chart a batch size."""
    if story.benchmark is None:
        return ()
    numbers = {file.name: number for number, file in enumerate(story.files)}
    by_batch: dict[int, list[figures.Row]] = {}
    noise: dict[int, str] = {}
    for name, taken in story.benchmark.latencies.items():
        for latency in taken:
            if name in numbers and latency.samples_ms:
                by_batch.setdefault(latency.batch, []).append(figures.Row(numbers[name], latency.samples_ms))
                if latency.noisy:
                    noise[latency.batch] = f"Not reliable: {latency.noisy}."
    return tuple(
        Chart(
            f"Batch {batch}",
            figures.distributions(rows, description=_spread(rows, story), name=f"spread{batch}"),
            noise.get(batch, ""),
        )
        for batch, rows in sorted(by_batch.items())
    )


def class_changes(story: Story) -> tuple[ClassChange, ...]:
    """Return the classes that lost most from teacher to student, the worst first."""
    if story.result is None or story.result.student.class_change is None:
        return ()
    student, teacher = story.result.student, story.result.teacher
    answer = story.answer(STUDENT)
    sizes = {} if answer is None else dict(enumerate(np.bincount(answer.labels, minlength=len(story.classes)).tolist()))
    found = [
        ClassChange(
            name,
            sizes.get(number),
            ((teacher and teacher.class_accuracy) or {}).get(name),
            (student.class_accuracy or {}).get(name),
            change,
        )
        for number, (name, change) in enumerate((student.class_change or {}).items())
        if change is not None
    ]
    return tuple(sorted(found, key=lambda each: each.change)[:CLASSES])


def confusion(story: Story) -> Confusion | None:
    """Return how the mistakes changed from teacher to student."""
    teacher, student = story.answer(TEACHER), story.answer(STUDENT)
    if teacher is None or student is None:
        return None
    names = story.classes
    count = len(names)
    counts = [_pair_counts(each.labels, each.classes, count) for each in (teacher, student)]
    changed = {pair: counts[1].get(pair, 0) - counts[0].get(pair, 0) for pair in counts[0] | counts[1]}
    mistakes = [pair for pair, change in changed.items() if change and pair[0] != pair[1]]
    pairs = tuple(
        Pair(names[true], names[said], counts[0].get((true, said), 0), counts[1].get((true, said), 0))
        for true, said in sorted(mistakes, key=lambda pair: (-abs(changed[pair]), pair))[:PAIRS]
    )
    if count > HEAT_MAP:
        return Confusion(None, pairs)
    largest = max(map(abs, changed.values()), default=0) or 1
    heat = tuple(
        tuple(HeatCell(changed.get((true, said), 0), changed.get((true, said), 0) / largest) for said in range(count))
        for true in range(count)
    )
    return Confusion(heat, pairs)


def disagreement_count(story: Story) -> DisagreementCount | None:
    """Count the images that teacher and student decide differently."""
    teacher, student = story.answer(TEACHER), story.answer(STUDENT)
    if teacher is None or student is None:
        return None
    apart = teacher.classes != student.classes
    rights = [apart & (each.classes == student.labels) for each in (teacher, student)]
    taught, learned = (int(right.sum()) for right in rights)
    total = int(apart.sum())
    return DisagreementCount(total, len(apart), taught, learned, total - taught - learned)


def boundary_cards(story: Story) -> tuple[BoundaryCard, ...]:
    """Return the boundary samples as pictures with what both networks say of them."""
    cards = []
    for example in story.looked.examples:
        change, factor = difference(example.base, example.sample)
        shown = sorted({example.label, example.target, int(example.teacher.argmax()), int(example.student.argmax())})
        cards.append(
            BoundaryCard(
                base=picture(example.base),
                sample=picture(example.sample),
                change=picture(change),
                factor=f"{factor:.3g}×",
                label=story.classes[example.label],
                target=story.classes[example.target],
                steps=example.steps,
                largest=f"{255 * float(np.abs(example.sample - example.base).max()):.3g}/255",
                teacher=tuple(Bar(story.classes[each], 100 * float(example.teacher[each])) for each in shown),
                student=tuple(Bar(story.classes[each], 100 * float(example.student[each])) for each in shown),
            )
        )
    return tuple(cards)


def disagreement_cards(story: Story) -> tuple[DisagreementCard, ...]:
    """Return the images that teacher and student decide differently, with both answers."""
    names = story.classes
    cards = []
    for each in story.looked.disagreements:
        right = {each.teacher: TEACHER, each.student: STUDENT}.get(each.label, "neither")
        cards.append(
            DisagreementCard(
                picture=picture(each.image),
                label=names[each.label],
                teacher=Bar(names[each.teacher], 100 * each.teacher_probability),
                student=Bar(names[each.student], 100 * each.student_probability),
                right=right,
            )
        )
    return tuple(cards)


def plane(story: Story) -> Plane | None:
    """Draw the decision regions of both networks in the plane of three images."""
    cut = story.looked.plane
    if cut is None:
        return None
    tops = np.concatenate([cut.teacher.argmax(axis=2).ravel(), cut.student.argmax(axis=2).ravel()])
    there, sizes = np.unique(tops, return_counts=True)
    ranked = [int(each) for each in there[np.argsort(-sizes, kind="stable")]]
    named = list(dict.fromkeys([*cut.classes, *ranked]))[: len(figures.REGIONS)]
    colours = dict(zip(named, figures.REGIONS, strict=False))
    keys = [Key(story.classes[each], colour=colours[each]) for each in named]
    if set(ranked) - set(named):
        keys.append(Key("other classes", colour=figures.OTHER))
    charts: list[Chart] = []
    for title, values in (("Teacher", cut.teacher), ("Student", cut.student)):
        top = values.argmax(axis=2)
        shares = ", ".join(
            f"{story.classes[each]} {np.mean(top == each):.0%}" for each in ranked if (top == each).any()
        )
        svg = figures.regions(
            values,
            cut.xs,
            cut.ys,
            colours=[colours.get(each, figures.OTHER) for each in range(values.shape[2])],
            points=cut.points,
            description=f"Decision regions of the {title.lower()}: {shares}.",
            name=f"plane{len(charts)}",
        )
        charts.append(Chart(title, svg))
    return Plane(tuple(charts), tuple(keys), tuple(story.classes[each] for each in cut.classes))


def keys(labels: Iterable[str]) -> tuple[Key, ...]:
    """Return the legend of numbered series."""
    return tuple(
        Key(label, series=number % figures.SERIES, mark=str(number + 1)) for number, label in enumerate(labels)
    )


def compared(stories: Sequence[Story]) -> tuple[File, ...]:
    """Return the files of all runs under labels that tell them apart; a teacher that several share comes once."""
    files: list[File] = []
    for story in stories:
        for file in story.files:
            if file.name != TEACHER:
                files.append(replace(file, label=f"{story.name}: {file.label}"))
            elif file.metrics.sha256 not in {each.metrics.sha256 for each in files}:
                files.append(file)
    return tuple(files)


# What the table has, in its order: label, unit, what to show of a file.


def _percent(value: float | None, digits: int = 2) -> Cell:
    return Cell(NONE if value is None else f"{value:.{digits}f}")


def _plain(value: float | None, digits: int = 3) -> Cell:
    return Cell(NONE if value is None else f"{value:.{digits}f}")


def _interval(value: float | None, ends: tuple[float, float] | None) -> Cell:
    if value is None:
        return Cell(NONE)
    return Cell(f"{value:.2f}", "" if ends is None else f"{_signed(ends[0])} to {_signed(ends[1])}")


Show = Callable[[File], Cell]

_ACCURACY: dict[tuple[str, str], Show] = {
    ("Top-1, with 95 % interval", "%"): lambda file: _interval(file.metrics.top1, file.metrics.top1_ci),
    ("Top-5", "%"): lambda file: _percent(file.metrics.top5),
    ("Calibration error (ECE)", ""): lambda file: _plain(file.metrics.ece, 4),
    ("Negative log-likelihood", "nats"): lambda file: _plain(file.metrics.nll, 4),
}
_AGAINST: dict[tuple[str, str], Show] = {
    ("Accuracy lost, with 95 % interval", "points"): lambda file: _interval(
        file.metrics.accuracy_drop, file.metrics.accuracy_drop_ci
    ),
    ("Largest loss of a class", "points"): lambda file: _percent(file.metrics.worst_class_drop),
    ("Agreement", ""): lambda file: _plain(file.metrics.agreement),
    ("Largest logit error against the student", ""): lambda file: _parity(file.metrics),
}
_ATTACKED: dict[tuple[str, str], Show] = {
    ("Boundary agreement", ""): lambda file: _plain(file.metrics.boundary_agreement),
    ("Top-1 under FGSM", "%"): lambda file: _percent(file.metrics.fgsm_top1),
    ("Top-1 under PGD", "%"): lambda file: _percent(file.metrics.pgd_top1),
}
_SIZE: dict[tuple[str, str], Show] = {
    ("Parameters", ""): lambda file: Cell(_count(file.network.parameters)),
    ("Multiply-accumulates an image", ""): lambda file: Cell(_count(file.network.macs)),
    ("File size", "MB"): lambda file: Cell(f"{file.metrics.size_bytes / 1e6:.3f}"),
}
_TIMES: dict[str, Callable[[Timing], Cell]] = {
    "Median (p50), with 95 % interval": lambda timing: Cell(
        _ms(timing.p50), "" if timing.median_ci is None else " to ".join(map(_ms, timing.median_ci))
    ),
    "p90": lambda timing: Cell(_ms(timing.p90)),
    "p99": lambda timing: Cell(_ms(timing.p99)),
}


def _rows(files: Sequence[File], wanted: Mapping[tuple[str, str], Show]) -> tuple[Measure, ...]:
    rows = [Measure(label, unit, tuple(map(show, files))) for (label, unit), show in wanted.items()]
    return tuple(row for row in rows if any(cell.text != NONE for cell in row.cells))


def _latency(files: Sequence[File], batch: str) -> tuple[Measure, ...]:
    timings = [(file.metrics.latency_ms or {}).get(batch) for file in files]
    rows = [
        Measure(label, "ms", tuple(Cell(NONE) if timing is None else show(timing) for timing in timings))
        for label, show in _TIMES.items()
    ]
    rows.append(Measure("Throughput", "images/s", tuple(map(_throughput, timings))))
    ups = [file.speed_up(batch) for file in files]
    if any(up is not None for up in ups):
        rows.append(
            Measure("Speed-up over the teacher", "", tuple(Cell(NONE if up is None else f"{up:.2f}×") for up in ups))
        )
    for key, label, unit in (("energy_j", "Energy a call", "J"), ("peak_memory_mb", "Peak memory", "MB")):
        values = [getattr(timing, key, None) for timing in timings]
        if any(value is not None for value in values):
            rows.append(
                Measure(label, unit, tuple(Cell(NONE if value is None else f"{value:.4g}") for value in values))
            )
    return tuple(rows)


def _throughput(timing: Timing | None) -> Cell:
    return Cell(NONE if timing is None else f"{timing.images_per_s:,.0f}")


def _parity(metrics: Metrics) -> Cell:
    known = metrics.parity if isinstance(metrics, Artifact) else None
    return Cell(NONE) if known is None else Cell(f"{known.max_error:.2g}")


def _promise(gate: Gate) -> Promise:
    state: State = "open" if gate.passed is None else "held" if gate.passed else "broken"
    word = state if state != "open" else "not measured" if gate.value is None else "undecided"
    return Promise(state, word, gate.detail.removeprefix(f"{word}: "), gate)


def _fastest(story: Story) -> tuple[File, str, float] | None:
    """Return the file with the largest speed-up at the smallest batch that was timed, the batch and the speed-up."""
    batches = sorted({batch for file in story.files for batch in file.metrics.latency_ms or {}}, key=int)
    if not batches:
        return None
    found = [(up, file) for file in story.files if (up := file.speed_up(batches[0])) is not None]
    if not found:
        return None
    times, file = max(found, key=lambda each: each[0])
    return file, batches[0], times


def _line(number: int, story: Story, key: str) -> figures.Line:
    values = [(row["epoch"], row["losses"].get(key, row.get(key))) for row in story.epochs]
    known = [(epoch, value) for epoch, value in values if value is not None]
    return figures.Line(number, [epoch for epoch, _ in known], [value for _, value in known])


def _spread(rows: Sequence[figures.Row], story: Story) -> str:
    words = []
    for row in rows:
        p50, p90, p99 = np.percentile(row.samples, [50, 90, 99], method="inverted_cdf")
        words.append(f"{story.files[row.series].label}: p50 {p50:.3g}, p90 {p90:.3g}, p99 {p99:.3g} ms")
    return "Spread of latencies. " + "; ".join(words) + "."


def _pair_counts(labels: Any, said: Any, count: int) -> dict[tuple[int, int], int]:
    """Count what was said of each class, without a table of all pairs: there may be thousands of classes."""
    pairs, sizes = np.unique(labels.astype(np.int64) * count + said, return_counts=True)
    return {divmod(int(pair), count): int(size) for pair, size in zip(pairs, sizes, strict=True)}


def _within(ends: tuple[float, float] | None, unit: str) -> str:
    return "" if ends is None else f" (95 % interval {_signed(ends[0])} to {_signed(ends[1])}{unit})"


def _signed(value: float) -> str:
    return f"{value:.2f}".replace("-", "−")


def _times(ratio: float, more: str, less: str) -> str:
    return f"{ratio:.1f}× {more}" if ratio >= 1 else f"{1 / ratio:.1f}× {less}"


def _ms(value: float) -> str:
    return f"{value:.3f}" if value < 10 else f"{value:.1f}"


def _count(value: int | None) -> str:
    if value is None:
        return NONE
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.2f} {unit}"
    return str(value)


def same_data(results: Sequence[Result]) -> bool:
    """Whether all runs were measured on the same images."""
    return len({result.data.fingerprint for result in results}) <= 1


def same_machine(results: Sequence[Result]) -> bool:
    """Whether the latencies of all runs are of one kind of machine."""
    return len({tuple(str(result.hardware.get(key)) for key in ("cpu", "cores", "gpus")) for result in results}) <= 1
