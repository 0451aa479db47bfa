"""Calibration images: how many, from where, and how many of them lie on a boundary."""

import numpy as np
import pytest
import torch

from compressor import checkpoint
from compressor.artifacts.calibration import SHARE, calibration_images
from compressor.data import open_data
from compressor.errors import InputRejected
from compressor.recipe import Data

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def digits():
    return open_data(Data(name="digits"), device=CPU)


@pytest.fixture
def teacher(work):
    return checkpoint.load_network(work / "runs/teacher-1/student/student.safetensors")


def chosen(digits, network, **changes):
    settings = {"samples": 64, "boundary": None, "seed": 0, "device": CPU} | changes
    return calibration_images(digits, network, **settings)


def training_images(digits):
    (batch,) = digits.train.batches(len(digits.train))
    return {image.tobytes() for image in batch.images.numpy()}


def test_plain_images_are_training_images_as_they_are_each_at_most_once(digits):
    images, boundary = chosen(digits, None)

    assert images.shape == (64, 1, 8, 8)
    assert images.dtype == np.float32
    assert boundary == 0
    kinds = {image.tobytes() for image in images}
    assert len(kinds) == 64
    assert kinds <= training_images(digits)


def test_a_quarter_lies_on_the_boundary_where_there_is_a_network(digits, teacher):
    images, boundary = chosen(digits, teacher)

    assert SHARE == 0.25
    assert len(images) == 64
    assert 12 <= boundary <= 16  # some of 16 may not cross
    plain = [image for image in images if image.tobytes() in training_images(digits)]
    assert len(plain) == 64 - boundary
    assert images.min() >= 0
    assert images.max() <= 1


def test_boundary_images_have_two_classes_close_together(digits, teacher):
    images, boundary = chosen(digits, teacher, boundary=1.0)

    with torch.no_grad():
        best = teacher.module(torch.from_numpy(images[-boundary:])).topk(2).values
        plain = teacher.module(torch.from_numpy(chosen(digits, None)[0])).topk(2).values
    assert (best[:, 0] - best[:, 1]).median() < 0.4 * (plain[:, 0] - plain[:, 1]).median()


def test_the_seed_decides(digits, teacher):
    first, again, other = (chosen(digits, teacher, seed=seed)[0] for seed in (0, 0, 1))

    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_there_are_no_more_images_than_the_split_has(digits):
    images, _ = chosen(digits, None, samples=10**6)

    assert len(images) == len(digits.train)


def test_boundary_samples_without_gradients_are_refused(digits):
    with pytest.raises(InputRejected, match="need a network with gradients") as refusal:
        chosen(digits, None, boundary=0.5)
    assert "--teacher" in refusal.value.hint


def test_no_training_images_are_refused(digits):
    from dataclasses import replace

    empty = replace(digits, train=replace(digits.train, rows=digits.train.rows[:0]))
    with pytest.raises(InputRejected, match="no training images to calibrate INT8 with"):
        chosen(empty, None)
