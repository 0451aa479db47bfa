"""The record's keys are a promise to those who read it."""

import json
import re
from pathlib import Path

import pytest
from rich.console import Console

from compressor.errors import InputRejected
from compressor.machine.hardware import hardware, versions
from compressor.report import gates, single, summary
from compressor.report.tally import Tally, tally
from compressor.runs import record
from compressor.runs.record import Artifact, Gate, Network, Parity, Result, Timing

METRICS = [
    *("path", "format", "precision", "provider", "sha256", "size_bytes", "samples", "top1", "top1_ci", "top5"),
    *("target_top1", "target_top1_ci", "ece", "nll", "agreement", "boundary_agreement", "made_agreement"),
    *("accuracy_drop", "accuracy_drop_ci", "worst_class_drop"),
    *("teacher_mistakes_fixed", "new_mistakes", "confidence_drop", "confidence_spread", "confidence_changed"),
    *("confidence_kappa", "confidence_preserved"),
    *("class_accuracy", "class_change", "fgsm_top1", "pgd_top1", "autoattack_top1", "magsim", "angsim"),
    "similarity_walks",
    "latency_ms",
]
KEYS = {
    record.Result: "result name created recipe_sha256 data training teacher student artifacts gates passed versions "
    "hardware",
    record.Data: "source fingerprint classes train validation test unlabelled target target_test "
    "boundary_samples attack_samples autoattack_samples made epsilon",
    record.Training: "method seed epochs stages seconds validation_top1 best_validation_top1 best_epoch",
    record.Network: [*METRICS, "arch", "classes", "input_shape", "parameters", "macs", "quantized"],
    record.Artifact: [
        *(*METRICS, "input", "output", "companions", "census", "calibration", "parity", "note"),
        "teacher_ms",
    ],
    record.Parity: "max_error mean_error relative_error rms_error pixel_error agreement samples batch_sizes",
    record.Timing: "p50 p90 p95 p99 mean median_ci images_per_s iterations threads transfers cuda_graph other_load "
    "clock_mhz gpu_clock_mhz gpu_slow_downs gpu_shared energy_j memory_mb peak_memory_mb gpu_memory_mb",
    record.Gate: "gate artifact limit value verdict passed detail",
}
DOCUMENT = Path(__file__).parent.parent / "docs" / "result.md"


def result(**changes) -> Result:
    file = {"precision": "fp32", "provider": "cpu", "sha256": "0" * 64, "size_bytes": 300_000}
    network = {"classes": 10, "input_shape": (1, 8, 8), "macs": 1000}
    timing = Timing(
        p50=2.0,
        p90=2.5,
        p95=2.6,
        p99=3.0,
        mean=2.1,
        median_ci=(1.9, 2.1),
        images_per_s=476.0,
        iterations=100,
        threads=None,
        transfers=False,
        other_load=0.0,
    )
    parity = Parity(max_error=1e-6, mean_error=1e-7, relative_error=1e-7, agreement=1, samples=9, batch_sizes=(1, 7))
    values = {
        "name": "try",
        "created": "2026-01-01T00:00:00+00:00",
        "recipe_sha256": "0" * 64,
        "data": record.Data(source="digits", fingerprint="f", classes=10, train=9, validation=1, test=359),
        "training": record.Training(
            method="bss",
            seed=0,
            epochs=3,
            seconds=1.5,
            validation_top1=90.0,
            best_validation_top1=91.0,
            best_epoch=2,
        ),
        "teacher": Network(
            path="t", format="pytorch", arch="resnet20", parameters=270_000, top1=98.0, **file, **network
        ),
        "student": Network(
            path="student/student.safetensors",
            format="pytorch",
            arch="resnet8",
            parameters=75_000,
            latency_ms={"1": timing.model_copy(update={"p50": 3.0})},
            **file,
            **network,
        ),
        "artifacts": (
            Artifact(
                path="export/student.fp32.onnx",
                format="onnx",
                top1=97.5,
                latency_ms={"1": timing},
                parity=parity,
                **file,
            ),
        ),
        "gates": (
            Gate(
                gate="min_top1",
                artifact="a.onnx",
                limit=90,
                value=97.5,
                verdict="held",
                passed=True,
                detail="on 359 images",
            ),
        ),
        "passed": True,
        "versions": versions(),
        "hardware": hardware(),
    }
    return Result(**values | changes)


def shown(table) -> str:
    console = Console(width=200, no_color=True)
    with console.capture() as capture:
        console.print(table)
    return capture.get()


@pytest.mark.parametrize("part", KEYS, ids=lambda part: part.__name__)
def test_the_keys_of_schema_1_are_these(part):
    keys = KEYS[part]

    assert list(part.model_fields) == (keys.split() if isinstance(keys, str) else keys)


@pytest.mark.parametrize("part", KEYS, ids=lambda part: part.__name__)
def test_every_key_is_documented(part):
    documented = set(re.findall(r"`([a-z0-9_]+)`", DOCUMENT.read_text(encoding="utf-8")))

    assert set(part.model_fields) <= documented


def test_a_record_is_read_as_it_was_written(tmp_path):
    result().write(tmp_path)

    assert record.read(tmp_path) == result()
    assert json.loads((tmp_path / "result.json").read_text())["result"] == 1


@pytest.mark.parametrize(
    ("content", "words"),
    [('{"result": 2}', "not a result record of schema 1"), ("{", "not a result record"), ("\x00\xff", "not a result")],
)
def test_a_record_that_is_damaged_or_of_another_schema_is_refused(tmp_path, content, words):
    (tmp_path / "result.json").write_text(content, encoding="latin-1")

    with pytest.raises(InputRejected, match=words):
        record.read(tmp_path)


def test_a_folder_without_a_record_says_what_to_do(tmp_path):
    with pytest.raises(InputRejected, match=r"has no result\.json") as caught:
        record.read(tmp_path)
    assert "--resume" in caught.value.hint


def test_the_table_has_a_row_a_file_and_a_dash_for_what_was_not_measured():
    lines = [line for line in shown(summary(result())).splitlines() if re.search("teacher|student|onnx", line)]

    teacher, student, onnx = (line.split() for line in lines)
    assert teacher[:2] == ["teacher", "resnet20"]
    assert "270.00" in teacher
    assert teacher[-1] == "–"  # it was not timed, so there is no speed-up either
    assert "75.00" in student
    assert onnx[:3] == ["onnx", "fp32", "resnet8"]
    assert "97.50" in onnx


def test_the_speed_up_is_the_first_rows_median_over_the_files():
    timed = result(teacher=None)

    onnx = next(line for line in shown(summary(timed)).splitlines() if "onnx" in line)

    assert onnx.split()[-1] == "1.5×"


def test_no_speed_up_is_claimed_between_devices():
    before = result()
    (onnx,) = before.artifacts
    teacher = before.teacher.model_copy(update={"provider": "cuda", "latency_ms": onnx.latency_ms})

    lines = shown(summary(before.model_copy(update={"teacher": teacher}))).splitlines()
    cells = {line.split()[0]: line.split()[-1] for line in lines if re.search("teacher|student|onnx", line)}

    assert cells == {"teacher": "1.0×", "student": "–", "onnx": "–"}


def test_a_speed_up_is_the_references_median_over_the_files():
    before = result()
    (onnx,) = before.artifacts

    assert record.speed_up(onnx, before.student, "1") == 1.5
    assert record.speed_up(onnx, before.student, "2") is None
    assert record.speed_up(onnx, before.teacher, "1") is None  # it was not timed
    assert record.speed_up(onnx.model_copy(update={"provider": "cuda"}), before.student, "1") is None


def test_the_files_of_a_run_are_teacher_student_and_artifacts():
    before = result()
    (onnx,) = before.artifacts
    found = before.files()

    assert [(file.name, file.label, file.file_name) for file in found] == [
        ("teacher", "teacher", "teacher"),
        ("student", "student", "student"),
        ("export/student.fp32.onnx", "onnx fp32", "student.fp32.onnx"),
    ]
    assert [file.metrics for file in found] == [before.teacher, before.student, onnx]
    assert [file.network for file in found] == [before.teacher, before.student, before.student]
    assert [file.teacher for file in found] == [None, before.teacher, before.teacher]
    assert [file.name for file in result(teacher=None, artifacts=()).files()] == ["student"]


def test_each_file_of_a_record_is_given_what_is_new_of_it():
    before = result()
    after = before.mapped(lambda file: {} if file.name == "teacher" else {"top1": len(file.name)})

    assert after.teacher == before.teacher
    assert (after.student.top1, after.artifacts[0].top1) == (7, 24)
    assert after == before.mapped(lambda file: {"top1": file.metrics.top1}).model_copy(
        update={"student": after.student, "artifacts": after.artifacts}
    )
    assert result(teacher=None).mapped(lambda _: {"top1": 1.0}).teacher is None


def test_latencies_have_about_three_digits():
    (onnx,) = result().artifacts
    times = {
        batch: onnx.latency_ms["1"].model_copy(update={"p50": p50}) for batch, p50 in (("1", 0.0312), ("8", 12.345))
    }
    row = shown(single(onnx.model_copy(update={"latency_ms": times})))

    assert re.search(r" 0\.031 +12\.3 ", row)


def test_memory_and_energy_have_columns_where_they_were_measured():
    before = result()
    (onnx,) = before.artifacts
    small = onnx.latency_ms["1"].model_copy(update={"memory_mb": 7.0})
    large = small.model_copy(update={"memory_mb": 1234.56, "energy_j": 0.25})
    costly = onnx.model_copy(update={"latency_ms": {"9": small, "32": large}})
    lines = shown(summary(before.model_copy(update={"artifacts": (costly,)}))).splitlines()
    header, student, row = (next(line for line in lines if word in line) for word in ("top-1", "student", "onnx"))

    assert "memory" not in shown(summary(before))
    assert header.split("speed-up")[1].split() == ["memory", "MB", "J", "a", "batch"]
    assert row.split()[-2:] == ["1,234.6", "0.25"]  # of the largest batch
    assert student.split()[-2:] == ["–", "–"]


def test_files_of_one_precision_are_told_apart_by_what_they_take_and_return():
    (onnx,) = result().artifacts
    usual = {"precision": "fp16", "input": "float32", "output": "logits"}
    labels = [
        onnx.model_copy(update=usual | changes).label
        for changes in ({}, {"input": "uint8"}, {"input": "uint8", "output": "probabilities"})
    ]

    assert labels == ["onnx fp16", "onnx fp16 uint8", "onnx fp16 uint8 probabilities"]
    how = {"method": "minmax", "samples": 8, "boundary": 0, "kept_fp32": (), "drop": None}
    calibrations = [record.Calibration(recipe=name, **how) for name in ("cpu", "trt")]
    quantised = [onnx.model_copy(update={"precision": "int8", "calibration": each}) for each in calibrations]
    assert [each.label for each in quantised] == ["onnx int8", "onnx int8 trt"]
    assert labels[0] in shown(single(onnx.model_copy(update=usual)))


def test_the_likeness_of_boundaries_has_columns_where_it_was_measured():
    plain = result()
    student = plain.student.model_copy(update={"magsim": 0.8125, "angsim": -0.375, "similarity_walks": 281})

    headings, *_ = [line.split() for line in shown(summary(plain)).splitlines() if "params" in line]
    assert "MagSim" not in headings
    lines = shown(summary(plain.model_copy(update={"student": student}))).splitlines()
    headings, teacher, row = (
        next(line.split() for line in lines if word in line) for word in ("params", "resnet20", "resnet8")
    )
    assert headings[-2:] == ["MagSim", "AngSim"]
    assert row[-2:] == ["0.81", "-0.38"]
    assert teacher[-2:] == ["–", "–"]


def test_a_single_file_has_its_own_table():
    assert "97.50" in shown(single(result().artifacts[0]))


def test_a_name_with_brackets_is_shown_as_it_is():
    artifact = result().artifacts[0].model_copy(update={"path": "we[ir]d/a[red].onnx"})
    verdict = Gate(gate="min_top1", artifact=artifact.path, limit=1, value=2, verdict="held", passed=True, detail="2 %")

    assert "we[ir]d/a[red].onnx" in shown(single(artifact))
    assert "we[ir]d/a[red].onnx" in shown(gates([verdict]))


def test_each_gate_shows_its_verdict_and_why():
    broken = result().gates[0].model_copy(update={"passed": False, "verdict": "broken"})

    assert "held" in shown(gates(result().gates))
    assert re.search(r"min_top1 .*a\.onnx .*broken .*on 359 images", shown(gates([broken])))


def test_batch_sizes_are_ordered_as_numbers_and_each_comes_once():
    (onnx,) = result().artifacts
    timing = onnx.latency_ms["1"]
    files = [onnx.model_copy(update={"latency_ms": dict.fromkeys(sizes, timing)}) for sizes in (["32", "4"], ["4"])]

    assert record.batches([*files, result().teacher]) == ["4", "32"]
    assert record.batches([]) == []
    assert files[1].timing("4") == timing
    assert files[1].timing("32") is None
    assert result().teacher.timing("4") is None


def test_gates_are_counted_by_what_became_of_them():
    found = [(True, "held"), (False, "broken"), (False, "undecided"), (None, "undecided"), (None, "unmeasured")]
    (gate,) = result().gates

    counted = tally([gate.model_copy(update={"passed": passed, "verdict": word}) for passed, word in found])

    assert counted == Tally(total=5, broken=2, unmeasured=1, undecided=1)
