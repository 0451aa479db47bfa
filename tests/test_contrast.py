"""Contrastive distillation: the closed form, whom it contrasts with, what its banks remember."""

import math

import pytest
import torch
from pydantic import ValidationError

from compressor.batch import Batch
from compressor.errors import UsageError
from compressor.methods import Setting
from compressor.methods.kd import KD
from compressor.methods.losses.crd import CRD
from compressor.recipe import Training
from compressor.training.loop import TrainingState

CPU = torch.device("cpu")


def setting(student, teacher, samples=4):
    return Setting(student, [teacher], 4, (3, 8, 8), samples, torch.ones(3) / 4, CPU)


def contrast(tiny, drawn, **settings):
    """A loss in the plane, without regressors, whose draw is given; its banks hold unit vectors at known angles."""
    torch.manual_seed(0)
    config = CRD(student="head", teacher="head", size=2, temperature=0.5, **settings)
    loss = config.build(setting(tiny(), tiny(seed=1))).double()
    loss.student, loss.teacher = torch.nn.Identity(), torch.nn.Identity()
    loss.banks.copy_(torch.stack([plane(0, 90, 180, 270), plane(30, 60, 120, 200)]))
    loss.drawn = lambda: torch.tensor(drawn)
    return loss


def plane(*degrees):
    turned = torch.tensor(degrees, dtype=torch.float64).deg2rad()
    return torch.stack((turned.cos(), turned.sin()), dim=1)


def batch(labels, indices):
    return Batch(torch.zeros(len(labels), 3, 8, 8), torch.tensor(labels), torch.tensor(indices))


def score(a, b):
    return math.exp(math.cos(math.radians(a - b)) / 0.5)


def test_crd_tells_an_image_from_those_of_other_classes_in_both_directions(tiny):
    loss = contrast(tiny, drawn=[1, 2, 3])
    loss.labels.copy_(torch.tensor([0, 0, -1, 2]))  # 1 is of the class of image 0, 2 was not met

    found = loss(5 * plane(10, 80), plane(20, 70), batch([0, 1], [0, 2]))

    expected = [0.0, 0.0]
    for own, bank in (((10, 80), (30, 60, 120, 200)), ((20, 70), (0, 90, 180, 270))):
        scores = [
            [score(angle, bank[i])] + [score(angle, bank[j]) for j in (1, 2, 3)]
            for angle, i in zip(own, (0, 2), strict=True)
        ]
        z = 4 * sum(map(sum, scores)) / 8
        for row, others in ((0, (2, 3)), (1, (1, 3))):  # image 2 is not contrasted with itself
            c = 2 / 4
            x = [each / z for each in scores[row]]
            expected[row] -= math.log(x[0] / (x[0] + c)) + sum(math.log(c / (x[j] + c)) for j in others)
    assert found.tolist() == pytest.approx(expected, rel=1e-6)


def test_banks_move_towards_what_is_met_and_the_scale_stays(tiny):
    loss = contrast(tiny, drawn=[1, 2, 3], momentum=0.5)
    loss(plane(90), plane(90), batch([3], [0]))
    torch.testing.assert_close(loss.banks[:, 0], plane(45, 60))
    torch.testing.assert_close(loss.banks[:, 1:], torch.stack([plane(90, 180, 270), plane(60, 120, 200)]))
    assert loss.labels.tolist() == [3, -1, -1, -1]
    scales = loss.scales.clone()
    assert (scales > 0).all()
    loss(plane(0), plane(10), batch([3], [0]))
    assert torch.equal(loss.scales, scales)


def test_its_gradient_is_that_of_finite_differences(tiny):
    loss = contrast(tiny, drawn=[1, 2, 3])
    banks, taught = loss.banks.clone(), plane(20, 70)
    loss.scales.fill_(7.0)

    def as_new(features):
        loss.banks.copy_(banks)
        loss.labels.fill_(-1)
        return loss(features, taught, batch([0, 1], [0, 2]))

    assert torch.autograd.gradcheck(as_new, plane(10, 80).requires_grad_())


def test_banks_are_resumed_bit_for_bit_and_not_exported(tiny, images):
    def state():
        torch.manual_seed(0)
        student, teacher = tiny(width=8), tiny(width=12, seed=1)
        features = [{"kind": "crd", "student": "body", "teacher": "body", "negatives": 16, "size": 8}]
        objective = KD.model_validate({"features": features}).build(setting(student, teacher, 8))
        return TrainingState(student, objective, Training(lr=0.1), seed=0, device=CPU, steps_per_epoch=3)

    given = Batch(images(8), torch.arange(8) % 4, torch.arange(8))
    whole, resumed = state(), state()
    whole.enter_training()
    whole.advance(given)
    resumed.load_state_dict(whole.state_dict())
    resumed.enter_training()
    for each in (whole, resumed):
        each.advance(given)
    assert whole.objective.features.compared[0].labels.tolist() == [0, 1, 2, 3] * 2
    torch.testing.assert_close(dict(resumed.objective.state_dict()), dict(whole.objective.state_dict()), rtol=0, atol=0)
    assert not any("bank" in key for key in whole.reported().state_dict())


def test_what_cannot_be_contrasted_is_refused(tiny):
    given = setting(tiny(), tiny(seed=1), samples=0)
    with pytest.raises(UsageError, match="crd remembers each training image, and there are none"):
        CRD(student="body", teacher="body").build(given)
    with pytest.raises(UsageError, match="the network has no module 'layer3'"):
        CRD(student="body", teacher="layer3").build(given)
    with pytest.raises(ValidationError, match="less than 1"):
        CRD(student="body", teacher="body", momentum=1)
