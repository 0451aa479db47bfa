from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import nn

from compressor.attack import NOT_CROSSED, BoundaryAttack, fgsm, pgd
from compressor.batch import Batch
from compressor.errors import InputRejected
from compressor.measure.hard_images import adversarial_set, boundary_agreement, boundary_set, robust_accuracy

STD = torch.tensor([0.25, 0.25, 0.25])


@dataclass
class ListSplit:
    images: torch.Tensor
    labels: torch.Tensor

    def __len__(self):
        return len(self.labels)

    def batches(self, batch_size, *, seed=None):
        order = torch.randperm(len(self), generator=torch.Generator().manual_seed(seed))
        for chosen in order.split(batch_size):
            yield Batch(self.images[chosen], self.labels[chosen], chosen)


@dataclass
class Replay:
    """A network as an artifact."""

    network: nn.Module
    classes: int
    path = None
    format = "fake"

    def __call__(self, images):
        with torch.no_grad():
            return self.network(torch.from_numpy(images)).numpy()


@pytest.fixture
def halves(linear):
    """Two pixels, two classes: the brighter pixel wins."""
    return linear(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))


@pytest.fixture
def scans(tiny, images):
    """A teacher that uses all its classes, and a split of 40 images of which it gets 30 right."""
    teacher, pixels = tiny(), images(40)
    with torch.no_grad():
        teacher.head.weight *= 100
        teacher.head.bias -= teacher(pixels).mean(dim=0)
    labels = teacher(pixels).argmax(dim=1)
    labels[::4] = (labels[::4] + 1) % 4
    return teacher, ListSplit(pixels, labels)


def pair(*pixels):
    return torch.tensor(pixels).view(-1, 1, 1, 2)


def walk(teacher, split, *, count=20, seed=0, **options):
    attack = BoundaryAttack(step_size=2.0)
    return boundary_set(teacher, split, count=count, std=STD, seed=seed, device="cpu", attack=attack, **options)


# Closed forms


def test_fgsm_moves_each_pixel_by_epsilon_against_the_true_class_on_a_linear_network(halves):
    moved = fgsm(halves, pair([0.6, 0.4], [0.02, 0.97]), torch.tensor([0, 1]), 0.05)

    assert moved.flatten(1).tolist() == [pytest.approx([0.55, 0.45]), pytest.approx([0.07, 0.92])]


def test_fgsm_stays_in_the_box(halves):
    moved = fgsm(halves, pair([0.02, 0.99]), torch.tensor([0]), 0.05)

    assert moved.flatten().tolist() == pytest.approx([0.0, 1.0])


def test_pgd_reaches_the_corner_of_the_ball_on_a_linear_network(halves):
    start = pair([0.6, 0.4], [0.02, 0.97], [0.5, 0.5])

    moved = pgd(halves, start, torch.tensor([0, 1, 0]), 0.05, generator=torch.Generator().manual_seed(0))

    expected = [[0.55, 0.45], [0.07, 0.92], [0.45, 0.55]]
    assert moved.flatten(1).tolist() == [pytest.approx(row, abs=1e-6) for row in expected]


def test_pgd_starts_at_a_random_point_of_the_ball(halves):
    start = torch.full((200, 1, 1, 2), 0.5)
    labels = torch.zeros(200, dtype=torch.int64)

    moved = pgd(halves, start, labels, 0.1, generator=torch.Generator().manual_seed(0), steps=0)

    assert moved.min().item() == pytest.approx(0.4, abs=0.01)
    assert moved.max().item() == pytest.approx(0.6, abs=0.01)
    assert moved.mean().item() == pytest.approx(0.5, abs=0.01)


def test_a_network_too_sure_for_single_precision_is_attacked_all_the_same(linear):
    sure = linear(torch.tensor([[75.0, 0.0], [0.0, 75.0]]))  # the loss is exp(-30), zero in float32

    moved = fgsm(sure, pair([0.7, 0.3]), torch.tensor([0]), 0.05)

    assert moved.flatten().tolist() == pytest.approx([0.65, 0.35])


def test_robust_accuracy_falls_exactly_when_epsilon_passes_half_the_gap(halves):
    split = ListSplit(pair([0.6, 0.4], [0.8, 0.2], [0.45, 0.55], [0.1, 0.9]), torch.tensor([0, 0, 1, 1]))
    accuracies = []
    for epsilon in (0.04, 0.06, 0.11, 0.31):
        attacked = adversarial_set(halves, split, count=4, epsilon=epsilon, seed=0, device="cpu")
        accuracies.append(robust_accuracy(Replay(halves, 2), attacked))

    assert [accuracy.fgsm_top1 for accuracy in accuracies] == [100.0, 75.0, 50.0, 25.0]
    assert [accuracy.pgd_top1 for accuracy in accuracies] == [100.0, 75.0, 50.0, 25.0]


def test_boundary_samples_of_a_linear_network_lie_on_its_boundary(halves):
    split = ListSplit(pair([0.6, 0.4], [0.2, 0.8], [0.3, 0.7]), torch.tensor([0, 1, 0]))
    attack = BoundaryAttack(steps=10, step_size=0.75)

    found = boundary_set(halves, split, count=3, std=torch.ones(1), seed=0, device="cpu", attack=attack)

    assert found.walked == 2  # the third is not taught right
    gap = found.images[:, 0, 0, 0] - found.images[:, 0, 0, 1]
    sides = np.where(found.labels == 0, gap, -gap)
    assert (sides <= 0).all()
    assert (sides > -0.061 * 0.6).all()  # a step of 0.75 * sqrt(2) overshoots by 6 % of the gap


def test_boundary_agreement_counts_equal_decisions_and_is_unknown_without_samples():
    logits = np.array([[1, 0], [0, 1], [1, 0], [1, 0]], np.float32)

    assert boundary_agreement(logits, logits[::-1]) == 0.5
    assert boundary_agreement(logits[:0], logits[:0]) is None


# Invariants


def test_boundary_samples_left_their_class_and_say_what_the_teacher_says(scans):
    teacher, split = scans

    found = walk(teacher, split)

    with torch.no_grad():
        logits = teacher(torch.from_numpy(found.images)).numpy()
    assert found.walked == 20
    assert 0 < len(found.images) <= 20
    assert np.allclose(logits, found.teacher_logits, atol=1e-5)
    assert (found.teacher_logits.argmax(axis=1) != found.labels).all()
    assert ((found.teacher_logits.argmax(axis=1) == found.targets) == (found.crossed == 1)).all()
    assert (found.crossed != NOT_CROSSED).all()
    assert (found.labels != found.targets).all()
    assert found.images.dtype == np.float32
    assert found.images.flags["C_CONTIGUOUS"]
    assert (found.images >= 0).all()
    assert (found.images <= 1).all()


def test_images_that_do_not_cross_are_left_out(scans):
    teacher, split = scans
    still = boundary_set(teacher, split, count=8, std=STD, seed=0, device="cpu", attack=BoundaryAttack(step_size=1e-6))

    assert (still.walked, still.images.shape) == (8, (0, 3, 8, 8))


def test_only_as_many_as_the_teacher_gets_right_are_walked_in_any_batches(scans):
    teacher, split = scans

    assert walk(teacher, split, count=1000).walked == 30
    assert walk(teacher, split, count=1000, batch_size=1).walked == 30
    assert walk(teacher, split, count=13, batch_size=7).walked == 13


def test_the_seed_decides_the_boundary_set(scans):
    teacher, split = scans
    one, same, other = (walk(teacher, split, seed=seed) for seed in (1, 1, 2))

    assert np.array_equal(one.images, same.images)
    assert np.array_equal(one.targets, same.targets)
    assert not np.array_equal(one.images[:1], other.images[:1])


def test_the_seed_decides_the_adversarial_set(scans):
    network, split = scans

    def make(seed):
        return adversarial_set(network, split, count=12, epsilon=0.03, seed=seed, device="cpu", batch_size=5)

    one, same, other = make(1), make(1), make(2)

    assert np.array_equal(one.pgd, same.pgd)
    assert np.array_equal(one.fgsm, same.fgsm)
    assert not np.array_equal(one.pgd, other.pgd)
    assert one.pgd.shape == one.fgsm.shape == (12, 3, 8, 8)


def test_adversarial_images_stay_in_the_ball_and_in_the_box(tiny, images):
    network, pixels = tiny(), images(16)
    pixels[:4] = pixels[:4].round()  # black and white, so that the box cuts
    labels = network(pixels).argmax(dim=1)

    single = fgsm(network, pixels, labels, 0.1)
    several = pgd(network, pixels, labels, 0.1, generator=torch.Generator().manual_seed(0), step=0.07)

    for moved in (single, several):
        assert (moved - pixels).abs().max() <= 0.1 + 1e-6
        assert moved.min() >= 0
        assert moved.max() <= 1
        assert not torch.equal(moved, pixels)


def test_attacks_raise_the_loss_and_more_steps_raise_it_more(tiny, images):
    network, pixels = tiny(), images(32)
    labels = network(pixels).argmax(dim=1)

    def loss(moved):
        return nn.functional.cross_entropy(network(moved), labels).item()

    several = pgd(network, pixels, labels, 0.05, generator=torch.Generator().manual_seed(0))
    assert loss(pixels) < loss(fgsm(network, pixels, labels, 0.05)) <= loss(several) + 1e-4


def test_making_sets_leaves_the_network_exactly_as_found(scans):
    network, split = scans
    network.train()
    network.body[1].eval()
    before = {name: value.clone() for name, value in network.state_dict().items()}

    with torch.no_grad():
        walk(network, split, count=5)
        adversarial_set(network, split, count=5, epsilon=0.03, seed=0, device="cpu")

    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in network.parameters())
    assert network.training
    assert network.head.training
    assert not network.body[1].training


def test_attacks_do_not_change_the_images_they_are_given(tiny, images):
    network, pixels = tiny(), images()
    before, labels = pixels.clone(), torch.zeros(8, dtype=torch.int64)

    fgsm(network, pixels, labels, 0.1)
    pgd(network, pixels, labels, 0.1, generator=torch.Generator().manual_seed(0))

    assert torch.equal(pixels, before)
    assert not pixels.requires_grad


# Refusals


def test_a_teacher_that_is_never_right_has_no_boundary_set(scans):
    teacher, split = scans
    wrong = ListSplit(split.images, (teacher(split.images).argmax(dim=1) + 1) % 4)

    with pytest.raises(InputRejected, match="the teacher gets no image right"):
        walk(teacher, wrong)


def test_an_empty_split_cannot_be_attacked(tiny):
    empty = ListSplit(torch.zeros(0, 3, 8, 8), torch.zeros(0, dtype=torch.int64))

    with pytest.raises(InputRejected, match="no images to attack"):
        adversarial_set(tiny(), empty, count=3, epsilon=0.1, seed=0, device="cpu")
