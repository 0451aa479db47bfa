"""The model card: its front matter as YAML, its tables cell by cell, and nothing in it that was not measured."""

import re

import finished
import pytest
import yaml

from compressor.errors import InputRejected
from compressor.report.card import write_card

BLANK = "**To be filled in by the publisher.**"


@pytest.fixture
def card(tmp_path):
    """A function that writes the card of a record and returns its text."""

    def write(result, lineage=finished.LINEAGE):
        path = write_card(finished.folder(tmp_path / "run", lineage), result)
        assert path == tmp_path / "run" / "report" / "model-card.md"
        return path.read_text()

    return write


def section(card, title):
    return re.search(rf"^## {title}\n+(.*?)(?=^## |\Z)", card, re.M | re.S)[1].rstrip()


def rows(card, title):
    """The cells of the tables of a section, without headings."""
    lines = [line for line in section(card, title).splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    bodies, inside = [], False
    for row in cells:
        if all(re.fullmatch(r"-+:?|:?-+:?", cell) for cell in row):
            inside = True
            continue
        following = cells[cells.index(row) + 1] if cells.index(row) + 1 < len(cells) else [""]
        if following and all(re.fullmatch(r"-+:?", cell) for cell in following):
            inside = False
        if inside:
            bodies.append(row)
    return bodies


def front_matter(card):
    return yaml.safe_load(card.split("---\n")[1])


def test_the_front_matter_is_that_of_a_hub(card):
    known = front_matter(card(finished.result()))

    assert known["pipeline_tag"] == "image-classification"
    assert known["tags"] == ["image-classification", "knowledge-distillation"]
    (index,) = known["model-index"]
    assert index["name"] == "oak"
    assert index["results"] == [
        {
            "task": {"type": "image-classification"},
            "dataset": {"name": "folder:leaves", "type": "folder:leaves", "split": "test"},
            "metrics": [{"type": "accuracy", "name": "top-1", "value": 0.8575}],
        }
    ]
    assert "license" not in known


def test_what_only_the_publisher_knows_is_blank(card):
    text = card(finished.result())

    for title in ("Intended use", "Out of scope", "Licence and contact"):
        assert section(text, title) == BLANK
    assert section(text, "Training data").endswith(BLANK)
    assert section(text, "Limits").endswith(f"Known biases and failures:\n\n{BLANK}")
    assert text.count(BLANK) == 5


def test_data_and_training_are_the_runs(card):
    text = card(finished.result())

    assert section(text, "Training data").startswith(
        "folder:leaves: 1,294 training images, 144 held out for validation, 359 for the test. "
        "Fingerprint 0123456789abcdef."
    )
    training = section(text, "Training")
    assert training.startswith("Method bss, 4 epochs, seed 7, 21 s.")
    recipe = yaml.safe_load(training.split("```yaml\n")[1].split("```")[0])
    assert recipe == {"method": {"kind": "bss", "temperature": 3.0}, "train": {"epochs": 4, "lr": 0.1}}
    assert "/home/ann/images" not in text


def test_results_are_per_file_with_their_intervals(card):
    text = card(finished.result())
    found = rows(text, "Results")

    assert found[0] == ["teacher", "pytorch", "fp32", "2.35", "93.50", "–", "–", "–"]
    assert found[1] == [
        *("student", "pytorch", "fp32", "2.35", "85.75 (81.80 to 89.03)", "99.44", "7.75 (4.04 to 11.47)", "0.8607")
    ]
    assert [row[:3] for row in found[2:5]] == [
        ["student.fp32.onnx", "onnx", "fp32"],
        ["student.int8.onnx", "onnx", "int8"],
        ["student.fp16.plan", "trt", "fp16"],
    ]
    assert found[5:] == [["student", "cpu", "1", "0.500", "3.50", "1,234"]]
    assert "export/student.fp16.plan: there is no GPU." in section(text, "Results")
    assert (
        "export/student.int8.onnx was quantised with 512 training images, 128 of them on a decision boundary; "
        "1 layers were kept in fp32."
    ) in section(text, "Results")


def test_classes_that_lost_are_named_and_cannot_break_the_table(card):
    assert rows(card(finished.result()), "What was lost") == [[r"a&#124;b &lt;i&gt;\*", "-6.25", "80.00"]]


def test_the_ten_classes_that_lost_most_come_first(card):
    changes = {f"c{number:02}": -float(number) for number in range(13)}
    student = finished.result().student.model_copy(update={"class_change": changes, "class_accuracy": {}})
    found = rows(card(finished.result(student=student)), "What was lost")

    assert [row[0] for row in found] == [f"c{number:02}" for number in range(12, 2, -1)]
    assert found[0] == ["c12", "-12.00", "–"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"class_change": {"cat": 0.0, "dog": 2.0}}, "On no class is the student worse than its teacher."),
        ({"class_change": None}, "Not measured."),
    ],
)
def test_no_loss_and_no_measure_are_told_apart(card, changes, words):
    student = finished.result().student.model_copy(update=changes)

    assert section(card(finished.result(student=student)), "What was lost") == words


def test_robustness_and_calibration_have_a_row_a_file(card):
    text = card(finished.result())

    assert rows(text, "Robustness")[1] == ["student", "55.50", "44.25", "–", "0.4321"]
    assert "Attacks on 64 images, no pixel changed by more than 0.0314." in section(text, "Robustness")
    assert rows(text, "Calibration")[:2] == [["teacher", "0.0180", "–"], ["student", "0.0284", "0.4056"]]
    assert len(rows(text, "Calibration")) == 5


def test_promises_are_told_with_their_verdict(card):
    assert rows(card(finished.result()), "Promises") == [
        [r"min\_top1", "export/student.int8.onnx", "90.0000", "84.5000", "broken"]
    ]
    assert "## Promises" not in card(finished.result(gates=()))


def test_limits_say_what_nobody_measured(card):
    assert "Not measured" not in section(card(finished.result()), "Limits")

    bare = {"top1": None, "ece": None, "pgd_top1": None, "latency_ms": None, "agreement": None}
    student = finished.result().student.model_copy(update=bare | {"boundary_agreement": None})
    text = card(finished.result(student=student))
    assert (
        "- Not measured: accuracy, calibration, accuracy under attack, latency, agreement with the teacher, "
        "agreement on the teacher's boundary."
    ) in section(text, "Limits")
    assert "model-index" not in front_matter(text)


def test_environment_and_lineage_close_the_card(card):
    text = card(finished.result())

    assert rows(text, "Environment") == [
        ["cpu", "Abacus 9"],
        ["cores", "2"],
        ["gpus", "Loom, Warp"],
        ["python", "3.11.7"],
        ["compressor", "0.1.0"],
        ["torch", "2.15.0"],
    ]
    lineage = rows(text, "Lineage")
    assert lineage[0] == [f"student/student.safetensors `{finished.STUDENT}`", f"lenet5 `{finished.TEACHER}`"]
    assert len(lineage) == 5
    assert text.endswith(f"Recipe `{'f' * 64}`.\n")


def test_a_network_trained_alone_has_a_card_too(card):
    student = finished.result().student.model_copy(update={"class_change": None, "agreement": None})
    text = card(finished.result(teacher=None, student=student, artifacts=(), gates=()), lineage=())

    assert "trained with `compress` without a teacher." in text
    assert front_matter(text)["tags"] == ["image-classification"]
    assert section(text, "What was lost") == "There is no teacher to compare with."
    assert "agreement" not in section(text, "Limits")
    assert rows(text, "Lineage") == [[f"student/student.safetensors `{finished.STUDENT}`", ""]]


def test_a_run_without_a_manifest_is_refused(tmp_path):
    run = finished.folder(tmp_path)
    (tmp_path / "manifest.json").unlink()

    with pytest.raises(InputRejected, match=r"manifest\.json"):
        write_card(run, finished.result())
