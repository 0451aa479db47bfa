"""The sections of the page: what they say of a record, in words and numbers."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from report_contents import answer, contents, gate, measured, timing, with_gates

from compressor.measure.predictions import StoredPredictions
from compressor.report import sections
from compressor.report.contents import Gallery
from compressor.report.html import page
from compressor.report.lost import lost_most
from compressor.report.sections.disagreements import DisagreementCount
from compressor.report.sections.speed import pareto
from compressor.report.sections.summary import Tile, kept_and_lost

# The verdict


@pytest.mark.parametrize(
    ("gates", "state", "title"),
    [
        ([gate(True)], "held", "The gate held"),
        ([gate(True), gate(True)], "held", "All 2 gates held"),
        ([gate(True), gate(False), gate(None)], "broken", "1 of 3 gates broken"),
        ([gate(True), gate(None, value=None)], "open", "1 of 2 gates wait for a measurement"),
        ([gate(True), gate(None)], "open", "No gate broken, 1 of 2 undecided"),
        ([], "plain", "97.00 % right, the teacher 98.00 %"),
    ],
)
def test_the_verdict_comes_from_the_gates(gates, state, title):
    found = sections.verdict(with_gates(*gates))

    assert (found.state, found.title) == (state, title)
    assert ("No gates were set" in found.sentence) is (not gates)


def test_the_sentence_says_what_was_kept_and_what_was_lost():
    assert kept_and_lost(contents()) == (
        "The student is right on 97.00 % of 359 test images, 1.00 points below its teacher (95 % interval 0.25 to 1.75 "
        "points lost). It has 3.6× fewer parameters and is 8.0× faster at batch 1 as onnx fp32."
    )


@pytest.mark.parametrize(
    ("drop", "interval", "words"),
    [
        (
            1.0,
            (-0.5, 2.5),
            "1.00 points below its teacher (95 % interval −0.50 to 2.50 points lost), a difference too small",
        ),
        (-1.0, (-1.5, -0.5), "1.00 points above its teacher (95 % interval −1.50 to −0.50 points lost). It has"),
        (0.0, (-0.5, 0.5), "just as its teacher (95 % interval −0.50 to 0.50 points lost). It has"),
    ],
)
def test_the_sentence_says_what_cannot_be_proved(drop, interval, words):
    run = measured(("a", "b"))
    student = run.student.model_copy(update={"accuracy_drop": drop, "accuracy_drop_ci": interval})

    assert words in kept_and_lost(contents(result=run.model_copy(update={"student": student})))


def test_a_run_without_a_teacher_is_judged_alone():
    run = measured(("a", "b"), teacher=None, artifacts=(), gates=())
    student = run.student.model_copy(update={"accuracy_drop": None})

    alone = contents(result=run.model_copy(update={"student": student}))

    assert kept_and_lost(alone) == (
        "The network is right on 97.00 % of 359 test images (95 % interval 96.00 to 99.00 %)."
    )
    assert sections.verdict(alone).title == "97.00 % right"


def test_broken_gates_come_first_and_say_why_once():
    found = sections.promises([gate(True), gate(None, detail="undecided: 1 of 2"), gate(False)])

    assert [promise.word for promise in found] == ["broken", "undecided", "held"]
    assert found[1].why == "1 of 2"
    assert sections.promises([gate(None, value=None, detail="not measured: no")])[0].word == "not measured"


def test_the_sentence_tells_what_was_gained_where_both_gains_are_known():
    run = measured(("a", "b"))
    unsized = run.student.model_copy(update={"parameters": None})

    assert "It has" not in kept_and_lost(contents(result=run.model_copy(update={"student": unsized})))
    untimed = run.teacher.model_copy(update={"latency_ms": None})
    assert "It has" not in kept_and_lost(contents(result=run.model_copy(update={"teacher": untimed})))


def test_the_tiles_hold_each_number_against_the_teachers():
    run = measured(("a", "b"))
    small = run.student.model_copy(update={"size_bytes": 100_000})

    found = sections.tiles(contents(result=run.model_copy(update={"student": small})))

    assert [(tile.label, tile.value, tile.note) for tile in found] == [
        ("Top-1 accuracy", "97.00 %", "teacher 98.00 %"),
        ("Agreement", "95.0 %", "same answer as the teacher"),
        ("Boundary agreement", "60.0 %", "on the teacher's boundary"),
        ("Parameters", "75.00 k", "teacher 270.00 k"),
        ("File size", "0.30 MB", "onnx fp32, teacher 0.30 MB"),  # of the file that is so fast
        ("Speed-up", "8.0×", "onnx fp32, batch 1, against the teacher in PyTorch"),
    ]
    alone = run.model_copy(update={"teacher": None, "artifacts": ()})
    assert [tile.note for tile in sections.tiles(contents(result=alone))][-1] == "network"
    untimed = run.model_copy(update={"teacher": run.teacher.model_copy(update={"latency_ms": None}), "student": small})
    assert sections.tiles(contents(result=untimed))[-1] == Tile("File size", "0.10 MB", "student, teacher 0.30 MB")


def test_a_speed_up_is_split_into_what_the_runtime_and_what_the_network_bring():
    run = measured(("a", "b"))  # the teacher takes eight times as long as the file
    alone = run.artifacts[0].timing("1").p50
    alike = run.artifacts[0].model_copy(update={"teacher_ms": {"1": 2 * alone}})
    found = contents(result=run.model_copy(update={"artifacts": (alike,)}))

    assert [file.split("1") for file in found.files] == [None, None, (4.0, 2.0)]
    assert found.files[2].split("8") is None
    assert sections.tiles(found)[-1].note.endswith("in PyTorch: 4.0× by the runtime, 2.0× by the network")
    assert "8.0× faster at batch 1 as onnx fp32 (4.0× by the runtime, 2.0× by the network)." in kept_and_lost(found)
    assert rows(sections.measures(found.files))["Latency, batch 1", "Of it by the network, in the same runtime"] == [
        "–",
        "–",
        "2.0×",
    ]


def test_what_disturbed_the_times_is_said_where_the_gain_is_told():
    run = measured(("a", "b"))
    busy = {"1": timing(8.0).model_copy(update={"other_load": 0.4})}
    found = contents(result=run.model_copy(update={"teacher": run.teacher.model_copy(update={"latency_ms": busy})}))

    assert "other processes used 40% of the CPU" in sections.tiles(found)[-1].note
    assert kept_and_lost(found).endswith("The times are not reliable: other processes used 40% of the CPU meanwhile.")
    assert "not reliable" not in kept_and_lost(contents())


# The boundary


def test_a_page_without_the_boundary_says_why():
    alone = measured(("a", "b"), teacher=None)

    assert sections.no_boundary(contents()) is None
    assert sections.no_boundary(contents(result=None, gallery=Gallery())) is None
    assert sections.no_boundary(contents(gallery=Gallery(reason="the teacher has moved"))) == "the teacher has moved"
    assert "has no teacher" in sections.no_boundary(contents(result=alone, gallery=Gallery()))
    assert "none that both networks get right" in sections.no_boundary(contents(gallery=Gallery()))
    assert "No boundary samples and no decision regions: of the images" in page(contents(gallery=Gallery()))
    assert sections.tiles(contents(result=None)) == ()


# The table


def rows(groups):
    return {
        (group.title, measure.label): [cell.text for cell in measure.cells]
        for group in groups
        for measure in group.measures
    }


def test_the_table_has_a_column_a_file_and_a_dash_for_what_is_not_known():
    found = rows(sections.measures(contents().files))

    assert found["Accuracy on the test images", "Top-1, with 95 % interval"] == ["98.00", "97.00", "97.00"]
    assert found["Against the teacher", "Agreement"] == ["–", "0.950", "0.950"]
    assert found["Against the teacher", "Largest logit error against the student"] == ["–", "–", "1e-06"]
    assert found["Latency, batch 8", "Median (p50), with 95 % interval"] == ["20.0", "10.0", "5.00"]
    assert found["Latency, batch 1", "Speed-up over the teacher"] == ["–", "2.0×", "8.0×"]
    assert ("Accuracy on the test images", "Top-5") not in found  # nobody has it


def test_the_likeness_of_boundaries_stands_in_the_table_and_at_the_boundary():
    measured_ = rows(sections.measures(contents().files))
    attacks = "Under attack and at the boundary"

    assert measured_[attacks, "Ways to the boundary, likeness of length (MagSim)"] == ["–", "0.750", "–"]
    assert measured_[attacks, "Ways to the boundary, likeness of angle (AngSim)"] == ["–", "−0.250", "–"]
    shown = sections.likeness(contents())
    assert (shown.magnitude, shown.angle, shown.walks) == ("0.750", "−0.250", "1,234")
    run = measured(("a", "b"))
    bare = run.student.model_copy(update={"magsim": None, "angsim": None, "similarity_walks": 0})
    assert sections.likeness(contents(result=run.model_copy(update={"student": bare}))) is None


def test_no_speed_up_is_claimed_between_devices():
    run = measured(("a", "b"))
    moved = run.artifacts[0].model_copy(update={"provider": "cuda"})

    files = contents(result=run.model_copy(update={"artifacts": (moved,)})).files

    assert [file.speed_up("1") for file in files] == [None, 2.0, None]
    assert [file.speed_up("32") for file in files] == [None, None, None]


def test_files_of_the_same_kind_are_told_apart():
    run = measured(("a", "b"))
    twice = (run.artifacts[0], run.artifacts[0].model_copy(update={"path": "export/student.uint8.fp32.onnx"}))

    labels = [file.label for file in contents(result=run.model_copy(update={"artifacts": twice})).files]

    assert labels == ["teacher", "student", "onnx fp32 (student.fp32.onnx)", "onnx fp32 (student.uint8.fp32.onnx)"]


# The front


def test_the_legend_lists_what_is_in_a_chart():
    run = measured(("a", "b"))
    nowhere = run.student.model_copy(update={"latency_ms": None, "top1": None})
    files = contents(result=run.model_copy(update={"student": nowhere})).files
    labels = [file.label for file in files]

    shown = sections.keys(labels, sections.frontiers(files))

    assert [(key.mark, key.label) for key in shown] == [("1", "teacher"), ("3", "onnx fp32")]
    assert [key.mark for key in sections.keys(labels)] == ["1", "2", "3"]
    assert sections.keys(labels, []) == ()


def test_the_front_holds_what_nothing_is_as_good_as():
    points = [(1.0, 90.0), (2.0, 95.0), (2.0, 94.0), (3.0, 95.0), (4.0, 99.0), (1.0, 90.0)]

    assert pareto(points) == (True, True, False, False, True, True)


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1))
def test_each_point_behind_the_front_has_one_on_it_that_is_as_good_in_both(points):
    on = pareto(points)
    front = [point for point, is_on in zip(points, on, strict=True) if is_on]

    assert front
    for own, is_on in zip(points, on, strict=True):
        better = [other for other in front if other != own and other[0] <= own[0] and other[1] >= own[1]]
        assert bool(better) is not is_on


# Classes


def test_confusions_count_what_changed():
    labels, before, after = [0, 0, 1, 1, 2], [0, 0, 1, 0, 2], [0, 1, 1, 1, 0]
    answers = StoredPredictions(
        fingerprint="f", files={"teacher": answer(before, labels), "student": answer(after, labels)}
    )

    found = sections.confusion(contents(("a", "b", "c"), answers=answers))

    changes = [[cell.change for cell in row] for row in found.heat]
    assert changes == [[-1, 1, 0], [-1, 1, 0], [1, 0, -1]]
    assert found.heat[0][1].strength == 1
    assert found.heat[0][0].strength == -1
    assert [(pair.true, pair.said, pair.teacher, pair.student) for pair in found.pairs] == [
        ("a", "b", 0, 1),
        ("b", "a", 1, 0),
        ("c", "a", 0, 1),
    ]


def test_with_many_classes_the_pairs_that_changed_most_are_listed():
    names = tuple(f"c{number}" for number in range(21))
    labels = np.arange(210) % 21
    after = np.where(labels == 20, 3, labels)
    after[1] = 2
    answers = StoredPredictions(
        fingerprint="f", files={"teacher": answer(labels, labels), "student": answer(after, labels)}
    )

    found = sections.confusion(contents(names, answers=answers))

    assert found.heat is None
    assert [(pair.true, pair.said, pair.change) for pair in found.pairs] == [("c20", "c3", 10), ("c1", "c2", 1)]
    assert sections.confusion(contents(names[:20], answers=None)) is None


def test_the_classes_that_lost_most_come_first():
    found = sections.class_changes(contents())

    assert [(each.lost.name, each.lost.change) for each in found] == [("zero", -3.0), ("one", -2.0), ("two", -1.0)]
    assert (found[0].lost.teacher, found[0].lost.student, found[0].images) == (90.0, 90.0, 4)
    assert [each.images for each in sections.class_changes(contents(answers=None))] == [None] * 3


def test_a_class_that_lost_nothing_is_not_among_those_that_lost_most():
    changes = {"a": 1.0, "b": None, "c": 0.0, "d": -2.0, "e": -5.0, "f": -2.0}
    run = measured(tuple(changes))
    student = run.student.model_copy(update={"class_change": changes, "class_accuracy": {"e": 80.0}})
    result = run.model_copy(update={"student": student})

    assert [(each.number, each.name, each.student) for each in lost_most(result, 9)] == [
        (4, "e", 80.0),
        (3, "d", None),
        (5, "f", None),
    ]
    assert [each.name for each in lost_most(result, 2)] == ["e", "d"]
    assert lost_most(run.model_copy(update={"teacher": None}), 1)[0].teacher is None


def test_disagreements_are_counted_by_who_is_right():
    labels, before, after = [0, 0, 1, 1, 2], [0, 0, 1, 0, 2], [0, 1, 1, 1, 0]
    before[4] = 1  # both wrong, and apart
    answers = StoredPredictions(
        fingerprint="f", files={"teacher": answer(before, labels), "student": answer(after, labels)}
    )

    assert sections.disagreement_count(contents(answers=answers)) == DisagreementCount(3, 5, 1, 1, 1)


def test_answers_of_a_file_that_has_changed_since_are_not_used():
    files = {"teacher": answer([0], [0]), "student": answer([1], [0], sha256="another")}
    old = contents(answers=StoredPredictions(fingerprint="f", files=files))

    assert old.answer("teacher") is not None
    assert old.answer("student") is None
    assert sections.confusion(old) is None
    assert sections.disagreement_count(old) is None


# Several runs


def test_a_teacher_that_runs_share_is_compared_once():
    labels = [file.label for file in sections.compared([contents(), contents(name="again")])]

    assert labels == ["teacher", "try: student", "try: onnx fp32", "again: student", "again: onnx fp32"]
