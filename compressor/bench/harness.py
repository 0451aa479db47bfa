"""Latency and throughput: one harness for every runtime, every sample kept."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from math import ceil
from time import perf_counter_ns
from typing import TYPE_CHECKING

import numpy as np

from compressor.bench.energy import Meter, meter_of
from compressor.bench.statistics import median_interval, percentile
from compressor.errors import InputRejected
from compressor.machine.gpu import Gpu
from compressor.machine.hardware import NOISY, busy_seconds, clock_mhz, cores, own_cpu_seconds
from exporters.errors import ExporterError

if TYPE_CHECKING:
    from compressor.recipe import Bench
    from exporters import Runner

ROUNDS = 5

Watch = Callable[[int, int, int], None]
"""Is told before each turn: the number of the runner, the batch size, the round; all numbers from 0."""


@dataclass(frozen=True, kw_only=True)
class Latency:
    """What one artifact takes for a batch.

    `samples_ms` holds every timed call in order; `percentiles` are by name, `"50"`, `"99.9"`; `throughput` is images a
    second at the mean latency; `median_interval` is the 95 % interval of the median, None with fewer than six samples.
    With `transfers`, a call takes host memory and gives host memory; without, the images are where the runtime wants
    them. `other_load` is the share of our CPU cores that other processes used meanwhile, None where it cannot be known.
    `clock_mhz` is the mean core clock right after.

    Of a GPU: its clock at the end of the rounds, the lowest; what slowed it down then (`heat`, `power limit`); and
    whether other processes were computing on it. `energy_j` is joules a call, of the whole CPU packages or GPU.
    """

    format: str
    provider: str
    precision: str
    batch: int
    samples_ms: tuple[float, ...]
    percentiles: Mapping[str, float]
    mean_ms: float
    median_interval: tuple[float, float] | None
    throughput: float
    warmup_iterations: int
    threads: int | None
    transfers: bool
    cuda_graph: bool = False
    other_load: float | None
    clock_mhz: float | None
    gpu_clock_mhz: float | None = None
    gpu_slow_downs: tuple[str, ...] = ()
    gpu_shared: bool | None = None
    energy_j: float | None = None

    def at(self, percent: float) -> float:
        """Return any percentile, in ms."""
        return percentile(self.samples_ms, percent)

    @property
    def on_threads(self) -> str:
        """How many threads, in words."""
        if self.threads is None:
            return "the runtime's own threads"
        return f"{self.threads} thread{'s' * (self.threads > 1)}"

    @property
    def noisy(self) -> str | None:
        """A sentence when other processes were busy enough to distort the result."""
        if self.gpu_shared:
            return f"another process was on the GPU while batch {self.batch} was timed"
        if self.other_load is None or self.other_load <= NOISY:
            return None
        return f"other processes used {self.other_load:.0%} of the CPU while batch {self.batch} was timed"

    @property
    def slowed(self) -> str | None:
        """A sentence when the GPU ran below its clock."""
        if not self.gpu_slow_downs:
            return None
        clock = "" if self.gpu_clock_mhz is None else f" to {self.gpu_clock_mhz:.0f} MHz"
        reasons = " and ".join(self.gpu_slow_downs)
        return f"the GPU was slowed down{clock} by {reasons} while batch {self.batch} was timed"


def bench(runner: Runner, config: Bench, *, gpu: Gpu | None = None) -> tuple[Latency, ...]:
    """Measure one artifact at every batch size of `config`."""
    return bench_many([runner], config, gpu=gpu)[0]


def bench_many(
    runners: Sequence[Runner],
    config: Bench,
    *,
    rounds: int = ROUNDS,
    gpu: Gpu | None = None,
    watch: Watch = lambda *_: None,
) -> tuple[tuple[Latency, ...], ...]:
    """Measure artifacts in turn, so that they meet the same conditions and their ratios can be trusted.

    The time of `config` is each artifact's own, spread over the rounds; every second round goes backwards.

    Args:
        gpu: what those of the runners that are not on the CPU run on.
        watch: called before each turn, outside all that is timed.

    Returns:
        The latencies of each runner, by batch size as in `config`.

    Raises:
        InputRejected: an artifact cannot run a batch size.
    """
    by_batch = [_turns(runners, batch, config, rounds, gpu, watch) for batch in config.batch_sizes]
    return tuple(zip(*by_batch, strict=True))


def measure(runner: Runner, batch_size: int, config: Bench, *, gpu: Gpu | None = None) -> Latency:
    """Measure one artifact at one batch size, in one go."""
    return _turns([runner], batch_size, config, 1, gpu, lambda *_: None)[0]


@dataclass
class _Turn:
    """One artifact being timed: what it has collected so far."""

    runner: Runner
    call: Callable[[], object]
    gpu: Gpu | None
    meter: Meter
    warmups: int = 0
    samples_ns: list[int] = field(default_factory=list)
    load: list[tuple[float, float]] = field(default_factory=list)  # (seconds others were busy, seconds of all cores)
    joules: list[float | None] = field(default_factory=list)
    clock_mhz: float | None = None
    gpu_clocks: list[float] = field(default_factory=list)
    gpu_slow_downs: set[str] = field(default_factory=set)
    gpu_shared: bool | None = None


def _turns(
    runners: Sequence[Runner], batch: int, config: Bench, rounds: int, gpu: Gpu | None, watch: Watch
) -> tuple[Latency, ...]:
    turns = [_open(runner, batch, config.transfers, gpu) for runner in runners]
    for number in range(rounds):
        order = range(len(turns)) if number % 2 == 0 else reversed(range(len(turns)))
        for index in order:
            watch(index, batch, number)
            # The first warm-up is whole: kernels are chosen and memory is taken. Later ones only refill the caches.
            _warm_up(turns[index], config.warmup_s if number == 0 else config.warmup_s / rounds)
            _time(turns[index], config.duration_s / rounds, ceil(config.min_iterations / rounds))
    return tuple(_latency(turn, batch, config) for turn in turns)


def _open(runner: Runner, batch: int, transfers: bool, gpu: Gpu | None) -> _Turn:
    """Place random images and run them once, which shows whether the artifact takes this batch size at all."""
    images = np.random.default_rng(0).random((batch, *runner.input_shape), dtype=np.float32)
    name = runner.path.name if runner.path else f"the {runner.format} network"
    try:
        prepared = runner.prepare(images)  # also refuses what a call with transfers would cut into smaller batches
        call = partial(runner, images) if transfers else prepared
        call()
    except ExporterError:
        raise  # says already what is wrong
    except Exception as error:  # each runtime has its own; none is hidden, the cause stays attached
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputRejected(
            f"{name} cannot run a batch of {batch}: {reason}",
            hint="leave this size out, or export with a dynamic batch",
        ) from error
    own = None if runner.provider == "cpu" else gpu
    return _Turn(runner, call, own, meter_of(runner.provider, own), warmups=1)


def _warm_up(turn: _Turn, seconds: float) -> None:
    end = perf_counter_ns() + seconds * 1e9
    while perf_counter_ns() < end:
        turn.call()
        turn.warmups += 1


def _time(turn: _Turn, seconds: float, iterations: int) -> None:
    samples: list[int] = []
    call = turn.call
    with _no_collector(), _watching(turn):
        end = perf_counter_ns() + seconds * 1e9
        now = 0
        while now < end or len(samples) < iterations:
            start = perf_counter_ns()
            call()
            now = perf_counter_ns()
            samples.append(now - start)
    turn.samples_ns += samples


def _latency(turn: _Turn, batch: int, config: Bench) -> Latency:
    samples = tuple(nanoseconds / 1e6 for nanoseconds in turn.samples_ns)
    mean = sum(samples) / len(samples)
    busy, possible = (sum(column) for column in zip(*turn.load, strict=True)) if turn.load else (0.0, 0.0)
    joules = [used for used in turn.joules if used is not None]
    return Latency(
        format=turn.runner.format,
        provider=turn.runner.provider,
        precision=turn.runner.precision,
        batch=batch,
        samples_ms=samples,
        percentiles={f"{percent:g}": percentile(samples, percent) for percent in config.percentiles},
        mean_ms=mean,
        median_interval=median_interval(samples),
        throughput=1000 * batch / mean,
        warmup_iterations=turn.warmups,
        threads=turn.runner.threads,
        transfers=config.transfers,
        cuda_graph=config.cuda_graph,
        other_load=min(max(busy / possible, 0.0), 1.0) if possible else None,
        clock_mhz=turn.clock_mhz,
        gpu_clock_mhz=min(turn.gpu_clocks, default=None),
        gpu_slow_downs=tuple(sorted(turn.gpu_slow_downs)),
        gpu_shared=turn.gpu_shared,
        energy_j=sum(joules) / len(samples) if len(joules) == len(turn.joules) else None,
    )


@contextmanager
def _no_collector() -> Iterator[None]:
    """Keep the garbage collector from running within the block; afterwards it is as it was."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


@contextmanager
def _watching(turn: _Turn) -> Iterator[None]:
    """Record what the block cost in energy, what others did to the CPU meanwhile, and the clocks right after.

    What others did is all that the cores did, less what this process did.
    """
    busy, own, start = busy_seconds(), own_cpu_seconds(), perf_counter_ns()
    energy = turn.meter.read()
    yield
    turn.joules.append(turn.meter.joules(energy, turn.meter.read()))
    if turn.gpu is not None:
        _look_at(turn.gpu, turn)  # at once: a GPU that idles forgets what slowed it down
    after = busy_seconds()
    if busy is not None and after is not None:
        others = after - busy - (own_cpu_seconds() - own)
        turn.load.append((others, (perf_counter_ns() - start) / 1e9 * len(cores())))
    turn.clock_mhz = clock_mhz()


def _look_at(gpu: Gpu, turn: _Turn) -> None:
    turn.gpu_slow_downs |= gpu.slow_downs()
    clock, shared = gpu.clock_mhz(), gpu.shared()
    if clock is not None:
        turn.gpu_clocks.append(clock)
    if shared is not None:
        turn.gpu_shared = shared or bool(turn.gpu_shared)
