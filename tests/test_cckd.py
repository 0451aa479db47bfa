"""CCKD, one sample at a time: hand values, and which samples still teach."""

import math

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from compressor.batch import Batch
from compressor.methods import METHODS, Moment, Setting
from compressor.methods.cckd import CCKD, confidence_in, mixed_target, still_teaching
from compressor.methods.kd import KD
from compressor.recipe import Training
from compressor.training.loop import TrainingState

CPU = torch.device("cpu")


class Answers(nn.Module):
    """Answers every batch with the same logits, which can be learnt."""

    def __init__(self, logits):
        super().__init__()
        self.logits = nn.Parameter(torch.tensor(logits))

    def forward(self, images):
        return self.logits[: len(images)]


def odds(*rows):
    """Logits of these probabilities; 0 becomes a logit that underflows."""
    return [[math.log(p) if p else -200.0 for p in row] for row in rows]


def terms(config, student, teacher, labels, *, epoch=0, gather=None):
    """The terms of one batch, and the gradient of their sum by the student's logits."""
    update, student = lesson(config, student, teacher, labels, epoch=epoch, gather=gather)
    if update.terms:
        sum(update.terms.values()).backward()
    return {name: term.item() for name, term in update.terms.items()}, student.logits.grad


def lesson(config, student, teacher, labels, *, epoch=0, gather=None):
    """The update of one batch, and the student; the teacher gets no gradient."""
    student, teacher = Answers(student), Answers(teacher)
    setting = Setting(
        student=student,
        teachers=(teacher,),
        classes=teacher.logits.shape[1],
        input_shape=(1, 2, 2),
        samples=len(labels),
        std=torch.ones(1),
        device=CPU,
        **({} if gather is None else {"gather": gather}),
    )
    batch = Batch(torch.zeros(len(labels), 1, 2, 2), torch.tensor(labels), torch.arange(len(labels)))
    moment = Moment(epoch=epoch, epochs=10, step=0, generator=torch.Generator())
    (update,) = config.build(setting).updates(batch, moment)
    assert update.player == "student"
    for term in update.terms.values():
        assert torch.autograd.grad(term, teacher.logits, retain_graph=True, allow_unused=True) == (None,)
    return update, student


# Closed forms


def test_loss_form_gives_one_sample_to_the_label_and_the_other_to_the_teacher():
    # The teacher has probability 0 of the first label and 1 of the second.
    teacher, labels = odds((0, 1), (0, 1)), [0, 1]
    student = odds((0.8, 0.2), (0.3, 0.7))

    found, gradient = terms(CCKD(form="loss"), student, teacher, labels)

    assert found["ce"] == pytest.approx(-math.log(0.8) / 2)
    assert found["kd"] == pytest.approx(-math.log(0.7) / 2)
    # Products of means would give half of each loss to each sample, and another gradient.
    assert gradient == pytest.approx(torch.tensor([[-0.1, 0.1], [0.15, -0.15]]), abs=1e-6)


def test_loss_form_weighs_each_sample_by_its_own_confidence():
    teacher, labels, student = odds((0.9, 0.1), (0.6, 0.4)), [0, 1], odds((0.8, 0.2), (0.3, 0.7))

    found, _ = terms(CCKD(form="loss", ce_weight=2.0, kd_weight=3.0), student, teacher, labels)

    soft = [-0.9 * math.log(0.8) - 0.1 * math.log(0.2), -0.6 * math.log(0.3) - 0.4 * math.log(0.7)]
    assert found["kd"] == pytest.approx(3 * (0.9 * soft[0] + 0.4 * soft[1]) / 2)
    assert found["ce"] == pytest.approx(2 * (0.1 * -math.log(0.8) + 0.6 * -math.log(0.7)) / 2)


def test_target_form_mixes_the_target_of_each_sample():
    teacher, labels, student = odds((0.9, 0.1), (0.6, 0.4), (0, 1)), [0, 1, 0], odds((0.8, 0.2), (0.3, 0.7), (0.5, 0.5))

    found, gradient = terms(CCKD(), student, teacher, labels)

    target = [0.9 * 0.9 + 0.1, 0.4 * 0.6, 1.0]  # of class 0
    hand = [
        -t * math.log(q[0]) - (1 - t) * math.log(q[1])
        for t, q in zip(target, [(0.8, 0.2), (0.3, 0.7), (0.5, 0.5)], strict=True)
    ]
    assert found == {"kd": pytest.approx(sum(hand) / 3)}
    assert gradient[:, 0].tolist() == pytest.approx([(0.8 - 0.91) / 3, (0.3 - 0.24) / 3, (0.5 - 1) / 3], abs=1e-6)


@pytest.mark.parametrize("t2", [False, True])
def test_temperature_softens_target_confidence_and_student(t2):
    # Logits 2 log(9) are probabilities 0.9 at temperature 2, and 81/82 at temperature 1.
    teacher, student = [[2 * math.log(9), 0.0]], [[2 * math.log(4), 0.0]]
    cold = CCKD(temperature=2.0, t2=t2, confidence_temperature=1.0)

    warm, _ = terms(CCKD(temperature=2.0, t2=t2), student, teacher, [0])
    apart, _ = terms(cold, student, teacher, [0])

    def hand(confidence):
        target = confidence * 0.9 + 1 - confidence
        return (4 if t2 else 1) * (-target * math.log(0.8) - (1 - target) * math.log(0.2))

    assert warm["kd"] == pytest.approx(hand(0.9))
    assert apart["kd"] == pytest.approx(hand(81 / 82))


def test_target_is_a_distribution_and_a_sure_teachers_own_answer():
    generator = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(32, 5, generator=generator), torch.arange(32) % 5
    confidence = confidence_in(labels, logits)

    assert torch.allclose(mixed_target(logits, labels, confidence).sum(dim=1), torch.ones(32))
    assert torch.allclose(mixed_target(logits, labels, torch.ones(32)), logits.softmax(dim=1))


def test_any_loss_between_logits_is_weighed_per_sample_in_the_loss_form():
    teacher, labels, student = odds((0.9, 0.1), (0.6, 0.4)), [0, 1], odds((0.8, 0.2), (0.3, 0.7))
    soft = {"kind": "kl", "temperature": 2.0, "t2": True}

    through, _ = terms(CCKD.model_validate({"form": "loss", "soft": soft}), student, teacher, labels)
    own, _ = terms(CCKD(form="loss", temperature=2.0, t2=True, confidence_temperature=1.0), student, teacher, labels)
    alone = [
        terms(KD.model_validate({"soft": soft, "kd_weight": 1}), [s], [t], [y])[0]["kd"]
        for s, t, y in zip(student, teacher, labels, strict=True)
    ]

    assert through == pytest.approx(own)
    assert through["kd"] == pytest.approx((0.9 * alone[0] + 0.4 * alone[1]) / 2)


# Self-regulation


def test_a_right_answer_teaches_below_the_threshold_and_a_wrong_one_always():
    logits = torch.tensor(odds((0.6, 0.4), (0.7, 0.3), (0.7, 0.3)))  # margins 0.2, 0.4, 0.4
    labels = torch.tensor([0, 0, 1])

    assert still_teaching(logits, labels, 0.0).tolist() == [False, False, True]
    assert still_teaching(logits, labels, 0.3).tolist() == [True, False, True]
    assert still_teaching(logits, labels, 0.5).tolist() == [True, True, True]


def test_the_threshold_rises_from_nothing_with_the_epochs():
    student, teacher, labels = odds((0.6, 0.4), (0.7, 0.3)), odds((0.9, 0.1), (0.9, 0.1)), [0, 0]
    config = CCKD(self_regulation=0.1)  # thresholds 0, 0.181 and 0.259 in the epochs 0, 2 and 3

    for epoch in (0, 2):
        assert terms(config, student, teacher, labels, epoch=epoch) == ({}, None)
    found, gradient = terms(config, student, teacher, labels, epoch=3)

    assert gradient[1].tolist() == [0.0, 0.0]
    # The mean is over the batch: what is left pulls as it does where nothing is skipped.
    everyone, full = terms(CCKD(), student, teacher, labels)
    assert torch.equal(gradient[0], full[0])
    assert found["kd"] < everyone["kd"]


@pytest.mark.parametrize("form", ["target", "loss"])
def test_skipped_samples_have_no_part_in_any_term(form):
    student, teacher, labels = odds((0.9, 0.1), (0.3, 0.7)), odds((0.8, 0.2), (0.6, 0.4)), [0, 0]

    found, gradient = terms(CCKD(form=form, self_regulation=0.01), student, teacher, labels)
    alone, _ = terms(CCKD(form=form), student[1:], teacher[1:], labels[1:])

    assert found == pytest.approx({name: value / 2 for name, value in alone.items()})
    assert gradient[0].tolist() == [0.0, 0.0]


def test_a_process_with_nothing_left_steps_with_the_others():
    student, teacher = odds((0.9, 0.1)), odds((0.8, 0.2))

    def others(rows):
        return torch.cat([rows, torch.ones_like(rows)])

    found, gradient = terms(CCKD(self_regulation=0.01), student, teacher, [0], gather=others)

    assert found == {"kd": 0.0}
    assert gradient.tolist() == [[0.0, 0.0]]


def test_the_share_of_samples_that_still_teach_is_noted_also_where_none_does():
    student, teacher, labels = (
        odds((0.6, 0.4), (0.9, 0.1), (0.3, 0.7), (0.2, 0.8)),
        odds(*[(0.9, 0.1)] * 4),
        [0, 0, 0, 1],
    )
    config = CCKD(self_regulation=0.1)

    first, _ = lesson(config, student, teacher, labels)
    later, _ = lesson(config, student, teacher, labels, epoch=3)  # below 0.259 apart
    nothing, _ = lesson(config, student[:2], teacher[:2], labels[:2])

    assert [each.notes["teaching"].item() for each in (first, later, nothing)] == [0.25, 0.5, 0.0]
    assert not later.notes["teaching"].requires_grad
    assert nothing.terms == {}
    assert lesson(CCKD(), student, teacher, labels)[0].notes == {}


def test_an_epoch_of_nothing_but_skipped_samples_runs_and_leaves_the_student_as_it_was():
    student, teacher = Answers(odds((0.9, 0.1))), Answers(odds((0.8, 0.2)))
    setting = Setting(
        student=student, teachers=(teacher,), classes=2, input_shape=(1, 2, 2), samples=1, std=torch.ones(1), device=CPU
    )
    batch = Batch(torch.zeros(1, 1, 2, 2), torch.tensor([0]), torch.arange(1))
    objective = CCKD(self_regulation=0.01).build(setting)
    state = TrainingState(student, objective, Training(), seed=0, device=CPU, steps_per_epoch=1)
    before = student.logits.detach().clone()

    state.advance(batch)
    epoch = state.finish_epoch()

    assert (epoch.losses, epoch.notes) == ({}, {"teaching": 0.0})
    assert torch.equal(student.logits, before)


# Refusals


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"soft": {"kind": "lskd"}}, "is for form: loss; the mixed target has probabilities"),
        ({"ce_weight": 0.5}, "is for form: loss; with form: target the labels are in the target"),
        (
            {"self_regulation": 0.01, "features": [{"kind": "at", "student": "body", "teacher": "body"}]},
            "does not go with self_regulation",
        ),
        ({"self_regulation": 0}, "greater than 0"),
        ({"form": "both"}, "'target' or 'loss'"),
    ],
)
def test_keys_without_an_effect_are_refused(wrong, message):
    with pytest.raises(ValidationError, match=message):
        METHODS["cckd"].model_validate(wrong)
