import re

import pytest

from compressor.errors import GateFailed
from compressor.gates import UNITS, enforce, evaluate_gates, promised, unmeasurable
from compressor.recipe import Gates, Recipe
from compressor.report.record import Artifact, Metrics, Network, Parity, Timing

FILE = {"format": "onnx", "precision": "fp32", "provider": "cpu", "sha256": "0" * 64, "size_bytes": 1_500_000}


def timing(p50, p99, other_load=None):
    return Timing(
        p50=p50,
        p90=p99,
        p95=p99,
        p99=p99,
        mean=p50,
        median_ci=None,
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
        "boundary_agreement": 0.8,
        "fgsm_top1": 50.0,
        "pgd_top1": 40.0,
        "latency_ms": {"1": timing(3.0, 9.0), "8": timing(20.0, 21.0)},
        "parity": Parity(
            max_error=1e-5, mean_error=1e-6, relative_error=1e-6, agreement=1.0, samples=9, batch_sizes=(1, 2, 7)
        ),
    }
    return Artifact(path="student.onnx", **FILE | known | values)


def teacher(**values):
    return Metrics(path="teacher.pt", **FILE | {"latency_ms": {"1": timing(12.0, 13.0)}} | values)


def verdict(gate, limit, **values):
    taught = values.pop("teacher", teacher())
    (found,) = evaluate_gates(Gates(**{gate: limit}), artifact(**values), teacher=taught)
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
    ],
)
def test_each_gate_holds_at_its_limit_and_breaks_just_beyond(gate, value, kept, broken):
    assert (verdict(gate, kept).value, verdict(gate, kept).passed) == (value, True)
    assert verdict(gate, broken).passed is False
    assert verdict(gate, broken).limit == (broken["max"] if isinstance(broken, dict) else broken)
    assert verdict(gate, broken).artifact == "student.onnx"


def test_every_gate_of_the_recipe_is_known_here():
    assert set(UNITS) == set(Gates.model_fields) - {"undecided"}


def test_latency_gates_look_at_their_own_batch_size_and_percentile():
    found = verdict("p99_ms", {"batch": 8, "max": 10})

    assert (found.value, found.passed) == (21.0, False)
    assert found.detail == "21 ms, promised at most 10 ms; batch 8, 100 samples"
    assert verdict("p50_ms", {"batch": 8, "max": 10}).value == 20.0


def test_speedup_is_the_teachers_median_over_the_artifacts():
    assert verdict("min_speedup", 2).value == 12.0 / 3.0


def test_details_say_what_the_value_rests_on():
    assert verdict("min_top1", 91).detail == (
        "90 %, promised at least 91 %; on 1000 images, 95 % interval 88.00 to 91.70"
    )
    assert verdict("max_ece", 0.1).detail == "0.05, promised at most 0.1; on 1000 images"


def test_noise_is_told_with_the_latency():
    found = verdict("p50_ms", {"max": 5}, latency_ms={"1": timing(2.0, 3.0, other_load=0.4)})

    assert found.detail.endswith("; other processes used 40% of the CPU meanwhile")


# Undecided


@pytest.mark.parametrize(("limit", "passed"), [(0.99, False), (1.0, None), (1.2, None), (1.4, None), (1.41, True)])
def test_a_drop_is_undecided_while_its_interval_holds_the_limit(limit, passed):
    assert verdict("max_accuracy_drop", limit).passed is passed


def test_an_undecided_verdict_keeps_its_value_and_says_so():
    found = verdict("max_accuracy_drop", 1.3)

    assert found.value == 1.2
    assert found.detail.startswith("undecided: 1.2 points, promised at most 1.3 points; on 1000 images")


@pytest.mark.parametrize(("undecided", "passed"), [("pass", None), ("fail", False)])
def test_the_recipe_decides_what_is_undecided(undecided, passed):
    (found,) = evaluate_gates(Gates(max_accuracy_drop=1.3, undecided=undecided), artifact())

    assert found.passed is passed
    assert promised([found]) is (undecided == "pass")


def test_only_the_drop_can_be_undecided():
    assert verdict("min_top1", 91).passed is False  # although within the interval of the accuracy


# What is missing


@pytest.mark.parametrize(
    ("gate", "limit", "missing", "reason"),
    [
        ("min_top1", 50, {"top1": None}, "on 1000 images"),
        ("max_accuracy_drop", 1, {"accuracy_drop": None, "accuracy_drop_ci": None, "agreement": None}, "no teacher"),
        ("min_agreement", 0.5, {"agreement": None}, "no teacher to compare with"),
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

    assert (found.value, found.passed) == (None, None)
    assert found.detail.startswith(f"not measured: {reason}")
    assert promised([found]) is None
    enforce([found], complete=False)
    with pytest.raises(GateFailed, match="not measured"):
        enforce([found], complete=True)


def test_zero_is_a_value_and_not_a_gap():
    exact = Parity(max_error=0, mean_error=0, relative_error=0, agreement=1, samples=9, batch_sizes=(1,))

    assert verdict("max_parity_error", 0.0, parity=exact).passed is True
    assert verdict("min_robust_top1", 0.0, pgd_top1=0.0).passed is True
    assert verdict("min_top1", 0.0, top1=0.0).passed is True


def test_the_student_itself_has_no_parity():
    network = {"arch": "resnet8", "classes": 2, "input_shape": (1, 8, 8), "parameters": 1, "macs": 1}
    student = Network(path="student.safetensors", **FILE, **network)

    (found,) = evaluate_gates(Gates(max_parity_error=1), student)

    assert (found.value, found.passed) == (None, None)


def test_no_gates_give_no_verdicts_and_no_promise():
    assert evaluate_gates(Gates(), artifact()) == ()
    assert promised(()) is None


# Enforcing


def test_gates_that_hold_are_accepted_in_silence():
    verdicts = evaluate_gates(Gates(min_top1=80, max_size_mb=2), artifact())

    enforce(verdicts, complete=True)
    assert promised(verdicts) is True


def test_a_failed_gate_ends_with_its_name_value_and_limit():
    verdicts = evaluate_gates(Gates(min_top1=80, max_size_mb=1, min_speedup=10), artifact(), teacher=teacher())

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
        ({"p99_ms": {"batch": 8, "max": 1}}, {}, "gates.p99_ms needs the latency of batch 8, .* has only 1, 32"),
        ({"p50_ms": {"max": 1}}, {"bench": {"batch_sizes": [4]}}, "gates.p50_ms needs the latency of batch 1"),
        ({"min_speedup": 2}, {"bench": {"batch_sizes": [4]}}, "gates.min_speedup needs the latency of batch 1"),
        ({"min_boundary_agreement": 0.5}, {"validate": {"boundary_samples": 0}}, "validate.boundary_samples is 0"),
        ({"min_robust_top1": 5}, {"validate": {"attack_samples": 0}}, "validate.attack_samples is 0"),
        ({"max_parity_error": 0}, {"export": []}, "the recipe exports nothing"),
        ({"max_accuracy_drop": 0}, {"teacher": None}, "gates.max_accuracy_drop compares with a teacher"),
        ({"min_agreement": 0}, {"teacher": None}, "gates.min_agreement compares with a teacher"),
        ({"min_speedup": 2}, {"teacher": None}, "gates.min_speedup compares with a teacher"),
    ],
)
def test_a_gate_that_nothing_will_measure_is_named(gates, values, sentence):
    (found,) = unmeasurable(recipe(gates, **values))

    assert re.search(sentence, found)


def test_gates_that_will_be_measured_are_not_named():
    everything = dict.fromkeys(UNITS, 1) | {"p50_ms": {"max": 1}, "p99_ms": {"batch": 32, "max": 1}}

    assert unmeasurable(recipe(everything)) == []


def test_what_no_gate_needs_may_be_left_out():
    sparse = {"validate": {"boundary_samples": 0, "attack_samples": 0}, "export": [], "bench": {"batch_sizes": [7]}}

    assert unmeasurable(recipe({"min_top1": 50}, teacher=None, **sparse)) == []
