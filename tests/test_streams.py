"""Few labels, a second stream without any, and another domain: which images each has, and what is refused."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from compressor.data import Dataset, open_data
from compressor.data.holdout import keep_labels
from compressor.errors import InputRejected, UsageError
from compressor.recipe import Data
from compressor.recipe.code import code_named

CPU = torch.device("cpu")


def open_(name: str | Path, **config) -> Dataset:
    return open_data(Data(name=str(name), **config), device=CPU)


def draw(path: Path, value: int = 0, *, size: tuple[int, int] = (8, 8), mode: str = "RGB") -> Path:
    """Save an image that differs by `value` from other images."""
    path.parent.mkdir(parents=True, exist_ok=True)
    width, height = size
    pixels = (np.arange(width * height * 3).reshape(height, width, 3) * 7 + value * 13) % 256
    Image.fromarray(pixels.astype(np.uint8)).convert(mode).save(path)
    return path


def images(split) -> torch.Tensor:
    return torch.cat([batch.images for batch in split.batches(64)])


def labels(split) -> list[int]:
    return split.labels.tolist()


# Few labels


@given(sizes=st.lists(st.integers(1, 9), min_size=2, max_size=5), share=st.floats(0, 1), seed=st.integers(0, 99))
def test_labels_are_kept_evenly_and_those_of_fewer_are_among_those_of_more(sizes, share, seed):
    every = [label for label, size in enumerate(sizes) for _ in range(size)]
    names = [str(place) for place in range(len(every))]
    count = len(sizes) + round(share * (len(every) - len(sizes)))

    kept = keep_labels(every, names, count, seed)

    assert kept == sorted(set(kept))
    assert len(kept) == count
    found = Counter(every[place] for place in kept)
    for label, size in enumerate(sizes):  # a class has fewer than another only where it has no more, or by one
        assert found[label] == size or found[label] >= max(found.values()) - 1
    assert set(keep_labels(every, names, len(sizes), seed)) <= set(kept)


def test_which_labels_are_kept_follows_from_the_names_and_a_seed_of_its_own():
    every = [place % 2 for place in range(40)]
    names = [f"{place}.png" for place in range(40)]
    kept = keep_labels(every, names, 10)
    moved = keep_labels(every[::-1], names[::-1], 10)

    assert [names[place] for place in kept] == sorted((names[::-1][place] for place in moved), key=names.index)
    assert kept != keep_labels(every, names, 10, seed=1)


def test_a_few_images_keep_their_labels_and_the_others_are_the_stream():
    whole, few = open_("digits"), open_("digits", labels=50)

    assert Counter(labels(few.train)) == dict.fromkeys(range(10), 5)
    assert sorted([*few.train.rows.tolist(), *few.unlabelled.rows.tolist()]) == whole.train.rows.tolist()
    for split in ("validation", "test"):
        assert torch.equal(getattr(few, split).rows, getattr(whole, split).rows)
    assert (few.mean, few.std) == (whole.mean, whole.std)  # pixels need no labels
    assert any("50 of 1,294 training images keep their labels, 5 a class" in note for note in few.notes)
    assert whole.unlabelled is None


def test_the_same_labels_are_kept_each_time_and_others_are_other_data():
    few = open_("digits", labels=50)
    assert torch.equal(few.train.rows, open_("digits", labels=50).train.rows)
    prints = {each.fingerprint for each in (few, open_("digits"), open_("digits", labels=60))}
    prints.add(open_("digits", labels=50, labels_seed=1).fingerprint)
    assert len(prints) == 4
    assert few.fingerprint == open_("digits", labels=50).fingerprint


def test_the_data_set_itself_as_its_stream_includes_the_labelled_images():
    data = open_("digits", labels=50, unlabelled="digits")
    assert sorted(data.unlabelled.rows.tolist()) == open_("digits").train.rows.tolist()


@pytest.mark.parametrize(
    ("count", "sentence"),
    [
        (1295, "1,295 images are to keep their labels, and 1,294 are left"),
        (9, "9 labels are fewer than the 10 classes"),
    ],
)
def test_more_labels_than_images_and_fewer_than_classes_are_refused(count, sentence):
    with pytest.raises(UsageError, match=sentence) as caught:
        open_("digits", labels=count)
    assert "data.labels" in caught.value.hint


# A second stream


def test_unlabelled_images_are_all_below_a_folder_as_the_labelled_ones_are(tmp_path):
    for number, place in enumerate(["a.png", "deep/er/b.PNG", "deep/c.png"]):
        draw(tmp_path / "more" / place, number, size=(20, 30))
    (tmp_path / "more" / "notes.txt").write_text("no image")

    data = open_("digits", unlabelled=f"folder:{tmp_path / 'more'}")

    assert images(data.unlabelled).shape == (3, *data.input_shape)
    assert data.unlabelled.augmentation == data.train.augmentation
    assert any("unlabelled: 3 images of" in note for note in data.notes)


def test_a_folder_with_a_training_part_gives_that_alone(tmp_path):
    for number in range(3):
        draw(tmp_path / "train" / "cat" / f"{number}.png", number)
        draw(tmp_path / "test" / "cat" / f"{number}.png", number)
    draw(tmp_path / "train" / "dog.png")
    assert len(open_("digits", unlabelled=f"folder:{tmp_path}").unlabelled) == 4


def test_a_data_set_by_name_gives_its_training_part(tmp_path):
    digits = open_("digits")
    assert torch.equal(open_("digits", unlabelled="digits").unlabelled.rows, digits.train.rows)  # nothing held out
    for number in range(10):
        draw(tmp_path / ("cat", "dog")[number % 2] / f"{number}.png", number, mode="L")
    own = open_(f"folder:{tmp_path}", test=0.4, unlabelled=f"folder:{tmp_path}")
    assert torch.equal(own.unlabelled.rows, own.train.rows)
    other = open_(f"folder:{tmp_path}", test=0.4, unlabelled="digits")
    assert len(other.unlabelled) == 1797 - round(0.4 * 1797) - round(0.1 * (1797 - round(0.4 * 1797)))


def test_the_fingerprint_tells_one_stream_from_another_and_outlives_a_move(tmp_path):
    first = draw(tmp_path / "a" / "1.png")
    before = open_("digits", unlabelled=f"folder:{tmp_path / 'a'}").fingerprint
    assert before != open_("digits").fingerprint

    (tmp_path / "a").rename(tmp_path / "b")
    assert open_("digits", unlabelled=f"folder:{tmp_path / 'b'}").fingerprint == before
    (tmp_path / "b" / first.name).rename(tmp_path / "b" / "2.png")
    assert open_("digits", unlabelled=f"folder:{tmp_path / 'b'}").fingerprint != before


def test_unlabelled_images_of_another_shape_or_none_are_refused(tmp_path):
    for number in range(10):
        draw(tmp_path / "set" / ("cat", "dog")[number % 2] / f"{number}.png", number)
    coloured = f"folder:{tmp_path / 'set'}"
    for key in ("unlabelled", "target"):
        with pytest.raises(InputRejected, match=rf"the {key} images are \[1, 8, 8\] and the labelled ones \[3, 8, 8\]"):
            open_(coloured, **{key: "digits"})
        (tmp_path / "empty").mkdir(exist_ok=True)
        with pytest.raises(InputRejected, match="there is no image below"):
            open_(coloured, **{key: f"folder:{tmp_path / 'empty'}"})
        with pytest.raises(InputRejected, match="there is no image below"):
            open_(coloured, **{key: f"folder:{tmp_path / 'nowhere'}"})
        with pytest.raises(UsageError, match="there is no data set 'digit'"):
            open_(coloured, **{key: "digit"})


# Another domain


@pytest.fixture
def domains(tmp_path) -> tuple[Path, Path]:
    """Two folders of the same classes, the second larger and in colour."""
    for number in range(20):
        draw(tmp_path / "source" / ("cat", "dog")[number % 2] / f"{number}.png", number, mode="L")
        draw(tmp_path / "there" / ("cat", "dog")[number % 2] / f"{number}.png", number, size=(20, 30))
    return tmp_path / "source", tmp_path / "there"


def test_a_target_folder_gives_images_to_adapt_to_and_others_to_be_scored_by(domains):
    source, there = domains
    data = open_(f"folder:{source}", target=f"folder:{there}")

    assert (len(data.unlabelled), len(data.target)) == (16, 4)  # none for validation: nothing is chosen by them
    assert not set(data.unlabelled.rows.tolist()) & set(data.target.rows.tolist())
    assert images(data.unlabelled).shape == (16, 1, 8, 8)  # as the labelled ones are
    assert Counter(labels(data.target)) == {0: 2, 1: 2}
    assert any("16 images of folder:" in note and "4 others are labelled" in note for note in data.notes)
    assert data.fingerprint != open_(f"folder:{source}").fingerprint


def test_the_labels_of_a_target_are_those_of_the_source_whatever_their_order(domains):
    source, there = domains
    data = open_(f"folder:{source}", target=f"folder:{there}", class_order=("dog", "cat"), test=0.5)
    plain = open_(f"folder:{source}", target=f"folder:{there}", test=0.5)

    assert torch.equal(images(data.target), images(plain.target))
    assert labels(data.target) == [1 - label for label in labels(plain.target)]


def test_a_target_without_labels_or_of_other_classes_is_not_scored(domains, tmp_path):
    source, there = domains
    for number in range(5):
        draw(tmp_path / "flat" / f"{number}.png", number)
    flat = open_(f"folder:{source}", target=f"folder:{tmp_path / 'flat'}")
    assert (len(flat.unlabelled), flat.target) == (5, None)
    assert any("has no folder of a class, so nothing is scored" in note for note in flat.notes)

    (there / "cat").rename(there / "cot")
    strange = open_(f"folder:{source}", target=f"folder:{there}")
    assert (len(strange.unlabelled), strange.target) == (16, None)
    assert any("its classes are not those of source (cot), so nothing is scored" in note for note in strange.notes)


def test_a_target_by_name_gives_its_training_part_and_is_scored_on_its_test_part():
    plain, data = open_("digits", validation=0), open_("digits", target="digits")
    assert torch.equal(data.unlabelled.rows, plain.train.rows)
    assert torch.equal(data.target.rows, plain.test.rows)
    assert torch.equal(data.target.labels, plain.test.labels)


def test_code_in_place_of_a_target_is_named_like_that_of_the_data():
    from compressor.recipe import Recipe, Student

    recipe = Recipe(data=Data(name="digits", target="mine.data:make"), student=Student(arch="lenet5"))
    assert code_named(recipe) == ["mine.data:make"]
