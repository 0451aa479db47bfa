import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from layers import trains
from shell import ran, refused, typed
from test_report import result as record_of

from compressor.errors import GateFailed, InputRejected
from compressor.gates import (
    GATES,
    GateType,
    broken,
    enforce,
    judge,
    promised,
    read_baseline,
    require_same_data,
    unmeasurable,
)
from compressor.gates.reading import Reading
from compressor.recipe import Gates, Recipe
from compressor.runs.record import Artifact, Network, Parity, Timing

REGRESSIONS = [name for name, gate in GATES.items() if "baseline" in gate.needs]
FILE = {"format": "onnx", "precision": "fp32", "provider": "cpu", "sha256": "0" * 64, "size_bytes": 1_500_000}


def timing(p50, p99=None, other_load=None, median_ci=None, **values):
    p99 = p50 if p99 is None else p99
    return Timing(
        **values,
        p50=p50,
        p90=p99,
        p95=p99,
        p99=p99,
        mean=p50,
        median_ci=median_ci,
        images_per_s=1.0,
        iterations=100,
        threads=None,
        transfers=False,
        other_load=other_load,
    )


def artifact(**values):
    known = {
        "samples": 1000,
        "top1": 90.0,
        "top1_ci": (88.0, 91.7),
        "ece": 0.05,
        "agreement": 0.93,
        "accuracy_drop": 1.2,
        "accuracy_drop_ci": (1.0, 1.4),
        "worst_class_drop": 4.0,
        "confidence_spread": 0.03,
        "boundary_agreement": 0.8,
        "fgsm_top1": 50.0,
        "pgd_top1": 40.0,
        "latency_ms": {"1": timing(3.0, 9.0), "8": timing(20.0, 21.0)},
        "parity": Parity(
            max_error=1e-5, mean_error=1e-6, relative_error=1e-6, agreement=1.0, samples=9, batch_sizes=(1, 2, 7)
        ),
    }
    return Artifact(**{"path": "student.onnx"} | FILE | known | values)


NETWORK = {"arch": "resnet8", "classes": 2, "input_shape": (1, 8, 8), "parameters": 1, "macs": 1}


def teacher(**values):
    return Network(path="teacher.pt", **FILE | NETWORK | {"latency_ms": {"1": timing(12.0, 13.0)}} | values)


def run(*artifacts, **values):
    """The record of a run with these artifacts."""
    known = record_of(artifacts=artifacts or (artifact(),), teacher=teacher())
    counted = known.data.model_copy(update={"boundary_samples": 100, "attack_samples": 200, "autoattack_samples": 50})
    return known.model_copy(update={"data": counted, **values})


def verdict(gate, limit, *, undecided=None, **values):
    taught = values.pop("teacher", teacher())
    gates = Gates(**{gate: limit}, undecided=undecided)
    (found,) = judge(gates, run(artifact(**values), teacher=taught))
    assert found.gate == gate
    return found


def recipe(gates, **values):
    known = {"student": {"arch": "resnet8"}, "teacher": {"checkpoint": "teacher.pt"}, "gates": gates}
    return Recipe.model_validate(known | values)


# Closed forms


@pytest.mark.parametrize(
    ("gate", "value", "kept", "broken"),
    [
        ("max_accuracy_drop", 1.2, 1.5, 0.9),
        ("min_top1", 90.0, 90.0, 90.1),
        ("min_agreement", 0.93, 0.93, 0.94),
        ("min_boundary_agreement", 0.8, 0.8, 0.81),
        ("max_class_drop", 4.0, 4.0, 3.9),
        ("max_parity_error", 1e-5, 1e-5, 1e-6),
        ("p50_ms", 3.0, {"max": 3.0}, {"max": 2.9}),
        ("p99_ms", 9.0, {"max": 9.0}, {"max": 8.9}),
        ("min_speedup", 4.0, 4.0, 4.1),
        ("max_size_mb", 1.5, 1.5, 1.4),
        ("min_robust_top1", 40.0, 40.0, 40.1),
        ("max_ece", 0.05, 0.05, 0.04),
        ("max_confidence_spread", 0.03, 0.03, 0.02),
    ],
)
def test_each_gate_holds_at_its_limit_and_breaks_just_beyond(gate, value, kept, broken):
    assert (verdict(gate, kept).value, verdict(gate, kept).passed) == (value, True)
    assert verdict(gate, kept).verdict == "held"
    assert (verdict(gate, broken).passed, verdict(gate, broken).verdict) == (False, "broken")
    assert verdict(gate, broken).limit == (broken["max"] if isinstance(broken, dict) else broken)
    assert verdict(gate, broken).artifact == "student.onnx"


def test_every_gate_of_the_recipe_is_known_here():
    assert set(GATES) == set(Gates.model_fields) - {"undecided", "baseline"}


def test_a_gate_is_one_entry_and_one_field_of_the_recipe(monkeypatch):
    class More(Gates):
        max_nll: float | None = None

    entry = GateType(
        read=lambda subject: Reading(value=subject.file.nll, basis="a basis"),
        unit=" nats",
        needs=("running", "teacher"),
    )
    monkeypatch.setitem(GATES, "max_nll", entry)
    held, lost = (judge(More(max_nll=limit), run(artifact(nll=0.5)))[0] for limit in (0.5, 0.4))

    assert (held.verdict, lost.verdict) == ("held", "broken")
    assert held.detail == "0.5 nats, promised at most 0.5 nats; a basis"
    alone = recipe({}, teacher=None).model_copy(update={"gates": More(max_nll=1)})
    assert unmeasurable(alone) == ["the gate max_nll compares with a teacher, and the recipe has none"]


@pytest.mark.parametrize("gate", GATES)
def test_a_file_that_did_not_run_has_its_size_and_nothing_else(gate):
    limit = {"max": 1} if gate.endswith("_ms") else 0.5
    found = verdict(gate, limit, provider=None)

    sized = gate in ("max_size_mb", "max_size_regression")
    assert found.detail.endswith("the file could not be run where it was built") is not sized


def test_latency_gates_look_at_their_own_batch_size_and_percentile():
    found = verdict("p99_ms", {"batch": 8, "max": 10})

    assert (found.value, found.passed) == (21.0, False)
    assert found.detail == "21 ms, promised at most 10 ms; batch 8, 100 samples"
    assert verdict("p50_ms", {"batch": 8, "max": 10}).value == 20.0


def test_speedup_is_the_teachers_median_over_the_artifacts():
    assert verdict("min_speedup", 2).value == 12.0 / 3.0


def test_details_say_what_the_value_rests_on():
    assert verdict("min_top1", 91).detail == ("90 %, promised at least 91 %; on 1000 images, 95 % interval 88 to 91.7")
    assert verdict("max_ece", 0.1).detail == "0.05, promised at most 0.1; on 1000 images"


def test_noise_is_told_with_the_latency():
    found = verdict("p50_ms", {"max": 5}, latency_ms={"1": timing(2.0, 3.0, other_load=0.4)})

    assert found.detail.endswith("; other processes used 40% of the CPU meanwhile")
    busy = timing(12.0, 13.0, gpu_shared=True)
    assert (
        "another process was on the GPU meanwhile"
        in verdict("min_speedup", 2, teacher=teacher(latency_ms={"1": busy})).detail
    )


# Undecided


@pytest.mark.parametrize(("limit", "passed"), [(0.99, False), (1.0, None), (1.2, None), (1.4, None), (1.41, True)])
def test_a_drop_is_undecided_while_its_interval_holds_the_limit(limit, passed):
    assert verdict("max_accuracy_drop", limit).passed is passed


def test_an_undecided_verdict_keeps_its_value_and_says_so():
    found = verdict("max_accuracy_drop", 1.3)

    assert found.value == 1.2
    assert found.detail.startswith("undecided: 1.2 points, promised at most 1.3 points; on 1000 images")


@pytest.mark.parametrize(("undecided", "passed"), [(None, None), ("pass", None), ("fail", False)])
def test_the_recipe_decides_what_is_undecided(undecided, passed):
    found = verdict("max_accuracy_drop", 1.3, undecided=undecided)

    assert (found.verdict, found.passed) == ("undecided", passed)
    assert promised([found]) is (undecided != "fail")


# 95 % intervals: of 1000, 100 and 200 images by Wilson's formula, of the medians as given.
@pytest.mark.parametrize(
    ("gate", "below", "above", "measured"),
    [
        ("min_top1", 87.9, 91.8, 90.5),
        ("min_agreement", 0.912, 0.945, 0.931),
        ("min_boundary_agreement", 0.710, 0.867, 0.81),
        ("min_robust_top1", 33.4, 47.0, 41),
        ("p50_ms", {"max": 2.7}, {"max": 3.3}, {"max": 2.9}),
        ("min_speedup", 3.4, 4.6, 4.1),
    ],
)
def test_an_absolute_limit_is_held_against_the_value_unless_the_recipe_wants_proof(gate, below, above, measured):
    times = {"1": timing(3.0, 9.0, median_ci=(2.8, 3.2))}
    values = {"latency_ms": times, "teacher": teacher(latency_ms={"1": timing(12.0, median_ci=(11.2, 12.8))})}
    low, high = (below, above) if gate.startswith("min_") else (above, below)

    assert verdict(gate, measured, **values).verdict == "broken"
    for undecided, passed in (("pass", None), ("fail", False)):
        found = verdict(gate, measured, undecided=undecided, **values)
        assert (found.verdict, found.passed) == ("undecided", passed)
        assert verdict(gate, low, undecided=undecided, **values).verdict == "held"
        assert verdict(gate, high, undecided=undecided, **values).verdict == "broken"


def test_a_value_without_an_interval_is_taken_as_it_is():
    for undecided in (None, "pass", "fail"):
        assert verdict("p50_ms", {"max": 2.9}, undecided=undecided).verdict == "broken"
        assert verdict("max_ece", 0.05, undecided=undecided).verdict == "held"


@pytest.mark.heavy
@given(st.floats(0, 100), st.sampled_from(["min_top1", "max_accuracy_drop"]))
def test_what_passes_with_undecided_fail_passes_with_all_others(limit, gate):
    strict, lax, usual = (verdict(gate, limit, undecided=undecided) for undecided in ("fail", "pass", None))

    assert strict.passed is not True or (lax.passed, usual.passed) == (True, True)
    assert lax.passed is not False or (strict.passed, usual.passed) == (False, False)


# What is missing


@pytest.mark.parametrize(
    ("gate", "limit", "missing", "reason"),
    [
        ("min_top1", 50, {"top1": None}, "on 1000 images"),
        ("max_accuracy_drop", 1, {"accuracy_drop": None, "accuracy_drop_ci": None, "agreement": None}, "no teacher"),
        ("min_agreement", 0.5, {"agreement": None}, "no teacher to compare with"),
        ("min_agreement", 0.5, {"agreement": None, "samples": None}, "the file is not validated yet"),
        ("min_top1", 50, {"top1": None, "top1_ci": None, "samples": None}, "the file is not validated yet"),
        ("min_boundary_agreement", 0.5, {"boundary_agreement": None}, "on images at the teacher's boundary"),
        ("max_parity_error", 1, {"parity": None}, "largest difference from the student's logits"),
        ("p99_ms", {"batch": 2, "max": 1}, {}, "no latency of batch 2"),
        ("min_speedup", 1, {"latency_ms": None}, "no latency of batch 1 of the artifact"),
        ("min_speedup", 1, {"teacher": teacher(latency_ms=None)}, "no latency of batch 1 of the teacher"),
        ("min_speedup", 1, {"teacher": None}, "no latency of batch 1 of the teacher"),
        ("min_speedup", 1, {"teacher": teacher(provider="cuda")}, "the artifact ran on cpu and the teacher on cuda"),
        ("min_robust_top1", 1, {"fgsm_top1": None, "pgd_top1": None}, "on attacked images"),
    ],
)
def test_a_promise_about_something_not_measured_stays_open_and_breaks_a_complete_run(gate, limit, missing, reason):
    found = verdict(gate, limit, **missing)

    assert (found.value, found.passed, found.verdict) == (None, None, "unmeasured")
    assert found.detail.startswith(f"not measured: {reason}")
    assert promised([found]) is None
    enforce([found], complete=False)
    with pytest.raises(GateFailed, match="not measured"):
        enforce([found], complete=True)


def test_zero_is_a_value_and_not_a_gap():
    exact = Parity(max_error=0, mean_error=0, relative_error=0, agreement=1, samples=9, batch_sizes=(1,))

    assert verdict("max_parity_error", 0.0, parity=exact).passed is True
    assert verdict("min_robust_top1", 0.0, pgd_top1=0.0).passed is True
    assert verdict("min_robust_top1", 0.0, autoattack_top1=0.0).passed is True
    assert verdict("min_top1", 0.0, top1=0.0).passed is True


def test_the_robust_accuracy_is_that_of_the_worst_attack_with_the_interval_of_its_own_images():
    by_pgd = verdict("min_robust_top1", 40.0, undecided="fail", autoattack_top1=60.0)
    by_autoattack = verdict("min_robust_top1", 30.0, undecided="fail", autoattack_top1=30.0)

    assert (by_pgd.value, by_autoattack.value) == (40.0, 30.0)
    assert "33.46 to 46.92" in by_pgd.detail  # Wilson's of 200
    assert "19.1" in by_autoattack.detail  # and of 50


def test_the_student_itself_has_no_parity():
    student = Network(path="student.safetensors", **FILE, **NETWORK)

    (found,) = judge(Gates(max_parity_error=1), run(student=student, artifacts=()))

    assert (found.artifact, found.value, found.passed) == ("student.safetensors", None, None)


def test_no_gates_give_no_verdicts_and_no_promise():
    assert judge(Gates(), run()) == ()
    assert promised(()) is None


# Enforcing


def test_gates_that_hold_are_accepted_in_silence():
    verdicts = judge(Gates(min_top1=80, max_size_mb=2), run())

    enforce(verdicts, complete=True)
    assert promised(verdicts) is True


def test_a_failed_gate_ends_with_its_name_value_and_limit():
    verdicts = judge(Gates(min_top1=80, max_size_mb=1, min_speedup=10), run())

    assert promised(verdicts) is False
    with pytest.raises(GateFailed) as raised:
        enforce(verdicts, complete=False)
    assert raised.value.exit_code == 7
    assert raised.value.message.startswith(
        "2 of 3 gates failed: min_speedup of student.onnx: 4x, promised at least 10x"
    )
    assert "max_size_mb of student.onnx: 1.5 MB, promised at most 1 MB" in raised.value.message


# Before hours are spent


@pytest.mark.parametrize(
    ("gates", "values", "sentence"),
    [
        ({"p99_ms": {"batch": 8, "max": 1}}, {}, "gate p99_ms needs the latency of batch 8, .* has only 1, 32"),
        ({"p50_ms": {"max": 1}}, {"bench": {"batch_sizes": [4]}}, "gate p50_ms needs the latency of batch 1"),
        ({"min_speedup": 2}, {"bench": {"batch_sizes": [4]}}, "gate min_speedup needs the latency of batch 1"),
        ({"min_boundary_agreement": 0.5}, {"validate": {"boundary_samples": 0}}, "validate.boundary_samples is 0"),
        ({"min_robust_top1": 5}, {"validate": {"attack_samples": 0}}, "validate.attack_samples is 0"),
        ({"max_parity_error": 0}, {"export": []}, "the recipe exports nothing"),
        ({"max_accuracy_drop": 0}, {"teacher": None}, "gate max_accuracy_drop compares with a teacher"),
        ({"min_agreement": 0}, {"teacher": None}, "gate min_agreement compares with a teacher"),
        ({"min_speedup": 2}, {"teacher": None}, "gate min_speedup compares with a teacher"),
    ],
)
def test_a_gate_that_nothing_will_measure_is_named(gates, values, sentence):
    (found,) = unmeasurable(recipe(gates, **values))

    assert re.search(sentence, found)


def test_gates_that_will_be_measured_are_not_named():
    absolute = [gate for gate in GATES if gate not in REGRESSIONS]
    everything = dict.fromkeys(absolute, 1) | {"p50_ms": {"max": 1}, "p99_ms": {"batch": 32, "max": 1}}

    assert unmeasurable(recipe(everything)) == []


def test_what_no_gate_needs_may_be_left_out():
    sparse = {"validate": {"boundary_samples": 0, "attack_samples": 0}, "export": [], "bench": {"batch_sizes": [7]}}

    assert unmeasurable(recipe({"min_top1": 50}, teacher=None, **sparse)) == []


ENGINE = {"export": [{"format": "onnx"}, {"format": "trt", "precision": "fp16"}]}


@pytest.mark.parametrize("gate", [gate for gate in GATES if gate not in REGRESSIONS and gate != "max_size_mb"])
def test_a_gate_on_a_file_that_the_device_cannot_run_is_named(gate):
    limit = {"max": 1} if gate.endswith("_ms") else 0.5

    assert unmeasurable(recipe({gate: limit}, device="cpu", **ENGINE)) == [
        f"the gate {gate} has to run trt fp16, and that needs a GPU"
    ]
    bf16 = {"export": [{"precision": "bf16"}]}
    assert "has to run onnx bf16" in unmeasurable(recipe({gate: limit}, device="cpu", **bf16))[0]
    assert unmeasurable(recipe({gate: limit}, device="cuda", **ENGINE)) == []
    assert unmeasurable(recipe({"max_size_mb": 1}, device="cpu", **ENGINE)) == []


@pytest.mark.parametrize("there", [True, False])
def test_the_automatic_device_is_a_gpu_where_there_is_one(monkeypatch, there):
    monkeypatch.setattr("torch.cuda.is_available", lambda: there)

    assert bool(unmeasurable(recipe({"min_top1": 1}, device="auto", **ENGINE))) is not there


def test_a_speed_up_between_two_devices_is_named():
    openvino = {"export": [{"format": "openvino"}]}

    assert unmeasurable(recipe({"min_speedup": 2}, device="cuda", **openvino)) == [
        "the gate min_speedup compares openvino on the CPU with a teacher on the GPU"
    ]
    assert unmeasurable(recipe({"min_speedup": 2}, device="cpu", **openvino)) == []


# Against a baseline


@pytest.fixture
def against(tmp_path):
    """A function that judges an artifact by regression gates against a stored run."""

    def judged(gates, now, before, *, undecided=None, changes=None):
        before.write(tmp_path)
        found = run(now, **(changes or {}))
        return judge(Gates(**gates, baseline=tmp_path / "result.json", undecided=undecided), found)[0]

    return judged


def earlier(**values):
    return run(artifact(sha256="1" * 64, **values))


@pytest.mark.parametrize(
    ("gate", "before", "value"),
    [
        ("max_top1_regression", {"top1": 95.0, "top1_ci": None}, 5.0),
        ("max_agreement_regression", {"agreement": 0.98, "samples": None}, 0.05),
        ("max_size_regression", {"size_bytes": 1_200_000}, 25.0),
        ("max_latency_regression", {"latency_ms": {"1": timing(2.0, median_ci=(2.0, 2.0))}}, 50.0),
    ],
)
def test_a_regression_is_counted_from_the_baseline(against, gate, before, value):
    now = artifact(top1_ci=None, samples=None, latency_ms={"1": timing(3.0, median_ci=(3.0, 3.0))})

    held = against({gate: value + 1e-6}, now, earlier(**before))
    lost = against({gate: value - 1e-3}, now, earlier(**before))
    gain = against({gate: 0}, now, earlier(**before | {"top1": 80, "agreement": 0.5, "size_bytes": 2_000_000}))

    assert held.value == pytest.approx(value)
    assert (held.verdict, held.passed) == ("held", True)
    assert (lost.verdict, lost.passed) == ("broken", False)
    assert gain.verdict == ("broken" if gate == "max_latency_regression" else "held")


def test_a_loss_that_the_test_set_is_too_small_to_prove_fails_no_build(against):
    now, before = artifact(), earlier(top1=91.0, top1_ci=(89.1, 92.6))

    assert against({"max_top1_regression": 0.5}, now, before).verdict == "undecided"
    assert against({"max_top1_regression": 0.5}, now, before).passed is None
    assert against({"max_top1_regression": 0.5}, now, before, undecided="fail").passed is False
    # A loss within the limit needs no proof, unless the recipe asks for it.
    assert against({"max_top1_regression": 2}, now, before).verdict == "held"
    assert against({"max_top1_regression": 2}, now, before, undecided="fail").verdict == "undecided"
    # Newcombe: 1 -+ the root of the squared distances, (91 - 89.1, 91.7 - 90) and (92.6 - 91, 90 - 88).
    detail = against({"max_top1_regression": 0.5}, now, before).detail
    assert detail == (
        "undecided: 1 points, promised at most 0.5 points; 91.00 % to 90.00 % of 1000 images, "
        "95 % interval -1.55 to 3.561"
    )


def test_the_very_same_file_has_lost_nothing_beyond_doubt(against):
    found = against({"max_top1_regression": 0, "max_agreement_regression": 0}, artifact(), run(), undecided="fail")

    assert (found.value, found.verdict) == (0.0, "held")
    assert "the very same file" in found.detail


def medians(now, before, **values):
    return artifact(latency_ms={"1": now}), earlier(latency_ms={"1": before, **values})


@pytest.mark.parametrize(
    ("now", "before", "word"),
    [
        (timing(3.0, median_ci=(2.9, 3.1)), timing(2.0, median_ci=(1.9, 2.1)), "broken"),
        (timing(3.0, median_ci=(1.9, 4.1)), timing(2.0, median_ci=(1.5, 2.1)), "undecided"),
        (timing(2.1, median_ci=(1.5, 9.0)), timing(2.0, median_ci=(1.9, 2.1)), "held"),
        (timing(3.0), timing(2.0), "undecided"),  # too few samples for an interval
        (timing(3.0, median_ci=(2.9, 3.1), other_load=0.5), timing(2.0, median_ci=(2.0, 2.0)), "undecided"),
        (timing(3.0, median_ci=(2.9, 3.1), gpu_slow_downs=("heat",)), timing(2.0, median_ci=(2.0, 2.0)), "undecided"),
        (timing(3.0, median_ci=(2.9, 3.1), gpu_shared=True), timing(2.0, median_ci=(2.0, 2.0)), "undecided"),
        # A slow baseline hides a slowdown, and excuses none.
        (timing(3.0, median_ci=(2.9, 3.1)), timing(2.0, median_ci=(2.0, 2.0), other_load=0.5), "broken"),
    ],
)
def test_a_slowdown_counts_only_beyond_the_noise(against, now, before, word):
    assert against({"max_latency_regression": 10}, *medians(now, before)).verdict == word


def test_the_worst_batch_size_decides(against):
    sure, unsure = timing(20.0, median_ci=(19.9, 20.1)), timing(9.0, median_ci=(1.0, 17.0))
    now = artifact(latency_ms={"1": unsure, "8": sure, "64": sure})
    before = earlier(
        latency_ms={
            "1": timing(3.0, median_ci=(2.9, 3.1)),
            "8": timing(10.0, median_ci=(9.9, 10.1)),
            "64": timing(1.0, median_ci=(1.0, 1.0), cuda_graph=True),  # measured otherwise
            "128": timing(1.0, median_ci=(1.0, 1.0)),
        }
    )
    found = against({"max_latency_regression": 10}, now, before)

    assert (found.verdict, found.value) == ("broken", pytest.approx(100))
    assert "batch 8, 10 ms to 20 ms at the median" in found.detail


@pytest.mark.parametrize(("key", "value"), [("cpu", "other"), ("cores", 77), ("gpus", ["a GPU"])])
def test_times_of_another_machine_decide_nothing(against, key, value):
    now, before = medians(timing(3.0, median_ci=(3.0, 3.0)), timing(1.0, median_ci=(1.0, 1.0)))
    elsewhere = before.model_copy(update={"hardware": {**before.hardware, key: value}})

    found = against({"max_latency_regression": 10}, now, elsewhere)

    assert (found.verdict, found.passed, found.value) == ("undecided", None, pytest.approx(200))
    assert found.detail.startswith(f"undecided: the baseline is of another machine: {key} {value!r}, here ")
    assert against({"max_latency_regression": 10}, now, elsewhere, undecided="fail").passed is False
    assert against({"max_size_regression": 10}, now, elsewhere).verdict == "held"


def test_a_file_is_found_under_another_name_when_it_is_the_only_one_of_its_kind(against):
    renamed = earlier(path="old.onnx", size_bytes=1_000_000)
    twice = run(artifact(path="a.onnx"), artifact(path="b.onnx"))
    other = earlier(path="old.onnx", precision="int8")

    assert against({"max_size_regression": 10}, artifact(), renamed).value == pytest.approx(50)
    for before in (twice, other):
        found = against({"max_size_regression": 10}, artifact(), before)
        assert (found.verdict, found.passed) == ("undecided", None)
        assert found.detail == ("undecided: the baseline has neither student.onnx nor another file of onnx fp32")


def test_the_same_path_comes_before_the_same_kind(against):
    before = run(artifact(path="other.onnx", size_bytes=1), artifact(size_bytes=1_500_000, precision="int8"))

    assert against({"max_size_regression": 10}, artifact(), before).value == 0


def test_other_images_leave_nothing_to_compare(against, tmp_path):
    changes = {"data": run().data.model_copy(update={"fingerprint": "another"})}
    for gate in ("max_top1_regression", "max_agreement_regression"):
        found = against({gate: 0.1}, artifact(), earlier(), changes=changes)
        assert (found.verdict, found.detail) == (
            "unmeasured",
            "not measured: the baseline was measured on other images",
        )
    assert against({"max_size_regression": 10}, artifact(), earlier(), changes=changes).verdict == "held"

    gates = Gates(baseline=tmp_path, max_top1_regression=1)
    require_same_data(gates, run().data.fingerprint)
    require_same_data(Gates(baseline=tmp_path, max_size_regression=1), "another")
    require_same_data(Gates(max_top1_regression=1), "another")
    with pytest.raises(InputRejected, match=r"measured on other images, so the gate max_top1_regression"):
        require_same_data(gates, "another")


@pytest.mark.parametrize(
    ("gate", "now", "before", "reason"),
    [
        ("max_top1_regression", {}, {"top1": None}, "no top-1 of the baseline"),
        ("max_top1_regression", {"top1": None}, {}, "no top-1 of the file"),
        ("max_agreement_regression", {}, {"agreement": None}, "no agreement of the baseline"),
        ("max_agreement_regression", {"agreement": None}, {}, "no agreement of the file"),
        ("max_latency_regression", {}, {"latency_ms": None}, "no latency of the baseline"),
        ("max_latency_regression", {"latency_ms": None}, {}, "no latency of the file"),
        ("max_latency_regression", {}, {"latency_ms": {"2": timing(1)}}, "the baseline measured no batch size"),
        (
            "max_latency_regression",
            {},
            {"provider": "cuda"},
            "the baseline measured no batch size on the same provider",
        ),
    ],
)
def test_what_one_of_both_lacks_is_not_measured(against, gate, now, before, reason):
    found = against({gate: 0.5}, artifact(**now), earlier(**before))

    assert (found.verdict, found.value) == ("unmeasured", None)
    assert found.detail.startswith(f"not measured: {reason}")


def test_a_baseline_that_is_lost_later_costs_its_own_gates_only(tmp_path):
    size, top1 = judge(Gates(baseline=tmp_path / "gone.json", max_size_regression=1, min_top1=50), run())[::-1]

    assert (top1.verdict, size.verdict) == ("held", "unmeasured")
    assert "there is no baseline" in size.detail


# A baseline that cannot be used, before hours are spent


def stored(folder, **changes):
    run(**changes).write(folder)
    return str(folder)


def test_a_baseline_is_a_result_file_or_the_folder_of_a_run(tmp_path):
    run().write(tmp_path)

    assert read_baseline(tmp_path) == read_baseline(tmp_path / "result.json") == run()


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, r"there is no baseline .*result\.json"),
        ("{", r"not a result record of schema 1: the file: Invalid JSON"),
        ('{"result": 2}', r"not a result record of schema 1: its schema is 2"),
        ('{"benchmark": 1}', r"not a result record of schema 1: name: Field required"),
        ("\xff\xfe", "not a result record of schema 1: the file: not text"),
    ],
)
def test_a_baseline_that_is_none_is_refused_when_the_recipe_is_checked(tmp_path, content, sentence):
    path = tmp_path / "result.json"
    if content is not None:
        path.write_text(content, encoding="latin-1")

    with pytest.raises(InputRejected, match=sentence) as caught:
        unmeasurable(recipe({"baseline": path, "max_size_regression": 1}))
    assert caught.value.exit_code == 4


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"latency_ms": {"1": timing(0.0)}}, "student.onnx: batch 1: p50 0.0"),
        ({"latency_ms": {"1": timing(-2.0, 3.0)}}, "batch 1: p50 -2.0"),
        ({"latency_ms": {"1": timing(2.0, median_ci=(0.0, 3.0))}}, "batch 1: median_ci 0.0"),
        ({"latency_ms": {"abc": timing(2.0)}}, "'abc' is no batch size"),
        ({"latency_ms": {"0": timing(2.0)}}, "'0' is no batch size"),
        ({"size_bytes": 0}, "student.onnx: size_bytes 0"),
        ({"top1": -1.0}, "student.onnx: top1 -1.0"),
        ({"agreement": 93.0}, "student.onnx: agreement 93.0"),
        ({"top1": "NaN"}, "student.onnx: top1 nan"),
    ],
)
def test_a_baseline_that_nobody_measured_is_refused_before_training(tmp_path, change, sentence):
    plain = {key: value for key, value in change.items() if value != "NaN"}
    text = run(artifact(**plain)).model_dump_json()
    path = tmp_path / "result.json"
    path.write_text(text if plain else text.replace('"top1":90.0', '"top1":NaN'))

    with pytest.raises(InputRejected, match=re.escape(sentence)) as caught:
        unmeasurable(recipe({"baseline": path, "max_latency_regression": 1}))
    assert caught.value.exit_code == 4


@pytest.mark.parametrize(
    ("gates", "values", "before", "sentence"),
    [
        (
            {"baseline": ...},
            {},
            {},
            r"no gate compares with the baseline .*: set max_top1_regression,",
        ),
        (
            {"max_size_regression": 1},
            {},
            {},
            "gate max_size_regression compares with a baseline, and none is named: --baseline",
        ),
        (
            {"baseline": ..., "max_size_regression": 1},
            {"export": [{"precision": "fp16"}]},
            {},
            r"the baseline .* has no file like those that the recipe makes: onnx fp16",
        ),
        (
            {"baseline": ..., "max_latency_regression": 1},
            {"bench": {"batch_sizes": [2]}},
            {},
            r"gate max_latency_regression compares latencies, and of bench\.batch_sizes the baseline has 1, 8",
        ),
        (
            {"baseline": ..., "max_top1_regression": 1},
            {},
            {"artifacts": (artifact(top1=None),)},
            r"gate max_top1_regression compares accuracies, and the baseline has none",
        ),
        (
            {"baseline": ..., "max_agreement_regression": 1},
            {},
            {"artifacts": (artifact(agreement=None),)},
            r"gate max_agreement_regression compares agreements with the teacher, and the baseline has none",
        ),
        (
            {"baseline": ..., "max_agreement_regression": 1},
            {"teacher": None},
            {},
            r"gate max_agreement_regression compares with a teacher, and the recipe has none",
        ),
    ],
)
def test_a_gate_that_the_baseline_cannot_serve_is_named(tmp_path, gates, values, before, sentence):
    folder = stored(tmp_path, **before)
    (found,) = unmeasurable(recipe({key: folder if value is ... else value for key, value in gates.items()}, **values))

    assert re.search(sentence, found)


def test_a_baseline_that_serves_is_accepted(tmp_path):
    gates = dict.fromkeys(REGRESSIONS, 1) | {"baseline": stored(tmp_path)}

    assert unmeasurable(recipe(gates)) == []
    sizes = {"baseline": gates["baseline"], "max_size_regression": 1}
    assert unmeasurable(recipe(sizes, export=[])) == []  # the student itself


# On the command line


def test_a_gate_that_was_asked_for_must_be_measured_by_now():
    waiting = verdict("min_top1", 50, top1=None)

    assert broken([waiting], complete=False) == ()
    assert broken([waiting], complete=False, asked={"max_ece"}) == ()
    assert broken([waiting], complete=False, asked={"min_top1"}) == (waiting,)
    with pytest.raises(GateFailed, match="1 of 1 gates failed: min_top1 of student"):
        enforce([waiting], complete=False, asked={"min_top1"})


SMOKE = ["run", "smoke", "--set", "student.arch=lenet5-half"]


def test_flags_are_gates_of_the_recipe(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run().write(tmp_path / "old")
    gates = ["--gate", "min_top1=90", "--gate", "p99_ms.max=5", "--gate", "max_size_regression=3", "--baseline", "old"]

    shown = ran([*SMOKE, "--dry-run", *gates, "--set", "gates.min_top1=10"]).out

    assert "min_top1: 90.0\n" in shown  # --gate comes after --set
    assert "max: 5.0\n" in shown
    assert f"baseline: {tmp_path / 'old'}\n" in shown


@pytest.mark.parametrize(
    ("flags", "code", "words", "hint"),
    [
        (["--gate", "min_top1"], 2, "--gate min_top1 has no limit", "--gate min_top1=90"),
        (["--gate", "min_top1="], 2, "--gate min_top1= has no limit", "--gate min_top1=90"),
        (["--gate", "min_top1=null"], 2, "--gate min_top1=null has no limit", "--gate min_top1=90"),
        (["--gate", "=90"], 2, "error: --gate =90: '' is not a key", "--gate min_top1=90"),
        (["--gate", "min_top=90"], 2, "error: --gate min_top=90: unknown key min_top", "did you mean 'min_top1'"),
        (["--gate", "min_top1=900"], 2, "error: --gate min_top1=900: min_top1: must be at most 100", ""),
        (["--gate", "p99_ms=5"], 2, "error: --gate p99_ms=5: p99_ms: must be a section", r"write p99_ms\.max=5"),
        (["--gate", "p99_ms.batch=1"], 2, r"error: --gate p99_ms\.batch=1: missing key p99_ms\.max", ""),
        (["--gate", "max_size_regression=1"], 2, "gate max_size_regression compares .* none is named", ""),
        (["--baseline", "nowhere", "--gate", "max_size_regression=1"], 4, "there is no baseline .*nowhere", "trust"),
        (["--baseline", "other.json", "--gate", "max_size_regression=1"], 4, "its schema is 7", ""),
        (["--baseline", "fine.json"], 2, r"no gate compares with the baseline .*fine\.json", ""),
    ],
)
def test_flags_that_promise_nothing_are_refused_before_anything_is_done(
    tmp_path, monkeypatch, flags, code, words, hint
):
    monkeypatch.chdir(tmp_path)
    Path("other.json").write_text('{"result": 7}')
    Path("fine.json").write_text(run().model_dump_json())

    refused([*SMOKE, *flags], code, words, hint)
    assert not Path("runs").exists()


@pytest.fixture(scope="module")
@trains
def finished(tmp_path_factory):
    """A finished run of the smoke recipe, in `runs/smoke-1`."""
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.delenv("GITHUB_STEP_SUMMARY", raising=False)
        ran([*SMOKE, "--quiet"])
    return folder


def test_a_run_holds_its_regressions_against_its_own_record(finished, monkeypatch):
    monkeypatch.chdir(finished)
    before = Path("baseline.json")
    before.write_bytes(Path("runs/smoke-1/result.json").read_bytes())
    regressions = ["--gate", "max_top1_regression=0", "--gate", "max_size_regression=0"]

    again = json.loads(ran([*SMOKE, "--json", "--baseline", str(before), *regressions]).out)

    found = {gate["gate"]: gate["verdict"] for gate in again["gates"]}
    assert found["max_top1_regression"] == found["max_size_regression"] == "held"
    assert not Path("runs/smoke-2").exists()


def test_the_result_is_printed_as_json_also_when_a_gate_is_broken(finished, monkeypatch):
    monkeypatch.chdir(finished)

    done = typed([*SMOKE, "--json", "--gate", "min_top1=99.9"])

    assert done.code == 7
    result = json.loads(done.out)
    assert result["passed"] is False
    assert [gate["verdict"] for gate in result["gates"] if gate["gate"] == "min_top1"] == ["broken"]


def test_validate_and_bench_hold_gates_that_were_typed(finished, monkeypatch):
    monkeypatch.chdir(finished)

    recipe_before = Path("runs/smoke-1/recipe.resolved.yaml").read_text()

    failed = typed(["validate", "runs/smoke-1", "--gate", "min_top1=99.9", "--json"])
    timed = typed(["bench", "runs/smoke-1", "--gate", "p50_ms.max=0.000001", "--json"])
    waiting = typed(["bench", "runs/smoke-1", "--gate", "p50_ms={batch: 77, max: 1}", "--json"])

    assert (failed.code, timed.code, waiting.code) == (7, 7, 7)
    assert "min_top1 of export/student.fp32.onnx" in failed.err
    assert "p50_ms of export/student.fp32.onnx" in timed.err
    assert "not measured: no latency of batch 77" in waiting.err
    assert Path("runs/smoke-1/recipe.resolved.yaml").read_text() == recipe_before
    assert ran(["validate", "runs/smoke-1", "--gate", "min_top1=1", "--quiet"])


def test_a_single_artifact_has_no_gates(finished, monkeypatch):
    monkeypatch.chdir(finished)
    path = "runs/smoke-1/export/student.fp32.onnx"

    refused(["validate", path, "--data", "digits", "--gate", "min_top1=1"], 2, "--gate goes with a run")
    refused(["bench", path, "--gate", "p50_ms.max=1"], 2, "--gate goes with a run")
