"""Data sets: what a batch is, how splits are made, which folders are understood and which are refused."""

import logging
import pickle
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from compressor.data import NORMALISATIONS, Shard, measured, open_data
from compressor.data.augment import Augmentation, chosen, to_pixels
from compressor.data.holdout import hold_out
from compressor.data.images import decode, read_header
from compressor.data.split import Held, Split
from compressor.errors import InputRejected, UsageError
from compressor.recipe import Data
from compressor.recipe.schema.augment import Augment

CPU = torch.device("cpu")


def open_(name, *, seed=0, held=None, **config):
    return open_data(Data(name=str(name), **config), device=CPU, seed=seed, held=held)


def picture(path, value=0, *, size=(8, 8), mode="RGB"):
    """Save an image whose pixels differ from each other and, by `value`, from other images."""
    path.parent.mkdir(parents=True, exist_ok=True)
    width, height = size
    pixels = (np.arange(width * height * 3).reshape(height, width, 3) * 7 + value * 13) % 256
    Image.fromarray(pixels.astype(np.uint8)).convert(mode).save(path)
    return path


@pytest.fixture
def folder(tmp_path):
    """A function that makes class folders: `folder("train", cat=3, dog=2)`; the root is `tmp_path / "set"`."""

    def make(*below, size=(8, 8), mode="RGB", **counts):
        root = tmp_path / "set"
        for number, (name, count) in enumerate(counts.items()):
            for image in range(count):
                path = root.joinpath(*below, name, f"{image}.png")
                picture(path, number * 50 + image + 5 * len(below), size=size, mode=mode)
        return root

    return make


def split_of(count=10, *, size=8, channels=3, augmentation=None):
    images = torch.randint(0, 256, (count, size, size, channels), dtype=torch.uint8)
    augmentation = augmentation or chosen(Augment(), "crop-flip", size, size)
    return Split(Held(images), torch.arange(count), torch.arange(count) % 3, augmentation, CPU)


def same(ours, others):
    ours, others = list(ours), list(others)
    assert len(ours) == len(others)
    return all(
        torch.equal(a.images, b.images) and torch.equal(a.labels, b.labels) and torch.equal(a.indices, b.indices)
        for a, b in zip(ours, others, strict=True)
    )


# Augmentation


def test_bytes_become_exact_fractions_of_255_with_channels_last_in_memory():
    every = torch.arange(256, dtype=torch.uint8).view(1, 16, 16, 1).repeat(1, 1, 1, 3)

    pixels = to_pixels(every)

    assert pixels.shape == (1, 3, 16, 16)
    assert pixels.dtype == torch.float32
    assert torch.equal(pixels[0, 2].flatten(), torch.arange(256, dtype=torch.float32) / 255)
    assert pixels.is_contiguous(memory_format=torch.channels_last)


def test_a_crop_at_the_pad_leaves_an_image_and_one_beyond_moves_it_with_black_coming_in():
    image = torch.full((1, 4, 4, 1), 200, dtype=torch.uint8)
    augmentation = Augmentation(pad=2)

    still = augmentation.apply(image, torch.tensor([[2], [2], [0]]))
    up_and_right = augmentation.apply(image, torch.tensor([[3], [1], [0]]))

    assert torch.equal(still, image)
    expected = torch.tensor([[0, 200, 200, 200]] * 3 + [[0, 0, 0, 0]], dtype=torch.uint8)
    assert torch.equal(up_and_right.view(4, 4), expected)


@given(
    st.integers(1, 5),
    st.integers(1, 7),
    st.integers(1, 7),
    st.sampled_from([1, 3]),
    st.integers(0, 4),
    st.booleans(),
    st.integers(0, 99),
)
def test_a_batch_is_moved_as_its_images_would_be_one_by_one(count, height, width, channels, pad, flip, seed):
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (count, height, width, channels), dtype=torch.uint8, generator=generator)
    augmentation = Augmentation(pad, flip)
    moves = augmentation.draw(count, generator)

    moved = augmentation.apply(images, moves)

    for image, result, (top, left, mirrored) in zip(images.numpy(), moved.numpy(), moves.T.tolist(), strict=True):
        padded = np.pad(image, ((pad, pad), (pad, pad), (0, 0)))
        crop = padded[top : top + height, left : left + width]
        assert np.array_equal(result, crop[:, ::-1] if mirrored else crop)


def test_draws_reach_every_corner_and_mirror_half():
    top, left, mirrored = Augmentation(pad=2, flip=True).draw(4000, torch.Generator().manual_seed(0))

    assert top.unique().tolist() == left.unique().tolist() == [0, 1, 2, 3, 4]
    assert len((top * 5 + left).unique()) == 25
    assert mirrored.float().mean().item() == pytest.approx(0.5, abs=0.03)
    assert not Augmentation(pad=2).draw(100, torch.Generator())[2].any()


@pytest.mark.parametrize(("size", "pad"), [(32, 4), (8, 1), (28, 4), (64, 8), (224, 28), (3, 1)])
def test_the_pad_is_four_of_thirty_two(size, pad):
    assert chosen(Augment(kind="crop-flip"), "crop", size, size + 10) == Augmentation(pad, flip=True)
    assert chosen(Augment(), "crop", size, size) == Augmentation(pad, flip=False)
    assert chosen(Augment(kind="none"), "crop", size, size) == Augmentation()


# Batches


def test_without_a_seed_images_come_in_order_with_their_labels_and_indices():
    split = split_of(10)

    batches = list(split.batches(4))

    assert [len(batch.images) for batch in batches] == [4, 4, 2]
    assert torch.equal(torch.cat([batch.images for batch in batches]), to_pixels(split.source.images))
    assert torch.equal(torch.cat([batch.labels for batch in batches]), split.labels)
    assert torch.cat([batch.indices for batch in batches]).tolist() == list(range(10))


def test_with_a_seed_every_image_comes_once_and_keeps_its_label_and_index():
    split = split_of(50)

    seen = torch.cat([batch.indices for batch in split.batches(8, seed=1)])

    assert seen.tolist() != list(range(50))
    assert sorted(seen.tolist()) == list(range(50))
    for batch in split.batches(8, seed=1):
        assert torch.equal(batch.labels, split.labels[batch.indices])
        assert torch.equal(batch.images, to_pixels(split.source.images[batch.indices]))


def test_indices_count_the_split_and_not_its_source():
    whole = split_of(10)
    part = Split(whole.source, torch.tensor([7, 3, 9]), torch.tensor([1, 0, 2]), whole.augmentation, CPU)

    (batch,) = part.batches(8)

    assert batch.indices.tolist() == [0, 1, 2]
    assert batch.labels.tolist() == [1, 0, 2]
    assert torch.equal(batch.images, to_pixels(whole.source.images[[7, 3, 9]]))


@pytest.mark.parametrize("start", [0, 1, 3, 6, 7, 9])
def test_starting_late_yields_what_would_have_been(start):
    split = split_of(50)
    options = {"epoch": 3, "seed": 5, "augment": True}

    assert same(split.batches(8, start=start, **options), list(split.batches(8, **options))[start:])


def test_order_and_augmentation_follow_from_seed_and_epoch_alone():
    split = split_of(50)
    torch.manual_seed(1)
    first = list(split.batches(8, seed=0, epoch=1, augment=True))
    torch.manual_seed(2)

    assert same(first, split.batches(8, seed=0, epoch=1, augment=True))
    for other in ({"seed": 1, "epoch": 1}, {"seed": 0, "epoch": 2}, {"seed": 1, "epoch": 0}):
        assert [b.indices.tolist() for b in first] != [b.indices.tolist() for b in split.batches(8, **other)]


def test_batches_epochs_and_seeds_move_the_same_image_differently():
    augmentation = Augmentation(pad=2, flip=True)
    split = Split(
        Held(torch.randint(0, 256, (1, 8, 8, 3), dtype=torch.uint8)),
        torch.zeros(40, dtype=torch.int64),
        torch.zeros(40, dtype=torch.int64),
        augmentation,
        CPU,
    )

    def moved(seed, epoch):
        return [batch.images.numpy().tobytes() for batch in split.batches(1, seed=seed, epoch=epoch, augment=True)]

    assert len(set(moved(0, 0))) > 20  # of 50 possible, in 40 draws
    assert moved(0, 0) != moved(0, 1)
    assert moved(0, 0) != moved(1, 0)


def test_batches_neither_disturb_nor_need_the_global_generator(folder):
    streamed = open_(f"folder:{folder(cat=6, dog=6)}", held=False, workers=0).train
    for split in (split_of(20), streamed):
        before = torch.get_rng_state()
        list(split.batches(4, seed=0, augment=True))
        assert torch.equal(torch.get_rng_state(), before)


def test_the_last_short_batch_can_be_dropped():
    assert [len(batch.images) for batch in split_of(10).batches(4, drop_last=True)] == [4, 4]
    assert [len(batch.images) for batch in split_of(8).batches(4, drop_last=True)] == [4, 4]
    assert list(split_of(3).batches(4, drop_last=True)) == []


def test_augmentation_without_a_seed_is_a_programming_error():
    with pytest.raises(ValueError, match="needs a seed"):
        next(split_of().batches(2, augment=True))


def test_pixels_stay_in_the_unit_range_under_augmentation():
    for batch in split_of(30).batches(8, seed=0, augment=True):
        assert batch.images.min() >= 0
        assert batch.images.max() <= 1


# Holding out


@given(st.lists(st.integers(2, 30), min_size=1, max_size=6), st.floats(0.05, 0.6))
def test_what_is_held_out_is_exact_in_number_and_in_proportion(sizes, fraction):
    labels = [label for label, size in enumerate(sizes) for _ in range(size)]
    names = [str(number) for number in range(len(labels))]
    count = max(1, round(fraction * len(labels)))
    if count > len(labels) - len(sizes):
        return

    held = hold_out(labels, names, fraction, "test")

    assert len(held) == len(set(held)) == count
    assert held == sorted(held)
    taken = np.bincount([labels[place] for place in held], minlength=len(sizes))
    for size, share in zip(sizes, taken, strict=True):
        assert share < size
        if min(sizes) * (1 - fraction) > 2:  # no class is so small that others must make up for it
            assert abs(share - count * size / len(labels)) < 1


def test_a_class_never_loses_its_last_image_and_larger_ones_make_up_for_it():
    labels = [0, 1, 2] + [3] * 10

    held = hold_out(labels, [str(number) for number in range(13)], 9, "test")

    assert len(held) == 9
    assert min(held) >= 3


def test_a_count_and_a_fraction_hold_out_the_same():
    labels, names = [0, 1] * 50, [str(number) for number in range(100)]

    assert hold_out(labels, names, 10, "test") == hold_out(labels, names, 0.1, "test")
    assert hold_out(labels, names, 0, "validation") == []
    assert len(hold_out(labels, names, 0.001, "validation")) == 1


def test_one_image_more_leaves_most_of_a_split_as_it_was():
    names = [f"{number}.png" for number in range(200)]
    before = {names[place] for place in hold_out([0] * 200, names, 40, "test")}

    names.insert(0, "new.png")
    after = {names[place] for place in hold_out([0] * 201, names, 40, "test")}

    assert len(before & after) >= 39


def test_asking_for_too_many_images_is_refused():
    with pytest.raises(UsageError, match="hold out 10 of 10 images, but only 8") as refused:
        hold_out([0, 1] * 5, list("abcdefghij"), 10, "validation")
    assert "data.validation" in refused.value.hint


# Digits


def test_digits_are_all_there_in_three_stratified_splits():
    data = open_("digits")

    assert (data.name, data.source, data.input_shape) == ("digits", "digits", (1, 8, 8))
    assert data.classes == tuple("0123456789")
    assert len(data.test) == round(0.2 * 1797)
    assert len(data.train) + len(data.validation) + len(data.test) == 1797
    for split in (data.train, data.validation, data.test):
        share = split.labels.bincount(minlength=10) / len(split)
        assert share.min() > 0.08
        assert share.max() < 0.12
    (images,) = (batch.images for batch in data.train.batches(2000))
    assert images.min() == 0
    assert images.max() == 1


def test_digits_are_split_as_they_always_were():
    data = open_("digits")

    assert data.fingerprint == "139746b846d401fb"
    assert data.test.rows[:5].tolist() == [7, 8, 13, 18, 29]
    assert data.validation.rows[:5].tolist() == [0, 5, 30, 31, 46]
    assert (data.mean, data.std) == (pytest.approx((0.30561,), abs=1e-5), pytest.approx((0.37621,), abs=1e-5))


def test_splits_share_one_copy_and_do_not_overlap():
    data = open_("digits")

    assert data.train.source is data.validation.source is data.test.source
    assert data.train.source.images.dtype == torch.uint8
    rows = torch.cat([data.train.rows, data.validation.rows, data.test.rows])
    assert sorted(rows.tolist()) == list(range(1797))


def test_the_seed_moves_validation_and_never_the_test_split():
    first, second = open_("digits", seed=0), open_("digits", seed=1)

    assert torch.equal(first.test.rows, second.test.rows)
    assert not torch.equal(first.validation.rows, second.validation.rows)
    assert first.fingerprint != second.fingerprint
    assert first.fingerprint == open_("digits", seed=0).fingerprint


def test_validation_is_a_count_a_fraction_or_nothing():
    assert len(open_("digits", validation=100).validation) == 100
    nothing = open_("digits", validation=0).validation
    assert len(nothing) == 0
    assert list(nothing.batches(8)) == []
    with pytest.raises(UsageError, match="validation asks to hold out 1,438 of 1,438"):
        open_("digits", validation=1438)


def test_mean_and_std_are_those_of_the_training_pixels():
    data = open_("digits")
    (pixels,) = (batch.images.double() for batch in data.train.batches(2000))

    assert data.mean == pytest.approx((pixels.mean().item(),), rel=1e-6)
    assert data.std == pytest.approx((pixels.std(correction=0).item(),), rel=1e-6)


def test_a_channel_of_one_value_has_a_std_above_zero():
    images = torch.zeros(4, 2, 2, 3, dtype=torch.uint8)
    images[..., 1] = 255
    images[:2, ..., 2] = 255
    split = Split(Held(images), torch.arange(4), torch.zeros(4), Augmentation(), CPU)

    mean, std = measured(split)

    assert mean == pytest.approx((0, 1, 0.5))
    assert std == pytest.approx((1 / 255, 1 / 255, 0.5))


def test_characters_are_cropped_and_only_photographs_mirrored(folder):
    assert open_("digits").train.augmentation == Augmentation(pad=1, flip=False)
    assert open_("digits", augment="none").train.augmentation == Augmentation()
    assert open_("digits", augment="crop-flip").train.augmentation == Augmentation(pad=1, flip=True)
    assert open_(f"folder:{folder(cat=9, dog=9)}").train.augmentation.flip


def test_named_images_can_be_scaled():
    data = open_("digits", image_size=16)

    assert data.input_shape == (1, 16, 16)
    (small,) = (batch.images for batch in open_("digits").test.batches(1000))
    (large,) = (batch.images for batch in data.test.batches(1000))
    assert large.mean().item() == pytest.approx(small.mean().item(), abs=0.01)
    with pytest.raises(UsageError, match="would not fit"):
        open_("digits", image_size=2000)


# Other names


def write_idx(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
    path.write_bytes(header + array.astype(np.uint8).tobytes())


@pytest.fixture
def mnist(tmp_path):
    """A function that writes MNIST-like files as torchvision reads them and returns their root."""

    def make(folder="MNIST", labels=tuple(range(10)) * 4):
        labels = np.asarray(labels)
        for split in ("train", "t10k"):
            write_idx(tmp_path / folder / "raw" / f"{split}-images-idx3-ubyte", np.full((len(labels), 28, 28), 60))
            write_idx(tmp_path / folder / "raw" / f"{split}-labels-idx1-ubyte", labels)
        return tmp_path

    return make


def test_mnist_is_read_from_local_files(mnist):
    data = open_("mnist", root=mnist(), validation=10)

    assert (data.input_shape, data.classes) == ((1, 28, 28), tuple("0123456789"))
    assert [len(split) for split in (data.train, data.validation, data.test)] == [30, 10, 40]
    assert (data.mean, data.std) == NORMALISATIONS["mnist"]
    assert not data.train.augmentation.flip
    (batch,) = data.test.batches(40)
    assert batch.images.unique().tolist() == pytest.approx([60 / 255])
    assert batch.labels.tolist() == list(range(10)) * 4


def test_fashion_mnist_has_its_own_folder_names_and_mirrors(mnist):
    data = open_("fashion_mnist", root=mnist("FashionMNIST"))

    assert data.classes[1] == "Trouser"
    assert data.train.augmentation.flip


@pytest.mark.parametrize(
    ("name", "below", "key", "batches"),
    [
        ("cifar10", "cifar-10-batches-py", "labels", ([f"data_batch_{n}" for n in range(1, 6)], ["test_batch"])),
        ("cifar100", "cifar-100-python", "fine_labels", (["train"], ["test"])),
    ],
)
def test_cifar_is_read_from_local_files(tmp_path, monkeypatch, name, below, key, batches):
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *_: True)  # the real ones weigh 170 MB
    classes = [f"class {number}" for number in range(10 if name == "cifar10" else 100)]
    (tmp_path / below).mkdir()
    images = np.arange(20, dtype=np.uint8).repeat(3072).reshape(20, 3072)
    for file in (*batches[0], *batches[1]):
        entry = {"data": images, key: [number % 10 for number in range(20)]}
        (tmp_path / below / file).write_bytes(pickle.dumps(entry))
    meta = {"label_names": classes, "fine_label_names": classes}
    for file in ("batches.meta", "meta"):
        (tmp_path / below / file).write_bytes(pickle.dumps(meta))

    data = open_(name, root=tmp_path, validation=0)

    assert (data.input_shape, data.classes) == ((3, 32, 32), tuple(classes))
    assert [len(data.train), len(data.test)] == [20 * len(batches[0]), 20]
    assert (data.mean, data.std) == NORMALISATIONS[name]
    assert data.train.augmentation == Augmentation(pad=4, flip=True)
    (batch,) = data.test.batches(20)
    assert torch.equal(batch.images[:, 0, 5, 7], torch.arange(20) / 255)


@pytest.mark.parametrize(
    ("name", "below", "archive"),
    [
        ("cifar10", "cifar-10-batches-py", "cifar-10-python.tar.gz"),
        ("cifar100", "cifar-100-python", "cifar-100-python.tar.gz"),
        ("mnist", "MNIST/raw", "ubyte.gz"),
        ("fashion_mnist", "FashionMNIST/raw", "ubyte.gz"),
    ],
)
def test_missing_files_are_said_where_they_may_lie(tmp_path, monkeypatch, name, below, archive):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COMPRESS_DATA", str(tmp_path / "elsewhere"))

    with pytest.raises(InputRejected) as refused:
        open_(name)

    assert refused.value.message == f"{name} is neither in {tmp_path / 'elsewhere'} nor in {tmp_path / 'data'}"
    assert below in refused.value.hint
    assert archive in refused.value.hint
    with pytest.raises(InputRejected, match=f"^{name} is not in {tmp_path / 'given'}$"):
        open_(name, root=tmp_path / "given")


def test_files_are_looked_for_at_the_root_then_the_environment_then_here(mnist, monkeypatch, tmp_path_factory):
    root = mnist()
    monkeypatch.setenv("COMPRESS_DATA", str(root))
    assert len(open_("mnist").test) == 40

    elsewhere = tmp_path_factory.mktemp("elsewhere")
    with pytest.raises(InputRejected, match="is not in"):
        open_("mnist", root=elsewhere)  # what was asked for is not replaced by what was not

    monkeypatch.delenv("COMPRESS_DATA")
    monkeypatch.chdir(elsewhere)
    (elsewhere / "data").symlink_to(root)
    assert len(open_("mnist").test) == 40


def test_damaged_official_files_are_refused(mnist, tmp_path):
    root = mnist()
    images = root / "MNIST" / "raw" / "train-images-idx3-ubyte"
    images.write_bytes(images.read_bytes()[:-5])
    with pytest.raises(InputRejected, match="incomplete or damaged") as refused:
        open_("mnist", root=root)
    assert "unpack" in refused.value.hint

    (tmp_path / "cifar-10-batches-py").mkdir()
    with pytest.raises(InputRejected, match="incomplete or damaged"):
        open_("cifar10", root=tmp_path)


def test_a_label_outside_the_range_is_refused(mnist):
    with pytest.raises(InputRejected, match="label 10 of image 3 of the training split of mnist is outside 0 to 9"):
        open_("mnist", root=mnist(labels=(0, 1, 2, 10)))


@pytest.mark.parametrize(
    ("name", "message", "hint"),
    [
        ("cifar", "there is no data set 'cifar'", "'cifar10'"),
        ("fashion-mnist", "there is no data set 'fashion-mnist'", "'fashion_mnist'"),
        ("imagenet", "there is no data set 'imagenet'", "folder:PATH"),
        ("s3://mnist", "data sets of the kind 's3:' are not offered", "digits, cifar10"),
        ("lmdb:/x", "data sets of the kind 'lmdb:' are not offered", "wds:PATTERN"),
        ("folder:", "'folder:' names no folder", "folder:PATH"),
        ("hf:", "'hf:' names no data set", "hf:PATH"),
        ("wds:", "'wds:' names no shards", "wds:PATTERN"),
    ],
)
def test_unknown_names_are_refused_with_what_is_offered(name, message, hint):
    with pytest.raises(UsageError) as refused:
        open_(name)
    assert refused.value.message == message
    assert hint in refused.value.hint


def test_no_name_and_a_folder_without_its_prefix_are_refused(tmp_path):
    with pytest.raises(UsageError, match="no data set is named"):
        open_data(Data(), device=CPU)
    with pytest.raises(UsageError, match="not the name of a data set") as refused:
        open_(tmp_path)
    assert refused.value.hint == f"did you mean 'folder:{tmp_path}'?"


# Folders that are understood


def test_one_folder_of_class_folders_is_split(folder):
    root = folder(dog=20, cat=20, emu=20)

    data = open_(f"folder:{root}")

    assert data.classes == ("cat", "dog", "emu")
    assert (data.name, data.source, data.input_shape) == ("set", f"folder:{root}", (3, 8, 8))
    assert [len(split) for split in (data.train, data.validation, data.test)] == [43, 5, 12]
    assert data.test.labels.bincount().tolist() == [4, 4, 4]
    assert torch.equal(data.test.rows, open_(f"folder:{root}", seed=3).test.rows)


def test_images_arrive_with_the_labels_of_their_folders(folder):
    root = folder("train", cat=3, dog=4)
    folder("test", cat=2, dog=2)

    (batch,) = open_(f"folder:{root}", validation=0).train.batches(10)

    assert batch.labels.tolist() == [0] * 3 + [1] * 4
    expected = np.asarray(Image.open(root / "train" / "dog" / "2.png"))
    assert np.array_equal((batch.images[5] * 255).round().byte().permute(1, 2, 0).numpy(), expected)


@pytest.mark.parametrize("name", ["test", "val", "valid", "validation", "Test"])
def test_a_single_part_beside_train_is_the_test_split(folder, name):
    root = folder("train", cat=10, dog=10)
    folder(name, cat=3, dog=3)

    data = open_(f"folder:{root}")

    assert [len(split) for split in (data.train, data.validation, data.test)] == [18, 2, 6]
    assert any("held out for validation" in note for note in data.notes)


def test_val_and_test_are_both_used_when_both_are_there(folder):
    root = folder("train", cat=10, dog=10)
    folder("val", cat=2, dog=2)
    folder("test", cat=3, dog=3)

    data = open_(f"folder:{root}")

    assert [len(split) for split in (data.train, data.validation, data.test)] == [20, 4, 6]
    assert any("data.validation is not used" in note for note in data.notes)


def test_train_alone_is_split(folder):
    data = open_(f"folder:{folder('train', cat=10, dog=10)}")

    assert [len(split) for split in (data.train, data.validation, data.test)] == [14, 2, 4]


@pytest.fixture
def tiny_imagenet(folder):
    """Nested training folders, a flat `val/` with a table, and a `test/` without labels."""
    root = folder()
    for number, name in enumerate(("n01", "n02")):
        for image in range(5):
            picture(root / "train" / name / "images" / f"{name}_{image}.JPEG", number * 50 + image)
        (root / "train" / name / f"{name}_boxes.txt").write_text("n01_0.JPEG\t0\t0\t7\t7\n")
    lines = []
    for image in range(6):
        picture(root / "val" / "images" / f"val_{image}.JPEG", image)
        lines.append(f"val_{image}.JPEG\tn0{1 + image % 2}\t0\t0\t7\t7\n")
    (root / "val" / "val_annotations.txt").write_text("".join(reversed(lines)))
    picture(root / "test" / "images" / "test_0.JPEG")
    return root


def test_the_layout_of_tiny_imagenet_is_read(tiny_imagenet):
    data = open_(f"folder:{tiny_imagenet}", validation=2)

    assert data.classes == ("n01", "n02")
    assert [len(split) for split in (data.train, data.validation, data.test)] == [8, 2, 6]
    assert data.test.labels.tolist() == [1, 0, 1, 0, 1, 0]
    assert any("test/ has no labels" in note for note in data.notes)


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("val_0.JPEG\tn03\n", "has a class 'n03' that train/ lacks"),
        ("val_0.JPEG n01\n", "has no tab"),
        ("val_9.JPEG\tn01\n", "lists val_9.JPEG, which is not there"),
        ("val_1.JPEG\tn01\n\nval_1.JPEG\tn02\n", "lists val_1.JPEG again"),
    ],
)
def test_a_table_that_does_not_fit_is_refused_by_line(tiny_imagenet, line, problem):
    (tiny_imagenet / "val" / "val_annotations.txt").write_text("val_2.JPEG\tn01\n" + line)

    with pytest.raises(InputRejected, match=r"^line [24] of .*val_annotations.txt ") as refused:
        open_(f"folder:{tiny_imagenet}")
    assert problem in refused.value.message


def test_images_that_no_line_lists_are_left_out_and_said(tiny_imagenet):
    (tiny_imagenet / "val" / "val_annotations.txt").write_text("val_2.JPEG\tn02\nval_1.JPEG\tn01\n")

    data = open_(f"folder:{tiny_imagenet}")

    assert data.test.labels.tolist() == [1, 0]
    assert any("4 images of val/ are not in val_annotations.txt" in note for note in data.notes)


def test_hidden_folders_and_other_files_are_passed_over(folder):
    root = folder(cat=5, dog=5)
    picture(root / ".ipynb_checkpoints" / "x.png")
    picture(root / "cat" / "._0.png")
    (root / "cat" / "Thumbs.db").write_bytes(b"x")
    (root / "notes.txt").write_text("x")

    data = open_(f"folder:{root}", validation=0)

    assert data.classes == ("cat", "dog")
    assert len(data.train) + len(data.test) == 10


def test_grey_images_have_one_channel_and_are_not_mirrored(folder):
    data = open_(f"folder:{folder(mode='L', a=5, b=5)}")

    assert data.input_shape == (1, 8, 8)
    assert not data.train.augmentation.flip


def test_mixed_sizes_are_scaled_by_the_short_side_and_cropped_in_the_middle(folder):
    root = folder(cat=5, dog=5)
    wide = np.zeros((10, 30), dtype=np.uint8)
    wide[:, 10:20] = 255
    Image.fromarray(wide).convert("RGB").save(root / "cat" / "0.png")

    data = open_(f"folder:{root}", image_size=10, validation=0)

    assert data.input_shape == (3, 10, 10)
    _, pixels = decode(str(root / "cat" / "0.png"), (10, 10))
    assert pixels.shape == (10, 10, 3)
    assert (pixels == 255).all()
    _, tall = decode(str(picture(root / "tall.png", size=(12, 31))), (6, 6))
    assert tall.shape == (6, 6, 3)


def test_images_become_a_size_that_is_no_square_by_covering_it(folder):
    root = folder(cat=5, dog=5)
    bars = np.zeros((20, 60), dtype=np.uint8)
    bars[:, 8:52] = 255  # at half the size the middle 20 of 30 columns are kept; two more, for what scaling mixes
    Image.fromarray(bars).convert("RGB").save(root / "cat" / "0.png")

    for held in (True, False):
        data = open_(f"folder:{root}", image_size=(10, 20), held=held, workers=0, validation=0, augment="none")
        assert data.input_shape == (3, 10, 20)
        assert {batch.images.shape[2:] for batch in data.test.batches(4)} == {(10, 20)}
    _, pixels = decode(str(root / "cat" / "0.png"), (10, 20))
    assert (pixels == 255).all()
    _, tall = decode(str(root / "cat" / "0.png"), (20, 10))
    assert tall.shape == (20, 10, 3)
    assert (tall == 255).all()
    assert open_("digits", image_size=(12, 16)).input_shape == (1, 12, 16)


def test_sizes_that_differ_are_refused_without_image_size(folder):
    root = folder(cat=2, dog=2)
    picture(root / "dog" / "odd.png", size=(9, 8))

    with pytest.raises(InputRejected, match=r"not of one size: .*0.png is 8 x 8 and .*odd.png is 9 x 8") as refused:
        open_(f"folder:{root}")
    assert "--image-size 8" in refused.value.hint


@pytest.mark.parametrize("held", [True, False])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_grey_beside_colour_is_refused_with_an_example_of_each(folder, mode, held):
    root = folder(cat=2, dog=2, mode=mode)
    odd = picture(root / "dog" / "odd.png", mode="RGB" if mode == "L" else "L")
    usual = root / "cat" / "0.png"
    grey, colour = (usual, odd) if mode == "L" else (odd, usual)

    with pytest.raises(InputRejected) as refused:
        open_(f"folder:{root}", held=held, workers=0)
    assert refused.value.message == f"the images are not of one kind: {grey} is grey and {colour} is colour"
    assert "data.channels=3" in refused.value.hint


# Kinds of image files


@pytest.mark.parametrize("held", [True, False])
@pytest.mark.parametrize("channels", [1, 3])
def test_grey_among_colour_images_is_converted_when_asked(tmp_path, channels, held):
    root = tmp_path / "set"
    for number in range(12):
        for name in ("cat", "dog"):
            picture(root / name / f"{number}.png", mode="L" if number % 2 else "RGB", value=number * 20)

    data = open_(f"folder:{root}", held=held, workers=0, channels=channels)

    assert data.input_shape[0] == channels
    for batch in data.train.batches(4):
        assert batch.images.shape[1] == channels


def test_palettes_become_colour_and_single_bits_become_black_and_white(tmp_path):
    path = picture(tmp_path / "p.png", mode="P")
    header, pixels = decode(str(path), None)
    assert (header.channels, header.alpha) == (3, False)
    assert np.array_equal(pixels, np.asarray(Image.open(path).convert("RGB")))

    header, pixels = decode(str(picture(tmp_path / "1.png", mode="1")), None)
    assert header.channels == 1
    assert set(np.unique(pixels)) == {0, 255}


def test_sixteen_bit_grey_is_scaled_and_not_cut_off(tmp_path):
    values = np.array([[0, 257, 32768], [65535, 128, 129]], dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / "deep.png")

    header, pixels = decode(str(tmp_path / "deep.png"), None)

    assert header.channels == 1
    assert pixels[..., 0].tolist() == [[0, 1, 128], [255, 0, 1]]


@pytest.mark.parametrize(("mode", "channels"), [("RGBA", 3), ("LA", 1)])
def test_transparency_is_dropped_and_said(folder, mode, channels):
    root = folder(cat=3, dog=3, mode=mode)
    for path in root.rglob("*.png"):
        image = Image.open(path)
        image.putalpha(7)
        image.save(path)

    data = open_(f"folder:{root}")

    assert data.input_shape[0] == channels
    assert any("6 images have transparency" in note for note in data.notes)
    _, pixels = decode(str(path), None)
    assert np.array_equal(pixels[..., 0], np.asarray(Image.open(path))[..., 0])


def test_a_transparent_palette_becomes_colour(tmp_path):
    image = Image.open(picture(tmp_path / "p.png", mode="P"))
    image.save(tmp_path / "t.png", transparency=bytes([0, 128, 255]))

    header, pixels = decode(str(tmp_path / "t.png"), None)

    assert (header.channels, header.alpha) == (3, True)
    assert pixels.shape == (8, 8, 3)


def test_images_are_turned_upright_as_their_exif_says(tmp_path):
    image = Image.open(picture(tmp_path / "plain.png", size=(6, 4)))
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    image.save(tmp_path / "turned.png", exif=exif)

    header, pixels = decode(str(tmp_path / "turned.png"), None)

    assert (header.height, header.width) == (6, 4) == pixels.shape[:2]
    assert np.array_equal(pixels, np.rot90(np.asarray(image), -1))
    assert read_header(str(tmp_path / "turned.png")) == header


def test_float_pixels_are_damage_and_not_guessed_at(tmp_path):
    Image.fromarray(np.zeros((4, 4), dtype=np.float32)).save(tmp_path / "f.tif")

    assert decode(str(tmp_path / "f.tif"), None).reason == "pixels of kind F"


# Folders that are refused


def refusal(root):
    with pytest.raises(InputRejected) as refused:
        open_(f"folder:{root}")
    return refused.value


def test_a_missing_folder_a_file_and_an_empty_folder_have_their_own_sentences(folder, tmp_path):
    root = folder(cat=1, dog=1)

    missing = refusal(tmp_path / "sett")
    assert missing.message == f"there is no folder {tmp_path / 'sett'}"
    assert missing.hint == "did you mean 'set'?"
    assert "is a file, not a folder" in refusal(root / "cat" / "0.png").message
    (tmp_path / "empty").mkdir()
    assert refusal(tmp_path / "empty").message == f"the folder {tmp_path / 'empty'} is empty"


def test_images_without_class_folders_are_refused(folder):
    root = folder(cat=3)

    assert refusal(root / "cat").message == f"{root / 'cat'} holds images but no class folders"
    assert "only one class folder, cat/" in refusal(root).message
    (root / "cat" / "notes.txt").write_text("x")
    for image in root.rglob("*.png"):
        image.unlink()
    assert "neither images nor class folders" in refusal(root / "cat").message


def test_the_folder_above_the_data_set_is_recognised(folder, tmp_path):
    root = folder("train", cat=3, dog=3)

    assert refusal(tmp_path).hint == f"did you mean folder:{root}?"


@pytest.mark.parametrize("part", [(), ("train",), ("test",)])
def test_a_class_folder_without_images_is_named(folder, part):
    root = folder("train", cat=3, dog=3) if part else folder(cat=3, dog=3)
    folder(*part, dog=2)
    root.joinpath(*part, "cat").mkdir(exist_ok=True, parents=True)
    for image in root.joinpath(*part, "cat").iterdir():
        image.unlink()

    assert refusal(root).message == f"the class folder {root.joinpath(*part, 'cat')} has no images"


def test_a_class_that_train_lacks_is_refused(folder):
    root = folder("train", cat=3, dog=3)
    folder("val", cat=1, dogs=1)

    error = refusal(root)

    assert error.message == "val/ has a class 'dogs' that train/ lacks"
    assert error.hint == "did you mean 'dog'?"


def test_a_class_that_the_test_split_lacks_is_said(folder):
    root = folder("train", cat=3, dog=3)
    folder("val", cat=2)

    assert any("val/ has no images of 1 classes: dog" in note for note in open_(f"folder:{root}").notes)


def test_parts_without_train_labels_or_images_are_refused(folder):
    root = folder("val", cat=1, dog=1)
    assert "has val/ but no train/" in refusal(root).message

    folder("train", cat=3, dog=3)
    folder("valid", cat=1)
    assert "has both val/ and valid/" in refusal(root).message


@pytest.mark.parametrize("part", ["val", "test"])
def test_a_part_without_labels_or_images_is_refused(folder, part):
    root = folder("train", cat=3, dog=3)
    (root / part).mkdir()
    assert refusal(root).message == f"{root / part} holds no images"

    picture(root / part / "0.png")
    assert refusal(root).message == f"the images of {root / part} have no labels"


# Damaged images


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])


def test_too_many_damaged_images_are_counted_listed_and_refused(folder):
    root = folder(cat=10, dog=10, size=(32, 32))
    cut(root / "cat" / "3.png")
    (root / "dog" / "4.png").write_bytes(b"not an image at all")
    (root / "dog" / "5.png").write_bytes(b"")
    (root / "dog" / "6.png").write_bytes(b"")

    error = refusal(root)

    assert error.message.startswith(f"4 of 20 images cannot be read: {root / 'cat' / '3.png'} (")
    assert error.message.endswith(f"{root / 'dog' / '5.png'} (not an image) and 1 more")
    assert "mend or remove" in error.hint


def test_a_few_damaged_images_are_left_out_and_said(folder):
    root = folder(cat=60, dog=60, size=(32, 32))
    cut(root / "dog" / "7.png")

    data = open_(f"folder:{root}", validation=0.1)

    assert len(data.train) + len(data.validation) + len(data.test) == 119
    rows = torch.cat([data.train.rows, data.validation.rows, data.test.rows]).tolist()
    names = sorted(str(number) for number in range(60))
    assert set(range(120)) - set(rows) == {60 + names.index("7")}
    assert any("1 of 120 images cannot be read and are left out" in n and "7.png" in n for n in data.notes)


def test_a_class_that_loses_its_only_image_is_refused(folder):
    root = folder("train", cat=60, dog=60)
    folder("test", cat=60, dog=1)
    (root / "test" / "dog" / "0.png").write_bytes(b"")

    assert refusal(root).message.startswith("no image of class 'dog' can be read")


def test_a_folder_of_nothing_but_damage_is_refused(folder):
    root = folder(cat=2, dog=2)
    for path in root.rglob("*.png"):
        path.write_bytes(b"")

    assert refusal(root).message.startswith("none of the 4 images can be read")


# Streaming


def test_streamed_batches_are_those_of_the_held_set_bit_for_bit(folder):
    root = folder(cat=12, dog=12, size=(20, 14))
    held = open_(f"folder:{root}", image_size=10, held=True)
    streamed = open_(f"folder:{root}", image_size=10, held=False, workers=0)

    assert (held.mean, held.std, held.fingerprint) == (streamed.mean, streamed.std, streamed.fingerprint)
    for options in ({}, {"seed": 4, "epoch": 2, "augment": True}, {"seed": 4, "augment": True, "start": 2}):
        assert same(held.train.batches(4, **options), streamed.train.batches(4, **options))
    assert any("held on cpu" in note for note in held.notes)
    assert any("are streamed from" in note for note in streamed.notes)


@pytest.mark.starts
def test_worker_processes_change_nothing(folder):
    root = folder(cat=8, dog=8)
    alone = open_(f"folder:{root}", held=False, workers=0).train
    # The statistics above were measured without processes, for starting some takes seconds.
    shared = replace(alone, source=replace(alone.source, workers=1))

    assert same(alone.batches(4, seed=1, augment=True), shared.batches(4, seed=1, augment=True))


def test_sets_beyond_the_limit_are_streamed(folder, monkeypatch):
    root = folder(cat=6, dog=6)
    monkeypatch.setattr("compressor.data.reading.RESIDENT_LIMIT", 12 * 8 * 8 * 3 - 1)
    assert any("are streamed" in note for note in open_(f"folder:{root}", workers=0).notes)

    monkeypatch.setattr("compressor.data.reading.RESIDENT_LIMIT", 12 * 8 * 8 * 3)
    assert any("held on cpu" in note for note in open_(f"folder:{root}", workers=0).notes)


def test_damage_found_while_streaming_is_left_out_logged_once_and_refused_past_the_limit(folder, caplog):
    root = folder(cat=100, dog=100, size=(32, 32))
    whole = open_(f"folder:{root}", held=False, workers=0, validation=0).train
    bad = whole.rows[[3, 50, 70]].tolist()
    by_row = [whole.source.files[row] for row in bad]
    expected = list(whole.batches(10, seed=0, augment=True))
    cut(Path(by_row[0]))

    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            found = list(whole.batches(10, seed=0, augment=True))

    assert len([record for record in caplog.records if by_row[0] in record.getMessage()]) == 1
    assert sum(len(batch.images) for batch in found) == len(whole) - 1
    for before, after in zip(expected, found, strict=True):  # the others are moved as they were
        kept = before.indices != 3
        assert torch.equal(before.images[kept], after.images)
        assert torch.equal(before.labels[kept], after.labels)
        assert torch.equal(before.indices[kept], after.indices)
    cut(Path(by_row[1]))
    cut(Path(by_row[2]))
    with pytest.raises(InputRejected, match="3 of 200 images cannot be read"):
        list(whole.batches(10))


def test_a_moved_folder_keeps_its_fingerprint_and_another_label_changes_it(folder, tmp_path):
    root = folder(cat=5, dog=5)
    before = open_(f"folder:{root}").fingerprint

    moved = root.rename(tmp_path / "moved")
    assert open_(f"folder:{moved}").fingerprint == before

    (moved / "dog" / "4.png").rename(moved / "cat" / "5.png")
    assert open_(f"folder:{moved}").fingerprint != before


def test_the_usual_normalisations_have_one_value_a_channel():
    for name, (mean, std) in NORMALISATIONS.items():
        assert len(mean) == len(std) == (1 if "mnist" in name else 3)
        assert all(value > 0 for value in std)


# Views, shards, and images without labels


def test_the_first_view_is_what_one_view_alone_would_be_and_the_others_differ():
    split = split_of(12)
    alone = list(split.batches(5, epoch=2, seed=3, augment=True))
    several = list(split.batches(5, epoch=2, seed=3, augment=True, views=3))
    assert same(several, alone)
    assert all(batch.views == () for batch in alone)
    for batch in several:
        views = [batch.images, *batch.views]
        assert [view.shape for view in views] == [batch.images.shape] * 3
        assert not any(torch.equal(a, b) for a, b in ((views[0], views[1]), (views[1], views[2]), (views[0], views[2])))


def test_views_are_of_the_same_images_and_resume():
    split = split_of(12, augmentation=Augmentation())  # moves nothing
    for batch in split.batches(5, seed=3, augment=True, views=2):
        assert torch.equal(batch.views[0], batch.images)
    moving = split_of(12)
    whole = list(moving.batches(5, seed=3, augment=True, views=2))
    late = list(moving.batches(5, seed=3, augment=True, views=2, start=2))
    assert torch.equal(late[0].views[0], whole[2].views[0])


def test_views_without_augmentation_would_be_the_same():
    with pytest.raises(ValueError, match="differ by their augmentation alone"):
        next(split_of().batches(5, views=2))


@given(
    count=st.integers(1, 40),
    size=st.integers(1, 12),
    world=st.integers(1, 5),
    seed=st.none() | st.integers(0, 3),
    drop_last=st.booleans(),
    start=st.integers(0, 2),
)
def test_shards_side_by_side_are_the_batches_of_one_process(count, size, world, seed, drop_last, start):
    split = split_of(count, size=4)
    how = {"epoch": 1, "seed": seed, "augment": seed is not None, "drop_last": drop_last, "start": start}
    views = 1 if seed is None else 2
    alone = list(split.batches(size, **how, views=views))
    shards = [list(split.batches(size, **how, views=views, shard=Shard(rank, world))) for rank in range(world)]

    assert [len(shard) for shard in shards] == [len(alone)] * world
    for whole, *parts in zip(alone, *shards, strict=True):
        count = len(whole.images)
        assert [part.total for part in parts] == [count] * world
        assert sum(part.weight for part in parts) == pytest.approx(world)
        if count < 2 * world:  # too few images to be shared out
            assert all(torch.equal(part.images, whole.images) for part in parts)
            assert {part.weight for part in parts} == {1.0}
            continue
        for field in ("images", "labels", "indices"):
            assert torch.equal(torch.cat([getattr(part, field) for part in parts]), getattr(whole, field))
        # What each computes as a mean of its part is, weighed so, a mean of the whole.
        means = [part.weight / world * part.images.double().mean() for part in parts]
        assert sum(means).item() == pytest.approx(whole.images.double().mean().item())
        for view, pieces in zip(whole.views, zip(*(part.views for part in parts), strict=True), strict=True):
            assert torch.equal(torch.cat(pieces), view)
        lengths = [len(part.images) for part in parts]
        assert max(lengths) - min(lengths) <= 1


def test_streamed_shards_side_by_side_are_the_batches_of_one_process(folder):
    opened = open_(f"folder:{folder(cat=9, dog=9)}", held=False, validation=0, workers=0, test=0.2)
    whole = list(opened.train.batches(4, seed=1, augment=True))
    shards = [list(opened.train.batches(4, seed=1, augment=True, shard=Shard(rank, 2))) for rank in (0, 1)]
    for batch, *parts in zip(whole[:-1], *(shard[:-1] for shard in shards), strict=True):
        assert torch.equal(torch.cat([part.images for part in parts]), batch.images)
    assert [len(shard[-1].images) for shard in shards] == [2, 2]  # too few to be shared out
