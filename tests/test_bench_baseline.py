import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from compressor.bench import Budget, Latency, Memory, choose, compare, median_interval, percentile, slow_int8, slower
from compressor.bench import baseline as module
from compressor.bench.baseline import read, summary, write
from compressor.errors import InputRejected
from compressor.machine.hardware import differing, hardware


def latency(*samples, **values):
    known = {
        "format": "onnx",
        "provider": "cpu",
        "precision": "fp32",
        "batch": 1,
        "samples_ms": tuple(map(float, samples)),
        "percentiles": {"50": percentile(samples, 50), "99": percentile(samples, 99)},
        "mean_ms": sum(samples) / len(samples),
        "median_interval": median_interval(samples),
        "throughput": 1000 * values.get("batch", 1) * len(samples) / sum(samples),
        "warmup_iterations": 1,
        "threads": None,
        "transfers": False,
        "other_load": 0.02,
        "clock_mhz": None,
    }
    return Latency(**known | values)


# Closed forms


def test_ratios_are_now_over_baseline_at_each_percentile():
    changes = compare([latency(2, 2, 6)], [latency(4, 4, 4)])

    assert [(row.percentile, row.now_ms, row.baseline_ms, row.ratio) for row in changes] == [
        ("50", 2, 4, 0.5),
        ("99", 6, 4, 1.5),
    ]


def test_a_change_is_clear_when_the_medians_cannot_be_confused():
    def clear(now, before):
        return compare([latency(*now)], [latency(*before)])[0].clear

    assert clear(range(1, 11), range(20, 30))
    assert clear(range(20, 30), range(1, 11))
    assert not clear(range(1, 11), range(5, 15))
    assert not clear([1], [100])  # one sample tells nothing


def test_no_change_is_clear_when_other_processes_were_busy():
    quiet, slow, busy = latency(*range(1, 11)), latency(*range(20, 30)), latency(*range(20, 30), other_load=0.5)

    assert compare([quiet], [slow])[0].clear
    assert not compare([quiet], [busy])[0].clear
    assert not compare([busy], [quiet])[0].clear


def test_no_change_is_clear_when_the_gpu_was_slowed_down_in_one_of_the_two():
    fast, slow = latency(*range(1, 11)), latency(*range(20, 30), gpu_slow_downs=("heat",))

    assert not compare([slow], [fast])[0].clear
    assert compare([slow], [latency(*range(1, 11), gpu_slow_downs=("heat",))])[0].clear


def test_a_percentile_that_went_against_the_median_is_not_clear():
    median, last = compare([latency(*range(20, 29), 30)], [latency(*range(1, 10), 40)])

    assert (median.percentile, median.clear, median.ratio > 1) == ("50", True, True)
    assert (last.percentile, last.clear, last.ratio) == ("99", False, 0.75)


def test_the_median_is_compared_also_where_it_was_not_asked_for():
    changes = compare([latency(1, 2, 3, percentiles={"90": 3.0})], [latency(2, 4, 6)])

    assert [(row.percentile, row.ratio) for row in changes] == [("50", 0.5), ("90", 0.5)]


def test_only_what_was_measured_in_the_same_way_is_compared():
    now = [latency(1), latency(2, batch=8), latency(3, batch=32), latency(1, batch=64)]
    before = [
        *(latency(4, batch=8), latency(5, batch=32, threads=1), latency(6, batch=1, transfers=True)),
        *(latency(7, batch=64, cuda_graph=True), latency(8, batch=64, provider="cuda")),
        *(latency(9, batch=64, format="pytorch"), latency(9, batch=64, precision="fp16")),
    ]

    assert {(row.batch, row.ratio) for row in compare(now, before)} == {(8, 0.5)}


def test_medians_that_are_clearly_slower_are_counted():
    now = [latency(*range(20, 30)), latency(*range(1, 11), batch=8), latency(*range(5, 15), batch=32)]
    before = [latency(*range(1, 11)), latency(*range(20, 30), batch=8), latency(*range(1, 11), batch=32)]

    changes = compare(now, before)

    assert [(change.batch, change.percentile) for change in slower(changes)] == [(1, "50")]
    assert summary(changes) == "1 of 3 medians are clearly slower than the baseline, 1 clearly faster"


def test_int8_that_is_slower_than_a_wider_precision_is_said():
    measured = {
        "a.int8": [latency(*[3] * 6, precision="int8"), latency(*[3] * 6, precision="int8", batch=8)],
        "a.fp32": [latency(*[2] * 6), latency(*[4] * 6, batch=8)],
        "b.int8": [latency(*[1] * 6, precision="int8")],
    }

    assert slow_int8(measured) == ("a.int8 is slower than a.fp32 at batch 1: 3 ms against 2 ms",)


def test_int8_is_held_against_other_runtimes_of_the_device_once():
    int8 = {"a.int8": [latency(*[3] * 6, precision="int8")]}
    others = {
        "b": [latency(*[2] * 6, format="pytorch")],
        "c": [latency(*[1] * 6, format="openvino", precision="fp16")],
        "on a gpu": [latency(*[0.1] * 6, provider="cuda")],
    }

    assert slow_int8(int8 | others) == ("a.int8 is slower than c at batch 1: 3 ms against 1 ms",)
    # The same runtime comes first, since there the quantising itself has not paid.
    assert slow_int8(int8 | others | {"a.fp32": [latency(*[2.5] * 6)]}) == (
        "a.int8 is slower than a.fp32 at batch 1: 3 ms against 2.5 ms",
    )


def test_int8_within_the_noise_of_another_is_not_called_slow():
    assert slow_int8({"a": [latency(*range(2, 12), precision="int8")], "b": [latency(*range(1, 11))]}) == ()
    assert slow_int8({"a": [latency(3, precision="int8")], "b": [latency(1)]}) == ()  # one sample tells nothing


CANDIDATES = {
    "teacher": [latency(9, 9, 10)],
    "big": [latency(3, 3, 4), latency(1, batch=8)],
    "small": [latency(1, 1, 2)],
    "twin": [latency(1, 1, 3)],
}
ACCURACY = {"teacher": 99.0, "big": 98.5, "small": 97.0, "twin": 97.0}


@pytest.mark.parametrize(("limit", "name"), [(10, "teacher"), (9.99, "big"), (4, "big"), (3.99, "small"), (2, "small")])
def test_the_most_accurate_file_within_the_latency_is_chosen(limit, name):
    choice = choose(CANDIDATES, Budget(limit_ms=limit, batch=1), top1=ACCURACY)

    assert (choice.met, choice.name, choice.top1) == (True, name, ACCURACY[name])


@pytest.mark.parametrize("names", [("small", "twin"), ("twin", "small")])
def test_of_equally_accurate_files_the_faster_is_chosen(names):
    both = {name: CANDIDATES[name] for name in names}

    assert choose(both, Budget(limit_ms=5, batch=1), top1=ACCURACY).name == "small"


def test_the_percentile_is_the_one_asked_for():
    assert not choose(CANDIDATES, Budget(limit_ms=1.5, batch=1)).met
    median = choose(CANDIDATES, Budget(limit_ms=1.5, batch=1, percent=50))
    assert (median.met, median.latency_ms) == (True, 1)


def test_a_file_of_unknown_accuracy_loses_to_a_known_one_and_the_fastest_wins_where_none_is_known():
    budget = Budget(limit_ms=20, batch=1)

    assert choose(CANDIDATES, budget, top1={"teacher": 0.0, "small": None}).name == "teacher"
    found = choose(CANDIDATES, budget)
    assert (found.name, found.top1, found.images_per_s) == ("small", None, 750)


def test_a_choice_is_one_sentence():
    def sentence(limit, **known):
        return choose(CANDIDATES, Budget(limit_ms=limit, batch=1), **known).sentence

    assert sentence(5, top1=ACCURACY) == "within 5 ms (p99) at batch 1: big, 4 ms, 300 images/s, top-1 98.50"
    assert sentence(5) == "within 5 ms (p99) at batch 1: small, 2 ms, 750 images/s, accuracy not measured"
    assert sentence(1.5, top1=ACCURACY) == (
        "none is within 1.5 ms (p99) at batch 1; the fastest is small, 2 ms, 750 images/s, top-1 97.00"
    )


def test_only_the_batch_size_of_the_budget_counts():
    assert choose(CANDIDATES, Budget(limit_ms=1, batch=8), top1=ACCURACY).name == "big"
    with pytest.raises(ValueError, match="empty"):
        choose(CANDIDATES, Budget(limit_ms=1, batch=2))


# Invariants


def test_a_benchmark_file_gives_back_what_was_measured(tmp_path):
    measured = {"student": (latency(1, 2, 3, 4, 5, 6), latency(7, batch=8, other_load=None))}

    memory = {"student": (Memory(batch=1, added_mb=2.5, peak_mb=200.0, gpu_mb=None),)}

    write(tmp_path / "bench.json", measured, memory)
    found = read(tmp_path / "bench.json")

    assert found.latencies == measured
    assert found.memory == memory
    assert "python" in found.versions
    assert differing(found.hardware, hardware()) == ()


def test_an_artifact_is_found_by_its_name_or_by_the_only_file_called_so(tmp_path):
    write(tmp_path / "bench.json", {"export/a.onnx": (latency(1),), "x/b.onnx": (latency(2),), "y/b.onnx": ()})
    found = read(tmp_path / "bench.json")

    assert found.of("export/a.onnx") == found.of("a.onnx") == (latency(1),)
    assert found.of("x/b.onnx") == (latency(2),)
    assert found.of("b.onnx") is None
    assert found.of("none.onnx") is None


# Refusals


def test_a_baseline_with_nothing_in_common_is_refused():
    with pytest.raises(InputRejected, match="the baseline measured no batch size"):
        compare([latency(1)], [latency(1, precision="int8")])


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"benchmark": 2}, "benchmark: Input should be 1"),
        ({"colour": "red"}, "colour"),
        ({"latencies": None}, "latencies"),
        ({"latencies": {"a": [{"batch": 1}]}}, r"latencies\.a\.0"),
    ],
)
def test_a_baseline_of_another_schema_is_refused_by_the_key(tmp_path, change, reason):
    path = tmp_path / "bench.json"
    write(path, {"student": (latency(1),)})
    path.write_text(json.dumps(json.loads(path.read_text()) | change))

    with pytest.raises(InputRejected, match=f"is not a benchmark file of schema 1: .*{reason}"):
        read(path)


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff\xfe\x00"])
def test_a_damaged_baseline_is_refused(tmp_path, content):
    path = tmp_path / "bench.json"
    path.write_bytes(content)

    with pytest.raises(InputRejected, match="is not a benchmark file"):
        read(path)


def test_a_missing_baseline_is_refused(tmp_path):
    with pytest.raises(InputRejected, match="cannot read the baseline"):
        read(tmp_path / "none.json")


# The document


@pytest.mark.parametrize(
    "part", [module.Benchmark.model_fields, Latency.__dataclass_fields__, Memory.__dataclass_fields__]
)
def test_every_key_of_the_file_is_documented(part):
    text = (Path(__file__).parent.parent / "docs" / "bench.md").read_text(encoding="utf-8")

    assert set(part) <= set(re.findall(r"`([a-z0-9_]+)`", text))


@pytest.mark.parametrize(
    "changes",
    [
        {"samples_ms": ()},
        {"samples_ms": (0.0, 1.0)},
        {"samples_ms": (-1.0,)},
        {"median_interval": (0.0, 1.0)},
        {"batch": 0},
    ],
)
def test_a_benchmark_that_nobody_measured_is_refused(tmp_path, changes):
    fine = latency(*range(1, 11))
    write(tmp_path / "fine.json", {"student": (fine,)})
    write(tmp_path / "bench.json", {"student": (fine, replace(fine, **changes))})

    assert read(tmp_path / "fine.json").latencies["student"] == (fine,)
    with pytest.raises(InputRejected, match="holds what was never measured: student, batch"):
        read(tmp_path / "bench.json")


def test_a_benchmark_with_nan_is_refused(tmp_path):
    write(tmp_path / "bench.json", {"student": (latency(1234.5),)})
    text = (tmp_path / "bench.json").read_text()
    (tmp_path / "bench.json").write_text(re.sub(r"1234\.5(?=\s*\])", "NaN", text))

    with pytest.raises(InputRejected, match=r"never measured|not a benchmark file"):
        read(tmp_path / "bench.json")


def test_a_file_that_was_timed_with_several_numbers_of_threads_is_judged_with_each():
    rows = {"a": (latency(4, threads=1), latency(2, threads=2), latency(3)), "b": (latency(2.5),)}

    found = choose(rows, Budget(limit_ms=2.2, batch=1))
    assert (found.name, found.threads, found.latency_ms) == ("a", "2 threads", 2)
    assert "a, with 2 threads, 2 ms" in found.sentence
    none = choose(rows, Budget(limit_ms=1, batch=1))
    assert (none.met, none.name, none.threads) == (False, "a", "2 threads")
    assert choose({"b": rows["b"]}, Budget(limit_ms=9, batch=1)).threads == ""
