"""Decoded images that are kept: the same bits as decoded anew, made once, and never taken for those of other files."""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import datasets
import encoded
import numpy as np
import pytest
import torch
from encoded import batches, equal, folder, opened
from safetensors.torch import load_file
from shell import QUICK, ran

from compressor.data.cache import Cache, Scan, packed
from compressor.errors import InputRejected, UsageError
from compressor.recipe import Data, build

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def _library_writes_here(monkeypatch, tmp_path_factory):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


@pytest.fixture
def images(tmp_path):
    return folder(tmp_path / "photos")


@pytest.fixture
def decoding(monkeypatch):
    """The files that are decoded, by name."""
    from compressor.data import reading

    seen, decode = [], reading.decode

    def counted(file, *arguments):
        seen.append(str(file))
        return decode(file, *arguments)

    monkeypatch.setattr(reading, "decode", counted)
    return seen


def kept(place, suffix=".npy"):
    return sorted(path.name for path in place.iterdir() if path.suffix == suffix and not path.name.startswith("."))


@pytest.fixture(params=["folder", "hf", "wds"])
def named(request, images, tmp_path):
    if request.param == "folder":
        return f"folder:{images}"
    write = encoded.parquet if request.param == "hf" else encoded.shards
    return f"{request.param}:{write(images, tmp_path / request.param)}"


@pytest.mark.parametrize("held", [True, False])
def test_each_kind_of_data_is_decoded_once_and_gives_the_same_bits(named, images, tmp_path, decoding, held):
    keys = {"workers": 0, "image_size": 6, "augment": {"kind": "crop-flip", "jitter": {}}}
    expected = opened(f"folder:{images}", held=True, **keys)
    decoding.clear()
    made, found = (opened(named, held=held, cache=tmp_path / "kept", **keys) for _ in range(2))

    assert len(decoding) == 21  # once each, the second time none
    assert len(kept(tmp_path / "kept")) == len(kept(tmp_path / "kept", ".json")) == 1
    for data in (made, found):
        assert (data.mean, data.input_shape) == (expected.mean, expected.input_shape)
        drawn = {"seed": 3, "epoch": 1, "augment": True}
        assert equal(batches(data, **drawn), batches(expected, **drawn))
        assert equal(batches(data, "test"), batches(expected, "test"))
    if named.startswith("folder"):
        assert made.fingerprint == found.fingerprint == expected.fingerprint
    assert "21 decoded images are kept in" in " ".join(made.notes)
    assert "21 decoded images are read from" in " ".join(found.notes)


@pytest.mark.starts
def test_loading_processes_change_what_is_kept_as_this_one_does(images, tmp_path):
    keys = {"cache": tmp_path / "kept", "augment": {"kind": "crop-flip", "jitter": {}}}
    drawn = {"seed": 0, "augment": True}
    one, two = (opened(f"folder:{images}", held=False, workers=workers, **keys) for workers in (0, 1))
    assert equal(batches(one, **drawn), batches(two, **drawn))


def test_a_file_that_changes_or_another_size_makes_it_anew(images, tmp_path, decoding):
    place = tmp_path / "kept"
    opened(f"folder:{images}", cache=place)
    before = kept(place)
    changed = next((images / "train" / "cat").iterdir())
    stamp = changed.stat()
    os.utime(changed, ns=(stamp.st_atime_ns, stamp.st_mtime_ns + 1))
    opened(f"folder:{images}", cache=place)
    after = kept(place)
    assert len(before) == len(after) == 1  # the old one is gone
    assert before != after

    opened(f"folder:{images}", cache=place, image_size=6)
    opened(f"folder:{images}", cache=place, channels=1)
    assert len(kept(place)) == 3  # beside each other
    decoding.clear()
    opened(f"folder:{images}", cache=place)
    assert decoding == []


@pytest.mark.parametrize("harm", ["cut", "other shape", "no record", "no images", "record is no JSON"])
def test_what_is_not_a_whole_cache_is_made_anew(images, tmp_path, harm):
    place = tmp_path / "kept"
    expected = batches(opened(f"folder:{images}", cache=place), seed=0)
    file = place / kept(place)[0]
    if harm == "cut":
        file.write_bytes(file.read_bytes()[:-1])
    elif harm == "other shape":
        np.save(file, np.zeros((21, 4, 4, 3), dtype=np.uint8))
    elif harm == "no record":
        file.with_suffix(".json").unlink()
    elif harm == "no images":
        file.unlink()
    else:
        file.with_suffix(".json").write_text("{")
    assert equal(batches(opened(f"folder:{images}", cache=place), seed=0), expected)


def test_damaged_images_are_remembered_and_stay_left_out(tmp_path, decoding):
    images = folder(tmp_path / "photos", {"train": 120, "test": 6}, size=(4, 4))
    damaged = sorted((images / "train").rglob("*.png"))[3]
    damaged.write_bytes(b"none")
    made, found = (opened(f"folder:{images}", cache=tmp_path / "kept", held=False, workers=0) for _ in range(2))
    for data in (made, found):
        assert len(data.train) + len(data.validation) == 119
        assert any(
            f"1 of 126 images cannot be read and are left out: {damaged} (not an image)" in n for n in data.notes
        )
    assert equal(batches(made), batches(found))


def test_streams_without_labels_are_kept_too(images, tmp_path, decoding):
    folder(tmp_path / "more", {"train": 6})
    keys = {"unlabelled": f"folder:{tmp_path / 'more'}", "cache": tmp_path / "kept", "image_size": 6}
    first = opened(f"folder:{images}", **keys)
    decoding.clear()
    second = opened(f"folder:{images}", **keys)
    assert decoding == []
    assert equal(batches(first, "unlabelled"), batches(second, "unlabelled"))


# One process makes it, and one that ends leaves nothing


def test_several_at_once_make_it_once(tmp_path):
    made = []

    def decoded(put):
        made.append(1)
        for row in range(4):
            put(row, np.full((2, 2, 3), row, dtype=np.uint8))
        return Scan()

    def work():
        packed(Cache(tmp_path, "x", lambda: ["state"]), (4, 2, 2, 3), (None, None), decoded)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert made == [1]


@pytest.mark.starts
def test_a_killed_process_leaves_nothing_that_is_taken_for_a_cache(tmp_path):
    code = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "import numpy as np\n"
        "from compressor.data.cache import Cache, packed\n"
        "def decoded(put):\n"
        "    put(0, np.zeros((2, 2, 3), dtype=np.uint8))\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "packed(Cache(Path(sys.argv[1]), 'x', lambda: ['state']), (4, 2, 2, 3), (None, None), decoded)\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code, tmp_path], env={**os.environ, "PYTHONPATH": str(ROOT)}, check=False
    )
    assert ended.returncode == -9
    assert [path.suffix for path in tmp_path.glob(".*")].count(".part") == 1
    assert kept(tmp_path) == []

    def decoded(put):
        for row in range(4):
            put(row, np.full((2, 2, 3), row, dtype=np.uint8))
        return Scan()

    path, _, made = packed(Cache(tmp_path, "x", lambda: ["other"]), (4, 2, 2, 3), (None, None), decoded)
    assert made
    assert np.load(path)[:, 0, 0, 0].tolist() == [0, 1, 2, 3]
    assert [each.suffix for each in tmp_path.glob(".*")].count(".part") == 0


def test_a_refusal_while_decoding_leaves_nothing(images, tmp_path):
    for path in list(images.rglob("*.png"))[::2]:
        path.write_bytes(b"none")
    with pytest.raises(InputRejected, match="of 21 images cannot be read"):
        opened(f"folder:{images}", cache=tmp_path / "kept")
    assert [path.name for path in (tmp_path / "kept").iterdir() if path.suffix != ".lock"] == []


def test_a_full_disk_is_said(images, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(InputRejected, match="the disk is full") as refused:
        opened(f"folder:{images}", cache=tmp_path / "kept")
    assert "--cache" in refused.value.hint


def test_a_folder_that_is_a_file_is_refused(images, tmp_path):
    (tmp_path / "kept").write_text("")
    with pytest.raises(InputRejected, match="cannot write"):
        opened(f"folder:{images}", cache=tmp_path / "kept")


def test_a_finished_cache_needs_no_right_to_write(images, tmp_path, monkeypatch):
    place = tmp_path / "kept"
    opened(f"folder:{images}", cache=place)

    def never(*_, **__):
        raise AssertionError("nothing is to be written")

    monkeypatch.setattr(Path, "mkdir", never)
    (note,) = [each for each in opened(f"folder:{images}", cache=place).notes if "decoded images" in each]
    assert "read from" in note


def test_the_record_says_where_the_images_are_from(images, tmp_path):
    opened(f"folder:{images}", cache=tmp_path / "kept")
    said = json.loads((tmp_path / "kept" / kept(tmp_path / "kept", ".json")[0]).read_text())
    assert said == {"source": f"folder:{images}", "shape": [21, 8, 10, 3], "damaged": [], "transparent": 0}


def test_memory_holds_what_is_asked_for_alone(images, tmp_path):
    """The images are those of the file, not a copy."""
    data = opened(f"folder:{images}", cache=tmp_path / "kept", held=False)
    assert isinstance(data.train.source.images, np.memmap)
    first = next(iter(data.train.batches(3))).images
    assert torch.equal(first, next(iter(opened(f"folder:{images}").train.batches(3))).images)


# Recipes


def test_crops_of_photographs_are_not_cut_from_what_is_kept(images, tmp_path):
    with pytest.raises(ValueError, match=r"keeps images at image_size, and the crops of data\.augment photo"):
        Data(name="folder:x", cache=tmp_path, image_size=6, augment={"kind": "photo"})
    keys = {"augment": {"kind": "photo"}, "workers": 0}
    drawn = {"seed": 1, "augment": True}
    cached = opened(f"folder:{images}", cache=tmp_path / "kept", held=False, **keys)  # at their own size they may be
    assert equal(batches(cached, **drawn), batches(opened(f"folder:{images}", **keys), **drawn))
    late = Data(name=None, cache=tmp_path, augment={"kind": "photo"}).model_copy(update={"image_size": 6})
    with pytest.raises(UsageError, match=r"data\.cache keeps images at image_size"):
        late.called("folder:x")


@pytest.mark.parametrize("name", ["digits", "cifar10", "none", "mine:make"])
def test_data_that_are_not_decoded_have_no_use_for_it(name, tmp_path):
    values = {"student": {"arch": "lenet5"}, "data": {"name": name, "cache": "kept"}}
    with pytest.raises(UsageError, match=r"data\.cache: is for"):
        build(values, base=tmp_path)


@pytest.mark.trains
def test_trainings_on_each_kind_of_data_end_in_the_same_student(named, images, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    train = ["train", "--arch", "lenet5-half", "--epochs", "2", *QUICK, "--image-size", "28", "--quiet"]
    ran([*train, "--data", f"folder:{images}", "--out", "plain"])
    ran([*train, "--data", named, "--out", "other", "--cache", "kept"])
    one, two = (load_file(tmp_path / name / "student" / "student.safetensors") for name in ("plain", "other"))
    assert one.keys() == two.keys()
    assert all(torch.equal(one[key], two[key]) for key in one)
    scores = [
        json.loads((tmp_path / name / "result.json").read_text())["student"]["top1"] for name in ("plain", "other")
    ]
    assert scores[0] == scores[1]
