import json

import pytest

from compressor import baseline as module
from compressor.baseline import compare, other_machine, read, slow_int8, write
from compressor.bench import Latency, median_interval, percentile
from compressor.errors import InputRejected


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


def test_only_what_was_measured_in_the_same_way_is_compared():
    now = [latency(1), latency(2, batch=8), latency(3, batch=32)]
    before = [latency(4, batch=8), latency(5, batch=32, threads=1), latency(6, batch=1, transfers=True)]

    assert {(row.batch, row.ratio) for row in compare(now, before)} == {(8, 0.5)}


def test_int8_that_is_slower_than_a_wider_precision_is_said():
    measured = {
        "a.int8": [latency(3, precision="int8"), latency(3, precision="int8", batch=8)],
        "a.fp32": [latency(2), latency(4, batch=8)],
        "other runtime": [latency(1, format="pytorch")],
    }

    assert slow_int8(measured) == ("a.int8 is slower than a.fp32 at batch 1: 3 ms against 2 ms",)


# Invariants


def test_a_benchmark_file_gives_back_what_was_measured(tmp_path):
    measured = {"student": (latency(1, 2, 3, 4, 5, 6), latency(7, batch=8, other_load=None))}

    write(tmp_path / "bench.json", measured)
    found = read(tmp_path / "bench.json")

    assert found.latencies == measured
    assert "python" in found.versions
    assert other_machine(found) is None


def test_a_baseline_of_another_machine_is_said(tmp_path, monkeypatch):
    write(tmp_path / "bench.json", {"student": (latency(1),)})
    here = module.hardware()
    monkeypatch.setattr(module, "hardware", lambda: here | {"cpu": "Abacus"})

    assert other_machine(read(tmp_path / "bench.json")).endswith("here 'Abacus'")


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
