"""What every file said of every image, written and read back."""

import numpy as np
import pytest

from compressor.errors import InputRejected
from compressor.measure.predictions import FilePredictions, StoredPredictions
from compressor.measure.scores import Predictions

LOGITS = np.array([[0.0, 0.0, -50.0], [0.0, 0.0, np.log(2.0)], [9.0, 1.0, 1.0]], np.float32)
LABELS = np.array([1, 2, 0])


def answers() -> StoredPredictions:
    student = FilePredictions.of(Predictions(LOGITS, LABELS), "a" * 64)
    teacher = FilePredictions.of(Predictions(-LOGITS, LABELS), "b" * 64)
    return StoredPredictions(fingerprint="f", files={"teacher": teacher, "stüdent": student})


def test_an_answer_is_the_top_class_the_lower_of_equal_ones_and_its_probability():
    answer = answers().files["stüdent"]

    assert answer.classes.tolist() == [0, 2, 0]
    assert answer.probabilities[:2] == pytest.approx([0.5, 0.5])
    assert answer.labels.tolist() == [1, 2, 0]


def test_answers_are_read_as_they_were_written(tmp_path):
    answers().write(tmp_path / "predictions.npz")

    found = StoredPredictions.read(tmp_path / "predictions.npz")

    assert found.fingerprint == "f"
    assert found.labels.tolist() == [1, 2, 0]
    assert list(found.files) == ["teacher", "stüdent"]
    for name, answer in answers().files.items():
        assert found.files[name].sha256 == answer.sha256
        assert found.files[name].classes.tolist() == answer.classes.tolist()
        assert found.files[name].probabilities.tolist() == answer.probabilities.tolist()


def test_the_file_is_whole_or_absent(tmp_path, monkeypatch):
    path = tmp_path / "predictions.npz"
    path.write_bytes(b"as it was")
    monkeypatch.setattr(np, "savez_compressed", lambda *_, **__: 1 / 0)

    with pytest.raises(ZeroDivisionError):
        answers().write(path)

    assert [each.name for each in tmp_path.iterdir()] == ["predictions.npz"]
    assert path.read_bytes() == b"as it was"


def test_no_file_says_what_makes_one(tmp_path):
    with pytest.raises(InputRejected, match="no such file") as caught:
        StoredPredictions.read(tmp_path / "predictions.npz")
    assert caught.value.hint == f"compress validate {tmp_path}"


def columns(**changes):
    whole = {
        "fingerprint": np.array("f"),
        "labels": LABELS,
        "files": np.array(["teacher"]),
        "sha256": np.array(["a"]),
        "classes": np.zeros((1, 3), np.int32),
        "probabilities": np.zeros((1, 3), np.float32),
    }
    return {name: value for name, value in (whole | changes).items() if value is not None}


def test_a_whole_set_of_columns_is_read(tmp_path):
    np.savez(tmp_path / "p.npz", **columns())

    assert StoredPredictions.read(tmp_path / "p.npz").files["teacher"].classes.tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    "changes",
    [
        {"labels": LABELS[:2]},
        {"files": np.array(["teacher", "student"])},
        {"sha256": np.array(["a", "b"])},
        {"probabilities": None},
        {"classes": np.array([[object(), None, 1]], dtype=object)},  # a pickle inside
        {"files": np.array([], dtype=np.str_), "classes": np.zeros((0, 3)), "probabilities": np.zeros((0, 3))},
    ],
)
def test_a_file_whose_parts_do_not_fit_is_damaged(tmp_path, changes):
    np.savez(tmp_path / "p.npz", **columns(**changes))

    with pytest.raises(InputRejected, match="damaged"):
        StoredPredictions.read(tmp_path / "p.npz")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 and then nothing", b"\x93NUMPY", b"text"])
def test_a_file_that_is_something_else_is_damaged(tmp_path, content):
    (tmp_path / "p.npz").write_bytes(content)

    with pytest.raises(InputRejected, match="damaged") as caught:
        StoredPredictions.read(tmp_path / "p.npz")
    assert "compress validate" in caught.value.hint


def test_a_file_cut_short_is_damaged(tmp_path):
    answers().write(tmp_path / "p.npz")
    whole = (tmp_path / "p.npz").read_bytes()
    (tmp_path / "p.npz").write_bytes(whole[: len(whole) // 2])

    with pytest.raises(InputRejected, match="damaged"):
        StoredPredictions.read(tmp_path / "p.npz")
