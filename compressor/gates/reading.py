"""What a gate is about: the value that was measured, what it rests on, and how sure it is."""

from __future__ import annotations

from dataclasses import dataclass

from compressor.measure.scores import wilson
from compressor.runs.record import Artifact, Metrics, Result, Timing, speed_up

Interval = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Reading:
    """A value and its 95 % interval, in the unit of the gate.

    `value` is None when it was not measured, and `basis` then says what is missing. `doubt` says why the value decides
    nothing, whatever it is.
    """

    value: float | None
    basis: str
    interval: Interval | None = None
    doubt: str | None = None


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What a gate looks at: one file of a run, the record of the run, the batch size that a latency gate is about.

    `before` is the record of the baseline, or why there is none.
    """

    file: Metrics
    result: Result
    batch: int | None = None
    before: Result | str = "there is no baseline"


def top1(subject: Subject) -> Reading:
    """The accuracy in percent, with Wilson's interval."""
    return Reading(value=subject.file.top1, basis=_images(subject.file), interval=subject.file.top1_ci)


def ece(subject: Subject) -> Reading:
    """The expected calibration error, a fraction."""
    return Reading(value=subject.file.ece, basis=_images(subject.file))


def accuracy_drop(subject: Subject) -> Reading:
    """The points of top-1 below the teacher, with their paired interval."""
    file = subject.file
    return Reading(value=file.accuracy_drop, basis=_against(file), interval=file.accuracy_drop_ci)


def agreement(subject: Subject) -> Reading:
    """The fraction of images with the teacher's top class."""
    return _share(subject.file.agreement, subject.file.samples, _against(subject.file))


def boundary_agreement(subject: Subject) -> Reading:
    """The same fraction of images at the teacher's boundary."""
    samples = subject.result.data.boundary_samples
    return _share(subject.file.boundary_agreement, samples, "on images at the teacher's boundary")


def class_drop(subject: Subject) -> Reading:
    """The points that the class that lost most against the teacher has lost."""
    file = subject.file
    return Reading(value=file.worst_class_drop, basis=f"{_against(file)}, the class that lost most")


def confidence_spread(subject: Subject) -> Reading:
    """The standard deviation over the images of the confidence lost in the teacher's class, a fraction."""
    return Reading(value=subject.file.confidence_spread, basis=_against(subject.file))


def parity_error(subject: Subject) -> Reading:
    """The largest difference of a logit from what the file was exported from."""
    parity = subject.file.parity if isinstance(subject.file, Artifact) else None
    value = None if parity is None else parity.max_error
    return Reading(value=value, basis="largest difference from the student's logits")


def robust_top1(subject: Subject) -> Reading:
    """The accuracy in percent under the attack that costs most of it."""
    file, data = subject.file, subject.result.data
    measured = (
        (file.fgsm_top1, data.attack_samples),
        (file.pgd_top1, data.attack_samples),
        (file.autoattack_top1, data.autoattack_samples),
    )
    known = [(top1, samples) for top1, samples in measured if top1 is not None]
    lowest, samples = min(known, key=lambda each: each[0], default=(None, None))
    return _share(lowest, samples, "on attacked images", whole=100)


def size(subject: Subject) -> Reading:
    """The size of the file in MB."""
    return Reading(value=subject.file.size_bytes / 1e6, basis="1 MB is a million bytes")


def p50(subject: Subject) -> Reading:
    """The median latency in ms, with its interval."""
    timing = _timing(subject)
    if timing is None:
        return _untimed(subject)
    return Reading(value=timing.p50, basis=_timed(subject, timing), interval=timing.median_ci)


def p99(subject: Subject) -> Reading:
    """The 99th percentile of the latency in ms."""
    timing = _timing(subject)
    return _untimed(subject) if timing is None else Reading(value=timing.p99, basis=_timed(subject, timing))


def speedup(subject: Subject) -> Reading:
    """How many times shorter the median latency is than the teacher's."""
    ours, teacher = _timing(subject), subject.result.teacher
    theirs = None if teacher is None else teacher.timing(str(subject.batch))
    if ours is None or theirs is None or teacher is None:
        whose = "the artifact" if ours is None else "the teacher"
        return Reading(value=None, basis=f"no latency of batch {subject.batch} of {whose}")
    times = speed_up(subject.file, teacher, str(subject.batch))
    if times is None:
        ran = f"the artifact ran on {subject.file.provider} and the teacher on {teacher.provider}"
        return Reading(value=None, basis=ran)
    disturbed = ours.disturbed or theirs.disturbed
    alike = _teacher_ms(subject)
    return Reading(
        value=times,
        basis=f"batch {subject.batch}, {theirs.p50:.3g} ms to {ours.p50:.3g} ms at the median"
        + (f"; the teacher in the same runtime takes {alike:.3g} ms" if alike else "")
        + (f"; {disturbed}" if disturbed else ""),
        interval=ratio_interval(theirs.median_ci, ours.median_ci),
    )


def _teacher_ms(subject: Subject) -> float | None:
    """Return what the teacher takes in the runtime of an artifact, where that was measured."""
    times = subject.file.teacher_ms if isinstance(subject.file, Artifact) else None
    return (times or {}).get(str(subject.batch))


def ratio_interval(above: Interval | None, below: Interval | None) -> Interval | None:
    """Return the widest range that the ratio of two values has while each is within its interval."""
    return None if above is None or below is None else (above[0] / below[1], above[1] / below[0])


def _share(value: float | None, samples: int | None, basis: str, *, whole: float = 1) -> Reading:
    """Return a fraction (or with `whole` 100 a percentage) of `samples` images, with its interval."""
    if value is None or not samples:
        return Reading(value=value, basis=basis)
    low, high = wilson(round(value / whole * samples), samples)
    return Reading(value=value, basis=basis, interval=(low * whole / 100, high * whole / 100))


def _against(metrics: Metrics) -> str:
    compared = metrics.agreement is not None or metrics.samples is None
    return _images(metrics) if compared else "no teacher to compare with"


def _images(metrics: Metrics) -> str:
    return "the file is not validated yet" if metrics.samples is None else f"on {metrics.samples} images"


def _timing(subject: Subject) -> Timing | None:
    return subject.file.timing(str(subject.batch))


def _untimed(subject: Subject) -> Reading:
    return Reading(value=None, basis=f"no latency of batch {subject.batch}")


def _timed(subject: Subject, timing: Timing) -> str:
    disturbed = f"; {timing.disturbed}" if timing.disturbed else ""
    return f"batch {subject.batch}, {timing.iterations} samples{disturbed}"
