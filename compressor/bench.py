"""Latency and throughput: one harness for every runtime, every sample kept.

A percentile is a latency that was really measured, by nearest rank: the smallest sample with at least that share of all
samples at or below it. Intervals of the median treat samples as independent, which consecutive ones are only roughly.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import ceil
from time import perf_counter_ns
from typing import TYPE_CHECKING

import numpy as np

from compressor.errors import InputRejected
from compressor.hardware import busy_seconds, clock_mhz, cores, own_cpu_seconds
from exporters.errors import ExporterError

if TYPE_CHECKING:
    from compressor.recipe import Bench
    from exporters import Runner

ROUNDS = 5
NOISY = 0.1


@dataclass(frozen=True, kw_only=True)
class Latency:
    """What one artifact takes for a batch.

    `samples_ms` holds every timed call in order; `percentiles` are by name, `"50"`, `"99.9"`; `throughput` is images a
    second at the mean latency; `median_interval` is the 95 % interval of the median, None with fewer than six samples.
    With `transfers`, a call takes host memory and gives host memory; without, the images are where the runtime wants
    them. `other_load` is the share of our CPU cores that other processes used meanwhile, None where it cannot be known.
    `clock_mhz` is the mean core clock right after.
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
    other_load: float | None
    clock_mhz: float | None

    def at(self, percent: float) -> float:
        """Return any percentile, in ms."""
        return percentile(self.samples_ms, percent)

    @property
    def noisy(self) -> str | None:
        """A sentence when other processes were busy enough to distort the result."""
        if self.other_load is None or self.other_load <= NOISY:
            return None
        return f"other processes used {self.other_load:.0%} of the CPU while batch {self.batch} was timed"


def bench(runner: Runner, config: Bench, *, transfers: bool = False) -> tuple[Latency, ...]:
    """Measure one artifact at every batch size of `config`."""
    return bench_many([runner], config, transfers=transfers)[0]


def bench_many(
    runners: Sequence[Runner], config: Bench, *, transfers: bool = False, rounds: int = ROUNDS
) -> tuple[tuple[Latency, ...], ...]:
    """Measure artifacts in turn, so that they meet the same conditions and their ratios can be trusted.

    The time of `config` is each artifact's own, spread over the rounds; every second round goes backwards.

    Returns:
        The latencies of each runner, by batch size as in `config`.

    Raises:
        InputRejected: an artifact cannot run a batch size.
    """
    by_batch = [_turns(runners, batch, config, transfers, rounds) for batch in config.batch_sizes]
    return tuple(zip(*by_batch, strict=True))


def measure(runner: Runner, batch_size: int, config: Bench, *, transfers: bool = False) -> Latency:
    """Measure one artifact at one batch size."""
    return _turns([runner], batch_size, config, transfers, 1)[0]


def percentile(samples: Sequence[float], percent: float) -> float:
    """Return the smallest sample with at least `percent` % of the samples at or below it (nearest rank)."""
    # Rounded, because 55 % of 100 must be rank 55, and floating point may make it a hair more.
    rank = ceil(round(percent * len(samples) / 100, 9))
    return sorted(samples)[max(rank, 1) - 1]


def median_interval(samples: Sequence[float]) -> tuple[float, float] | None:
    """Return the narrowest pair of samples, equally far from both ends, that holds the median with 95 % confidence.

    The number of samples below the median is binomial with one half, whatever the distribution. None with fewer than
    six samples, where no such pair exists.
    """
    count = len(samples)
    ranks = np.arange(1, count + 1)
    # log of C(n, k) / 2^n for k = 0..n, by C(n, k) = C(n, k - 1) (n - k + 1) / k
    log_chance = np.concatenate([[0.0], np.cumsum(np.log((count - ranks + 1) / ranks))]) - count * np.log(2)
    tail = np.cumsum(np.exp(log_chance))  # tail[k]: at most k samples are below the median
    outside = int((tail <= 0.025).sum())  # so many samples may be cut off at each end
    if outside == 0:
        return None
    ordered = sorted(samples)
    return ordered[outside - 1], ordered[count - outside]


@dataclass
class _Turn:
    """One artifact being timed: what it has collected so far."""

    runner: Runner
    call: Callable[[], object]
    warmups: int = 0
    samples_ns: list[int] = field(default_factory=list)
    load: list[tuple[float, float]] = field(default_factory=list)  # (seconds others were busy, seconds of all cores)
    clock_mhz: float | None = None


def _turns(runners: Sequence[Runner], batch: int, config: Bench, transfers: bool, rounds: int) -> tuple[Latency, ...]:
    turns = [_open(runner, batch, transfers) for runner in runners]
    for number in range(rounds):
        for turn in turns if number % 2 == 0 else reversed(turns):
            # The first warm-up is whole: kernels are chosen and memory is taken. Later ones only refill the caches.
            _warm_up(turn, config.warmup_s if number == 0 else config.warmup_s / rounds)
            _time(turn, config.duration_s / rounds, ceil(config.min_iterations / rounds))
    return tuple(_latency(turn, batch, config, transfers) for turn in turns)


def _open(runner: Runner, batch: int, transfers: bool) -> _Turn:
    """Place random images and run them once, which shows whether the artifact takes this batch size at all."""
    images = np.random.default_rng(0).random((batch, *runner.input_shape), dtype=np.float32)
    name = runner.path.name if runner.path else f"the {runner.format} network"
    try:
        call = (lambda: runner(images)) if transfers else runner.prepare(images)
        call()
    except ExporterError:
        raise  # says already what is wrong
    except Exception as error:  # each runtime has its own; none is hidden, the cause stays attached
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputRejected(
            f"{name} cannot run a batch of {batch}: {reason}",
            hint="leave this size out, or export with a dynamic batch",
        ) from error
    return _Turn(runner, call, warmups=1)


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


def _latency(turn: _Turn, batch: int, config: Bench, transfers: bool) -> Latency:
    samples = tuple(nanoseconds / 1e6 for nanoseconds in turn.samples_ns)
    mean = sum(samples) / len(samples)
    busy, possible = (sum(column) for column in zip(*turn.load, strict=True)) if turn.load else (0.0, 0.0)
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
        transfers=transfers,
        other_load=min(max(busy / possible, 0.0), 1.0) if possible else None,
        clock_mhz=turn.clock_mhz,
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
    """Record what others did to the CPU during the block: all that its cores did, less what this process did."""
    busy, own, start = busy_seconds(), own_cpu_seconds(), perf_counter_ns()
    yield
    after = busy_seconds()
    if busy is not None and after is not None:
        others = after - busy - (own_cpu_seconds() - own)
        turn.load.append((others, (perf_counter_ns() - start) / 1e9 * len(cores())))
    turn.clock_mhz = clock_mhz()
