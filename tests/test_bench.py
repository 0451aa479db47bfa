import gc
from dataclasses import dataclass, field
from functools import partial
from itertools import cycle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from compressor.bench import Latency, bench, bench_many, measure, median_interval, percentile
from compressor.bench import harness as module
from compressor.bench.energy import Counter, Meter
from compressor.errors import InputRejected
from compressor.recipe import Bench
from exporters.errors import ArtifactRejected

MS = 1_000_000


@dataclass
class Clock:
    """A clock that only a runner's calls move."""

    now: int = 0

    def __call__(self):
        return self.now


@dataclass
class FakeRunner:
    """A runner whose n-th call takes the n-th of `durations_ms`, over and over."""

    clock: Clock
    durations_ms: tuple[float, ...] = (10,)
    path: Path | None = None
    format: str = "fake"
    provider: str = "cpu"
    precision: str = "fp32"
    input_shape: tuple[int, int, int] = (3, 4, 4)
    classes: int = 2
    pixels: str = "float32"
    output: str = "logits"
    metadata: dict = field(default_factory=dict)
    threads: int | None = 2
    largest: int = 64
    log: list = field(default_factory=list)

    def __post_init__(self):
        self.durations = cycle(self.durations_ms)

    def __call__(self, images):
        if len(images) > self.largest:
            raise RuntimeError("Got invalid dimensions\nfor input: images")
        self.log.append((self.format, len(images), "transfers", gc.isenabled()))
        self.images = images
        self.clock.now += int(next(self.durations) * MS)
        return np.zeros((len(images), 2), np.float32)

    def prepare(self, images):
        if len(images) > self.largest:
            raise ArtifactRejected(f"the profile ends at a batch of {self.largest}")
        self.images = images

        def infer():
            self.log.append((self.format, len(images), "placed", gc.isenabled()))
            self.clock.now += int(next(self.durations) * MS)

        return infer


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(module, "perf_counter_ns", clock)
    monkeypatch.setattr(module, "busy_seconds", lambda: None)
    monkeypatch.setattr(module, "meter_of", lambda provider, gpu: Meter())
    return clock


@dataclass
class FakeGpu:
    """A GPU that uses `watts` while the clock moves, and shows each of `clocks_mhz`, `slow` and `others` in turn."""

    clock: Clock
    watts: float = 100
    clocks_mhz: tuple[float | None, ...] = (1500,)
    slow: tuple[tuple[str, ...], ...] = ((),)
    others: tuple[bool | None, ...] = (False,)

    def __post_init__(self):
        self.shown = [cycle(self.clocks_mhz), cycle(self.slow), cycle(self.others)]

    def clock_mhz(self):
        return next(self.shown[0])

    def slow_downs(self):
        return frozenset(next(self.shown[1]))

    def shared(self):
        return next(self.shown[2])


def config(**values):
    return Bench(**{"batch_sizes": (1,), "warmup_s": 0, "duration_s": 1e-9, "min_iterations": 1} | values)


# Closed forms


def test_percentiles_are_samples_by_nearest_rank():
    samples = [30.0, 10.0, 50.0, 20.0, 40.0]

    assert [percentile(samples, p) for p in (1, 20, 20.1, 50, 60, 80, 99)] == [10, 10, 20, 30, 30, 40, 50]


def test_percentiles_of_a_hundred_samples_are_their_own_ranks():
    samples = list(range(1, 101))

    assert [percentile(samples, p) for p in range(1, 100)] == samples[:99]
    assert percentile(range(1, 1001), 99.9) == 999


def test_median_interval_matches_the_binomial_table():
    # Published ranks of the distribution-free 95 % interval: n = 6: 1 to 6, 10: 2 to 9, 20: 6 to 15, 100: 40 to 61.
    for count, low, high in [(6, 1, 6), (10, 2, 9), (20, 6, 15), (100, 40, 61)]:
        assert median_interval(range(1, count + 1)) == (low, high)


def test_five_samples_hold_no_median_interval():
    assert median_interval([1.0, 2.0, 3.0, 4.0, 5.0]) is None


def test_every_sample_is_kept_and_summed_up(clock):
    runner = FakeRunner(clock, (8, 1, 2, 3, 6))  # the 8 is the trial call

    found = measure(runner, 4, config(min_iterations=4, percentiles=(50, 90)))

    assert found.samples_ms == (1, 2, 3, 6)
    assert found.percentiles == {"50": 2, "90": 6}
    assert found.at(75) == 3
    assert found.mean_ms == 3
    assert found.throughput == pytest.approx(4 * 1000 / 3)
    assert (found.batch, found.threads, found.warmup_iterations, found.median_interval) == (4, 2, 1, None)
    assert (found.format, found.provider, found.precision) == ("fake", "cpu", "fp32")


def test_warm_up_lasts_its_time_and_is_not_measured(clock):
    found = measure(FakeRunner(clock, (50, 40, 40, 40, 10, 10)), 1, config(warmup_s=0.1, min_iterations=2))

    assert found.warmup_iterations == 4
    assert found.samples_ms == (10, 10)


def test_the_first_warm_up_is_whole_and_the_later_rounds_share_another(clock):
    ((found,),) = bench_many([FakeRunner(clock)], config(warmup_s=0.1), rounds=5)

    assert found.warmup_iterations == 1 + 10 + 4 * 2


def test_measuring_goes_on_until_both_time_and_iterations_are_reached(clock):
    runner = FakeRunner(clock)

    assert len(measure(runner, 1, config(duration_s=0.25, min_iterations=3)).samples_ms) == 25
    assert len(measure(runner, 1, config(duration_s=0.01, min_iterations=40)).samples_ms) == 40


def test_other_load_is_what_the_cores_did_beyond_this_process(clock, monkeypatch):
    # Two cores for 0.1 s: 0.2 s of CPU time, of which 0.15 was used and 0.09 is ours.
    monkeypatch.setattr(module, "cores", lambda: {0, 1})
    monkeypatch.setattr(module, "busy_seconds", lambda: 7 + 1.5 * clock.now / 1e9)
    monkeypatch.setattr(module, "own_cpu_seconds", lambda: 3 + 0.9 * clock.now / 1e9)

    found = measure(FakeRunner(clock), 1, config(min_iterations=10))

    assert found.other_load == pytest.approx(0.3)
    assert found.noisy == "other processes used 30% of the CPU while batch 1 was timed"


@pytest.mark.parametrize(("busy", "load"), [(0.1, 0.0), (99.0, 1.0)])
def test_other_load_is_a_share_although_the_counters_are_coarse(clock, monkeypatch, busy, load):
    monkeypatch.setattr(module, "cores", lambda: {0})
    monkeypatch.setattr(module, "busy_seconds", lambda: busy * clock.now / 1e9)
    monkeypatch.setattr(module, "own_cpu_seconds", lambda: clock.now / 1e9)

    assert measure(FakeRunner(clock), 1, config()).other_load == load


def test_load_that_cannot_be_known_is_none_and_not_called_noisy(clock):
    found = measure(FakeRunner(clock), 1, config())

    assert found.other_load is None
    assert found.noisy is None


def test_energy_is_the_counters_growth_over_the_timed_calls_only(clock, monkeypatch):
    # 100 W: a call of 10 ms takes 1 J, one of 30 ms takes 3 J. The warm-up is not metered.
    meter = Meter((Counter(lambda: int(100 * clock.now / 1e3)),))
    monkeypatch.setattr(module, "meter_of", lambda provider, gpu: meter)

    (found,) = bench(FakeRunner(clock, (10, 30)), config(warmup_s=0.5, min_iterations=20))

    assert set(found.samples_ms) == {10, 30}
    assert len(found.samples_ms) == 20
    assert found.energy_j == pytest.approx(2.0)


def test_energy_that_a_counter_once_did_not_show_is_none(clock, monkeypatch):
    shown = iter([0, 1_000_000, None, 5_000_000, *range(0, 10**8, 10**6)])
    monkeypatch.setattr(module, "meter_of", lambda provider, gpu: Meter((Counter(lambda: next(shown)),)))

    assert bench(FakeRunner(clock), config())[0].energy_j is None


def test_without_a_counter_there_is_no_energy(clock):
    assert bench(FakeRunner(clock), config())[0].energy_j is None


def test_the_meter_is_that_of_the_provider_and_the_cpu_has_no_gpu(clock, monkeypatch):
    asked = []
    monkeypatch.setattr(module, "meter_of", lambda *given: asked.append(given) or Meter())
    gpu = FakeGpu(clock)

    bench_many([FakeRunner(clock), FakeRunner(clock, provider="cuda")], config(), gpu=gpu)

    assert asked == [("cpu", None), ("cuda", gpu)]


def test_of_a_gpu_the_lowest_clock_and_all_slow_downs_are_kept(clock):
    gpu = FakeGpu(
        clock,
        clocks_mhz=(1700, 1500, None, 1650, 1690),
        slow=((), ("heat",), ("power limit",), ("heat",), ()),
        others=(None, False, True, False, None),
    )

    on_gpu, on_cpu = bench_many([FakeRunner(clock, provider="cuda"), FakeRunner(clock)], config(), gpu=gpu)

    assert on_gpu[0].gpu_clock_mhz == 1500
    assert on_gpu[0].gpu_slow_downs == ("heat", "power limit")
    assert on_gpu[0].gpu_shared
    assert on_gpu[0].noisy == "another process was on the GPU while batch 1 was timed"
    assert on_gpu[0].slowed == "the GPU was slowed down to 1500 MHz by heat and power limit while batch 1 was timed"
    assert (on_cpu[0].gpu_clock_mhz, on_cpu[0].gpu_slow_downs, on_cpu[0].gpu_shared) == (None, (), None)
    assert (on_cpu[0].noisy, on_cpu[0].slowed) == (None, None)


def test_a_gpu_that_tells_nothing_is_neither_shared_nor_slow(clock):
    (found,) = bench(
        FakeRunner(clock, provider="cuda"), config(), gpu=FakeGpu(clock, clocks_mhz=(None,), others=(None,))
    )

    assert (found.gpu_clock_mhz, found.gpu_shared, found.noisy, found.slowed) == (None, None, None, None)


# Invariants


@given(st.lists(st.floats(0.001, 1e6), min_size=6, max_size=200), st.floats(0.1, 99.9))
def test_percentiles_and_median_interval_are_samples_in_order(samples, percent):
    low, high = median_interval(samples)

    assert percentile(samples, percent) in samples
    assert low <= percentile(samples, 50) <= high
    assert {low, high} <= set(samples)
    assert sum(value <= percentile(samples, percent) for value in samples) >= percent / 100 * len(samples) - 1e-6


def test_each_batch_size_is_measured_with_images_of_its_size_in_the_box(clock):
    runner = FakeRunner(clock)

    found = bench(runner, config(batch_sizes=(1, 8)))

    assert [latency.batch for latency in found] == [1, 8]
    assert runner.images.shape == (8, 3, 4, 4)
    assert runner.images.dtype == np.float32
    assert 0 <= runner.images.min() < 0.1 < 0.9 < runner.images.max() <= 1


def test_images_are_the_same_each_time(clock):
    one, other = FakeRunner(clock), FakeRunner(clock)
    bench(one, config())
    bench(other, config())

    assert np.array_equal(one.images, other.images)


def test_transfers_are_timed_only_when_asked_for(clock):
    placed, moved = FakeRunner(clock), FakeRunner(clock)

    assert not bench(placed, config())[0].transfers
    assert bench(moved, config(transfers=True))[0].transfers
    assert {entry[2] for entry in placed.log} == {"placed"}
    assert {entry[2] for entry in moved.log} == {"transfers"}


def test_a_cuda_graph_is_noted(clock):
    assert not bench(FakeRunner(clock), config())[0].cuda_graph
    assert bench(FakeRunner(clock), config(cuda_graph=True))[0].cuda_graph


@pytest.mark.parametrize("was_on", [True, False])
def test_no_garbage_is_collected_while_timing_and_the_collector_is_left_as_found(clock, was_on):
    runner = FakeRunner(clock)
    try:
        gc.enable() if was_on else gc.disable()
        measure(runner, 1, config(warmup_s=0.03, min_iterations=3))
        assert gc.isenabled() == was_on
    finally:
        gc.enable()

    assert [entry[3] for entry in runner.log] == [was_on] * 4 + [False] * 3


def test_the_collector_is_left_as_found_when_a_call_fails(clock):
    runner = FakeRunner(clock)
    prepared = iter([None])

    def fail_later():
        if next(prepared, StopIteration) is StopIteration:
            raise MemoryError("gone")

    runner.prepare = lambda _: fail_later

    with pytest.raises(MemoryError):
        measure(runner, 1, config())
    assert gc.isenabled()


def test_runners_take_turns_and_every_second_round_goes_backwards(clock):
    log = []
    runners = [FakeRunner(clock, (duration,), format=name, log=log) for name, duration in (("a", 5), ("b", 10))]

    first, second = bench_many(runners, config(duration_s=0.06, min_iterations=1), rounds=3)

    turns = [entry[0] for index, entry in enumerate(log[2:]) if index == 0 or entry[0] != log[2:][index - 1][0]]
    assert turns == ["a", "b", "a", "b"]  # ab ba ab
    assert [(row.format, len(row.samples_ms)) for row in (*first, *second)] == [("a", 12), ("b", 6)]
    assert first[0].samples_ms == (5,) * 12
    assert second[0].samples_ms == (10,) * 6


def test_each_turn_is_announced_before_it_begins(clock):
    log, seen = [], []
    runners = [FakeRunner(clock, log=log), FakeRunner(clock, log=log)]

    bench_many(runners, config(batch_sizes=(1, 4)), rounds=2, watch=lambda *turn: seen.append((*turn, len(log))))

    assert [turn[:3] for turn in seen] == [
        *((0, 1, 0), (1, 1, 0), (1, 1, 1), (0, 1, 1)),
        *((0, 4, 0), (1, 4, 0), (1, 4, 1), (0, 4, 1)),
    ]
    assert [turn[3] for turn in seen] == [2, 3, 4, 5, 8, 9, 10, 11]  # two trial calls come first at each batch size


def test_rounds_together_reach_the_least_number_of_iterations(clock):
    (found,), _ = bench_many([FakeRunner(clock), FakeRunner(clock)], config(min_iterations=11), rounds=5)

    assert 11 <= len(found.samples_ms) <= 15


def test_a_real_measurement_holds_together():
    """On the real clock and the real counters: no time is asserted, only that the parts fit."""

    class Real(FakeRunner):
        def prepare(self, images):
            return lambda: np.square(images).sum()

    found = measure(Real(Clock()), 2, config(warmup_s=0.01, duration_s=0.05, min_iterations=20, percentiles=(50, 99)))

    assert isinstance(found, Latency)
    assert len(found.samples_ms) >= 20
    assert min(found.samples_ms) <= found.percentiles["50"] <= found.percentiles["99"] <= max(found.samples_ms)
    assert found.throughput == pytest.approx(2000 / found.mean_ms)
    assert found.other_load is None or 0 <= found.other_load <= 1


# Refusals


def test_a_batch_that_the_runtime_cannot_run_is_refused_in_one_line(clock):
    runner = FakeRunner(clock, path=Path("out/student.onnx"))
    runner.prepare = lambda images: partial(runner, images)

    with pytest.raises(InputRejected, match=r"^student\.onnx cannot run a batch of 128: Got invalid dimensions$"):
        bench(runner, config(batch_sizes=(1, 128)))


@pytest.mark.parametrize("transfers", [True, False])
def test_a_refusal_of_the_exporter_passes_as_it_is(clock, transfers):
    class Chunked(FakeRunner):
        """Feeds itself smaller batches, which would be timed as if they were one."""

        def __call__(self, images):
            return np.zeros((len(images), 2), np.float32)

    with pytest.raises(ArtifactRejected, match="the profile ends at a batch of 64"):
        bench(Chunked(clock), config(batch_sizes=(128,), transfers=transfers))
