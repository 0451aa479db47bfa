"""The fourth stage: what every file of a run, or one artifact, costs on this machine."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from time import monotonic
from typing import Any

import torch

from compressor.artifacts.opening import facts, file_facts, open_artifact
from compressor.bench import (
    ROUNDS,
    Budget,
    Change,
    Latency,
    Memory,
    MemoryUnknown,
    Request,
    baseline,
    bench_many,
    choose,
    measure_memory,
    slow_int8,
)
from compressor.bench.energy import meter_of
from compressor.errors import InputRejected, UsageError
from compressor.machine.devices import choose_device
from compressor.machine.gpu import Gpu, NvmlMissing, cuda_uuid, find_gpu
from compressor.machine.hardware import hardware, other_machine
from compressor.pipeline.costs import Costs, by_threads, thread_sentences
from compressor.pipeline.finished_run import FinishedRun, open_run
from compressor.pipeline.foreign import adapted, size_of
from compressor.pipeline.identity import stage_inputs
from compressor.pipeline.normalisation import UNSTATED, Normalisation
from compressor.pipeline.same_runtime import medians, teacher_in
from compressor.progress import Tell
from compressor.recipe import Bench, Data, Override, section
from compressor.runs import record
from compressor.runs.folder import find
from compressor.runs.lock import working
from compressor.runs.stages import Stages
from exporters import Runner, onnx
from exporters.feeding import FedRunner

SILENCE_S = 10.0


@dataclass(frozen=True, kw_only=True)
class BenchOptions:
    """What is asked of a measurement beyond the numbers.

    `before` is a baseline to compare with, `within_ms` a latency to name the best file for at the batch size
    `at_batch` (the smallest one measured when None), `out` a file for all that was measured.
    """

    before: baseline.Benchmark | None = None
    within_ms: float | None = None
    at_batch: int | None = None
    out: Path | None = None

    def budget(self, config: Bench) -> Budget | None:
        """Return the latency to stay within.

        Raises:
            UsageError: that batch size is not measured.
        """
        if self.within_ms is None:
            return None
        batch = self.at_batch or min(config.batch_sizes)
        if batch not in config.batch_sizes:
            sizes = ",".join(map(str, config.batch_sizes))
            raise UsageError(f"batch {batch} is not measured, only {sizes}", hint=f"--batch-sizes {sizes},{batch}")
        return Budget(limit_ms=self.within_ms, batch=batch)


NO_OPTIONS = BenchOptions()


def bench(
    where: Path | None,
    tell: Tell,
    *,
    device: str | None = None,
    options: BenchOptions = NO_OPTIONS,
    overrides: Sequence[Override] = (),
    allow: Sequence[str] = (),
) -> record.Result:
    """Time every file of a run, in turn, so that their ratios hold, and judge the gates that are measured by now.

    Args:
        overrides: of the run's recipe, for this call only.
        allow: code of the user's own that the run names and that may be imported.
    """
    folder = find(where)
    with working(folder.folder):
        opened = open_run(folder, tell, device=device, overrides=overrides, allow=allow)
        return bench_stage(opened, tell, options).result


def bench_file(
    path: Path,
    tell: Tell,
    *,
    device: str | None = None,
    format_: str | None = None,
    provider: str | None = None,
    options: BenchOptions = NO_OPTIONS,
    overrides: Sequence[Override] = (),
    data: Data | None = None,
    given: Normalisation = UNSTATED,
) -> record.Metrics:
    """Time one artifact, at the batch sizes asked for; where none are and the file takes a single one, at that.

    Args:
        data: the size of an ONNX file's images, and their channels, where it leaves them open.
        given: which of an ONNX file's outputs counts.
        format_: an exporter of the user's own, where the file is its.
        overrides: of a recipe's `bench`.
    """
    config = section(Bench, ("bench",), overrides)
    chosen = choose_device(device or "auto")
    with ExitStack() as kept:
        file = path
        if path.suffix == ".onnx" and path.is_file() and format_ is None:
            file = kept.enter_context(adapted(path, given, size_of(data or Data(), onnx.stated_shape(path)), tell))
        opened = [
            open_artifact(
                file,
                device=chosen,
                format_=format_,
                provider=provider,
                threads=threads,
                cuda_graph=config.cuda_graph,
            )
            for threads in config.thread_counts
        ]
        latencies = _bench_file(path, by_threads(opened), config, options, chosen, tell)
        return record.Metrics(**{**facts(opened[0]), **file_facts(path)}, latency_ms=latencies)


def _bench_file(
    path: Path, runners: Sequence[Runner], config: Bench, options: BenchOptions, chosen: torch.device, tell: Tell
) -> dict[str, record.Timing]:
    """Time one artifact, opened with each number of threads, under the name of its file; say what there is to say."""
    runner = runners[0]
    if isinstance(runner, FedRunner) and runner.batch is not None and "batch_sizes" not in config.model_fields_set:
        config = config.model_copy(update={"batch_sizes": (runner.batch,)})
    budget = options.budget(config)
    costs = _measure({path.name: runners}, {}, config, chosen, tell, {})
    if options.out is not None:
        baseline.write(options.out, costs.latencies, costs.memory)
    _warn(costs.latencies, tell)
    if budget is not None:
        tell(choose(costs.latencies, budget).sentence)
    _compare(costs.latencies, options.before, tell)
    return costs.timings(path.name)


def bench_stage(opened: FinishedRun, tell: Tell, options: BenchOptions = NO_OPTIONS) -> FinishedRun:
    """Time every file of an open run, and note it."""
    config, result = opened.prepared.recipe.bench, opened.result
    budget = options.budget(config)
    silent = Tell(quiet=True)
    variants = [
        opened.files(silent if number else tell, threads=threads, cuda_graph=config.cuda_graph)
        for number, threads in enumerate(config.thread_counts)
    ]
    files = {name: by_threads([each[name] for each in variants]) for name in variants[0]}
    tell(f"timing {len(files)} files at batch sizes {', '.join(map(str, config.batch_sizes))}")
    teacher = opened.prepared.teacher
    artifacts = {artifact.path for artifact in result.artifacts}
    archs = {"teacher": None if teacher is None else teacher.arch, "student": opened.student.arch}

    def timed(file: record.Named) -> dict[str, Any]:
        if file.name not in files:
            return {}
        beside = {"teacher_ms": medians(file.metrics.format, costs.beside)} if file.name in artifacts else {}
        return {"provider": files[file.name][0].provider, "latency_ms": costs.timings(file.name), **beside}

    with Stages(opened.folder).doing("bench", stage_inputs("bench", opened)):
        with teacher_in(files, opened, config, tell) as teachers:
            costs = _measure(files, archs, config, opened.prepared.device, tell, teachers)
        for path in (opened.folder.bench, options.out):
            if path is not None:
                baseline.write(path, {**costs.latencies, **costs.beside}, costs.memory)
        opened = replace(opened, result=result.mapped(timed))
        # Latencies are this machine's, which need not be the one that trained.
        opened = opened.noting(hardware=hardware()).saved()
    _warn(costs.latencies, tell)
    if budget is not None:
        tell(choose(costs.latencies, budget, top1={file.name: file.metrics.top1 for file in result.files()}).sentence)
    _compare(costs.latencies, options.before, tell)  # last: one that does not fit must not cost the measurement
    return opened


def _measure(
    files: Mapping[str, Sequence[Runner]],
    archs: Mapping[str, str | None],
    config: Bench,
    device: torch.device,
    tell: Tell,
    beside: Mapping[str, Sequence[Runner]],
) -> Costs:
    """Time the files, beside others that take turns with them, and see what memory each file needs."""
    first = {name: runners[0] for name, runners in files.items()}
    gpu = _gpu(device, first.values(), tell)
    for missing in dict.fromkeys(_unmetered(runner, gpu) for runner in first.values()):
        if missing:
            tell(f"energy is not measured: {missing}")
    timed = [(name, runner) for name, runners in {**files, **beside}.items() for runner in runners]
    watch = _Progress([name for name, _ in timed], tell)
    times: dict[str, tuple[Latency, ...]] = {}
    found = bench_many([runner for _, runner in timed], config, gpu=gpu, watch=watch)
    for (name, _), rows in zip(timed, found, strict=True):
        times[name] = (*times.get(name, ()), *rows)
    memory: dict[str, tuple[Memory, ...]] = {}
    for name, runner in first.items() if config.memory else ():
        watch.say(f"memory of {name}")
        try:
            memory[name] = measure_memory(_request(runner, archs.get(name), config, device, gpu))
        except MemoryUnknown as error:
            tell(f"memory of {name} is not measured: {error}")
    for sentence in thread_sentences(times):
        tell(sentence)
    return Costs(
        latencies={name: times[name] for name in files}, memory=memory, beside={name: times[name] for name in beside}
    )


class _Progress:
    """Says what is being timed, once it has been silent for long."""

    def __init__(self, names: Sequence[str], tell: Tell) -> None:
        self._names, self._tell, self._said = names, tell, monotonic()

    def __call__(self, index: int, batch: int, number: int) -> None:
        self.say(f"timing {self._names[index]} at batch {batch}, round {number + 1} of {ROUNDS}")

    def say(self, sentence: str) -> None:
        if monotonic() - self._said >= SILENCE_S:
            self._tell(sentence)
            self._said = monotonic()


def _gpu(device: torch.device, runners: Iterable[Runner], tell: Tell) -> Gpu | None:
    if all(runner.provider == "cpu" for runner in runners):
        return None
    try:
        return find_gpu(cuda_uuid(device.index or 0))
    except NvmlMissing as error:
        tell(f"clock, energy and memory of the GPU are not known: {error}")
        return None


def _unmetered(runner: Runner, gpu: Gpu | None) -> str | None:
    """Return why the energy of a runner is not measured, where that was not said of the whole GPU."""
    return None if runner.provider != "cpu" and gpu is None else meter_of(runner.provider, gpu).missing


def _request(runner: Runner, arch: str | None, config: Bench, device: torch.device, gpu: Gpu | None) -> Request:
    return Request(
        path=str(runner.path),
        format=runner.format,
        provider=runner.provider,
        batch_sizes=config.batch_sizes,
        threads=runner.threads,
        cuda_graph=config.cuda_graph,
        arch=arch,
        device=str(device),
        gpu=None if gpu is None or runner.provider == "cpu" else gpu.uuid,
    )


def _warn(times: Mapping[str, tuple[Latency, ...]], tell: Tell) -> None:
    """Say what makes the numbers doubtful, and where INT8 does not pay."""
    rows = [latency for latencies in times.values() for latency in latencies]
    noise = [sentence for latency in rows if (sentence := latency.noisy)]
    slow = [sentence for latency in rows if (sentence := latency.slowed)]
    if noise:
        tell(f"warning: {noise[0]}; repeat when nothing else runs")
    if slow:
        tell(f"warning: {slow[0]}")
    for sentence in slow_int8(times):
        tell(f"warning: {sentence}")


def _compare(times: Mapping[str, tuple[Latency, ...]], before: baseline.Benchmark | None, tell: Tell) -> None:
    """Say how each file has changed against a baseline, and the sum of it.

    Raises:
        InputRejected: the baseline measured nothing in the same way.
    """
    if before is None:
        return
    other = other_machine(before.hardware, hardware())
    if other:
        tell(f"warning: {other}")
    changes: list[Change] = []
    misfits: dict[str, InputRejected] = {}
    for name, latencies in times.items():
        earlier = before.of(name)
        if earlier is None:
            tell(f"{name} is not in the baseline")
            continue
        try:
            found = baseline.compare(latencies, earlier)
        except InputRejected as error:
            misfits[name] = error
            continue
        for change in found:
            sure = "" if change.clear else ", within the noise"
            tell(
                f"{name} batch {change.batch} p{change.percentile}: {change.now_ms:.3g} ms, "
                f"{change.ratio:.2f}x the baseline's {change.baseline_ms:.3g} ms{sure}"
            )
        changes += found
    for name, misfit in misfits.items():
        if not changes:
            raise misfit
        tell(f"{name} was measured in another way in the baseline")
    tell(baseline.summary(changes))
