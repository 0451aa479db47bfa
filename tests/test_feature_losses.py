"""Losses between inner outputs that learn a projection or remember classes: closed forms, what is kept and refused."""

import math

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from compressor.batch import Batch
from compressor.errors import UsageError
from compressor.methods import Setting
from compressor.methods.kd import KD
from compressor.methods.losses.nd import ND
from compressor.methods.losses.review import Review, ReviewKD, scaled_distance
from compressor.methods.losses.vkd import Orthogonal, VkD
from compressor.methods.losses.wkd_f import WKDF, Moments
from compressor.recipe import Training
from compressor.training.loop import TrainingState

CPU = torch.device("cpu")


def doubles(rows):
    return torch.tensor(rows, dtype=torch.float64)


def setting(student, teacher):
    return Setting(student, [teacher], 4, (3, 8, 8), 32, torch.ones(3) / 4, CPU)


def batch(*labels):
    return Batch(torch.zeros(len(labels), 3, 8, 8), torch.tensor(labels), torch.arange(len(labels)))


def norm_and_direction(tiny):
    return ND(student="head", teacher="head").build(setting(tiny(), tiny(seed=1))).double()


# KD++


def test_nd_is_the_part_along_the_teachers_class_mean_of_the_longer_feature(tiny):
    loss = norm_and_direction(tiny)
    student = doubles([[3.0, 4.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0]])
    teacher = doubles([[1.0, 0.0, 0.0, 0.0], [0.0, 3.0, 0.0, 4.0]])

    found = loss(student, teacher, batch(0, 2))

    # Class 0 points along the first axis: 3 of 5. Class 2 along (0, 3, 0, 4) / 5: 3/5 of 5, the teacher's length.
    assert found.tolist() == pytest.approx([1 - 3 / 5, 1 - (3 / 5) / 5])


def test_class_means_are_those_of_all_images_met_so_far(tiny):
    loss = norm_and_direction(tiny)
    loss(doubles([[1.0, 0.0, 0.0, 0.0]]), doubles([[3.0, 0.0, 0.0, 0.0]]), batch(1))
    found = loss(doubles([[0.0, 2.0, 0.0, 0.0]]), doubles([[0.0, 4.0, 0.0, 0.0]]), batch(1))
    assert found.item() == pytest.approx(1 - (4 / 5) * 2 / 4)  # the mean points along (3, 4) / 5
    assert loss.sums[1].tolist() == [3, 4, 0, 0]
    assert loss.sums[[0, 2, 3]].abs().sum() == 0


def test_class_means_are_those_of_all_processes(tiny):
    given = setting(tiny(), tiny(seed=1))
    both = Setting(**vars(given) | {"gather": lambda rows: torch.cat((rows, rows))})
    loss = ND(student="head", teacher="head").build(both)
    loss(torch.ones(1, 4), torch.ones(1, 4), batch(3))
    assert loss.sums[3].tolist() == [2, 2, 2, 2]


def test_nd_of_maps_is_that_of_their_means_and_sizes_meet_behind_a_linear_layer(tiny):
    given = setting(tiny(width=8), tiny(width=12, seed=1))
    loss = ND(student="body", teacher="body").build(given)
    assert (loss.regressor.in_features, loss.regressor.out_features) == (8, 12)
    equal = ND(student="body", teacher="body").build(setting(tiny(), tiny(seed=1)))
    assert list(equal.parameters()) == []
    student, teacher = torch.randn(2, 8, 4, 4), torch.randn(2, 8, 4, 4)
    found = equal(student, teacher, batch(0, 1))
    other = ND(student="body", teacher="body").build(setting(tiny(), tiny(seed=1)))
    torch.testing.assert_close(found, other(student.mean((2, 3)), teacher.mean((2, 3)), batch(0, 1)))


def test_class_means_are_resumed_bit_for_bit_and_not_exported(tiny, images):
    def state():
        student, teacher = tiny(), tiny(seed=1)
        features = [{"kind": "nd", "student": "body", "teacher": "body", "weight": 2}]
        objective = KD.model_validate({"features": features}).build(setting(student, teacher))
        return TrainingState(student, objective, Training(lr=0.1), seed=0, device=CPU, steps_per_epoch=3)

    given = Batch(images(8), torch.arange(8) % 4, torch.arange(8))
    whole = state()
    whole.enter_training()
    saved = None
    for step in range(3):
        whole.advance(given)
        saved = {**whole.state_dict()} if step == 1 else saved
        if step == 1:
            resumed = state()
            resumed.load_state_dict(saved)
    resumed.enter_training()
    resumed.advance(given)
    torch.testing.assert_close(dict(resumed.objective.state_dict()), dict(whole.objective.state_dict()), rtol=0, atol=0)
    torch.testing.assert_close(resumed.student.state_dict(), whole.student.state_dict(), rtol=0, atol=0)
    assert not any("sums" in key for key in whole.reported().state_dict())


# VkD


def test_vkd_is_the_huber_distance_to_the_standardised_feature():
    loss = Orthogonal(2, 2).double()
    loss.projector.weight = doubles([[0.0, 1.0], [-1.0, 0.0]])  # a quarter turn
    found = loss(doubles([[0.5, -3.0], [1.0, 1.0]]), doubles([[4.0, 0.0], [2.0, 6.0]]))

    # Standardised: (1, -1) and (-1, 1), but for a small constant. Turned: (-3, -0.5) and (1, -1).
    expected = [((4 - 0.5) + 0.5**2 / 2) / 2, ((2 - 0.5) + (2 - 0.5)) / 2]
    assert found.tolist() == pytest.approx(expected, rel=1e-5)


def test_the_projection_keeps_lengths_and_angles_also_when_it_has_learnt():
    torch.manual_seed(0)
    loss = Orthogonal(3, 5)
    optimiser = torch.optim.SGD(loss.parameters(), lr=0.5, weight_decay=0.1)
    before = loss.projector.weight.detach().clone()
    for _ in range(3):
        optimiser.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            loss(torch.randn(4, 3), torch.randn(4, 5)).mean().backward()
        optimiser.step()
    after = loss.projector.weight.detach()
    assert not torch.allclose(before, after)
    torch.testing.assert_close(after.T @ after, torch.eye(3), rtol=0, atol=1e-5)


# WKD-F


def test_wkd_f_counts_means_and_deviations_of_channels():
    loss = Moments(nn.Identity(), ratio=4.0)
    student = doubles([[[[1.0, 3.0]], [[0.0, 0.0]]]])  # [1, 2, 1, 2]: means 2 0, variances 2 0
    teacher = doubles([[[[0.0, 0.0], [0.0, 4.0]], [[1.0, 1.0], [1.0, 1.0]]]])  # means 1 1, variances 4 0
    found = loss(student, teacher)
    deviations = (math.sqrt(2 + 1e-5) - math.sqrt(4 + 1e-5)) ** 2
    assert found.tolist() == pytest.approx([4 * (1 + 1) + deviations])


# ReviewKD


def test_the_distance_is_taken_at_several_scales():
    a = torch.zeros(1, 1, 8, 8, dtype=torch.float64)
    a[0, 0, 0, 0] = 16.0
    at = [16**2 / 64, 4**2 / 16, 1 / 4, (16 / 64) ** 2]  # the full size, and means over 2x2, 4x4 and 8x8 places
    expected = sum(weight * each for weight, each in zip((1, 1 / 2, 1 / 4, 1 / 8), at, strict=True)) / 1.875
    assert scaled_distance(a, torch.zeros_like(a)).tolist() == pytest.approx([expected])
    small = torch.full((2, 3, 2, 2), 3.0)
    assert scaled_distance(small, torch.zeros_like(small)).tolist() == pytest.approx([9, 9])


def test_a_layer_is_fused_with_the_review_of_the_later_one():
    loss = Review([1, 1], [1, 1]).double().eval()
    with torch.no_grad():
        for parameter in loss.parameters():
            parameter.zero_()
        for layer in range(2):
            for convolution, norm in (loss.enter[layer], loss.leave[layer]):
                convolution.weight[:, :, convolution.kernel_size[0] // 2, convolution.kernel_size[0] // 2] = 1
                norm.weight.fill_((1 + norm.eps) ** 0.5)  # the identity
        loss.fuse[0].bias.copy_(doubles([math.log(3), -math.log(3)]))  # three quarters and one
    first, last = doubles([4.0, 8.0]).view(2, 1, 1, 1).expand(2, 1, 2, 2), doubles([[0.0], [4.0]])
    nothing = (torch.zeros_like(first), torch.zeros_like(last))

    assert loss((first, last), nothing).tolist() == pytest.approx([0 + 3.0**2, 16 + 7.0**2])


def test_reviews_fit_layers_of_any_sizes_and_learn(tiny, images):
    student, teacher = tiny(width=8), tiny(width=12, seed=1)
    section = {"kind": "reviewkd", "student": ["body.0", "body", "head"], "teacher": ["body.0", "body", "head"]}
    objective = KD.model_validate({"features": [section]}).build(setting(student, teacher))
    state = TrainingState(student, objective, Training(lr=0.1), seed=0, device=CPU, steps_per_epoch=3)
    before = [parameter.detach().clone() for parameter in objective.features.compared.parameters()]
    state.enter_training()
    state.advance(Batch(images(8), torch.arange(8) % 4, torch.arange(8)))
    after = list(objective.features.compared.parameters())
    assert sum(torch.equal(a, b) for a, b in zip(before, after, strict=True)) == 0


def test_layers_that_are_not_in_pairs_are_refused():
    for student, teacher, sentence in (
        (["a", "b"], ["a", "b", "c"], "compared in pairs"),
        (["a"], ["a"], "at least 2"),
    ):
        with pytest.raises(ValidationError, match=sentence):
            ReviewKD.model_validate({"student": student, "teacher": teacher})


# All


def test_gradients_are_those_of_finite_differences(tiny):
    torch.manual_seed(0)
    student = torch.randn(2, 2, 2, 2, dtype=torch.float64).requires_grad_()
    teacher = torch.randn(2, 4, 3, 3, dtype=torch.float64)
    regressed = Moments(nn.Conv2d(2, 4, 1), ratio=4.0).double()
    assert torch.autograd.gradcheck(lambda maps: regressed(maps, teacher), student)
    projected = Orthogonal(2, 4).double()
    assert torch.autograd.gradcheck(lambda maps: projected(maps, teacher), student)
    first, last = torch.randn(2, 2, 3, 3).double().requires_grad_(), torch.randn(2, 3).double().requires_grad_()
    review = Review([2, 3], [4, 2]).double().eval()
    assert torch.autograd.gradcheck(lambda *taps: review(taps, (teacher, torch.ones(2, 2).double())), (first, last))
    loss = norm_and_direction(tiny)
    features = torch.randn(2, 4, dtype=torch.float64).requires_grad_()
    taught = torch.randn(2, 4, dtype=torch.float64)

    def with_new_means(given):
        loss.sums.zero_()
        return loss(given, taught, batch(0, 1))

    assert torch.autograd.gradcheck(with_new_means, features)


@pytest.mark.parametrize(
    ("loss", "sentence"),
    [
        (ND(student="body", teacher="layer3"), "the network has no module 'layer3'"),
        (
            VkD(student="body", teacher="head"),
            "vkd cannot compare its taps: body of the student gives [8, 4, 4], head of the teacher [4]",
        ),
        (WKDF(student="body", teacher="head"), "wkd-f cannot compare its taps: body of the student gives [8, 4, 4]"),
    ],
)
def test_taps_that_cannot_be_compared_are_refused(tiny, loss, sentence):
    with pytest.raises(UsageError) as caught:
        loss.build(setting(tiny(width=8), tiny(width=12, seed=1)))
    assert sentence in caught.value.message


def test_regressors_have_the_sizes_of_the_taps(tiny):
    given = setting(tiny(width=8), tiny(width=12, seed=1))
    assert VkD(student="body", teacher="body").build(given).projector.weight.shape == (12, 8)
    assert WKDF(student="body.0", teacher="body").build(given).regressor[0].weight.shape == (12, 8, 1, 1)
