"""Shards of samples: read at any place, the same images as in a folder, and what is wrong with one in a sentence."""

import gzip
import json
import sys

import encoded
import pytest
import torch
from encoded import CLASSES, COUNTS, batches, equal, folder, opened, pairs, tar

from compressor.data.wds import Member, expanded
from compressor.errors import EnvironmentMissing, InputRejected, UsageError
from compressor.recipe import Data, build

PNG = b"\x89PNG"


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return folder(tmp_path_factory.mktemp("images") / "photos")


@pytest.fixture(scope="module")
def shards(images, tmp_path_factory):
    return encoded.shards(images, tmp_path_factory.mktemp("shards"))


def refusal(name, kind=InputRejected, **keys):
    with pytest.raises(kind) as refused:
        opened(name, **keys)
    return refused.value


def some(images, count=6):
    """Samples of a few images of two classes."""
    found = encoded.listed(images, "train")[:count]
    return [(path.stem, {"png": path.read_bytes(), "cls": str(at % 2).encode()}) for at, (path, _) in enumerate(found)]


# The same images as in a folder


@pytest.mark.parametrize("held", [True, False])
@pytest.mark.parametrize("keys", [{}, {"image_size": 6}, {"channels": 1}, {"augment": {"kind": "photo"}}])
def test_shards_give_the_batches_of_the_folder_bit_for_bit(images, shards, held, keys):
    keys = {"workers": 0, "augment": {"kind": "crop-flip"}, **keys}
    given, expected = (opened(name, held=held, **keys) for name in (f"wds:{shards}", f"folder:{images}"))

    assert [len(getattr(given, split)) for split in COUNTS] == list(COUNTS.values())
    assert (given.input_shape, given.mean, given.std) == (expected.input_shape, expected.mean, expected.std)
    for epoch in (0, 1):
        drawn = {"seed": 3, "epoch": epoch, "augment": True}
        assert equal(batches(given, **drawn), batches(expected, **drawn))
    assert equal(batches(given, "test"), batches(expected, "test"))
    assert not equal(batches(given, seed=3, epoch=0), batches(given, seed=3, epoch=1))


@pytest.mark.starts
def test_loading_processes_read_shards_as_this_one_does(shards):
    assert equal(
        batches(opened(f"wds:{shards}", held=False, workers=1), seed=0),
        batches(opened(f"wds:{shards}", held=True), seed=0),
    )


def test_a_run_resumes_inside_an_epoch_and_ranks_share_each_batch(shards):
    from compressor.data import Shard

    train = opened(f"wds:{shards}", held=False, workers=0).train
    whole = list(train.batches(4, seed=1))
    later = list(train.batches(4, seed=1, start=2))
    assert torch.equal(whole[2].images, later[0].images)
    parts = [list(train.batches(4, seed=1, shard=Shard(rank, 2))) for rank in (0, 1)]
    for batch, *shared in zip(whole, *parts, strict=True):
        assert torch.equal(batch.images, torch.cat([each.images for each in shared]))


def test_labels_may_be_names_and_are_then_the_classes(images, tmp_path):
    data = opened(f"wds:{encoded.shards(images, tmp_path / 'named', named=True)}")
    assert data.classes == CLASSES
    assert pairs(data, "test") == pairs(opened(f"folder:{images}"), "test")


def test_a_label_may_be_a_key_of_json_and_an_image_one_of_several(images, tmp_path):
    samples = [
        (
            key,
            {
                "seg.png": members["png"],
                "jpg": members["png"],
                "json": json.dumps({"label": int(members["cls"])}).encode(),
            },
        )
        for key, members in some(images)
    ]
    tar(tmp_path / "0.tar", samples)
    data = opened(f"wds:{tmp_path}", label="json.label", image="jpg", validation=0)
    assert data.classes == ("0", "1")
    assert "no key 'other'" in refusal(f"wds:{tmp_path}", label="json.other", image="jpg").message


# Which shards, and of which split


def test_a_pattern_has_braces_wildcards_and_several_parts(shards):
    first, second = (str(shards / f"train-{number:03}.tar") for number in (0, 1))
    assert expanded(f"{shards}/train-{{000..001}}.tar") == [first, second]
    assert expanded(f"{shards}/train-*.tar")[:2] == [first, second]
    assert expanded(f"{second}::{first}") == [second, first]
    assert len(expanded(str(shards))) == len(list(shards.iterdir()))


def test_splits_are_told_by_folders_where_names_of_shards_do_not(images, tmp_path):
    tar(tmp_path / "train" / "0.tar", some(images))
    tar(tmp_path / "val" / "0.tar", some(images, 4))
    data = opened(f"wds:{tmp_path}/{{train,val}}/0.tar", validation=0)
    assert (len(data.train), len(data.test)) == (6, 4)
    assert "the validation split is the test split, for there is no other" in data.notes


def test_shards_of_no_split_have_a_test_part_held_out(images, tmp_path):
    tar(tmp_path / "test-of-mine" / "0.tar", some(images, 10))  # the one folder of all says nothing
    data = opened(f"wds:{tmp_path}/test-of-mine/0.tar", validation=0)
    assert (len(data.train), len(data.test)) == (8, 2)


def test_the_fingerprint_stays_when_shards_move_and_changes_with_a_label(images, tmp_path):
    one, other = (tar(tmp_path / name / "0.tar", some(images)) for name in ("a", "b"))
    changed = some(images)
    changed[0][1]["cls"] = b"1"
    third = tar(tmp_path / "c" / "0.tar", changed)
    prints = [opened(f"wds:{path}", validation=0).fingerprint for path in (one, other, third)]
    assert prints[0] == prints[1] != prints[2]


def test_a_recipe_has_shards_relative_to_its_folder_and_addresses_as_they_are(tmp_path):
    def name(text):
        return build({"student": {"arch": "lenet5"}, "data": {"name": text}}, base=tmp_path).data.name

    assert name("wds:a-{0..3}.tar::b/*.tar") == f"wds:{tmp_path}/a-{{0..3}}.tar::{tmp_path}/b/*.tar"
    assert name("wds:https://x/{0..9}.tar") == "wds:https://x/{0..9}.tar"


# Refusals


@pytest.mark.parametrize("place", ["https://x.org/{0..9}.tar", "s3://bucket/0.tar", "pipe:touch {here}/made"])
def test_shards_elsewhere_are_refused_and_no_command_is_run(place, tmp_path):
    error = refusal(f"wds:{place.replace('{here}', str(tmp_path))}", UsageError)
    assert "is not a file here, and images are read at any place of their shards" in error.message
    assert "copy the shards here first" in error.hint
    assert not (tmp_path / "made").exists()


def test_a_pattern_that_matches_nothing_is_refused(tmp_path, shards):
    assert refusal(f"wds:{tmp_path}").message == f"there is no shard {tmp_path}"
    assert refusal(f"wds:{tmp_path}/*.tar").message == f"there is no shard {tmp_path}/*.tar"
    missing = refusal(f"wds:{shards}/train-{{000..009}}.tar").message
    assert missing == f"there is no shard {shards}/train-003.tar, one of 10 in {shards}/train-{{000..009}}.tar"
    assert "cannot be understood" in refusal(f"wds:{shards}/${{NOWHERE}}.tar", UsageError).message
    assert "twice" in refusal(f"wds:{shards}::{shards}", UsageError).message


@pytest.mark.parametrize("kept", [0.4, 0.9, -1024, 100])
def test_a_shard_that_is_cut_short_is_refused(images, tmp_path, kept):
    path = tar(tmp_path / "0.tar", some(images))
    content = path.read_bytes().rstrip(b"\0")
    content += bytes(-len(content) % 512 + 1024)
    path.write_bytes(content[: int(kept * len(content)) if isinstance(kept, float) else kept])
    message = refusal(f"wds:{tmp_path}").message
    assert "damaged or cut short after" in message or (kept == 100 and "is not a tar file" in message)


def test_a_damaged_header_within_a_shard_is_not_its_end(images, tmp_path):
    path = tar(tmp_path / "0.tar", some(images))
    content = bytearray(path.read_bytes())
    content[1024:1536] = b"x" * 512  # where the second member's header is, after a header and a small image
    path.write_bytes(content)
    assert "damaged or cut short after 1 members" in refusal(f"wds:{tmp_path}").message


def test_what_is_no_tar_file_or_a_compressed_one_is_refused(images, tmp_path):
    path = tar(tmp_path / "0.tar", some(images))
    content = path.read_bytes()
    path.write_bytes(gzip.compress(content))
    assert "unpack them to .tar" in refusal(f"wds:{path}").hint
    path.write_bytes(b"hello" * 1000)
    assert "is not a tar file" in refusal(f"wds:{path}").message
    path.write_bytes(bytes(10240))
    assert refusal(f"wds:{path}").message == f"the shard {path} holds no samples"


@pytest.mark.parametrize(
    ("change", "message", "hint"),
    [
        ({"cls": None}, "has no label 'cls'; it has png", "data.label=ENDING"),
        ({"png": None, "txt": b"a"}, "has no image; it has cls, txt", "data.image=ENDING"),
        ({"jpg": PNG}, "has several images, png, jpg", "data.image=png"),
        ({"cls": b"\xff\xfe"}, "cannot be read", None),
        ({"cls": b"0" * 100_000}, "it has 100,000 bytes", None),
        ({"cls": b""}, "is '', not the number or the name of a class", "json.KEY"),
        ({"cls": b"two"}, "'two', and that of", "all are numbers of classes, or all are names"),
        ({"cls": b"-1"}, "is -1, and with 2 classes it must be 0 to 1", "from 0"),
        ({"cls": b"9"}, "no item of train has the label 2, and labels go up to 9", "from 0"),
    ],
)
def test_a_sample_that_lacks_something_is_refused(images, tmp_path, change, message, hint):
    samples = some(images)
    members = {**samples[-1][1], **change}
    samples[-1] = (samples[-1][0], {ending: content for ending, content in members.items() if content is not None})
    tar(tmp_path / "0.tar", samples)
    error = refusal(f"wds:{tmp_path}")
    assert message in error.message
    assert (hint or "") in (error.hint or "")


def test_shards_that_differ_in_classes_are_refused(images, tmp_path):
    tar(tmp_path / "train.tar", some(images))
    tar(tmp_path / "test.tar", [(key, {**members, "cls": b"2"}) for key, members in some(images)])
    assert refusal(f"wds:{tmp_path}").message == "test has a class 2 that train lacks"


def test_shards_of_an_unknown_split_are_refused(images, tmp_path):
    tar(tmp_path / "train.tar", some(images))
    tar(tmp_path / "more.tar", some(images))
    assert "more.tar does not say of which split it is" in refusal(f"wds:{tmp_path}").message
    (tmp_path / "more.tar").unlink()
    (tmp_path / "train.tar").rename(tmp_path / "test.tar")
    assert "has no split to train on, only test" in refusal(f"wds:{tmp_path}").message


def test_few_damaged_images_are_left_out_and_many_refused(tmp_path):
    images = folder(tmp_path / "images", {"train": 120}, size=(4, 4))
    samples = some(images, 120)
    samples[7][1]["png"] = PNG
    path = tar(tmp_path / "0.tar", samples)
    data = opened(f"wds:{path}", validation=0, held=True)
    assert len(data.train) + len(data.test) == 119
    assert any(f"007.png of {path} (not an image)" in note for note in data.notes)
    for _, members in samples[:3]:
        members["png"] = PNG
    tar(path, samples)
    assert "4 of 120 images cannot be read" in refusal(f"wds:{path}", held=True).message


def test_nothing_but_images_and_labels_of_a_shard_is_looked_at(images, tmp_path):
    pickled = b"cos\nsystem\n(S'touch made'\ntR."
    tar(tmp_path / "0.tar", [(key, {**members, "pyd": pickled, "pth": pickled}) for key, members in some(images)])
    assert len(opened(f"wds:{tmp_path}", validation=0).train) > 0
    assert "no image 'pyd2'" in refusal(f"wds:{tmp_path}", image="pyd2").message
    assert "none of the 6 images can be read" in refusal(f"wds:{tmp_path}", image="pyd").message


def test_a_missing_library_is_said_with_how_to_install_it(monkeypatch, shards):
    monkeypatch.setitem(sys.modules, "webdataset", None)
    monkeypatch.setitem(sys.modules, "webdataset.shardlists", None)
    error = refusal(f"wds:{shards}", EnvironmentMissing)
    assert (error.exit_code, error.hint) == (3, "pip install 'compressor[wds]'")


def test_keys_that_have_no_effect_are_refused():
    for keys in ({"image": "jpg"}, {"label": "cls"}):
        with pytest.raises(ValueError, match=r"is for hf:NAME and wds:PATTERN, not folder:/x"):
            Data(name="folder:/x", **keys)


def test_a_member_is_read_at_its_place(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(b"abcdef")
    with Member(str(path), 2, 3, "m.png").open() as file:
        assert file.read() == b"cde"
