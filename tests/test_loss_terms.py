"""Losses between logits and between inner outputs: closed forms on two samples, gradients, what they refuse."""

import math

import pytest
import torch
from pydantic import BaseModel, TypeAdapter, ValidationError
from torch import nn
from torch.nn import functional as F

from compressor.batch import Batch
from compressor.errors import UsageError
from compressor.methods import Moment, Setting
from compressor.methods.bss import BSS
from compressor.methods.kd import KD
from compressor.methods.losses import FEATURE_LOSSES, LOGIT_LOSSES, AnyLogitLoss
from compressor.methods.losses.attention import AT, Attention
from compressor.methods.losses.dist import DIST
from compressor.methods.losses.dkd import DKD
from compressor.methods.losses.fitnet import FitNet, Hint
from compressor.methods.losses.kl import KL, LSKD
from compressor.recipe import Training
from compressor.training.loop import TrainingState

CPU = torch.device("cpu")
STUDENT = [[1.0, 3.0, -2.0], [0.5, 0.0, 2.0]]
TEACHER = [[2.0, 1.0, 0.0], [-1.0, 1.0, 4.0]]
LABELS = torch.tensor([0, 2])


def doubles(rows):
    return torch.tensor(rows, dtype=torch.float64)


def softened(row, temperature=1.0):
    exponentials = [math.exp(value / temperature) for value in row]
    return [each / sum(exponentials) for each in exponentials]


def divergence(p, q):
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


def correlation(a, b):
    mean_a, mean_b = sum(a) / len(a), sum(b) / len(b)
    a, b = [x - mean_a for x in a], [x - mean_b for x in b]
    return sum(x * y for x, y in zip(a, b, strict=True)) / math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))


def setting(student, teacher):
    return Setting(student, [teacher], 4, (3, 8, 8), 32, torch.ones(3) / 4, CPU)


def built(kind):
    torch.manual_seed(0)
    teacher = nn.Linear(4, 3)
    return LOGIT_LOSSES[kind]().build(Setting(teacher, [teacher], 3, (3, 8, 8), 32, torch.ones(3) / 4, CPU))


def moment(epoch=0):
    return Moment(epoch=epoch, epochs=80, step=0, generator=torch.Generator())


# Between logits


def test_kl_is_the_cross_entropy_of_the_softened_predictions():
    loss = KL(temperature=3.0).build(None)(doubles(STUDENT), doubles(TEACHER), LABELS)
    expected = [
        -sum(p * math.log(q) for p, q in zip(softened(taught, 3), softened(learnt, 3), strict=True))
        for taught, learnt in zip(TEACHER, STUDENT, strict=True)
    ]
    assert loss.tolist() == pytest.approx(expected, rel=1e-12)
    squared = KL(temperature=3.0, t2=True).build(None)(doubles(STUDENT), doubles(TEACHER), None)
    assert squared.tolist() == pytest.approx([9 * each for each in expected], rel=1e-12)


def test_lskd_softens_what_each_image_has_standardised():
    def standard(row):
        mean = sum(row) / len(row)
        deviation = math.sqrt(sum((value - mean) ** 2 for value in row) / (len(row) - 1))
        return [(value - mean) / (deviation + 1e-7) for value in row]

    loss = LSKD(temperature=2.0).build(None)(doubles(STUDENT), doubles(TEACHER), LABELS)

    expected = [
        -4 * sum(p * math.log(q) for p, q in zip(softened(taught, 2), softened(learnt, 2), strict=True))
        for taught, learnt in zip(map(standard, TEACHER), map(standard, STUDENT), strict=True)
    ]
    assert loss.tolist() == pytest.approx(expected, rel=1e-12)


def test_lskd_does_not_see_the_scale_and_the_shift_of_logits():
    loss = LSKD().build(None)
    moved = doubles(STUDENT) * torch.tensor([[5.0], [0.1]]) + torch.tensor([[3.0], [-7.0]])
    expected = loss(doubles(STUDENT), doubles(TEACHER), None)
    torch.testing.assert_close(loss(moved, doubles(TEACHER), None), expected, rtol=1e-5, atol=0)


def test_dkd_is_two_divergences_of_the_class_and_of_the_others():
    loss = DKD(temperature=4.0, alpha=0.5, beta=8.0).build(None)(doubles(STUDENT), doubles(TEACHER), LABELS)

    expected = []
    for taught, learnt, label in zip(TEACHER, STUDENT, LABELS.tolist(), strict=True):
        p, q = softened(taught, 4), softened(learnt, 4)
        target = divergence([p[label], 1 - p[label]], [q[label], 1 - q[label]])
        others = [[each / (1 - values[label]) for k, each in enumerate(values) if k != label] for values in (p, q)]
        expected.append(16 * (0.5 * target + 8 * divergence(*others)))
    assert loss.tolist() == pytest.approx(expected, rel=1e-10)


def test_dkd_with_weights_of_the_teacher_is_the_divergence_itself():
    # KL(p || q) = KL(b_p || b_q) + (1 - p_t) KL(p^ || q^), section 3.1 of the paper.
    taught, learnt = doubles(TEACHER), doubles(STUDENT)
    one = [DKD(temperature=1, alpha=a, beta=b).build(None)(learnt, taught, LABELS) for a, b in ((1, 0), (0, 1))]
    p = taught.softmax(dim=1)
    whole = F.kl_div(learnt.log_softmax(dim=1), p, reduction="none").sum(dim=1)
    torch.testing.assert_close(one[0] + (1 - p.gather(1, LABELS.unsqueeze(1)).squeeze(1)) * one[1], whole)


def test_without_labels_dkd_takes_the_teachers_own_class():
    loss = DKD().build(None)
    without = loss(doubles(STUDENT), doubles(TEACHER), None)
    torch.testing.assert_close(without, loss(doubles(STUDENT), doubles(TEACHER), torch.tensor([0, 2])))
    assert not torch.allclose(without, loss(doubles(STUDENT), doubles(TEACHER), torch.tensor([1, 1])))


def test_dist_counts_correlations_within_images_and_within_classes():
    loss = DIST(temperature=4.0, beta=2.0, gamma=3.0).build(None)(doubles(STUDENT), doubles(TEACHER), LABELS)

    p, q = ([softened(row, 4) for row in rows] for rows in (TEACHER, STUDENT))
    within = [1 - correlation(a, b) for a, b in zip(q, p, strict=True)]
    columns = zip(zip(*q, strict=True), zip(*p, strict=True), strict=True)
    between = sum(1 - correlation(a, b) for a, b in columns) / 3
    assert loss.tolist() == pytest.approx([16 * (2 * each + 3 * between) for each in within], rel=1e-5)


def test_dist_of_a_single_image_has_a_gradient_that_is_finite():
    student = doubles(STUDENT)[:1].requires_grad_()
    DIST().build(None)(student, doubles(TEACHER)[:1], None).mean().backward()
    assert student.grad.isfinite().all()


@pytest.mark.parametrize("kind", LOGIT_LOSSES)
def test_gradients_of_logit_losses_are_those_of_finite_differences(kind):
    loss = built(kind)
    student = doubles(STUDENT).requires_grad_()
    for labels in (LABELS, None):
        assert torch.autograd.gradcheck(lambda logits, given=labels: loss(logits, doubles(TEACHER), given), student)


@pytest.mark.parametrize("kind", ["kl", "lskd", "dkd", "dist", "ctkd"])
def test_a_student_that_equals_its_teacher_has_no_gradient(kind):
    student = doubles(TEACHER).requires_grad_()
    built(kind)(student, doubles(TEACHER), LABELS).mean().backward()
    torch.testing.assert_close(student.grad, torch.zeros(2, 3, dtype=torch.float64), rtol=0, atol=1e-7)


@pytest.mark.parametrize("kind", LOGIT_LOSSES)
def test_logit_losses_give_one_finite_value_a_sample_however_sure_the_networks_are(kind):
    student = (1e4 * torch.tensor(STUDENT)).requires_grad_()
    loss = built(kind)(student, 1e4 * torch.tensor(TEACHER), LABELS)
    loss.mean().backward()
    assert loss.shape == (2,)
    assert loss.isfinite().all()
    assert student.grad.isfinite().all()


# Between inner outputs


def test_fitnet_is_the_mean_squared_difference_behind_its_regressor():
    hint = Hint(nn.Conv2d(1, 2, 1)).double()
    hint.regressor.weight.data = doubles([2.0, -1.0]).view(2, 1, 1, 1)
    hint.regressor.bias.data = doubles([0.5, 0.0])
    student = doubles([[[1.0, 2.0]], [[0.0, 3.0]]]).view(2, 1, 1, 2)
    teacher = torch.zeros(2, 2, 1, 2, dtype=torch.float64)

    loss = hint(student, teacher)

    assert loss.tolist() == [(2.5**2 + 4.5**2 + 1 + 4) / 4, (0.5**2 + 6.5**2 + 0 + 9) / 4]


def test_at_is_the_difference_of_normalised_energy_maps():
    student = doubles([[[[2.0, -1.0]]], [[[1.0, 1.0]]]])  # [2, 1, 1, 2]: energies 4 1, and 1 1
    teacher = doubles([[[[0.0, 1.0]], [[0.0, 1.0]]], [[[2.0, 2.0]], [[0.0, 0.0]]]])  # 0 1, and 2 2

    loss = Attention()(student, teacher)

    high, low = 4 / math.sqrt(17), 1 / math.sqrt(17)  # of unit length; the teacher's first map is (0, 1)
    assert loss.tolist() == pytest.approx([(high**2 + (1 - low) ** 2) / 2, 0.0])


@pytest.mark.parametrize("loss", [Hint(nn.Conv2d(2, 3, 1)).double(), Attention()], ids=["fitnet", "at"])
def test_gradients_of_feature_losses_are_those_of_finite_differences(loss):
    student = torch.randn(2, 2, 3, 3, dtype=torch.float64).requires_grad_()
    teacher = torch.randn(2, 3, 3, 3, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda maps: loss(maps, teacher), student)


def test_regressors_fit_maps_and_vectors(tiny):
    given = setting(tiny(width=8), tiny(width=12, seed=1))
    assert FitNet(student="body", teacher="body").build(given).regressor.weight.shape == (12, 8, 1, 1)
    assert FitNet(student="head", teacher="head").build(given).regressor.weight.shape == (4, 4)
    assert list(AT(student="body", teacher="body").build(given).parameters()) == []


@pytest.mark.parametrize(
    ("loss", "sentence"),
    [
        (
            FitNet(student="body.0", teacher="body"),
            "body.0 of the student gives [8, 8, 8], body of the teacher [12, 4, 4]",
        ),
        (FitNet(student="body", teacher="head"), "body of the student gives [8, 4, 4], head of the teacher [4]"),
        (AT(student="body.0", teacher="body"), "at cannot compare its taps: body.0 of the student gives [8, 8, 8]"),
        (AT(student="head", teacher="head"), "head of the student gives [4], head of the teacher [4]"),
        (AT(student="layer3", teacher="body"), "the network has no module 'layer3'"),
    ],
)
def test_taps_that_cannot_be_compared_are_refused_with_their_shapes(tiny, loss, sentence):
    with pytest.raises(UsageError) as caught:
        loss.build(setting(tiny(width=8), tiny(width=12, seed=1)))
    assert sentence in caught.value.message


# In methods


def lesson(tiny, images):
    teacher = tiny(width=12, seed=1)
    pixels = images(16)
    return tiny().train(), teacher, Batch(pixels, teacher(pixels).argmax(dim=1), torch.arange(16))


@pytest.mark.parametrize("kind", LOGIT_LOSSES)
def test_kd_takes_any_soft_loss(tiny, images, kind):
    student, teacher, batch = lesson(tiny, images)
    student.eval()
    given = setting(student, teacher)
    objective = KD.model_validate({"soft": {"kind": kind}}).build(given)
    (update,) = objective.updates(batch, moment(39))
    expected = LOGIT_LOSSES[kind]().build(given)(student(batch.images), teacher(batch.images).detach(), batch.labels)
    torch.testing.assert_close(update.terms["kd"], 2.5 * expected.mean())


def test_boundary_samples_go_through_the_same_soft_loss_without_labels(tiny, images):
    _, teacher, batch = lesson(tiny, images)
    objective = BSS().build(setting(teacher, teacher))  # a student that is right where its teacher is
    asked = []

    def spy(logits, taught, labels):
        asked.append((len(logits), labels))
        return logits.sum(dim=1) * 0 + len(asked)

    objective.soft = spy
    (update,) = objective.updates(batch, moment())
    (clean, labels), (beyond, none) = asked
    assert (clean, labels is batch.labels, none) == (16, True, None)
    assert 0 < beyond <= 16
    assert update.terms["bss"].item() == pytest.approx(2 * (2 - 8 / 3 / 80))


@pytest.mark.parametrize("method", [KD, BSS])
def test_feature_losses_are_terms_of_the_clean_images_and_train_their_regressors(tiny, images, method):
    student, teacher, batch = lesson(tiny, images)
    features = [
        {"kind": "fitnet", "student": "body.2", "teacher": "body.2", "weight": [1, 0]},
        {"kind": "at", "student": "body", "teacher": "body", "weight": 100},
    ]
    config = method.model_validate({"features": features, "ce_weight": 0, "kd_weight": 0})
    objective = config.build(setting(student, teacher))
    hint = objective.features.compared[0]
    expected = F.mse_loss(hint.regressor(student.body[:3](batch.images)), teacher.body[:3](batch.images))

    state = TrainingState(
        student, objective, Training(lr=0.1, momentum=0, weight_decay=0), seed=0, device=CPU, steps_per_epoch=4
    )
    state.enter_training()
    (update,) = objective.updates(batch, moment(39))
    assert set(update.terms) >= {"ce", "kd", "fitnet.body.2", "at.body"}
    torch.testing.assert_close(update.terms["fitnet.body.2"], 0.5 * expected)

    before = hint.regressor.weight.detach().clone()
    state.advance(batch)
    assert not torch.equal(hint.regressor.weight, before)
    assert any(hint.regressor.weight is each for each in state.players["student"].parameters)
    assert any("regressor" in key for key in state.state_dict()["objective"])
    assert not any("regressor" in key for key in state.reported().state_dict())


@pytest.mark.parametrize(
    ("section", "sentence"),
    [
        ({"temperature": 4, "soft": {"kind": "dkd"}}, "is for the default soft loss"),
        ({"t2": True, "soft": {"kind": "kl"}}, "is for the default soft loss"),
        ({"soft": {"kind": "dkd", "temprature": 4}}, "extra"),
        ({"features": [{"kind": "at", "student": "a", "teacher": "b"}] * 2}, "lists at.a twice"),
        ({"features": [{"kind": "at", "student": "a"}]}, "missing"),
    ],
)
def test_a_wrong_loss_is_refused(section, sentence):
    with pytest.raises(ValidationError) as caught:
        KD.model_validate(section)
    assert sentence in str(caught.value).lower()


def test_every_loss_is_known_by_its_kind_and_survives_a_round_trip():
    adapter = TypeAdapter(AnyLogitLoss)
    for kind, loss in LOGIT_LOSSES.items():
        made = adapter.validate_python({"kind": kind})
        assert type(made) is loss
        assert adapter.validate_json(adapter.dump_json(made)) == made
    for kind, loss in FEATURE_LOSSES.items():
        assert issubclass(loss, BaseModel)
        taps = ["a", "b"] if kind in ("fsp", "reviewkd") else "a"
        made = KD.model_validate({"features": [{"kind": kind, "student": taps, "teacher": taps, "weight": [2, 1]}]})
        assert KD.model_validate_json(made.model_dump_json()) == made


@pytest.mark.heavy
def test_feature_losses_survive_a_compiled_student(tiny, images, monkeypatch):
    compiler, losses = torch.compile, []
    monkeypatch.setattr(torch, "compile", lambda function, **_: compiler(function, backend="eager"))
    for compile_it in (False, True):
        student, teacher, batch = lesson(tiny, images)
        config = KD.model_validate({"features": [{"kind": "fitnet", "student": "body", "teacher": "body.5"}]})
        torch.manual_seed(0)
        objective = config.build(setting(student, teacher))
        training = Training(lr=0.1, compile=compile_it)
        state = TrainingState(student, objective, training, seed=0, device=CPU, steps_per_epoch=4)
        state.enter_training()
        for _ in range(3):
            state.advance(batch)
        state.losses.read(0)
        losses.append(state.losses.means())
    torch._dynamo.reset()
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    assert losses[1]["fitnet.body"] > 0
