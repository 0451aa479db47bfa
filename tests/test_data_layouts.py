"""Folders as people have them: usual names of splits, files that are not read, names in two Unicode forms, an order."""

import json
import unicodedata

import numpy as np
import pytest
import torch
from PIL import Image, features

from compressor.data import open_data
from compressor.data.images import SUFFIXES
from compressor.data.splits import splits_of
from compressor.errors import InputRejected, UsageError
from compressor.recipe import Data, load


def open_(root, **config):
    return open_data(Data(name=f"folder:{root}", **config), device=torch.device("cpu"))


def picture(path, value=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((4, 4, 3), value % 256, dtype=np.uint8)).save(path)


def classes(folder, **counts):
    """Fill a folder with class folders of so many images each."""
    for number, (name, count) in enumerate(counts.items()):
        for image in range(count):
            picture(folder / name / f"{image}.png", 60 * number + image)
    return folder


def lengths(data):
    return [len(split) for split in (data.train, data.validation, data.test)]


def refusal(root, kind=InputRejected, **config):
    with pytest.raises(kind) as refused:
        open_(root, **config)
    return refused.value


# Names of splits


@pytest.mark.parametrize(
    ("train", "other"),
    [
        *[("training", "testing"), ("Training", "Testing"), ("TRAIN", "TEST"), ("trainset", "testset")],
        *[("seg_train", "seg_test"), ("training_set", "test_set"), ("Train Data", "Test-Data"), ("train", "dev")],
        *[
            ("train", "eval"),
            ("train2017", "val2017"),
            ("train_images", "valid_images"),
            ("flowers.train", "flowers.tst"),
        ],
    ],
)
def test_the_usual_names_of_splits_are_understood_in_any_case(tmp_path, train, other):
    classes(tmp_path / train, cat=10, dog=10)
    classes(tmp_path / other, cat=2, dog=3)

    data = open_(tmp_path, validation=0.1)

    assert data.classes == ("cat", "dog")
    assert lengths(data) == [18, 2, 5]


@pytest.mark.parametrize(("validation", "test"), [("eval", "test"), ("dev", "Testing"), ("Validation", "holdout")])
def test_three_splits_are_told_apart(tmp_path, validation, test):
    classes(tmp_path / "train", cat=10, dog=10)
    classes(tmp_path / validation, cat=2, dog=2)
    classes(tmp_path / test, cat=3, dog=3)

    assert lengths(open_(tmp_path)) == [20, 4, 6]


def test_a_split_that_was_packed_in_a_folder_of_its_own_name_is_entered(tmp_path):
    classes(tmp_path / "seg_train" / "seg_train", cat=10, dog=10)
    classes(tmp_path / "seg_test" / "seg_test", cat=2, dog=2)
    picture(tmp_path / "seg_pred" / "seg_pred" / "0.png")

    data = open_(tmp_path)

    assert (data.classes, len(data.test)) == (("cat", "dog"), 4)
    assert "folders that are no split are left out: seg_pred" in data.notes


def test_a_folder_like_a_split_with_an_unknown_name_is_refused(tmp_path):
    classes(tmp_path / "train", cat=3, dog=3)
    classes(tmp_path / "part_b", cat=3, dog=3)

    error = refusal(tmp_path)

    assert "part_b/ beside train/, with the same class folders" in error.message
    assert error.hint == "rename part_b/ to val or test, or move it away"


def test_folders_that_all_hold_the_same_class_folders_are_not_taken_for_classes(tmp_path):
    classes(tmp_path / "first", cat=3, dog=3)
    classes(tmp_path / "second", cat=3, dog=3)

    error = refusal(tmp_path)

    assert "the folders first/ and second/" in error.message
    assert "(cat, dog)" in error.message
    assert "name splits train/" in error.hint


@pytest.mark.parametrize("inner", [("2019", "2020"), ("images",)])
def test_classes_may_hold_folders_of_years_or_one_of_images(tmp_path, inner):
    for name in ("cat", "dog"):
        classes(tmp_path / name, **dict.fromkeys(inner, 6))

    assert open_(tmp_path).classes == ("cat", "dog")


@pytest.mark.parametrize("names", [("bus", "train"), ("invalid", "valid"), ("flask", "test_tube"), ("a_test", "b")])
def test_classes_may_have_the_name_of_a_split(tmp_path, names):
    classes(tmp_path, **dict.fromkeys(names, 6))

    assert open_(tmp_path).classes == names


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (("train", "Training"), r"has both Training/ and train/"),
        (("train", "test", "Testing"), r"has both Testing/ and test/"),
        (("a_train", "b_train"), r"has both a_train/ and b_train/"),
        (("dev", "test"), r"has dev/ but no train/"),
    ],
)
def test_splits_that_are_there_twice_or_not_at_all_are_refused(tmp_path, names, said):
    for name in names:
        classes(tmp_path / name, cat=2, dog=2)

    with pytest.raises(InputRejected, match=said):
        splits_of(tmp_path)


def test_splits_with_plain_names_come_before_others(tmp_path):
    classes(tmp_path / "train", cat=5, dog=5)
    classes(tmp_path / "test", cat=2, dog=2)
    (tmp_path / "train_masks").mkdir()

    assert {path.name for path in splits_of(tmp_path).folders.values()} == {"train", "test"}
    assert splits_of(tmp_path).others == ("train_masks",)


# What lies among the images


def test_files_that_are_not_read_are_counted_and_said_and_labels_are_not(tmp_path):
    root = classes(tmp_path, cat=6, dog=6)
    for name in ("a.heic", "b.HEIC", "c.psb", "d"):
        (root / "cat" / name).write_bytes(b"x")
    (root / "cat" / "boxes.txt").write_text("x")

    notes = open_(root).notes

    assert "4 files that are not read as images are left out: 2 .heic, 1 .psb, 1 without a suffix" in notes


def test_a_class_of_nothing_that_is_read_says_what_is_there(tmp_path):
    root = classes(tmp_path, cat=6, dog=6)
    (root / "emu").mkdir()
    (root / "emu" / "0.heic").write_bytes(b"x")

    error = refusal(root)

    assert error.message == f"the class folder {root / 'emu'} has no images that can be read, only 1 .heic"
    assert "convert" in error.hint


@pytest.mark.parametrize("suffix", [".jfif", ".JPE", ".tga", ".jp2", ".avif", ".dib", ".pnm"])
def test_what_pillow_reads_is_read(tmp_path, suffix):
    if suffix in (".jp2", ".avif") and not features.check("avif" if suffix == ".avif" else "jpg_2000"):
        pytest.skip("this Pillow was built without it")
    root = classes(tmp_path, cat=6, dog=6)
    for image in (root / "cat").iterdir():
        Image.open(image).save(image.with_suffix(suffix))
        image.unlink()

    data = open_(root, validation=0)

    assert torch.cat([data.train.labels, data.test.labels]).bincount().tolist() == [6, 6]
    assert {".png", ".jpg", ".jpeg", ".webp"} < SUFFIXES
    assert not {".eps", ".mpg", ".h5", ".pdf", ".wmf"} & SUFFIXES  # other programs, films and tables


@pytest.mark.parametrize("name", [".thumbnails", "@eaDir", "__MACOSX", "$RECYCLE.BIN"])
@pytest.mark.parametrize("inside", [(), ("cat",)])
def test_folders_of_photo_managers_are_passed_over_and_said(tmp_path, name, inside):
    root = classes(tmp_path, cat=6, dog=6)
    picture(root.joinpath(*inside, name, "0.png"))

    data = open_(root, validation=0)

    assert data.classes == ("cat", "dog")
    assert len(data.train) + len(data.test) == 12
    assert f"hidden folders and those of other programs are passed over: {name}" in data.notes


def test_a_class_of_few_images_is_said(tmp_path):
    notes = open_(classes(tmp_path, cat=2, dog=9), test=0.1).notes

    assert "1 classes have fewer than 5 training images: cat (2)" in notes


# Names of classes

COMPOSED, DECOMPOSED = "caf\u00e9", unicodedata.normalize("NFD", "caf\u00e9")


def test_class_names_in_two_unicode_forms_are_one_class(tmp_path):
    root = classes(tmp_path, **{COMPOSED: 6, DECOMPOSED: 7, "tea": 5})

    data = open_(root, validation=0)

    assert data.classes == (COMPOSED, "tea")
    labels = torch.cat([data.train.labels, data.test.labels])
    assert labels.bincount().tolist() == [13, 5]
    assert f"folders whose names differ in their Unicode form alone are one class: {COMPOSED}" in data.notes


def test_splits_may_write_a_class_in_different_unicode_forms(tmp_path):
    classes(tmp_path / "train", **{COMPOSED: 6, "tea": 6})
    classes(tmp_path / "test", **{DECOMPOSED: 2, "tea": 3})

    data = open_(tmp_path)

    assert data.test.labels.tolist() == [0, 0, 1, 1, 1]


def test_class_names_that_look_alike_are_said(tmp_path):
    notes = open_(classes(tmp_path, Cat=6, cat=6, dog=6)).notes

    assert "class names look alike: 'Cat' and 'cat'" in notes


# The order of the classes


@pytest.fixture
def numbered(tmp_path):
    """Class folders 1, 2 and 10, whose images are of the value of their number."""
    for name in ("1", "2", "10"):
        for image in range(6):
            picture(tmp_path / "set" / name / f"{image}.png", int(name))
    return tmp_path / "set"


def labels_of(data):
    """The label that images of each value have."""
    return {
        round(image.max().item() * 255): label
        for split in (data.train, data.test)
        for batch in split.batches(100)
        for image, label in zip(batch.images, batch.labels.tolist(), strict=True)
    }


def test_folders_are_numbered_in_the_order_of_their_names_or_of_the_numbers_in_them(numbered):
    assert open_(numbered).classes == ("1", "10", "2")
    assert labels_of(open_(numbered)) == {1: 0, 10: 1, 2: 2}

    natural = open_(numbered, class_order="natural")

    assert natural.classes == ("1", "2", "10")
    assert labels_of(natural) == {1: 0, 2: 1, 10: 2}
    assert natural.fingerprint != open_(numbered).fingerprint
    assert "the classes are in this order: 1, 2, 10" in natural.notes


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("order.txt", "2\n10\n\n1\n"),
        ("order.json", json.dumps(["2", "10", "1"])),
        ("order.json", json.dumps({"1": 2, "2": 0, "10": 1})),
        ("order.json", json.dumps({"0": "2", "1": "10", "2": "1"})),
    ],
)
def test_the_order_comes_from_a_file(numbered, tmp_path, name, text):
    (tmp_path / name).write_text(text)

    data = open_(numbered, class_order=tmp_path / name)

    assert data.classes == ("2", "10", "1")
    assert labels_of(data) == {2: 0, 10: 1, 1: 2}


def test_the_order_is_a_list_in_a_recipe_and_natural_is_no_file(numbered, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    text = "student: {arch: lenet5}\ndata: {name: 'folder:set', class_order: "
    found = []
    for order in ("['10', '2', '1']", "natural", "order.txt"):
        recipe.write_text(text + order + "}\n")
        found.append(load(recipe).data.class_order)

    assert found == [("10", "2", "1"), "natural", tmp_path / "order.txt"]
    assert open_(numbered, class_order=found[0]).classes == ("10", "2", "1")


@pytest.mark.parametrize(
    ("order", "said", "hint"),
    [
        (("1", "2"), "data.class_order leaves out 1 classes: 10", "each class once"),
        (("1", "2", "10", "10"), "data.class_order names the class '10' twice", ""),
        (("1", "2", "10", "100"), "data.class_order names a class '100' that the data lack", "did you mean '10'"),
    ],
)
def test_an_order_that_does_not_fit_is_refused(numbered, order, said, hint):
    error = refusal(numbered, UsageError, class_order=order)

    assert error.message == said
    assert hint in (error.hint or "")


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("none.txt", None, "cannot be read from .*No such file"),
        ("x.txt", b"\xff\xfe\x00", "cannot be read from .*not text"),
        ("x.json", b"{", "is not JSON"),
        ("x.json", b'{"1": 0, "2": 5}', "does not hold the order"),
        ("x.json", b'{"1": "a", "x": "b"}', "does not hold the order"),
        ("x.json", b"3", "does not hold the order"),
    ],
)
def test_a_file_without_an_order_is_refused(numbered, tmp_path, name, content, said):
    if content is not None:
        (tmp_path / name).write_bytes(content)

    with pytest.raises(InputRejected, match=said):
        open_(numbered, class_order=tmp_path / name)
