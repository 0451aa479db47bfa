"""AI-KD: its terms, its turns, and its discriminator. Its resume is in test_method_contract.py."""

import json
from pathlib import Path

import pytest
import torch
from lessons import Says
from shell import QUICK, ran
from torch.nn import functional as F

from compressor.batch import Batch
from compressor.methods import Moment, Setting
from compressor.methods.aikd import AIKD
from compressor.methods.critic import Critic, Discriminator
from compressor.recipe import Training
from compressor.training.loop import TrainingState, fit

STUDENT = [[0.0, 1.0, 2.0], [1.0, 0.0, -1.0]]
TEACHER = [[0.0, 3.0, 1.0], [2.0, 0.0, 0.0]]
PAST = torch.tensor([[0.5, 0.25, 0.25], [0.125, 0.75, 0.125]])
BATCH = Batch(torch.zeros(2, 3, 8, 8), torch.tensor([2, 0]), torch.tensor([4, 1]))


def build(config):
    networks = {"student": Says(STUDENT), "teachers": [Says(TEACHER)]}
    about = {"classes": 3, "input_shape": (3, 8, 8), "samples": 6, "std": torch.ones(3), "device": torch.device("cpu")}
    return config.build(Setting(**networks, **about))


def turns(objective):
    return list(objective.updates(BATCH, Moment(epoch=1, epochs=4, step=0, generator=torch.Generator())))


def test_the_student_learns_from_labels_its_teacher_its_past_and_the_discriminator():
    objective = build(AIKD(kd_weight=0.5, past_weight=0.25, adversarial_weight=2.0))
    objective.past.predictions[[4, 1]] = PAST.half()
    learnt, taught = torch.tensor(STUDENT), torch.tensor(TEACHER)
    verdicts = objective.critic(learnt)

    student, critic = turns(objective)

    assert (student.player, critic.player) == ("student", "critic")
    expected = {
        "ce": F.cross_entropy(learnt, torch.tensor([2, 0])),
        "kd": 0.5 * F.cross_entropy(learnt, taught.softmax(dim=1)),
        "past": 0.25 * F.cross_entropy(learnt, PAST),
        "adversarial": -2 * verdicts.sigmoid().log().mean(),
    }
    torch.testing.assert_close(dict(student.terms), expected)
    ours, theirs = objective.critic(taught).sigmoid(), verdicts.sigmoid()
    torch.testing.assert_close(critic.terms["critic"], -(ours.log().mean() + (1 - theirs).log().mean()) / 2)


def test_an_image_without_a_past_has_no_such_term():
    objective = build(AIKD())
    objective.past.predictions[4] = PAST[0].half()

    student, _ = turns(objective)

    expected = F.cross_entropy(torch.tensor(STUDENT[:1]), PAST[:1]) / 2  # a mean over both images
    torch.testing.assert_close(student.terms["past"], expected)
    assert objective.past.predictions[1].tolist() == torch.tensor(STUDENT[1]).softmax(dim=0).half().tolist()


def test_fooling_moves_the_student_alone_and_judging_the_discriminator_alone():
    objective = build(AIKD())
    student, critic = turns(objective)

    student.terms["adversarial"].backward()
    assert objective.setting.student.logits.grad.abs().sum() > 0
    assert all(parameter.grad is None and parameter.requires_grad for parameter in objective.critic.parameters())
    objective.setting.student.logits.grad = None
    critic.terms["critic"].backward()
    assert objective.setting.student.logits.grad is None
    assert all(parameter.grad is not None for parameter in objective.critic.parameters())


def test_the_discriminator_does_not_see_how_high_all_logits_lie():
    critic = Discriminator().build(3)
    logits = torch.tensor(STUDENT)

    torch.testing.assert_close(critic(logits + 7), critic(logits))


def test_a_discriminator_learns_to_tell_two_kinds_apart_and_says_how_often():
    critic = Discriminator(lr=0.01).build(3)
    optimiser = torch.optim.Adam(critic.parameters(), lr=0.01)
    flat, steep = torch.randn(64, 3), 10 * torch.randn(64, 3)
    shares = []
    for _ in range(60):
        update = critic.update(flat, steep, 0.5)
        optimiser.zero_grad()
        update.terms["critic"].backward()
        optimiser.step()
        shares.append(update.notes["critic_right"].item())

    assert shares[0] < 0.8
    assert shares[-1] > 0.95


@pytest.mark.parametrize(("right", "elapsed", "warned"), [(0.96, 0.5, True), (0.96, 0.4, False), (0.94, 1.0, False)])
def test_a_discriminator_that_wins_is_warned_about_with_its_share(right, elapsed, warned):
    objective = build(AIKD())
    objective.critic.update(torch.tensor(TEACHER), torch.tensor(STUDENT), elapsed)
    found = list(objective.warnings({"critic_right": right}))

    assert len(found) == warned
    assert not warned or "in 96.0% of cases" in found[0]


def test_the_discriminator_has_an_optimiser_of_its_own(tiny, images):
    student, teacher = tiny(), tiny(seed=1)
    setting = Setting(student, [teacher], 4, (3, 8, 8), 8, torch.ones(3), torch.device("cpu"))
    objective = AIKD(discriminator={"lr": 0.002}).build(setting)
    config = Training(epochs=2, lr=0.05, schedule={"kind": "cosine"})
    state = TrainingState(student, objective, config, seed=0, device=torch.device("cpu"), steps_per_epoch=2)
    before = [parameter.clone() for parameter in objective.critic.parameters()]

    shown = Batch(images(8), torch.arange(8) % 4, torch.arange(8))
    (first, last) = fit(state, lambda _epoch, start: [shown] * (2 - start))

    optimiser = state.players["critic"].optimizer
    assert isinstance(optimiser, torch.optim.Adam)
    assert [group["lr"] for group in optimiser.param_groups] == [0.002]  # the cosine is the student's
    assert not any(torch.equal(a, b) for a, b in zip(before, objective.critic.parameters(), strict=True))
    assert first.losses.keys() == last.losses.keys() == {"ce", "kd", "past", "adversarial", "critic"}
    assert 0 <= last.notes["critic_right"] <= 1
    assert isinstance(objective.critic, Critic)


@pytest.mark.trains
def test_a_run_warns_once_and_goes_on(here, monkeypatch):
    monkeypatch.setattr("compressor.methods.critic.WON", 0.0)
    arguments = ["distill", "--teacher", "runs/teacher-1", "--student", "lenet5", "--method", "ai-kd", "--epochs", "3"]
    done = ran([*arguments, "--name", "own", *QUICK])

    assert done.err.count("the discriminator tells the student from the teacher in ") == 1
    assert "warning: epoch 2: the discriminator" in done.err
    rows = [json.loads(line) for line in Path("runs/own-1/metrics.jsonl").read_text().splitlines()]
    assert all(0 <= row["notes"]["critic_right"] <= 1 for row in rows)
