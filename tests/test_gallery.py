"""Images worth looking at: linear networks, whose boundaries are known, decide what must come out."""

import numpy as np
import pytest
import torch

from compressor.attack import BoundaryAttack
from compressor.data.augment import Augmentation
from compressor.data.split import Held, Split
from compressor.errors import InputRejected
from compressor.measure.gallery import (
    affordable,
    boundary_examples,
    decision_slice,
    disagreements,
    pool,
    shown_disagreements,
)
from compressor.measure.predictions import FilePredictions

SIZE = 4
SCALE = torch.tensor([0.5])
CPU = torch.device("cpu")


def split_of(images: torch.Tensor, labels: torch.Tensor) -> Split:
    bytes_ = (images * 255).round().to(torch.uint8).permute(0, 2, 3, 1)
    return Split(Held(bytes_), torch.arange(len(images)), labels, Augmentation(), CPU)


@pytest.fixture
def task(linear):
    """Teacher and student that read off which of four pixels is brightest, differently sure, and images of them."""
    weight = torch.zeros(4, SIZE * SIZE)
    for number in range(4):
        weight[number, 5 * number] = 6.0
    generator = torch.Generator().manual_seed(0)
    images = 0.3 + 0.2 * torch.rand(40, 1, SIZE, SIZE, generator=generator)
    labels = torch.arange(40) % 4
    for number, label in enumerate(labels.tolist()):
        images.view(40, -1)[number, 5 * label] = 0.7
    return linear(weight), linear(0.8 * weight), split_of(images, labels)


def pooled(task, **changes):
    teacher, student, split = task
    values = {"count": 40, "attack": BoundaryAttack(), "scale": SCALE, "seed": 0, "device": CPU}
    return pool(teacher, student, split, **(values | changes))


def logits(network, image):
    with torch.no_grad():
        return network(torch.as_tensor(image)[None])[0]


# Boundary samples


def test_a_sample_is_across_the_teachers_boundary_and_its_base_is_not(task):
    teacher, student, _ = task

    found = boundary_examples(pooled(task), count=6, seed=0)

    assert len(found) == 6
    for example in found:
        assert int(logits(teacher, example.base).argmax()) == example.label
        assert int(logits(student, example.base).argmax()) == example.label
        assert int(logits(teacher, example.sample).argmax()) == example.target != example.label
        assert example.teacher == pytest.approx(logits(teacher, example.sample).softmax(0).numpy(), abs=1e-6)
        assert example.student == pytest.approx(logits(student, example.sample).softmax(0).numpy(), abs=1e-6)
        assert example.steps >= 1
        assert not np.array_equal(example.base, example.sample)
        assert 0 <= example.sample.min() <= example.sample.max() <= 1


def test_every_class_comes_before_any_comes_twice(task):
    labels = [example.label for example in boundary_examples(pooled(task), count=8, seed=0)]

    assert sorted(labels[:4]) == [0, 1, 2, 3]


def test_the_seed_decides_and_nothing_is_changed(task):
    teacher = task[0]
    teacher.train()

    once, again = (boundary_examples(pooled(task), count=4, seed=3) for _ in range(2))

    assert [example.sample.tolist() for example in once] == [example.sample.tolist() for example in again]
    assert teacher.training
    assert all(parameter.requires_grad and parameter.grad is None for parameter in teacher.parameters())


def test_a_walk_that_does_not_arrive_is_left_out(task):
    stuck = BoundaryAttack(steps=1, step_size=1e-6)

    assert boundary_examples(pooled(task, attack=stuck), count=4, seed=0) == ()
    assert decision_slice(pooled(task, attack=stuck), side=5) is None


def test_images_that_a_network_gets_wrong_are_not_walked(task, linear):
    teacher, student, split = task
    wrong = linear(-student.weight.detach())

    assert boundary_examples(pooled((teacher, wrong, split)), count=4, seed=0) == ()
    assert decision_slice(pooled((teacher, wrong, split)), side=5) is None


def test_a_pool_has_no_more_images_than_asked_or_than_there_are(task):
    assert len(pooled(task, count=7).labels) == 7
    assert len(pooled(task, count=700).labels) == 40
    assert pooled(task, count=7).teacher_logits.shape == (7, 4)


# The plane


def test_the_plane_goes_through_the_base_and_two_samples(task):
    cut = decision_slice(pooled(task), side=41)

    assert cut is not None
    assert cut.points[0] == (0.0, 0.0)
    assert cut.points[1][1] == pytest.approx(0, abs=1e-5)  # the first sample lies on the first axis
    assert cut.teacher.shape == cut.student.shape == (41, 41, 4)
    assert len(set(cut.classes)) == 3
    for (x, y), expected in zip(cut.points, cut.classes, strict=True):
        column, row = np.abs(cut.xs - x).argmin(), np.abs(cut.ys - y).argmin()
        beside = cut.teacher[max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2].argmax(axis=2)
        assert expected in beside  # a sample lies just past the boundary, so a neighbour may be on the other side


def test_the_points_are_in_the_middle_half_of_a_square(task):
    cut = decision_slice(pooled(task), side=9)

    assert cut.xs[-1] - cut.xs[0] == pytest.approx(cut.ys[-1] - cut.ys[0], rel=1e-5)
    span = cut.xs[-1] - cut.xs[0]
    for x, y in cut.points:
        assert cut.xs[0] + span / 4 - 1e-5 <= x <= cut.xs[-1] - span / 4 + 1e-5
        assert cut.ys[0] + span / 4 - 1e-5 <= y <= cut.ys[-1] - span / 4 + 1e-5
    widths = [max(values) - min(values) for values in zip(*cut.points, strict=True)]
    assert max(widths) == pytest.approx(span / 2, rel=1e-5)


def test_both_axes_are_measured_in_normalised_units(task):
    """A linear network's gap falls evenly on the way to the sample: 6 a pixel, 3 a normalised unit, in two pixels."""
    cut = decision_slice(pooled(task), side=9)

    base, first, second = cut.classes
    logs = np.log(cut.teacher.astype(np.float64))
    gaps = logs[..., base] - logs[..., first], logs[..., base] - logs[..., second]
    across = np.diff(gaps[0], axis=1) / np.diff(cut.xs)
    assert across == pytest.approx(np.full((9, 8), -np.sqrt(18)), rel=1e-3)
    assert np.diff(gaps[0], axis=0) == pytest.approx(np.zeros((8, 9)), abs=1e-3)  # the second axis is at right angles
    way = np.array(cut.points[2]) / np.hypot(*cut.points[2])
    slope = way @ [
        (np.diff(gaps[1], axis=1) / np.diff(cut.xs)).mean(),
        (np.diff(gaps[1], axis=0).T / np.diff(cut.ys)).mean(),
    ]
    assert slope == pytest.approx(-np.sqrt(18), rel=1e-3)
    student = np.log(cut.student.astype(np.float64))
    assert np.diff(student[..., base] - student[..., first], axis=1) == pytest.approx(0.8 * np.diff(gaps[0], axis=1))


def test_only_images_are_asked_about(task):
    teacher, student, split = task
    labels = split.labels
    extreme = torch.zeros(40, SIZE * SIZE).scatter(1, 5 * labels.unsqueeze(1), 1.0).view(40, 1, SIZE, SIZE)
    asked = []
    for network in (teacher, student):
        network.register_forward_pre_hook(lambda _, given: asked.append(torch.aminmax(given[0])))

    cut = decision_slice(pooled((teacher, student, split_of(extreme, labels))), side=9)

    assert cut is not None
    assert min(low for low, _ in asked) >= 0
    assert max(high for _, high in asked) <= 1


def test_two_classes_have_no_plane(linear, task):
    _, _, split = task
    weight = torch.zeros(2, SIZE * SIZE)
    weight[0, 0] = weight[1, 5] = 6.0
    two = split_of(split.source.images.permute(0, 3, 1, 2) / 255, split.labels % 2)

    assert decision_slice(pooled((linear(weight), linear(weight), two)), side=5) is None


# Disagreements


def answer(classes, probabilities, labels=(0, 0, 0, 0)):
    return FilePredictions(
        sha256="a",
        labels=np.array(labels, np.int32),
        classes=np.array(classes, np.int32),
        probabilities=np.array(probabilities, np.float32),
    )


def test_disagreements_are_ordered_by_the_less_sure_of_the_two():
    teacher, student = answer([0, 1, 2, 3], [0.9, 0.9, 0.6, 0.9]), answer([1, 1, 3, 2], [0.5, 0.9, 0.7, 0.8])

    assert disagreements(teacher, student).tolist() == [3, 2, 0]
    assert disagreements(teacher, teacher).tolist() == []


def test_disagreements_are_shown_with_their_images_and_answers(task):
    _, _, split = task
    labels = split.labels.numpy()
    teacher = answer(labels, np.full(40, 0.75), labels)
    student = answer((labels + 1) % 4, np.full(40, 0.5), labels)

    found = shown_disagreements(teacher, student, split, [7, 2])

    images = torch.cat([batch.images for batch in split.batches(40)]).numpy()
    assert [each.label for each in found] == [3, 2]
    assert [each.teacher for each in found] == [3, 2]
    assert [each.student for each in found] == [0, 3]
    assert found[0].image.tolist() == images[7].tolist()
    assert found[1].image.tolist() == images[2].tolist()
    assert (found[0].teacher_probability, found[0].student_probability) == (0.75, 0.5)
    assert shown_disagreements(teacher, student, split, []) == ()


def test_answers_to_other_images_are_refused(task):
    _, _, split = task
    other = answer([0], [0.5], [0])

    with pytest.raises(InputRejected, match="not those that the answers are about"):
        shown_disagreements(other, other, split, [0])


def test_images_that_cannot_be_read_any_more_are_refused(task, monkeypatch):
    _, _, split = task
    labels = split.labels.numpy()
    same = answer(labels, np.ones(40), labels)
    whole = Held.fetch

    def losing(self, batches):
        for images, read in whole(self, batches):
            yield images[1:], read[1:]

    monkeypatch.setattr(Held, "fetch", losing)
    with pytest.raises(InputRejected, match="1 of the images cannot be read"):
        shown_disagreements(same, same, split, [4, 5])


# Cost


@pytest.mark.parametrize(
    ("macs", "device", "expected"),
    [
        (1_000_000, "cpu", (512, 97)),
        (50_000_000, "cpu", (512, 45)),
        (5_000_000_000, "cpu", (32, 17)),
        (5_000_000_000, "cuda", (512, 45)),
        (None, "cpu", (512, 31)),
        (0, "cpu", (512, 31)),
    ],
)
def test_what_is_asked_fits_the_cost_of_an_image(macs, device, expected):
    assert affordable(macs, torch.device(device)) == expected
