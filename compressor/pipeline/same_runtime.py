"""The teacher in the runtimes of a run's files, so that a speed-up can be split into runtime and network."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from compressor.artifacts.formats import exporter_of
from compressor.bench import Latency
from compressor.models import Normalized
from compressor.pipeline.costs import by_threads, fastest
from compressor.pipeline.finished_run import FinishedRun
from compressor.progress import Tell
from compressor.recipe import Bench
from exporters import Runner, onnx
from exporters.errors import ExporterError

FORMATS = (
    "onnx",
    "openvino",
)  # whose runtimes open an ONNX file as it is; for a plan the teacher would have to be built


@contextmanager
def teacher_in(
    files: Mapping[str, Sequence[Runner]], opened: FinishedRun, config: Bench, tell: Tell
) -> Iterator[dict[str, tuple[Runner, ...]]]:
    """Yield the teacher in fp32 in each runtime that one of `files` runs in, by what a benchmark file calls it.

    It is opened with each number of threads.

    What a runtime does not take is left out, and said. The runners are good within the block.
    """
    teacher = opened.prepared.teacher
    first = [runners[0] for runners in files.values()]
    formats = [name for name in FORMATS if any(runner.format == name for runner in first)]
    if teacher is None or not formats:
        yield {}
        return
    found: dict[str, tuple[Runner, ...]] = {}
    with tempfile.TemporaryDirectory(prefix="compress-teacher-") as place:
        path = Path(place) / "teacher.onnx"
        for format_ in formats:
            provider = next(runner.provider for runner in first if runner.format == format_)
            try:
                if not isinstance(teacher.module, Normalized) or teacher.arch is None:
                    raise ExporterError("it brings its own code")
                if not path.exists():
                    onnx.export(copy.deepcopy(teacher.module).cpu(), path, input_shape=teacher.input_shape)
                load = exporter_of(format_).load
                found[_named(format_)] = by_threads(
                    [
                        load(path, provider=provider, threads=threads, cuda_graph=config.cuda_graph)
                        for threads in config.thread_counts
                    ]
                )
            except ExporterError as error:
                tell(f"the teacher is not timed in the runtime of {format_} files: {error}")
        yield found


def medians(format_: str, timed: Mapping[str, Sequence[Latency]]) -> dict[str, float] | None:
    """Return the median latency of the teacher in the runtime of a format, by batch size, where it was timed.

    With several numbers of threads it is that of the fastest, as for the file beside it.
    """
    rows = timed.get(_named(format_))
    return None if rows is None else {str(batch): row.at(50) for batch, row in fastest(rows).items()}


def _named(format_: str) -> str:
    return f"teacher in {format_}"
