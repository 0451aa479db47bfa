"""How alike two decision boundaries are: half planes, whose distances and angles are known."""

import math
from types import SimpleNamespace

import pytest
import torch
from test_attack import STD, Curved, curved_walk
from test_hard_images import ListSplit, Replay

from compressor.attack import BoundaryAttack
from compressor.measure.evaluation import evaluate, evaluation_set
from compressor.measure.similarity import TARGETS, WALK, boundary_similarity, similarity_set
from compressor.recipe import Validate
from exporters.pytorch import TorchRunner


def half_plane(linear, angle, offset=0.0):
    """Two classes with the gap `4 (cos x + sin y - offset)`, pixels less a half."""
    normal = torch.tensor([[math.cos(angle), math.sin(angle)]], dtype=torch.float64) * 2
    bias = -normal.sum(dim=1) / 2 - 2 * offset
    return linear(torch.cat((normal, -normal)), torch.cat((bias, -bias)))


def test_similarity_of_two_half_planes_is_the_ratio_of_distances_and_the_cosine(linear):
    # A step of 0.3 (L + eps) crosses at once here, so the way is as long as the gap and along the normal.
    image = torch.tensor([0.95, 0.5], dtype=torch.float64).view(1, 2, 1, 1)
    teacher, student = half_plane(linear, 0.0), half_plane(linear, 0.5, offset=0.1)
    attack = BoundaryAttack(step_size=0.3, margin=0.0)
    unit = torch.ones(2, dtype=torch.float64)

    similar = boundary_similarity(teacher, student, image, torch.tensor([0]), attack=attack, scale=unit)

    assert similar.magnitude == pytest.approx((0.45 * math.cos(0.5) - 0.1) / 0.45)
    assert similar.angle == pytest.approx(math.cos(0.5))
    assert (similar.counted, similar.walks) == (1, 1)


def test_ways_are_compared_in_normalised_units(linear):
    image = torch.tensor([0.55, 0.5], dtype=torch.float64).view(1, 2, 1, 1)
    teacher, student = half_plane(linear, 0.0), half_plane(linear, 0.5)
    scale = torch.tensor([0.5, 0.25], dtype=torch.float64)
    similar = boundary_similarity(
        teacher, student, image, torch.tensor([0]), attack=BoundaryAttack(step_size=0.9), scale=scale
    )
    along = torch.tensor([math.cos(0.5) * 0.5, math.sin(0.5) * 0.25])
    assert similar.angle == pytest.approx((along[0] / along.norm()).item(), rel=1e-6)


def test_a_network_is_similar_to_itself():
    network, images, base, _, _ = curved_walk(count=6)
    attack = BoundaryAttack(step_size=0.75)
    similar = boundary_similarity(network, network, images, base, attack=attack, scale=STD, chunk=7)
    assert similar.magnitude == pytest.approx(1.0)
    assert similar.angle == pytest.approx(1.0)
    assert similar.walks == 24
    assert 0 < similar.counted < 24  # some walks end in a third class or nowhere


def test_similarity_does_not_depend_on_the_chunks():
    first, images, base, _, attack = curved_walk()
    second = Curved()
    with torch.no_grad():
        second.head.weight.add_(0.1 * torch.randn_like(second.head.weight))
    whole, parts = (
        boundary_similarity(first, second, images, base, attack=attack, scale=STD, chunk=chunk) for chunk in (1000, 5)
    )
    assert tuple(whole) == pytest.approx(tuple(parts))
    assert whole.counted > 1
    assert whole.magnitude < 1


def test_walks_that_do_not_reach_their_class_in_both_networks_do_not_count(linear):
    image = torch.tensor([0.95, 0.5], dtype=torch.float64).view(1, 2, 1, 1)
    teacher, wrong = half_plane(linear, 0.0), half_plane(linear, math.pi)
    unit = torch.ones(2, dtype=torch.float64)
    attack = BoundaryAttack(margin=0.0)
    disagreeing = boundary_similarity(teacher, wrong, image, torch.tensor([0]), attack=attack, scale=unit)
    assert disagreeing.counted == 0
    assert math.isnan(disagreeing.magnitude)
    assert math.isnan(disagreeing.angle)
    far = boundary_similarity(
        teacher, teacher, image, torch.tensor([0]), attack=BoundaryAttack(steps=1, step_size=0.01), scale=unit
    )
    assert far.counted == 0


def test_a_walk_into_a_third_class_in_one_of_the_networks_does_not_count(linear):
    # Towards class 1 the student passes class 2; towards class 2 the teacher falls into class 1.
    weight, image = torch.tensor([[4.0], [-4.0], [0.0]]), torch.full((1, 1, 1, 1), 0.9)
    teacher, student = linear(weight, torch.tensor([-2.0, 2.0, -9.0])), linear(weight, torch.tensor([-2.0, 2.0, 0.5]))
    attack = BoundaryAttack(step_size=0.1, margin=0.05)
    for pair, counted in (((teacher, teacher), 1), ((student, student), 1), ((teacher, student), 0)):
        similar = boundary_similarity(*pair, image, torch.tensor([0]), attack=attack, scale=torch.ones(1))
        assert (similar.counted, similar.walks) == (counted, 2)


def test_the_walk_of_the_measure_sees_the_boundary_and_not_how_steep_the_logits_are(linear):
    """A student with half the logits has the same boundary. The published walk is half as long there."""
    image = torch.tensor([0.65, 0.5], dtype=torch.float64).view(1, 2, 1, 1)
    teacher = half_plane(linear, 0.3)
    softer = linear(teacher.weight.detach() / 2, teacher.bias.detach() / 2)
    unit = torch.ones(2, dtype=torch.float64)
    published, tight = (
        boundary_similarity(teacher, softer, image, torch.tensor([0]), attack=attack, scale=unit)
        for attack in (BoundaryAttack(step_size=0.6, margin=0), WALK)
    )
    assert published.magnitude == pytest.approx(0.5)
    assert tight.magnitude > 0.95
    assert tight.angle == pytest.approx(1.0)


def test_with_few_targets_images_are_walked_to_the_teachers_likeliest(linear):
    # Class 1 is out of reach for the teacher, and likelier than class 2 only where its bias says so.
    weight, image = torch.tensor([[4.0], [-4.0], [0.0]]), torch.full((1, 1, 1, 1), 0.9)
    for bias, counted in (([-2.0, 2.0, -9.0], 1), ([-2.0, -20.0, 0.5], 1), ([-2.0, 2.0, 0.5], 1)):
        network = linear(weight, torch.tensor(bias))
        attack = BoundaryAttack(step_size=0.1, margin=0.05)
        similar = boundary_similarity(
            network, network, image, torch.tensor([0]), attack=attack, scale=torch.ones(1), targets=1
        )
        assert (similar.counted, similar.walks) == (counted, 1)


def test_a_set_is_drawn_by_the_seed_and_compares_with_its_teacher(linear, images):
    teacher, pixels = linear(torch.randn(4, 192)), images(40)
    split = ListSplit(pixels, teacher(pixels).argmax(dim=1))
    options = {"count": 12, "std": torch.full((3,), 0.25), "device": "cpu"}
    one, same, other = (similarity_set(teacher, split, seed=seed, **options) for seed in (1, 1, 2))

    assert torch.equal(one.images, same.images)
    assert not torch.equal(one.images, other.images)
    assert len(similarity_set(teacher, split, seed=1, **options | {"count": 99}).labels) == 40
    itself = one.similarity(teacher)
    assert (itself.magnitude, itself.angle) == (pytest.approx(1), pytest.approx(1, abs=1e-5))
    assert 0 < itself.counted <= itself.walks == 12 * min(TARGETS, 3)


# In an evaluation


@pytest.fixture
def evaluated(linear, images):
    """A function that measures teacher, student and an artifact without gradients, by the images to walk."""
    teacher, pixels = linear(torch.randn(4, 192)), images(40)
    student = linear(teacher.weight.detach() + 0.1 * torch.randn(4, 192))
    split = ListSplit(pixels, teacher(pixels).argmax(dim=1))
    split.batches = lambda size, *, seed=0: ListSplit.batches(split, size, seed=seed or 0)

    def measure(count):
        opened = SimpleNamespace(module=teacher, std=(0.25, 0.25, 0.25))
        inputs = SimpleNamespace(
            data=SimpleNamespace(test=split, source="made", classes=tuple("abcd"), target=None),
            teacher=opened,
            walkable=opened,
            device=torch.device("cpu"),
        )
        runners = [TorchRunner(network, input_shape=(3, 8, 8), classes=4) for network in (teacher, student)]
        config = Validate(boundary_samples=0, attack_samples=0, similarity_images=count)
        asked = evaluation_set(inputs, config, teacher_runner=runners[0], student=None, seed=0)
        return asked, [
            evaluate(runner, asked, teacher=runner is runners[0]) for runner in (*runners, Replay(student, 4))
        ]

    return measure


def test_an_evaluation_compares_the_boundaries_of_what_has_gradients(evaluated):
    asked, (teacher, student, artifact) = evaluated(16)

    assert "16 walked in two networks" in asked.sentence
    assert 0.5 < student["magsim"] < 1
    assert 0.5 < student["angsim"] < 1
    assert 0 < student["similarity_walks"] <= 48
    nothing = dict.fromkeys(("magsim", "angsim", "similarity_walks"))
    assert teacher.items() >= nothing.items()
    assert artifact.items() >= nothing.items()


def test_without_images_to_walk_an_older_value_is_taken_back(evaluated):
    asked, (_, student, _) = evaluated(0)

    assert asked.similar is None
    assert student.items() >= dict.fromkeys(("magsim", "angsim", "similarity_walks")).items()


def test_no_walk_that_counts_is_no_value_and_not_zero(evaluated, monkeypatch):
    monkeypatch.setattr("compressor.measure.similarity.WALK", BoundaryAttack(steps=1, step_size=1e-9))
    _, (_, student, _) = evaluated(16)

    assert (student["magsim"], student["angsim"], student["similarity_walks"]) == (None, None, 0)
