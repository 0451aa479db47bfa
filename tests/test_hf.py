"""Data sets of Hugging Face `datasets`: the same images as in a folder, and what is wrong with one in a sentence."""

import shutil
import sys

import datasets
import encoded
import pyarrow
import pyarrow.parquet
import pytest
from encoded import CLASSES, COUNTS, batches, equal, folder, opened, pairs

from compressor.errors import EnvironmentMissing, InputRejected
from compressor.recipe import build


@pytest.fixture(autouse=True)
def _library_writes_here(monkeypatch, tmp_path_factory):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return folder(tmp_path_factory.mktemp("images") / "photos")


@pytest.fixture(scope="module")
def files(images, tmp_path_factory):
    return encoded.parquet(images, tmp_path_factory.mktemp("parquet") / "photos")


def refusal(name, kind=InputRejected, **keys):
    with pytest.raises(kind) as refused:
        opened(name, **keys)
    return refused.value


def saved(images, out, **columns):
    """Save rows of a few images with save_to_disk; columns replace or, None, remove those of images and labels."""
    found = encoded.listed(images, "train")
    rows = {
        "image": [{"bytes": path.read_bytes(), "path": None} for path, _ in found],
        "label": [number for _, number in found],
        **columns,
    }
    features = {name: datasets.Image() for name in rows if name in ("image", "other")}
    table = datasets.Dataset.from_dict({name: values for name, values in rows.items() if values is not None})
    for name, feature in features.items():
        if name in table.features:
            table = table.cast_column(name, feature)
    table.save_to_disk(out)
    return out


# The same images as in a folder


@pytest.mark.parametrize("held", [True, False])
@pytest.mark.parametrize("keys", [{}, {"image_size": 6}, {"channels": 1}, {"augment": {"kind": "photo"}}])
def test_parquet_files_give_the_batches_of_the_folder_bit_for_bit(images, files, held, keys):
    keys = {"workers": 0, "augment": {"kind": "crop-flip"}, **keys}
    given, expected = (opened(name, held=held, **keys) for name in (f"hf:{files}", f"folder:{images}"))

    assert given.classes == expected.classes == CLASSES
    assert [len(getattr(given, split)) for split in COUNTS] == list(COUNTS.values())
    assert (given.input_shape, given.mean, given.std) == (expected.input_shape, expected.mean, expected.std)
    for epoch in (0, 1):
        drawn = {"seed": 3, "epoch": epoch, "augment": True}
        assert equal(batches(given, **drawn), batches(expected, **drawn))
    assert equal(batches(given, "test"), batches(expected, "test"))


@pytest.mark.starts
def test_loading_processes_read_rows_as_this_one_does(files):
    assert equal(
        batches(opened(f"hf:{files}", held=False, workers=1), seed=0),
        batches(opened(f"hf:{files}", held=True), seed=0),
    )


def test_what_save_to_disk_wrote_is_read_in_place(images, files, tmp_path):
    datasets.load_dataset(str(files)).save_to_disk(tmp_path / "saved")
    assert pairs(opened(f"hf:{tmp_path / 'saved'}"), "test") == pairs(opened(f"folder:{images}"), "test")


def test_rows_without_splits_have_a_test_part_held_out(images, tmp_path):
    data = opened(f"hf:{saved(images, tmp_path / 'one')}", validation=0)
    assert (len(data.train), len(data.test), data.classes) == (10, 2, ("0", "1", "2"))


def test_labels_may_be_names_and_are_then_the_classes(images, tmp_path):
    names = [CLASSES[number] for _, number in encoded.listed(images, "train")]
    data = opened(f"hf:{saved(images, tmp_path / 'one', label=names)}", validation=0)
    assert data.classes == CLASSES


def test_images_may_be_plain_bytes(images, files, tmp_path):
    content = [path.read_bytes() for path, _ in encoded.listed(images, "train")]
    table = datasets.Dataset.from_dict({"file": content, "label": [0, 1] * 6})
    table.save_to_disk(tmp_path / "bytes")
    assert opened(f"hf:{tmp_path / 'bytes'}", validation=0).input_shape == (3, 8, 10)


def test_a_split_without_labels_is_left_out_and_validation_is_then_the_test(images, files, tmp_path):
    found = datasets.load_dataset(str(files))
    hidden = found["test"].map(lambda row: {"label": -1})
    datasets.DatasetDict({**found, "test": hidden, "extra": found["test"]}).save_to_disk(tmp_path / "saved")
    data = opened(f"hf:{tmp_path / 'saved'}", validation=0)
    assert (len(data.train), len(data.test)) == (COUNTS["train"], COUNTS["validation"])
    assert "test has no labels and is left out" in data.notes
    assert "splits whose names are not usual ones are left out: extra" in data.notes


def test_the_fingerprint_stays_when_files_move_and_changes_with_a_label(images, tmp_path):
    one = saved(images, tmp_path / "one")
    shutil.copytree(one, tmp_path / "moved")
    labels = [number for _, number in encoded.listed(images, "train")]
    other = saved(images, tmp_path / "other", label=[*labels[:-1], 0])
    prints = [opened(f"hf:{path}", validation=0).fingerprint for path in (one, tmp_path / "moved", other)]
    assert prints[0] == prints[1] != prints[2]


def test_a_recipe_has_folders_relative_to_it_and_names_as_they_are(files, tmp_path):
    def name(text):
        return build({"student": {"arch": "lenet5"}, "data": {"name": text}}, base=files.parent).data.name

    assert name("hf:photos") == name("hf:./photos") == f"hf:{files}"
    assert name("hf:user/flowers") == "hf:user/flowers"
    assert name("hf:./none") == f"hf:{files.parent}/none"


# Refusals


def test_what_is_not_there_is_refused(files, tmp_path, monkeypatch):
    error = refusal(f"hf:{files.parent}/photo")
    assert (error.message, error.hint) == (f"there is no folder {files.parent}/photo", "did you mean 'photos'?")
    assert "name the folder that holds it" in refusal(f"hf:{next(files.iterdir())}").hint
    assert "cannot be opened: " in refusal(f"hf:{tmp_path}").message

    def unreachable(*_, **__):
        raise ConnectionError("Couldn't reach 'nobody/none' on the Hub")

    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    assert "hf:nobody/none cannot be opened: ConnectionError: Couldn't reach" in refusal("hf:nobody/none").message


def test_damaged_files_are_refused(files, tmp_path, images):
    path = shutil.copytree(files, tmp_path / "cut") / "test-00000-of-00001.parquet"
    path.write_bytes(path.read_bytes()[:200])
    assert f"hf:{tmp_path / 'cut'} cannot be opened: " in refusal(f"hf:{tmp_path / 'cut'}").message
    arrow = next(saved(images, tmp_path / "saved").glob("*.arrow"))
    arrow.write_bytes(b"none")
    assert "cannot be opened: " in refusal(f"hf:{tmp_path / 'saved'}").message


def test_missing_columns_are_refused_with_those_that_are_there(images, tmp_path):
    one = saved(images, tmp_path / "none", label=None, weight=[1.5] * 12)
    error = refusal(f"hf:{one}")
    assert error.message == f"hf:{one} has no label column; its columns are image (PIL.Image.Image), weight (float64)"
    assert error.hint == "--set data.label=COLUMN says which"
    assert "row 0 of train" in refusal(f"hf:{one}", label="weight").message
    assert "is 1.5, not the number or the name of a class" in refusal(f"hf:{one}", label="weight").message
    assert f"hf:{one} has no column 'wight' for data.label" in refusal(f"hf:{one}", label="wight").message
    assert refusal(f"hf:{one}", label="wight").hint == "did you mean 'weight'?"

    two = saved(images, tmp_path / "two", image=None)
    assert refusal(f"hf:{two}").message == f"hf:{two} has no image column; its columns are label (int64)"
    assert "holds int64, not encoded images" in refusal(f"hf:{two}", image="label").message

    rows = [{"bytes": b"", "path": None}] * 12
    three = saved(images, tmp_path / "three", other=rows)
    assert "has several image columns, image, other" in refusal(f"hf:{three}").message
    assert opened(f"hf:{three}", image="image", validation=0).input_shape == (3, 8, 10)


def test_a_label_that_is_missing_is_refused(images, tmp_path):
    one = saved(images, tmp_path / "one", label=[0, 1, None, 2] * 3)
    assert "the label of row 2 of train" in refusal(f"hf:{one}").message
    two = saved(images, tmp_path / "two", label=[True, False] * 6)
    assert "is True, not the number or the name" in refusal(f"hf:{two}").message


def test_splits_that_differ_or_are_not_known_are_refused(images, files, tmp_path):
    found = datasets.load_dataset(str(files))
    names = datasets.ClassLabel(names=["cat", "dog", "yak"])
    other = datasets.DatasetDict({"train": found["train"], "test": found["test"].cast_column("label", names)})
    other.save_to_disk(tmp_path / "other")
    assert "test of hf:" in refusal(f"hf:{tmp_path / 'other'}").message
    assert (
        "has other classes than train: cat, dog, yak, not cat, dog, emu" in refusal(f"hf:{tmp_path / 'other'}").message
    )

    datasets.DatasetDict({"part": found["train"], "test": found["test"]}).save_to_disk(tmp_path / "part")
    error = refusal(f"hf:{tmp_path / 'part'}")
    assert error.message == f"hf:{tmp_path / 'part'} has no split to train on, only test, part"

    both = datasets.DatasetDict({"train": found["train"], "val": found["test"], "validation": found["test"]})
    both.save_to_disk(tmp_path / "both")
    assert "has both val and validation" in refusal(f"hf:{tmp_path / 'both'}").message

    lacking = datasets.DatasetDict({"train": found["train"], "test": found["test"].remove_columns("label")})
    lacking.save_to_disk(tmp_path / "lacking")
    assert "has no column 'label', which train has" in refusal(f"hf:{tmp_path / 'lacking'}").message


def test_numbers_that_only_the_test_split_has_are_refused(images, tmp_path):
    one, two = (datasets.load_from_disk(str(saved(images, tmp_path / name))) for name in "ab")
    two = two.map(lambda row: {"label": row["label"] + 1})
    datasets.DatasetDict({"train": one, "test": two}).save_to_disk(tmp_path / "c")
    assert refusal(f"hf:{tmp_path / 'c'}").message == "test has a class 3 that train lacks"


def test_damaged_images_are_named_by_their_row(images, tmp_path):
    content = [path.read_bytes() for path, _ in encoded.listed(images, "train")]
    rows = [{"bytes": each, "path": None} for each in [b"none", *content[1:]]]
    rows[5] = {"bytes": None, "path": "/dev/stdin"}
    table = pyarrow.table({"image": rows, "label": [0, 1] * 6})
    pyarrow.parquet.write_table(table, tmp_path / "train.parquet")
    message = refusal(f"hf:{tmp_path}").message
    assert "2 of 12 images cannot be read: row 0 of train (not an image), row 5 of train (neither bytes nor" in message


def test_a_missing_or_an_old_library_is_said_with_how_to_install_it(monkeypatch, files):
    monkeypatch.setattr(datasets, "__version__", "3.6.0")
    old = refusal(f"hf:{files}", EnvironmentMissing)
    assert "needs datasets 4, which runs no loading scripts, and 3.6.0 is installed" in old.message
    monkeypatch.setitem(sys.modules, "datasets", None)
    error = refusal(f"hf:{files}", EnvironmentMissing)
    assert (error.exit_code, error.hint) == (3, "pip install 'compressor[hf]'")


def test_code_beside_the_files_is_not_run(files, tmp_path):
    place = shutil.copytree(files, tmp_path / "photos")
    (place / "photos.py").write_text(f"open({str(tmp_path / 'made')!r}, 'w')\nraise SystemExit(1)\n")
    assert "scripts are no longer supported, but found photos.py" in refusal(f"hf:{place}").message
    assert not (tmp_path / "made").exists()
