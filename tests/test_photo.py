"""Photographs: crops, colour and RandAugment by a seed alone, from whole files, the same in every process."""

import pickle
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from compressor.data import Shard, divided, from_objects, open_data
from compressor.data.augment import Augmentation, chosen
from compressor.data.photo import Photo
from compressor.data.split import Held, Split
from compressor.errors import UsageError
from compressor.inputs import prepare
from compressor.pipeline.compare.choosing import _require_within_pairs
from compressor.pipeline.staged import StagedTraining, require_buildable
from compressor.progress import Tell
from compressor.recipe import Data, build, dump, load, schema
from compressor.recipe.schema.augment import Augment, Jitter, RandAugment

CPU = torch.device("cpu")
ALL = Photo((5, 7), scale=(0.2, 1.0), jitter=Jitter(), rand_augment=RandAugment())


def noise(*shape):
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def same(ours, others):
    return all(
        torch.equal(a.images, b.images) and torch.equal(a.labels, b.labels) and torch.equal(a.indices, b.indices)
        for a, b in zip(ours, others, strict=True)
    )


@pytest.fixture
def folder(tmp_path):
    """Two classes of wide images, 12 x 24 pixels, whose right half is white and whose left half is dark."""
    for name in ("cat", "dog"):
        for number in range(10):
            pixels = noise(12, 24, 3) // 4
            pixels[:, 12:] = 255
            pixels[0, 0] = number
            path = tmp_path / "set" / name / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
    return tmp_path / "set"


def open_(folder, *, held=None, **config):
    config = {"image_size": 8, "workers": 0, "augment": {"kind": "photo"}} | config
    return open_data(Data(name=f"folder:{folder}", **config), device=CPU, held=held)


# One image


@pytest.mark.parametrize("channels", [1, 3])
def test_an_image_is_changed_by_its_seed_alone(channels):
    image = noise(9, 12, channels)
    before = image.copy()
    torch.manual_seed(0)
    first, state = ALL(image, 5), torch.get_rng_state()
    torch.manual_seed(1)

    assert first.shape == (5, 7, channels)
    assert first.dtype == np.uint8
    assert np.array_equal(ALL(image, 5), first)
    assert np.array_equal(pickle.loads(pickle.dumps(ALL))(image, 5), first)
    assert not np.array_equal(ALL(image, 6), first)
    assert np.array_equal(image, before)
    torch.manual_seed(0)
    assert torch.equal(torch.get_rng_state(), state)


def test_the_whole_area_of_an_image_of_the_size_is_the_image():
    image = noise(6, 6, 3)

    whole = Photo((6, 6), scale=(1.0, 1.0))

    assert any(np.array_equal(whole(image, seed), image) for seed in range(20))  # where the sides are drawn alike


def test_crops_take_the_part_of_the_area_that_they_are_told():
    rows, columns = np.meshgrid(np.arange(200), np.arange(200), indexing="ij")
    image = np.stack([rows, columns], axis=2).astype(np.uint8)
    image = np.concatenate([image, image[:, :, :1]], axis=2)
    photo = Photo((50, 50), scale=(0.25, 0.25))

    for seed in range(10):
        crop = photo(image, seed).astype(float)
        height, width = (np.ptp(crop[:, :, channel]) for channel in (0, 1))
        assert height * width == pytest.approx(0.25 * 200 * 200, rel=0.1)
        assert 3 / 4 / 1.1 < width / height < 4 / 3 * 1.1


def test_jitter_of_nothing_changes_nothing_and_brightness_scales():
    image = np.full((4, 4, 3), 100, dtype=np.uint8)
    still = Photo((4, 4), jitter=Jitter(brightness=0, contrast=0, saturation=0, hue=0))
    bright = Photo((4, 4), jitter=Jitter(brightness=0.5, contrast=0, saturation=0, hue=0))

    assert np.array_equal(still(image, 0), image)
    values = [bright(image, seed) for seed in range(50)]
    assert all((each == each[0, 0, 0]).all() for each in values)
    assert 49 <= min(each.min() for each in values) < 65
    assert 135 < max(each.max() for each in values) <= 150


def test_words_and_sections_are_what_is_done():
    full = Augment(kind="photo", scale=(0.3, 0.9), jitter=Jitter(hue=0), rand_augment=RandAugment(magnitude=5))

    assert chosen(Augment(kind="photo"), "crop", 8, 9) == Augmentation(0, True, Photo((8, 9), (0.08, 1.0)))
    assert chosen(Augment(kind="photo"), "crop", 8, 8, train_size=(6, 6)).photo == Photo((6, 6), (0.08, 1.0))
    assert chosen(full, "crop", 8, 9).photo == Photo((8, 9), (0.3, 0.9), Jitter(hue=0), RandAugment(magnitude=5))
    jittered = chosen(Augment(jitter=Jitter()), "crop-flip", 32, 32)
    assert jittered == Augmentation(4, True, Photo((32, 32), None, Jitter()))
    assert chosen(Augment(mixup=0.2), "crop-flip", 32, 32).photo is None


# Batches


def test_crops_of_a_folder_are_of_the_whole_files_and_what_is_measured_is_their_middle(folder):
    data = open_(folder, augment={"kind": "photo", "scale": [0.5, 0.5]})

    seen = torch.cat(
        [batch.images for epoch in range(6) for batch in data.train.batches(4, seed=0, epoch=epoch, augment=True)]
    )
    middle = torch.cat([batch.images for batch in data.train.batches(4)])

    assert seen.shape[1:] == middle.shape[1:] == data.input_shape == (3, 8, 8)
    white = (seen > 0.99).float().mean(dim=(1, 2, 3))
    assert white.min() < 0.3  # a middle square is white to a half, and so would its crops be, more or less
    assert white.max() > 0.8
    assert ((middle > 0.99).float().mean(dim=(1, 2, 3)) - 0.5).abs().max() < 0.15


@pytest.mark.parametrize("held", [True, False])
def test_photographs_start_late_and_in_parts_as_they_would_have_been(folder, held):
    mixed = {"kind": "photo", "jitter": {}, "rand_augment": {}}
    data = open_(folder, augment=mixed, held=held, image_size=None)
    options = {"seed": 3, "epoch": 1, "augment": True, "views": 2}
    torch.manual_seed(0)
    whole = list(data.train.batches(4, **options))
    torch.manual_seed(1)

    assert same(data.train.batches(4, start=2, **options), whole[2:])
    parts = [list(data.train.batches(4, shard=Shard(rank, 2), **options)) for rank in range(2)]
    for number, batch in enumerate(whole):
        for views in ([part[number].images for part in parts], [part[number].views[0] for part in parts]):
            wanted = batch.images if views[0] is parts[0][number].images else batch.views[0]
            assert torch.equal(torch.cat(views) if len(batch.labels) >= 4 else views[0], wanted)
    assert not torch.equal(whole[0].images, whole[0].views[0])
    assert not same(data.train.batches(4, **options | {"epoch": 2}), whole)


@pytest.mark.starts
def test_workers_change_images_as_this_process_does(folder):
    options = {"seed": 3, "augment": True}
    alone, helped = (open_(folder, workers=workers).train.batches(4, **options) for workers in (0, 1))

    assert same(list(helped), list(alone))


def test_what_is_held_and_what_is_streamed_are_changed_alike(folder):
    changes = {"augment": {"kind": "photo", "jitter": {}}, "image_size": None}
    streamed, held = (open_(folder, held=held, **changes).train for held in (False, True))

    assert same(held.batches(4, seed=0, augment=True), streamed.batches(4, seed=0, augment=True))


def test_files_that_cannot_be_read_are_left_out_of_their_batch(folder):
    data = open_(folder, test=0.2, validation=0)
    whole = next(data.train.batches(16, seed=0, augment=True))
    source = data.train.source
    bad = source.files[data.train.rows[whole.indices[3]]]
    Path(bad).write_bytes(b"no image")
    object.__setattr__(source, "files", list(source.files) + ["more"] * 100)  # one in a hundred may be damaged

    damaged = next(data.train.batches(16, seed=0, augment=True))

    kept = [place for place in range(16) if place != 3]
    assert torch.equal(damaged.images, whole.images[kept])
    assert torch.equal(damaged.indices, whole.indices[kept])


def test_objects_are_changed_alike_whether_held_or_read_each_time():
    images, labels = noise(12, 9, 9, 3), np.arange(12) % 3
    given = {"train": (images, labels), "test": (images, labels)}
    config = Data(augment=Augment(kind="photo", jitter=Jitter()), workers=0, validation=0)
    loaded = [from_objects(given, config, CPU, held=held) for held in (True, False)]

    held, streamed = (divided(each, config, device=CPU).train.batches(4, seed=1, augment=True) for each in loaded)

    assert same(held, streamed)


# Another size to train on


def test_what_is_trained_on_may_be_smaller_than_what_is_measured(folder):
    data = open_(folder, train_size=6)

    assert next(data.train.batches(4, seed=0, augment=True)).images.shape == (4, 3, 6, 6)
    assert next(data.train.batches(4)).images.shape == next(data.test.batches(4)).images.shape == (4, 3, 8, 8)
    assert (data.input_shape, data.train_shape) == ((3, 8, 8), (3, 6, 6))


@pytest.mark.trains
def test_a_network_that_takes_one_size_alone_is_refused(folder):
    def tried(arch):
        given = {
            "student": {"arch": arch},
            "data": {"name": f"folder:{folder}", "image_size": 32, "train_size": 24, "augment": "photo", "workers": 0},
            "method": {"kind": "ce"},
        }
        require_buildable(prepare(build(given, base=Path.cwd()), Tell(quiet=True)))

    tried("resnet8")
    with pytest.raises(UsageError, match="lenet5 cannot take images of 3x24x24") as caught:
        tried("lenet5")
    assert caught.value.hint == "leave data.train_size out"


# The recipe


@pytest.mark.parametrize(
    ("written", "found"),
    [
        ("crop-flip", Augment(kind="crop-flip")),
        ("{mixup: 0.2}", Augment(mixup=0.2)),
        ("{kind: photo, rand_augment: {}}", Augment(kind="photo", rand_augment=RandAugment())),
    ],
)
def test_a_word_is_a_section_of_that_kind_and_is_written_as_it_was_read(tmp_path, written, found):
    file = tmp_path / "mine.yaml"
    file.write_text(f"student: {{arch: resnet8}}\ndata: {{name: digits, augment: {written}}}")
    recipe = load(file)

    assert recipe.data.augment == found
    file.write_text(dump(recipe))
    assert load(file) == recipe
    assert ("augment: crop-flip" in file.read_text()) == (written == "crop-flip")


def test_the_schema_has_the_words_and_the_section():
    word, section = schema()["$defs"]["Data"]["properties"]["augment"]["anyOf"]

    assert word["enum"] == ["auto", "none", "crop", "crop-flip", "photo"]
    assert section == {"$ref": "#/$defs/Augment"}


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        ({"augment": "foto"}, "data.augment: must be 'auto', .* or 'photo', got \"foto\""),
        ({"augment": {"kind": "photo", "scale": [0.5, 0.2]}}, r"data.augment.scale: must increase, got \[0.5, 0.2\]"),
        ({"augment": {"kind": "crop", "scale": [0.2, 0.5]}}, "data.augment.scale: is for kind: photo"),
        ({"augment": {"kind": "photo", "scale": [0.2, "1"]}}, "data.augment.scale.1: must be a number"),
        ({"augment": {"mixup": -1}}, "data.augment.mixup: must be at least 0"),
        ({"augment": {"jitter": {"hue": 0.7}}}, "data.augment.jitter.hue: must be at most 0.5"),
        ({"augment": {"mixpu": 1}}, "unknown key data.augment.mixpu"),
        ({"augment": "crop", "train_size": 8}, "data.train_size: is the size of the crops of data.augment photo"),
    ],
)
def test_a_wrong_augmentation_is_refused_by_name(data, sentence):
    with pytest.raises(UsageError, match=sentence):
        build({"student": {"arch": "resnet8"}, "data": {"name": "digits", **data}}, base=Path.cwd())


def test_held_images_of_a_split_are_not_changed_by_it():
    pixels = torch.from_numpy(noise(5, 6, 6, 3))
    before, photo = pixels.clone(), Photo((6, 6), (0.2, 0.5), Jitter())
    split = Split(Held(pixels), torch.arange(5), torch.arange(5), Augmentation(0, True, photo), CPU)

    list(split.batches(2, seed=0, augment=True))

    assert torch.equal(pixels, before)


# A run


@pytest.mark.trains
@pytest.mark.starts
def test_a_run_on_photographs_that_is_stopped_ends_with_the_weights_of_one_that_was_not(folder):
    augment = {"kind": "photo", "jitter": {}, "rand_augment": {}, "mixup": 0.4, "cutmix": 1.0}
    given = {
        "student": {"arch": "resnet8"},
        "data": {"name": f"folder:{folder}", "image_size": 16, "train_size": 12, "batch_size": 6, "workers": 0},
        "method": {"kind": "ce", "label_smoothing": 0.1},
        "train": {"epochs": 2, "accumulate": 2, "lr": 0.05, "schedule": {"kind": "cosine", "warmup": 1}},
    }
    given["data"]["augment"] = augment
    prepared = prepare(build(given, base=Path.cwd()), Tell(quiet=True))

    def ended(stop):
        training = StagedTraining(prepared)
        if stop is not None:
            training.state.enter_training()
            for batch in islice(training.source.batches(0, 0), stop):
                training.state.advance(batch)
            saved, training = training.state_dict(), StagedTraining(prepared)
            training.load_state_dict(saved)
        list(training.fit(training.source.batches))
        return training.state.student.state_dict()

    whole, resumed = ended(None), ended(1)

    assert prepared.source.steps > 1
    assert all(torch.equal(resumed[name], tensor) for name, tensor in whole.items())


@pytest.mark.parametrize("key", ["data.augment", "data.augment.mixup", "data.train_size"])
def test_a_comparison_may_vary_what_is_done_to_the_same_images(key):
    _require_within_pairs(key)
    with pytest.raises(UsageError, match="changes the images"):
        _require_within_pairs("data.augmented")
