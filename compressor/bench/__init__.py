"""What a file costs: latency, throughput, energy, memory; and what follows from it."""

from compressor.bench.baseline import Benchmark, Change, compare, slower
from compressor.bench.harness import ROUNDS, Latency, bench, bench_many, measure
from compressor.bench.memory import Memory, MemoryUnknown, Request, measure_memory
from compressor.bench.statistics import median_interval, percentile
from compressor.bench.verdict import Budget, Choice, choose, slow_int8

__all__ = [
    "ROUNDS",
    "Benchmark",
    "Budget",
    "Change",
    "Choice",
    "Latency",
    "Memory",
    "MemoryUnknown",
    "Request",
    "bench",
    "bench_many",
    "choose",
    "compare",
    "measure",
    "measure_memory",
    "median_interval",
    "percentile",
    "slow_int8",
    "slower",
]
