"""Losses between logits that learn, weigh or move something: closed forms on two samples, what they keep and refuse."""

import math

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from compressor.batch import Batch
from compressor.errors import UsageError
from compressor.methods import Moment, Setting
from compressor.methods.kd import KD
from compressor.methods.losses.ctkd import CTKD
from compressor.methods.losses.ttm import TTM, WTTM
from compressor.methods.losses.wkd_l import WKDL, Moved
from compressor.recipe import Training
from compressor.training.loop import TrainingState

CPU = torch.device("cpu")
STUDENT = torch.tensor([[1.0, 3.0, -2.0], [0.5, 0.0, 2.0]], dtype=torch.float64)
TEACHER = torch.tensor([[2.0, 1.0, 0.0], [-1.0, 1.0, 4.0]], dtype=torch.float64)
LABELS = torch.tensor([0, 2])


def setting(teacher=None, student=None, classes=3, samples=4):
    teacher = nn.Linear(2, classes) if teacher is None else teacher
    return Setting(student or teacher, [teacher], classes, (3, 8, 8), samples, torch.ones(3) / 4, CPU)


def softened(row, temperature=1.0):
    exponentials = [math.exp(value / temperature) for value in row]
    return [each / sum(exponentials) for each in exponentials]


def divergence(p, q):
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


# TTM and WTTM


def test_ttm_softens_the_teacher_alone():
    loss = TTM(gamma=0.25).build(None)(STUDENT, TEACHER, LABELS)
    pairs = zip(STUDENT.tolist(), TEACHER.tolist(), strict=True)
    expected = [divergence(softened(taught, 4), softened(learnt)) for learnt, taught in pairs]
    assert loss.tolist() == pytest.approx(expected, rel=1e-10)


def test_wttm_weighs_each_sample_by_the_power_sum_of_its_teacher():
    loss = WTTM(gamma=0.25).build(None)(STUDENT, TEACHER, LABELS)
    sums = [sum(p**0.25 for p in softened(taught)) for taught in TEACHER.tolist()]
    plain = TTM(gamma=0.25).build(None)(STUDENT, TEACHER, LABELS)
    assert loss.tolist() == pytest.approx([a * b for a, b in zip(sums, plain.tolist(), strict=True)], rel=1e-10)


@pytest.mark.parametrize("kind", [TTM, WTTM])
def test_a_student_that_is_as_soft_as_its_teacher_is_made_loses_nothing(kind):
    student = (0.1 * TEACHER + 3).requires_grad_()
    loss = kind().build(None)(student, TEACHER, None)
    loss.sum().backward()
    torch.testing.assert_close(loss, torch.zeros_like(loss), rtol=0, atol=1e-12)
    torch.testing.assert_close(student.grad, torch.zeros_like(STUDENT), rtol=0, atol=1e-12)


# CTKD


def test_ctkd_is_the_divergence_at_its_temperature():
    loss = CTKD().build(setting())(STUDENT, TEACHER, LABELS)
    temperature = 1 + 20 / (1 + math.exp(-1))
    expected = [
        temperature**2 * divergence(softened(taught, temperature), softened(learnt, temperature))
        for learnt, taught in zip(STUDENT.tolist(), TEACHER.tolist(), strict=True)
    ]
    assert loss.tolist() == pytest.approx(expected, rel=1e-5)


def test_the_gradient_of_the_temperature_is_reversed_and_grows_over_the_first_epochs():
    loss = CTKD(epochs=2).build(setting(samples=4)).double()  # batches of 2: a ramp of four
    theta = loss.theta

    def value(at):
        with torch.no_grad():
            theta.fill_(at)
            return loss(STUDENT, TEACHER, None).sum().item()  # samples without labels are not counted

    slope = (value(1 + 1e-4) - value(1 - 1e-4)) / 2e-4
    value(1.0)
    found = []
    for _ in range(6):
        theta.grad = None
        loss(STUDENT, TEACHER, LABELS).sum().backward()
        found.append(theta.grad.item())

    ramp = [(1 - math.cos(math.pi * passed)) / 2 for passed in (0, 0.25, 0.5, 0.75, 1, 1)]
    assert found == pytest.approx([-factor * slope for factor in ramp], rel=1e-6, abs=1e-12)
    loss.eval()(STUDENT, TEACHER, LABELS)
    assert loss.met == 12


def test_the_temperature_is_trained_resumed_and_not_exported(tiny, images):
    def state():
        student, teacher = tiny(), tiny(seed=1)
        objective = KD.model_validate({"soft": {"kind": "ctkd", "epochs": 1}}).build(setting(teacher, student, 4, 8))
        config = Training(lr=0.1, weight_decay=0)
        return TrainingState(student, objective, config, seed=0, device=CPU, steps_per_epoch=2)

    batch = Batch(images(8), torch.arange(8) % 4, torch.arange(8))
    first = state()
    first.enter_training()
    for _ in range(2):
        first.advance(batch)
    soft = first.objective.soft
    assert soft.met == 16
    assert soft.theta != 1

    second = state()
    second.load_state_dict(first.state_dict())
    assert torch.equal(second.objective.soft.theta, soft.theta)
    assert second.objective.soft.met == 16
    assert not any("theta" in key or "met" in key.split(".") for key in first.reported().state_dict())


def test_ctkd_without_training_images_is_refused():
    with pytest.raises(UsageError, match="ctkd counts epochs of training images, and there are none"):
        CTKD().build(setting(samples=0))


# WKD-L


def classifier(*weights):
    layer = nn.Linear(2, len(weights))
    layer.weight.data = torch.tensor(weights)
    return layer


def test_moving_all_probability_costs_what_the_classes_are_apart():
    # Label 0; of the others the student believes in 1, the teacher in 2, whose weights are at a right angle.
    teacher = classifier([1.0, 1.0], [1.0, 0.0], [0.0, 2.0], [-1.0, 0.0])
    loss = WKDL(temperature=1, distance=3, sharpen=2).build(setting(teacher, classes=4)).double()
    student, taught = (torch.tensor([[0.0, *row]], dtype=torch.float64) for row in ([60, 0, 0], [0, 60, 0]))

    found = loss(student, taught, torch.tensor([0]))

    target = math.exp(-60) * 60  # the label's class, which neither believes in
    assert found.item() == pytest.approx(target + 3 * (1 - math.exp(-2)), rel=1e-6)
    opposite = torch.tensor([[0.0, 0.0, 0.0, 60.0]], dtype=torch.float64)
    assert loss(student, opposite, torch.tensor([0])).item() == pytest.approx(3 * (1 - math.exp(-4)), rel=1e-5)


def test_wkd_l_is_sinkhorns_transport_among_the_other_classes():
    weights = [[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]]
    loss = WKDL(temperature=2, distance=5, regularisation=0.5, iterations=200).build(setting(classifier(*weights)))
    found = loss.double()(STUDENT, TEACHER, LABELS)

    for row, (learnt, taught, label) in enumerate(zip(STUDENT.tolist(), TEACHER.tolist(), (0, 2), strict=True)):
        i, j = (k for k in range(3) if k != label)
        d = 1 - sum(a * b for a, b in zip(weights[i], weights[j], strict=True))
        cost = 1 - math.exp(-d)
        p, q = (softened([logits[i], logits[j]], 2)[0] for logits in (learnt, taught))
        # Two classes: the plan is [[x, p - x], [q - x, 1 - p - q + x]], and at the optimum its cross ratio is
        # x (1 - p - q + x) / ((p - x) (q - x)) = exp(2 cost / regularisation). Bisect for x.
        low, high = max(0.0, p + q - 1), min(p, q)
        for _ in range(200):
            x = (low + high) / 2
            if x * (1 - p - q + x) < math.exp(2 * cost / 0.5) * (p - x) * (q - x):
                low = x
            else:
                high = x
        target = -softened(taught)[label] * math.log(softened(learnt)[label])
        assert found[row].item() == pytest.approx(target + 5 * cost * (p + q - 2 * x), rel=1e-5)


def test_a_single_iteration_starts_from_equal_shares_of_the_other_classes():
    weights = [[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]]
    config = WKDL(temperature=1, distance=1, regularisation=0.5, iterations=1)
    found = config.build(setting(classifier(*weights))).double()(STUDENT[:1], TEACHER[:1], LABELS[:1])

    cost = 1 - math.exp(-(1 - 0.8))  # between 1 and 2
    near = [[1, math.exp(-cost / 0.5)], [math.exp(-cost / 0.5), 1]]
    p, q = softened([3.0, -2.0]), softened([1.0, 0.0])
    v = [q[j] / (near[0][j] / 2 + near[1][j] / 2) for j in range(2)]
    u = [p[i] / (near[i][0] * v[0] + near[i][1] * v[1]) for i in range(2)]
    target = -softened([2.0, 1.0, 0.0])[0] * math.log(softened([1.0, 3.0, -2.0])[0])
    assert found.item() == pytest.approx(target + cost * near[0][1] * (u[0] * v[1] + u[1] * v[0]), rel=1e-6)


def test_wkd_l_without_labels_takes_the_teachers_own_class():
    loss = WKDL().build(setting(classifier([1.0, 0.0], [0.6, 0.8], [0.0, 1.0])))
    torch.testing.assert_close(loss(STUDENT, TEACHER, None), loss(STUDENT, TEACHER, torch.tensor([0, 2])))


def test_wkd_l_is_as_exact_under_autocast_and_saves_nothing():
    loss = WKDL().build(setting(classifier([1.0, 0.0], [0.6, 0.8], [0.0, 1.0])))
    assert isinstance(loss, Moved)
    student, teacher = STUDENT.float(), TEACHER.float()
    with torch.autocast("cpu", torch.bfloat16):
        half = loss(student, teacher, LABELS)
    torch.testing.assert_close(half, loss(student, teacher, LABELS))
    assert loss.state_dict() == {}


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (setting(nn.Conv2d(3, 3, 1)), "by the teacher's last linear layer, and it has none of 3 outputs"),
        (setting(nn.Linear(4, 5)), "by the teacher's last linear layer, and it has none of 3 outputs"),
        (setting(nn.Linear(4, 2), classes=2), "2 classes leave too few"),
    ],
)
def test_wkd_l_of_what_has_no_classes_to_compare_is_refused(given, sentence):
    with pytest.raises(UsageError) as caught:
        WKDL().build(given)
    assert sentence in caught.value.message


@pytest.mark.parametrize(
    "section",
    [
        {"kind": "ttm", "gamma": 0},
        {"kind": "wttm", "gamma": 1.5},
        {"kind": "ctkd", "epochs": 0},
        {"kind": "ctkd", "lowest": 0},
        {"kind": "wkd-l", "regularisation": 0},
        {"kind": "wkd-l", "iterations": 0},
    ],
)
def test_impossible_settings_are_refused(section):
    with pytest.raises(ValidationError, match=r"greater than|less than"):
        KD.model_validate({"soft": section})


def test_a_step_of_each_is_taken_with_boundary_samples_too(tiny, images):
    batch = Batch(images(8), torch.arange(8) % 4, torch.arange(8))
    for kind in ("ttm", "wttm", "ctkd", "wkd-l"):
        student, teacher = tiny(), tiny(seed=1)
        objective = KD.model_validate({"soft": {"kind": kind}}).build(setting(teacher, student, 4, 8))
        (update,) = objective.updates(batch, Moment(0, 80, 0, torch.Generator()))
        assert update.terms["kd"].isfinite()
