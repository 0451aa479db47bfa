"""Generators: images of any shape in [0, 1], codes between classes, and generations of mutants."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from compressor.generators import (
    DCGAN,
    GENERATORS,
    MLP,
    Border,
    ClassEmbeddings,
    Evolution,
    ImageKind,
    Score,
    Superposition,
    Upsample,
    UpsampleLarge,
    superposition,
)
from compressor.generators.evolution import OFFSPRING

GREY = ImageKind((1, 8, 8), (0.3,), (0.2,))


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


# Networks.


@pytest.mark.parametrize("kind", sorted(GENERATORS))
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 32, 32), (1, 28, 28), (3, 9, 14)])
def test_each_generator_makes_images_of_any_shape_that_lie_in_the_box(kind, shape):
    images = ImageKind(shape, (0.5,) * shape[0], (0.9,) * shape[0])
    generator = GENERATORS[kind](width=3, noise=5).build(images).eval()
    made = generator(torch.randn(4, 5))
    assert made.shape == (4, *shape)
    assert 0 <= made.min() <= made.max() <= 1
    assert made.std() > 0


@pytest.mark.parametrize("kind", sorted(GENERATORS))
def test_a_generator_that_is_built_for_classes_is_told_of_them_and_one_that_is_not_refuses(kind):
    config = GENERATORS[kind](width=2, noise=3)
    generator = config.build(ImageKind((1, 8, 8), (0.0,), (1.0,), classes=4))
    noise = torch.randn(6, 3)
    one, other = (generator(noise, torch.eye(4)[[place] * 6]) for place in (0, 3))
    assert not torch.allclose(one, other)
    with pytest.raises(ValueError, match="built for 4 classes and is given 0"):
        generator(noise)
    with pytest.raises(ValueError, match="built for 0 classes and is given 4"):
        config.build(GREY)(noise, torch.eye(4)[[0] * 6])


def test_an_end_of_batchnorm_has_the_networks_mean_and_deviation_and_is_clamped_only_when_training_is_over():
    border = Border("batchnorm", ImageKind((2, 4, 4), (0.1, 0.6), (0.3, 0.2)))
    raw = torch.randn(512, 2, 4, 4, generator=seeded())
    pixels = border(raw)
    assert pixels.mean(dim=(0, 2, 3)).tolist() == pytest.approx([0.1, 0.6], abs=1e-3)
    assert pixels.std(dim=(0, 2, 3)).tolist() == pytest.approx([0.3, 0.2], abs=1e-3)
    assert pixels.min() < 0
    assert border.eval()(raw).min() == 0


def test_the_other_ends_map_their_space_onto_the_box():
    raw = torch.tensor([-100.0, 0.0, 100.0]).view(1, 1, 1, 3)
    for end in ("tanh", "sigmoid"):
        assert Border(end, GREY)(raw).flatten().tolist() == [0.0, 0.5, 1.0]


def test_the_published_widths_have_the_published_sizes():
    colour = ImageKind((3, 32, 32), (0.5,) * 3, (0.5,) * 3)
    small = Upsample().build(colour)
    # linear, three convolutions with biases, two affine parameters for each of 128, 128 and 64 channels.
    linear, convolutions = 257 * 128 * 64, 1153 * 128 + 1153 * 64 + 577 * 3
    assert sum(each.numel() for each in small.parameters()) == linear + convolutions + 2 * 320
    digits = MLP().build(ImageKind((1, 28, 28), (0.0,), (1.0,), classes=10))
    affine = 2 * (2 * 500)
    assert sum(each.numel() for each in digits.parameters()) == 111 * 500 + 501 * 500 + 501 * 784 + affine
    large = UpsampleLarge().build(colour)
    assert large.linear.out_features == 256 * 64
    first = next(layer for layer in DCGAN().build(colour).layers if isinstance(layer, nn.ConvTranspose2d))
    assert tuple(first.weight.shape) == (100, 256, 4, 4)


# Codes.


def test_a_code_is_the_weighed_sum_of_normalised_embeddings():
    embeddings = ClassEmbeddings(torch.tensor([[1.0, 3.0], [5.0, 1.0], [0.0, 0.0]]), noise_scale=0.0)
    drawn = Superposition(torch.tensor([[0, 1]]), torch.tensor([[0.25, 0.75]]))
    code = embeddings(drawn, torch.randn(1, 2, 2))
    # Of two features the normalised pair is (-1, 1) or (1, -1).
    assert code.flatten().tolist() == pytest.approx([0.25 * -1 + 0.75 * 1, 0.25 * 1 - 0.75 * 1], abs=1e-4)
    assert ClassEmbeddings(torch.zeros(3, 2), mapped=7)(drawn, torch.randn(1, 2, 2)).shape == (1, 7)


@settings(deadline=None)
@given(count=st.integers(1, 20), mixed=st.integers(1, 5), classes=st.integers(2, 12), seed=st.integers(0, 99))
def test_soft_labels_sum_to_one_and_a_class_alone_is_hard(count, mixed, classes, seed):
    drawn = superposition(count, mixed, classes, seeded(seed))
    labels = drawn.labels(classes)
    assert labels.shape == (count, classes)
    assert torch.allclose(labels.sum(dim=1), torch.ones(count), atol=1e-5)
    if mixed == 1:
        assert torch.equal(labels.argmax(dim=1), drawn.classes[:, 0])
        assert torch.equal(labels.max(dim=1).values, torch.ones(count))


def test_a_class_that_is_drawn_twice_has_both_shares():
    drawn = Superposition(torch.tensor([[1, 1, 0]]), torch.tensor([[0.5, 0.2, 0.3]]))
    assert drawn.labels(3).flatten().tolist() == pytest.approx([0.3, 0.7, 0.0])


# Evolution: generators of one number each, which are worth minus their distance from a goal.


class Number(nn.Module):
    def __init__(self, start=0.0):
        super().__init__()
        self.value = nn.Parameter(torch.tensor([start]))

    def forward(self, noise):
        return noise * 0 + self.value


def evolved(mutations, losses, *, goal=10.0, crossover=True, lr=1.0, noise=3):
    """One generation from 0; return the evolution, and who was stepped in which order."""
    evolution = Evolution(Number(), mutations, crossover=crossover)
    makers = {name: evolution.optimizer(name, lambda given: torch.optim.SGD(given, lr=lr)) for name in evolution.copies}
    optimizers = {name: make(evolution.copies[name].parameters()) for name, make in makers.items()}

    def score(images):
        return Score(-(images - goal).abs().flatten(), -(images - goal).abs().mean())

    stepped = []
    draw = torch.zeros(noise, 1)
    for name, loss in evolution.generation(lambda one: one(draw), lambda one: one(draw), losses, score):
        optimizers[name].zero_grad()
        loss.backward()
        optimizers[name].step()
        stepped.append(name)
    return evolution, stepped


def test_the_fittest_mutant_takes_the_place_of_every_copy():
    losses = {"up": lambda images: -images.mean(), "down": lambda images: images.mean()}
    evolution, stepped = evolved(["down", "up"], losses, crossover=False)
    assert stepped == ["down", "up"]
    assert [copy.value.item() for copy in evolution.copies.values()] == [1.0, 1.0]
    assert evolution.survivor.value.item() == 1.0


def test_the_offspring_begins_as_the_fitter_parent_and_survives_where_it_is_better():
    losses = {"far": lambda images: -images.mean(), "near": lambda images: -4 * images.mean()}
    evolution, stepped = evolved(["far", "near"], losses)
    assert stepped == ["far", "near", OFFSPRING]
    # The best images are the fitter parent's own, so that the offspring has nothing to learn.
    assert evolution.survivor.value.item() == 4.0


def test_the_offspring_learns_the_better_image_for_each_noise():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.values = nn.Parameter(torch.zeros(2))

        def forward(self, noise):
            return noise * 0 + self.values[:, None]

    evolution = Evolution(Two(), ["left", "right"])
    made = {}
    for name in evolution.copies:
        make = evolution.optimizer(name, lambda given: torch.optim.SGD(given, lr=1.0))
        made[name] = make(evolution.copies[name].parameters())
    losses = {"left": lambda images: -3 * images[0].sum(), "right": lambda images: -2 * images[1].sum()}
    goal = torch.tensor([[3.0], [2.0]])

    def score(images):
        return Score(-(images - goal).abs().flatten(), -(images - goal).square().sum())

    draw = torch.zeros(2, 1)
    for name, loss in evolution.generation(lambda one: one(draw), lambda one: one(draw), losses, score):
        made[name].zero_grad()
        loss.backward()
        made[name].step()
    # It starts from (3, 0); half the squared distance to (3, 2) has the gradient (0, -2): one step reaches both.
    assert evolution.survivor.values.tolist() == [3.0, 2.0]


def test_the_survivors_optimiser_state_is_everyones():
    evolution = Evolution(Number(), ["one", "other"], crossover=False)
    optimizers = {}
    for name in evolution.copies:
        make = evolution.optimizer(name, lambda given: torch.optim.Adam(given, lr=0.1))
        optimizers[name] = make(evolution.copies[name].parameters())
    losses = {"one": lambda images: -images.mean(), "other": lambda images: images.mean()}
    draw = torch.zeros(3, 1)

    def score(images):
        return Score(images.flatten(), images.mean())

    for name, loss in evolution.generation(lambda one: one(draw), lambda one: one(draw), losses, score):
        optimizers[name].zero_grad()
        loss.backward()
        optimizers[name].step()
    first, second = (each.state_dict()["state"][0]["exp_avg"] for each in optimizers.values())
    assert torch.equal(first, second)
    assert first.data_ptr() != second.data_ptr()
    assert first.item() == pytest.approx(-0.1)


def test_mutations_have_names_of_their_own():
    for wrong in ([], ["a", "a"], [OFFSPRING]):
        with pytest.raises(ValueError, match="names of their own"):
            Evolution(Number(), wrong)
