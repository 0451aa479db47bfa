"""The walk to the boundary, its base and target classes, what walks came to, and the step that attacks share."""

import math
from dataclasses import asdict, replace
from typing import get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import nn
from torch.nn import functional as F

from compressor.attack import (
    CROSSED,
    NOT_CROSSED,
    THIRD,
    BoundaryAttack,
    BoundarySamples,
    Walk,
    sample_targets,
    select_bases,
    summarise,
)
from compressor.attack.slope import ball, climb, gap, slope
from compressor.methods.bss import Attack


class Curved(nn.Module):
    """A smooth random network in float64, wide logits: walks need different numbers of steps."""

    def __init__(self, seed: int = 0, classes: int = 5) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.conv = nn.Conv2d(3, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(6, momentum=1.0)
        self.head = nn.Linear(6 * 16, classes)
        self.double()
        with torch.no_grad():
            self.head.weight.mul_(4.0)
            images = torch.rand(64, 3, 8, 8, dtype=torch.float64)
            self.train()(images)
            self.head.bias.sub_(self.eval()(images).mean(dim=0))  # no class is rare

    def forward(self, images):
        return self.head(F.avg_pool2d(torch.tanh(self.norm(self.conv(images))), 2).flatten(1))


class Counting(nn.Module):
    """Passes images on and remembers how many there were in each call, and whether a graph was built."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.calls, self.graphs = [], []

    def forward(self, images):
        logits = self.network(images)
        self.calls.append(len(images))
        self.graphs.append(logits.requires_grad)
        return logits


def published_walk(network, image, base, target, std, steps, step_size, margin):
    """The formula of the paper and the stop of the authors' code, one image and one float64 step at a time."""
    z = image / std
    for done in range(steps + 1):
        z = z.detach().requires_grad_()
        logits = network((z * std).unsqueeze(0))[0]
        if int(logits.argmax()) != base or done == steps:
            return (z * std).detach(), logits.detach(), done
        gap = logits[base] - logits[target]
        (gradient,) = torch.autograd.grad(gap, z)
        z = z.detach() - step_size * (gap.detach() + margin) * gradient / gradient.pow(2).sum().sqrt()
        z = torch.minimum(torch.maximum(z, 0 / std), 1 / std)
    raise AssertionError


STD = torch.tensor([0.2, 0.25, 0.3], dtype=torch.float64)
ONE = torch.ones(3)


def curved_walk(count=24, seed=0, step_size=0.75, steps=6, **options):
    network = Curved()
    images = torch.rand(count, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        base = network(images).argmax(dim=1)
    target = (base + 1 + torch.arange(count) % 4) % 5
    return network, images, base, target, BoundaryAttack(steps=steps, step_size=step_size, margin=1e-3, **options)


# Closed forms


def test_gap_and_margin_shrink_by_one_factor_a_step_on_a_linear_model(linear):
    # dL/dz = d * std, so a step of eta (L + eps) along its unit vector leaves (L + eps)(1 - eta ||d std||).
    std = torch.tensor([0.5, 0.25], dtype=torch.float64)
    weight = torch.tensor([[1.0, -1.0], [-1.0, 1.0]], dtype=torch.float64)
    image = torch.tensor([0.7, 0.4], dtype=torch.float64).view(1, 2, 1, 1)
    attack = BoundaryAttack(steps=3, step_size=0.3, margin=0.01)

    walked = attack(linear(weight), image, torch.tensor([0]), torch.tensor([1]), scale=std)

    factor = 1 - 0.3 * (2 * std).norm().item()
    assert 0 < factor < 0.7
    gap = (walked.logits[0, 0] - walked.logits[0, 1]).item()
    assert gap + 0.01 == pytest.approx((0.6 + 0.01) * factor**3, rel=1e-12)
    # The way is along d * std² in pixels: channel 0 moves (0.5 / 0.25)² times as far as channel 1.
    way = (walked.images - image).flatten()
    assert (way[0] / way[1]).item() == pytest.approx(-4.0, rel=1e-9)
    assert walked.steps.tolist() == [3]
    assert walked.crossed.tolist() == [NOT_CROSSED]


def test_a_long_step_crosses_and_lands_where_the_formula_says(linear):
    weight = torch.tensor([[3.0, 0.0], [0.0, 4.0]])
    image = torch.tensor([0.5, 0.3]).view(1, 2, 1, 1)  # gap 0.3, gradient norm 5
    walked = BoundaryAttack(step_size=0.25, margin=0.0)(
        linear(weight), image, torch.tensor([0]), torch.tensor([1]), scale=torch.ones(2)
    )
    assert walked.images.flatten().tolist() == pytest.approx([0.5 - 0.25 * 0.3 * 0.6, 0.3 + 0.25 * 0.3 * 0.8])
    assert walked.crossed.tolist() == [CROSSED]
    assert walked.steps.tolist() == [1]


def test_pixels_stop_at_the_edge_of_the_box_and_the_others_walk_on(linear):
    weight = torch.tensor([[1.0, 1.0], [-1.0, -1.0]])
    image = torch.tensor([0.01, 0.9]).view(1, 2, 1, 1)
    walked = BoundaryAttack(steps=1, step_size=0.3)(
        linear(weight), image, torch.tensor([0]), torch.tensor([1]), scale=torch.ones(2)
    )
    step = 0.3 * (1.82 + 1e-4) / math.sqrt(2)
    assert walked.images.flatten().tolist() == pytest.approx([0.0, 0.9 - step])


def test_the_margin_carries_an_image_off_the_boundary_itself(linear):
    network = linear(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
    image = torch.full((1, 2, 1, 1), 0.5)  # a tie, which argmax gives to class 0
    ends = {
        margin: BoundaryAttack(margin=margin)(
            network, image, torch.tensor([0]), torch.tensor([1]), scale=torch.ones(2)
        ).crossed.item()
        for margin in (0.0, 1e-3)
    }
    assert ends == {0.0: NOT_CROSSED, 1e-3: CROSSED}


def test_a_walk_through_a_third_class_stops_there_and_is_called_so(linear):
    # Class 2 lies between class 0 and class 1.
    network = linear(torch.tensor([[4.0], [-4.0], [0.0]]), torch.tensor([-2.0, 2.0, 0.5]))
    image = torch.tensor([0.9, 0.9]).view(2, 1, 1, 1)
    walked = BoundaryAttack(step_size=0.1, margin=0.05)(
        network, image, torch.tensor([0, 0]), torch.tensor([1, 2]), scale=torch.ones(1)
    )
    assert walked.crossed.tolist() == [THIRD, CROSSED]
    assert walked.logits.argmax(dim=1).tolist() == [2, 2]


# The published walk


def test_the_walk_equals_a_float64_transcription_of_the_published_formula():
    network, images, base, target, attack = curved_walk()

    walked = attack(network, images, base, target, scale=STD)

    std = STD.view(3, 1, 1)
    for n, image in enumerate(images):
        end, logits, steps = published_walk(network, image, base[n], target[n], std, 6, 0.75, 1e-3)
        torch.testing.assert_close(walked.images[n], end, rtol=0, atol=1e-12)
        torch.testing.assert_close(walked.logits[n], logits, rtol=0, atol=1e-11)
        assert walked.steps[n] == steps
        found = int(logits.argmax())
        assert walked.crossed[n] == (NOT_CROSSED if found == base[n] else CROSSED if found == target[n] else THIRD)
    # The comparison means something: every ending and several lengths occur.
    assert set(walked.crossed.tolist()) == {NOT_CROSSED, CROSSED, THIRD}
    assert len(set(walked.steps.tolist())) >= 4


WALKS = pytest.mark.parametrize("walk", get_args(Walk))


@WALKS
@pytest.mark.parametrize("step_size", [0.75, 5.0], ids=["few cross at once", "most cross at once"])
def test_attacking_a_batch_equals_attacking_its_images_singly(step_size, walk):
    network, images, base, target, attack = curved_walk(step_size=step_size, walk=walk)
    together = attack(network, images, base, target, scale=STD)
    for n in range(len(images)):
        alone = attack(network, images[n : n + 1], base[n : n + 1], target[n : n + 1], scale=STD)
        for whole, single in zip(together, alone, strict=True):
            torch.testing.assert_close(whole[n : n + 1], single, rtol=0, atol=1e-12)


@WALKS
@pytest.mark.parametrize("step_size", [0.75, 5.0])
def test_the_logits_are_those_of_the_returned_images(step_size, walk):
    network, images, base, target, attack = curved_walk(step_size=step_size, walk=walk)
    walked = attack(network, images, base, target, scale=STD)
    torch.testing.assert_close(walked.logits, network(walked.images).detach(), rtol=0, atol=1e-11)


@settings(max_examples=25)
@given(
    seed=st.integers(0, 10_000),
    step_size=st.floats(0.01, 50),
    scale=st.floats(0.05, 2),
    steps=st.integers(0, 4),
    walk=st.sampled_from(get_args(Walk)),
)
def test_pixels_stay_in_the_box_and_order_does_not_matter(seed, step_size, scale, steps, walk):
    network, images, base, target, _ = curved_walk(count=8, seed=seed)
    attack = BoundaryAttack(steps=steps, step_size=step_size, walk=walk)
    walked = attack(network, images, base, target, scale=scale * STD)
    assert walked.images.min() >= 0
    assert walked.images.max() <= 1
    order = torch.randperm(8, generator=torch.Generator().manual_seed(seed))
    shuffled = attack(network, images[order], base[order], target[order], scale=scale * STD)
    torch.testing.assert_close(shuffled.images, walked.images[order], rtol=0, atol=1e-9)
    assert shuffled.crossed.tolist() == walked.crossed[order].tolist()


# What stays


@WALKS
def test_images_already_across_stay_while_the_others_move(tiny, images, walk):
    network, batch = tiny(), images(6)
    found = network(batch).argmax(dim=1)
    base = found.clone()
    base[::2] = (found[::2] + 1) % 4
    target = (base + 1) % 4
    walked = BoundaryAttack(walk=walk)(network, batch, base, target, scale=ONE)
    torch.testing.assert_close(walked.images[::2], batch[::2], rtol=0, atol=0)
    assert walked.steps[::2].tolist() == [0, 0, 0]
    assert (walked.steps[1::2] > 0).all()
    assert (walked.images[1::2] != batch[1::2]).flatten(1).any(dim=1).all()


@WALKS
def test_a_flat_model_moves_nothing(images, walk):
    flat = nn.Sequential(nn.Flatten(), nn.Linear(192, 4))
    nn.init.zeros_(flat[1].weight)
    batch = images(3)
    base = flat(batch).argmax(dim=1)
    walked = BoundaryAttack(walk=walk)(flat, batch, base, (base + 1) % 4, scale=ONE)
    torch.testing.assert_close(walked.images, batch, rtol=0, atol=0)
    assert walked.crossed.tolist() == [NOT_CROSSED] * 3
    assert walked.steps.tolist() == [0] * 3
    torch.testing.assert_close(walked.logits, flat(batch).detach())


def test_an_image_on_a_plateau_does_not_disturb_its_neighbours():
    class Plateau(nn.Module):
        def forward(self, pixels):
            x = pixels.flatten(1)
            return torch.stack((x[:, 0].clamp(0.2, 0.6), x[:, 1]), dim=1) * torch.tensor([1.0, 0.0])

    batch = torch.tensor([[0.9, 0.5], [0.5, 0.5]]).view(2, 2, 1, 1)
    zero, one = torch.tensor([0, 0]), torch.tensor([1, 1])
    walked = BoundaryAttack(steps=3)(Plateau(), batch, zero, one, scale=torch.ones(2))
    assert walked.images.isfinite().all()
    assert walked.images[0].flatten().tolist() == pytest.approx([0.9, 0.5])
    assert walked.images[1, 0].item() < 0.5
    assert walked.steps.tolist() == [0, 3]


def test_an_overflowing_gradient_moves_nothing(linear):
    network = linear(torch.tensor([[3e38, 3e38], [-3e38, 3e38]]))
    image = torch.tensor([0.2, 0.0]).view(1, 2, 1, 1)
    walked = BoundaryAttack()(network, image, torch.tensor([0]), torch.tensor([1]), scale=torch.full((2,), 10.0))
    torch.testing.assert_close(walked.images, image, rtol=0, atol=0)


@WALKS
def test_no_images_make_no_samples(tiny, images, walk):
    none = torch.empty(0, dtype=torch.int64)
    walked = BoundaryAttack(walk=walk)(tiny(), images(0), none, none, scale=ONE)
    assert [tuple(part.shape) for part in walked] == [(0, 3, 8, 8), (0, 4), (0,), (0,)]


def test_arguments_are_not_changed(tiny, images):
    network, batch = tiny(), images(4)
    base = network(batch).argmax(dim=1)
    kept = batch.clone(), base.clone()
    BoundaryAttack()(network, batch, base, (base + 1) % 4, scale=ONE)
    assert torch.equal(batch, kept[0])
    assert torch.equal(base, kept[1])
    assert not batch.requires_grad


# Walks that end on the boundary


def test_a_tight_walk_ends_within_the_last_step_halved_six_times(linear):
    weight = torch.tensor([[3.0, 0.0], [0.0, 4.0]], dtype=torch.float64)
    image = torch.tensor([0.5, 0.3], dtype=torch.float64).view(1, 2, 1, 1)  # gap 0.3, gradient norm 5
    arguments = linear(weight), image, torch.tensor([0]), torch.tensor([1])
    unit = torch.ones(2, dtype=torch.float64)
    published, tight = (
        BoundaryAttack(step_size=1.0, margin=0.0, walk=walk)(*arguments, scale=unit) for walk in ("published", "tight")
    )

    def gaps(walked):
        return (walked.logits[:, 0] - walked.logits[:, 1]).tolist()

    assert gaps(published) == pytest.approx([0.3 * (1 - 5)])
    # The step goes from 0.3 to -1.2, in 64 parts: the boundary lies in the 13th, at 12.8 of them.
    assert gaps(tight) == pytest.approx([0.3 - 13 * 1.5 / 64])
    assert tight.crossed.tolist() == [CROSSED]
    assert tight.steps.tolist() == [1]
    way, longer = (walked.images - image for walked in (tight, published))
    torch.testing.assert_close(way, longer * 13 / 64)


@settings(max_examples=25)
@given(seed=st.integers(0, 10_000), step_size=st.floats(0.5, 20), bisections=st.integers(0, 8))
def test_a_tight_end_is_out_and_a_part_of_the_last_step_before_it_is_in(seed, step_size, bisections):
    network, images, base, target, attack = curved_walk(count=8, seed=seed, step_size=step_size)
    tight = replace(attack, walk="tight", bisections=bisections)(network, images, base, target, scale=STD)
    whole = attack(network, images, base, target, scale=STD)

    assert tight.steps.tolist() == whole.steps.tolist()
    out = whole.crossed != NOT_CROSSED
    assert torch.equal(tight.crossed != NOT_CROSSED, out)
    torch.testing.assert_close(tight.images[~out], whole.images[~out], rtol=0, atol=0)
    for n in out.nonzero().flatten().tolist():
        fewer = replace(attack, steps=int(whole.steps[n]) - 1)
        one = slice(n, n + 1)
        before = fewer(network, images[one], base[one], target[one], scale=STD).images
        step = (whole.images[one] - before) / 2**bisections
        just_before = network(tight.images[one] - step).argmax()
        assert just_before == base[n]
        assert network(tight.images[one]).argmax() != base[n]


def test_without_bisections_a_tight_walk_is_the_published_one():
    network, images, base, target, attack = curved_walk()
    whole = attack(network, images, base, target, scale=STD)
    none = replace(attack, walk="tight", bisections=0)(network, images, base, target, scale=STD)
    assert all(torch.equal(one, other) for one, other in zip(whole, none, strict=True))


def test_a_newton_walk_crosses_a_linear_boundary_in_one_step_by_the_margin(linear):
    # The nearest point of the boundary in normalised units, whatever the steepness.
    std = torch.tensor([0.5, 0.25], dtype=torch.float64)
    image = torch.tensor([0.7, 0.4], dtype=torch.float64).view(1, 2, 1, 1)
    for steep in (0.1, 1.0, 30.0):
        weight = steep * torch.tensor([[1.0, -1.0], [-1.0, 1.0]], dtype=torch.float64)
        walked = BoundaryAttack(walk="newton", margin=1e-3)(
            linear(weight), image, torch.tensor([0]), torch.tensor([1]), scale=std
        )
        assert (walked.logits[0, 0] - walked.logits[0, 1]).item() == pytest.approx(-1e-3)
        assert (walked.crossed.tolist(), walked.steps.tolist()) == ([CROSSED], [1])
        normal = torch.tensor([0.5, -0.25], dtype=torch.float64)  # of the plane z0 / 2 - z1 / 4 = 0
        nearest = 0.3 / normal.norm() ** 2 * normal
        moved = ((image - walked.images).flatten() / std) * 0.3 / (0.3 + 1e-3 / (2 * steep))
        torch.testing.assert_close(moved, nearest)


def test_newton_walks_end_nearer_to_the_boundary_than_published_ones():
    network, images, base, target, attack = curved_walk(step_size=5.0, steps=20)
    ends = [
        replace(attack, walk=walk)(network, images, base, target, scale=STD)
        for walk in ("published", "tight", "newton")
    ]
    published, tight, newton = (summarise(images, end, base, scale=STD) for end in ends)
    assert published.gap < tight.gap < 0
    assert published.gap < newton.gap < 0
    assert newton.length < published.length
    assert tight.crossed + tight.third == published.crossed + published.third == newton.crossed + newton.third == 1


@pytest.mark.parametrize("weight", [1e-30, 3e38])
def test_a_newton_step_that_overflows_moves_nothing(linear, weight):
    network = linear(weight * torch.tensor([[1.0, 0.5], [-1.0, 1.0]]))
    image = torch.tensor([0.9, 0.0]).view(1, 2, 1, 1)
    walked = BoundaryAttack(walk="newton")(
        network, image, torch.tensor([0]), torch.tensor([1]), scale=torch.full((2,), 10.0)
    )
    torch.testing.assert_close(walked.images, image, rtol=0, atol=0)


def test_newton_walks_cost_one_backward_pass_where_the_network_is_linear(linear):
    network = Counting(linear(torch.tensor([[10.0], [-10.0]]), torch.tensor([-5.0, 5.0])))
    batch = torch.linspace(0.6, 0.9, 4).view(4, 1, 1, 1)
    zero = torch.zeros(4, dtype=torch.int64)
    BoundaryAttack(walk="newton")(network, batch, zero, zero + 1, scale=torch.ones(1))
    assert network.graphs == [True, False]


def test_bisections_build_no_graph_and_are_asked_of_those_that_left_alone():
    network, images, base, target, attack = curved_walk()
    whole, tight = Counting(network), Counting(network)
    ends = attack(whole, images, base, target, scale=STD)
    replace(attack, walk="tight", bisections=3)(tight, images, base, target, scale=STD)
    added = len(whole.calls)
    assert tight.calls[:added] == whole.calls
    assert tight.calls[added:] == [int((ends.crossed != NOT_CROSSED).sum())] * 3
    assert not any(tight.graphs[added:])


@pytest.mark.parametrize("walk", ["tight", "newton"])
def test_the_last_decision_is_made_in_single_precision_whatever_autocast_says(walk, tiny, images):
    network, batch = tiny(), images(64)
    with torch.no_grad():
        network.head.weight *= 100  # steep, so that bfloat16 resolves no margin
        network.head.bias -= network(batch).mean(dim=0)
    base = network(batch).argmax(dim=1)
    precisions = []
    network.head.register_forward_hook(lambda _module, _inputs, output: precisions.append(output.dtype))
    with torch.autocast("cpu", torch.bfloat16):
        walked = BoundaryAttack(walk=walk)(network, batch, base, (base + 1) % 4, scale=ONE)
        rounded = network(walked.images).argmax(dim=1)
    exact = network(walked.images).detach()
    torch.testing.assert_close(walked.logits, exact, rtol=1e-4, atol=1e-4)
    assert ((walked.crossed != NOT_CROSSED) == (exact.argmax(dim=1) != base)).all()
    assert (walked.crossed != NOT_CROSSED).float().mean() > 0.9
    assert (rounded != exact.argmax(dim=1)).any()  # bfloat16 says otherwise of some
    assert precisions[0] == torch.bfloat16
    assert torch.float32 in precisions


@WALKS
def test_each_image_moves_at_most_as_often_as_asked_also_where_it_is_looked_at_again(walk, tiny, images):
    network, batch = tiny(), images(32)
    base = network(batch).argmax(dim=1)
    with torch.autocast("cpu", torch.bfloat16):
        walked = BoundaryAttack(walk=walk, steps=2, step_size=1e-3)(network, batch, base, (base + 1) % 4, scale=ONE)
    assert walked.steps.max() <= 2


# As a part of a recipe


def test_a_recipe_that_says_nothing_of_the_walk_means_the_published_one():
    assert (
        Attack().build() == BoundaryAttack() == BoundaryAttack(walk="published", steps=10, step_size=0.3, margin=1e-4)
    )
    every = {"walk": "tight", "steps": 3, "step_size": 0.5, "margin": 0.01, "bisections": 4}
    assert asdict(Attack(**every).build()) == every


@pytest.mark.parametrize(
    ("idle", "words"),
    [
        ({"bisections": 3}, "is for the walk tight, not published"),
        ({"walk": "newton", "bisections": 3}, "is for the walk tight, not newton"),
        ({"walk": "newton", "step_size": 0.5}, "is for the walks published and tight, not newton"),
    ],
)
def test_a_setting_that_the_walk_has_no_use_for_is_refused(idle, words):
    with pytest.raises(ValidationError, match=words):
        Attack(**idle)


# What walks came to


def test_a_summary_counts_endings_and_takes_medians():
    images = torch.full((3, 2, 1, 1), 0.5)
    ends = images.clone()
    ends[0, 0] += 0.1  # one unit of the first channel
    ends[1, 1] -= 0.2  # one of the second
    ends[2] += torch.tensor([0.3, 0.4]).view(2, 1, 1)  # three and two: sqrt(13)
    logits = torch.tensor([[1.0, 3.0, 0.0], [2.0, 1.0, 2.5], [4.0, 1.0, 3.0]])
    samples = BoundarySamples(
        ends, logits, torch.tensor([CROSSED, THIRD, NOT_CROSSED], dtype=torch.int8), torch.tensor([1, 3, 5])
    )

    found = summarise(images, samples, torch.tensor([0, 0, 0]), scale=torch.tensor([0.1, 0.2]))

    assert (found.crossed.item(), found.third.item()) == (pytest.approx(1 / 3), pytest.approx(1 / 3))
    assert found.gap.item() == -0.5  # of -2, -0.5 and 1
    assert found.length.item() == pytest.approx(1.0)
    assert found.change.item() == pytest.approx(0.2)
    assert found.steps.item() == 3


def test_a_summary_of_no_walks_is_unknown(tiny, images):
    none = torch.empty(0, dtype=torch.int64)
    samples = BoundaryAttack()(tiny(), images(0), none, none, scale=ONE)
    assert all(math.isnan(value) for value in summarise(images(0), samples, none, scale=ONE))


# The step that attacks share


def test_the_slope_of_a_linear_network_is_the_difference_of_its_weights(linear):
    weight = torch.tensor([[1.0, 2.0], [0.0, -1.0], [5.0, 5.0]])
    pixels = torch.rand(3, 2, 1, 1)
    logits, value, gradient = slope(linear(weight), pixels, gap(torch.tensor([0, 1, 2]), torch.tensor([1, 0, 0])))
    torch.testing.assert_close(gradient.flatten(1), torch.tensor([[1.0, 3.0], [-1.0, -3.0], [4.0, 3.0]]))
    torch.testing.assert_close(value, (gradient * pixels).flatten(1).sum(dim=1))
    assert not logits.requires_grad
    assert not value.requires_grad


def test_climbing_goes_along_signs_within_the_bounds():
    start = torch.tensor([0.5, 0.5, 0.95]).view(1, 3, 1, 1)
    way = torch.tensor([-7.0, 0.0, 1e-9], dtype=torch.float64).view(1, 3, 1, 1)
    ends = list(climb(start, lambda _: way, [0.1, 0.05, 0.01], ball(start, 0.12)))
    assert [end.flatten().tolist() for end in ends] == [
        pytest.approx([0.4, 0.5, 1.0]),
        pytest.approx([0.38, 0.5, 1.0]),
        pytest.approx([0.38, 0.5, 1.0]),
    ]
    assert ends[0].dtype == torch.float32


# The network is left as found


@WALKS
def test_a_network_in_training_mode_is_found_as_it_was_left(tiny, images, walk):
    network, batch = tiny(), images(8)
    base = network(batch).argmax(dim=1)
    network.train()
    network.body[1].eval()  # a BatchNorm that its owner froze
    network.head.bias.requires_grad_(False)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    flags = [module.training for module in network.modules()]

    walked = BoundaryAttack(walk=walk)(network, batch, base, (base + 1) % 4, scale=ONE)

    assert [module.training for module in network.modules()] == flags
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())
    assert [name for name, p in network.named_parameters() if not p.requires_grad] == ["head.bias"]
    torch.testing.assert_close(walked.logits, network.eval()(walked.images).detach(), rtol=1e-4, atol=1e-5)


def test_a_network_that_refuses_to_be_switched_is_walked_in(tiny, images):
    class Exported(nn.Module):  # as torch.export's modules, which cannot train or eval
        def __init__(self):
            super().__init__()
            self.network = tiny()

        def forward(self, pixels):
            return self.network(pixels)

        def train(self, mode=True):
            raise NotImplementedError(mode)

    network, batch = Exported(), images(2)
    base = network(batch).argmax(dim=1)
    assert (BoundaryAttack()(network, batch, base, (base + 1) % 4, scale=ONE).steps > 0).all()


def test_a_failing_network_is_left_as_found_too(images):
    class Failing(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(1, 1)

        def forward(self, _):
            raise ValueError("no")

    network = Failing().train()
    with pytest.raises(ValueError, match="no"):
        BoundaryAttack()(network, images(1), torch.tensor([0]), torch.tensor([1]), scale=ONE)
    assert network.training
    assert network.inner.training
    assert network.inner.weight.requires_grad


@WALKS
def test_no_weight_gradient_is_computed(tiny, images, walk):
    network, batch = tiny(), images(4)
    base = network(batch).argmax(dim=1)
    seen = []
    network.head.register_forward_hook(lambda module, _inputs, _output: seen.append(module.weight.requires_grad))
    BoundaryAttack(steps=2, walk=walk)(network, batch, base, (base + 1) % 4, scale=ONE)
    assert seen
    assert not any(seen)


# What it costs


def test_images_that_all_cross_at_once_cost_two_passes(linear):
    network = Counting(linear(torch.tensor([[10.0], [-10.0]]), torch.tensor([-5.0, 5.0])))
    batch = torch.linspace(0.6, 0.9, 4).view(4, 1, 1, 1)
    zero = torch.zeros(4, dtype=torch.int64)
    walked = BoundaryAttack(steps=10)(network, batch, zero, zero + 1, scale=torch.ones(1))
    assert walked.crossed.tolist() == [CROSSED] * 4
    assert network.calls == [4, 4]
    assert network.graphs == [True, False]


def test_images_that_stopped_are_not_asked_again():
    network, images, base, target, attack = curved_walk()
    counting = Counting(network)
    walked = attack(counting, images, base, target, scale=STD)
    # One look at an image where it starts and after each of its steps; a second one only where most were expected out.
    looks = int((walked.steps + 1).sum())
    assert looks <= sum(counting.calls) <= 1.5 * looks
    assert sorted(counting.calls, reverse=True) == counting.calls


# Under the caller's modes


def test_it_works_under_no_grad_and_refuses_inference_mode(tiny, images):
    network, batch = tiny(), images(4)
    base = network(batch).argmax(dim=1)
    free = BoundaryAttack()(network, batch, base, (base + 1) % 4, scale=ONE)
    with torch.no_grad():
        walked = BoundaryAttack()(network, batch, base, (base + 1) % 4, scale=ONE)
    assert torch.equal(walked.images, free.images)
    assert not walked.logits.requires_grad
    with torch.inference_mode(), pytest.raises(RuntimeError, match="not inference_mode"):
        BoundaryAttack()(network, batch, base, (base + 1) % 4, scale=ONE)


def test_under_autocast_the_images_and_logits_stay_float32(tiny, images):
    network, batch = tiny(), images(8)
    with torch.autocast("cpu", torch.bfloat16):
        base = network(batch).argmax(dim=1)
        walked = BoundaryAttack()(network, batch, base, (base + 1) % 4, scale=ONE)
        answer = network(walked.images)
    assert answer.dtype == torch.bfloat16
    assert walked.images.dtype == walked.logits.dtype == torch.float32
    assert (walked.steps > 0).all()
    torch.testing.assert_close(walked.logits, answer.float().detach(), rtol=0.05, atol=0.05)


# Which images


def logits_of(*rows):
    return torch.tensor(rows).clamp_min(1e-30).log()


def test_bases_are_those_both_get_right_most_different_first():
    teacher = logits_of([0.6, 0.4, 0.0], [0.6, 0.2, 0.2], [0.6, 0.3, 0.1], [0.6, 0.4, 0.0], [0.2, 0.8, 0.0])
    student = logits_of([0.6, 0.2, 0.2], [0.6, 0.2, 0.2], [0.6, 0.2, 0.2], [0.2, 0.8, 0.0], [0.6, 0.4, 0.0])
    labels = torch.tensor([0, 0, 0, 0, 0])  # the student is wrong about the fourth, the teacher about the fifth
    assert select_bases(teacher, student, labels, 64).tolist() == [0, 2, 1]
    assert select_bases(teacher, student, labels, 2).tolist() == [0, 2]


def test_the_score_leaves_the_true_class_out():
    teacher = logits_of([0.9, 0.05, 0.05], [0.5, 0.45, 0.05])
    student = logits_of([0.5, 0.25, 0.25], [0.5, 0.05, 0.45])
    # First: 2 * 0.2² = 0.08 (with the true class 0.24); second: 2 * 0.4² = 0.32.
    assert select_bases(teacher, student, torch.tensor([0, 0]), 1).tolist() == [1]
    teacher = logits_of([0.98, 0.01, 0.01], [0.5, 0.4, 0.1])
    student = logits_of([0.4, 0.3, 0.3], [0.5, 0.08, 0.42])
    # First: 2 * 0.29² = 0.168 (with the true class 0.505); second: 2 * 0.32² = 0.205.
    assert select_bases(teacher, student, torch.tensor([0, 0]), 1).tolist() == [1]


def test_selection_equals_a_plain_loop_over_the_batch():
    torch.manual_seed(1)
    teacher, student = torch.randn(200, 6) * 2, torch.randn(200, 6) * 2
    labels = torch.where(torch.rand(200) < 0.7, teacher.argmax(dim=1), torch.randint(0, 6, (200,)))
    scores = {}
    for n in range(200):
        if teacher[n].argmax() == labels[n] == student[n].argmax():
            difference = (teacher[n].softmax(0) - student[n].softmax(0)) ** 2
            scores[n] = float(difference.sum() - difference[labels[n]])
    best = sorted(scores, key=lambda n: -scores[n])
    assert len(best) > 12
    assert select_bases(teacher, student, labels, 12).tolist() == best[:12]
    assert sorted(select_bases(teacher, student, labels, 200).tolist()) == sorted(best)


def test_equal_scores_keep_the_order_of_the_batch():
    logits = torch.tensor([[2.0, 1.0]]).repeat(100, 1)
    assert select_bases(logits, logits, torch.zeros(100, dtype=torch.int64), 40).tolist() == list(range(40))


@pytest.mark.parametrize("wrong", [4, 3, 0], ids=["no candidate", "one candidate", "all are candidates"])
def test_there_may_be_no_one_or_only_candidates(wrong):
    logits = torch.eye(4)
    labels = torch.arange(4)
    labels[:wrong] = (labels[:wrong] + 1) % 4
    assert select_bases(logits, logits, labels, 64).tolist() == list(range(wrong, 4))


def test_targets_are_drawn_as_often_as_the_teacher_says():
    probabilities = torch.tensor([0.7, 0.18, 0.09, 0.03])
    drawn = sample_targets(
        probabilities.log().repeat(10_000, 1),
        torch.zeros(10_000, dtype=torch.int64),
        torch.Generator().manual_seed(0),
    )
    frequency = torch.bincount(drawn, minlength=4) / 10_000
    assert frequency[0] == 0
    # Four standard errors of a fraction of 10,000 draws are at most 0.02.
    torch.testing.assert_close(frequency[1:], probabilities[1:] / 0.3, rtol=0, atol=0.02)


def test_a_saturated_teacher_still_has_targets():
    logits = torch.tensor([[1e4, 0.0, 0.0], [0.0, 1e4, -1e4]]).repeat(200, 1)
    base = torch.tensor([0, 1]).repeat(200)
    drawn = sample_targets(logits, base, torch.Generator().manual_seed(0))
    assert set(drawn[::2].tolist()) == {1, 2}
    assert set(drawn[1::2].tolist()) == {0}


def test_the_same_generator_draws_the_same_targets():
    logits, base = torch.randn(50, 10), torch.randint(0, 10, (50,))
    first, second, other = (sample_targets(logits, base, torch.Generator().manual_seed(s)) for s in (3, 3, 4))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
    assert (first != base).all()
