"""Unsupervised domain adaptation: the discrepancy, the schedules, and who learns what from whom in which turn."""

import copy
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from shell import ran, refused
from torch import nn
from torch.nn import functional as F

from compressor.batch import Batch
from compressor.errors import UsageError
from compressor.methods import Moment, Setting
from compressor.methods.adaptation import KDUDA, UDA, adaptation, mmd, teaching
from compressor.methods.taps import linear_head
from compressor.models import Normalized
from compressor.recipe import Training
from compressor.runs import record
from compressor.training.loop import TrainingState

CPU = torch.device("cpu")


class Net(nn.Module):
    """Vectors of two pixels to features of three and logits of four, without anything random."""

    def __init__(self, seed):
        super().__init__()
        torch.manual_seed(seed)
        self.body, self.aside, self.head = nn.Linear(2, 3), nn.Linear(2, 4), nn.Linear(3, 4)
        self.last = nn.Linear(4, 5)  # of no class, and never called

    def features(self, images):
        return self.body(images.flatten(1)).tanh()

    def forward(self, images):
        return self.head(self.features(images))


def batch(seed=0, labelled=5, unlabelled=3):
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(labelled + unlabelled, 1, 1, 2, generator=generator)
    labels = torch.randint(4, (labelled,), generator=generator)
    return Batch(images[:labelled], labels, torch.arange(labelled), unlabelled=images[labelled:])


def moment(epoch=2, epochs=4):
    return Moment(epoch=epoch, epochs=epochs, step=0, generator=torch.Generator())


def build(config, student, *teachers):
    return config.build(
        Setting(
            student=student,
            teachers=teachers,
            classes=4,
            input_shape=(1, 1, 2),
            samples=5,
            std=torch.ones(1),
            device=CPU,
        )
    )


def by_hand(source, target):
    """The discrepancy by its sums."""
    both = [*source.tolist(), *target.tolist()]
    squares = [[math.dist(a, b) ** 2 for b in both] for a in both]
    width = sum(map(sum, squares)) / (len(both) ** 2 - len(both))

    def kernel(a, b):
        return sum(math.exp(-(math.dist(a, b) ** 2) / (width * factor)) for factor in (0.25, 0.5, 1, 2, 4))

    def mean(some, others):
        return sum(kernel(a, b) for a in some for b in others) / (len(some) * len(others))

    source, target = source.tolist(), target.tolist()
    return mean(source, source) + mean(target, target) - 2 * mean(source, target)


# The discrepancy and the schedules


def test_two_points_one_apart_have_the_closed_form():
    found = mmd(torch.zeros(1, 1), torch.ones(1, 1))
    assert found.item() == pytest.approx(2 * 5 - 2 * sum(math.exp(-x) for x in (4, 2, 1, 0.5, 0.25)))


@pytest.mark.parametrize(("labelled", "unlabelled"), [(4, 4), (5, 2), (1, 3)])
def test_the_discrepancy_is_its_sums_whatever_the_sizes(labelled, unlabelled):
    generator = torch.Generator().manual_seed(1)
    source = torch.randn(labelled, 3, generator=generator, dtype=torch.float64)
    target = 1 + torch.randn(unlabelled, 3, generator=generator, dtype=torch.float64)
    assert mmd(source, target).item() == pytest.approx(by_hand(source, target))


@given(seed=st.integers(0, 999), scale=st.floats(0.01, 100))
def test_the_discrepancy_has_no_sign_no_scale_and_no_order(seed, scale):
    generator = torch.Generator().manual_seed(seed)
    source, target = torch.randn(2, 6, 3, generator=generator, dtype=torch.float64)
    found = mmd(source, target)
    assert found >= -1e-12
    torch.testing.assert_close(mmd(scale * source, scale * target), found)
    torch.testing.assert_close(mmd(target.flip(0), source), found)
    assert mmd(source, source.flip(0)).abs() < 1e-12


def test_features_that_are_all_the_same_have_a_finite_gradient():
    features = torch.ones(4, 3, requires_grad=True)
    mmd(features[:2], features[2:]).backward()
    assert torch.equal(features.grad, torch.zeros(4, 3))


def test_the_schedules_have_the_published_ends():
    assert adaptation(moment(0)) == 0
    assert adaptation(moment(2, 4)) == pytest.approx(2 / (1 + math.exp(-5)) - 1)
    betas = [teaching((0.1, 0.9), moment(epoch, 400)) for epoch in (0, 1, 200, 400)]
    assert betas == pytest.approx([0.1, 0.1 * math.exp(math.log(9) / 400), 0.3, 0.9])


def test_the_features_are_what_the_last_layer_of_so_many_classes_is_given():
    path, layer = linear_head(Normalized(Net(0), (0.5,), (1.0,)), 4)
    assert (path, layer.out_features) == ("head", 4)
    assert linear_head(Net(0), 7) is None
    with pytest.raises(UsageError, match=r"features of the student .* none of 4 outputs") as caught:
        build(UDA(), nn.Sequential(nn.Flatten(), nn.Linear(2, 3)))
    assert caught.value.hint


# UDA


def test_uda_adds_the_discrepancy_to_the_labels():
    student, images = Net(1), batch()
    (update,) = build(UDA(mmd_weight=0.5), student).updates(images, moment())

    ce = F.cross_entropy(student(images.images), images.labels)
    apart = mmd(student.features(images.images), student.features(images.unlabelled))
    torch.testing.assert_close(update.terms["ce"], ce)
    torch.testing.assert_close(update.terms["mmd"], 0.5 * adaptation(moment()) * apart)
    entropy = -(F.softmax(student(images.unlabelled), 1) * F.log_softmax(student(images.unlabelled), 1)).sum(1).mean()
    torch.testing.assert_close(update.notes["target_entropy"], entropy)


@pytest.mark.parametrize(("config", "at"), [(UDA(mmd_weight=0), moment()), (UDA(), moment(0))])
def test_without_a_discrepancy_there_are_labels_alone(config, at):
    (update,) = build(config, Net(1)).updates(batch(), at)
    assert update.terms.keys() == {"ce"}


@pytest.mark.parametrize(("config", "seen"), [(UDA(mmd_weight=0), 5), (UDA(), 8)])
def test_what_is_trained_on_the_source_alone_never_sees_the_target(config, seen):
    student, sizes = Net(1), []
    student.register_forward_pre_hook(lambda _, given: sizes.append(len(given[0])))
    list(build(config, student).updates(batch(), moment(0)))
    assert sizes == [seen]


# Joint


def test_the_teacher_adapts_and_then_teaches():
    student, teacher, images = Net(1), Net(2), batch()
    config = KDUDA(temperature=2, alpha=0.25)
    objective = build(config, student, teacher)
    beta, gamma = teaching(config.beta, moment()), adaptation(moment())
    updates = objective.updates(images, moment())

    first = next(updates)
    assert first.player == "teacher"
    torch.testing.assert_close(
        first.terms["teacher_ce"], (1 - beta) * F.cross_entropy(teacher(images.images), images.labels)
    )
    apart = mmd(teacher.features(images.images), teacher.features(images.unlabelled))
    torch.testing.assert_close(first.terms["teacher_mmd"], (1 - beta) * gamma * apart)

    with torch.no_grad():
        objective.adapted.head.bias += 1  # a step that it made meanwhile
        objective.adapted.head.weight *= 2
    second = next(updates)
    assert second.player == "student"

    def lesson(shown):
        taught = (objective.adapted(shown) / 2).softmax(1)
        return 4 * -(taught * (student(shown) / 2).log_softmax(1)).sum(1).mean()

    expected = {
        "ce": beta * 0.75 * F.cross_entropy(student(images.images), images.labels),
        "kd": beta * 0.25 * lesson(images.images),
        "kd_target": beta * lesson(images.unlabelled),
    }
    torch.testing.assert_close(dict(second.terms), expected)
    assert next(updates, None) is None


@pytest.mark.parametrize(("config", "learnt"), [(KDUDA(mmd_weight=0), 5), (KDUDA(), 8)])
def test_a_teacher_without_discrepancy_learns_from_the_source_and_teaches_on_both(config, learnt):
    objective, sizes = build(config, Net(1), Net(2)), []
    objective.adapted.register_forward_pre_hook(lambda _, given: sizes.append(len(given[0])))
    first, _ = objective.updates(batch(), moment())
    assert sizes == [learnt, 8]
    assert ("teacher_mmd" in first.terms) == (learnt == 8)


def test_teaching_leaves_no_gradient_in_the_teacher_and_adapting_none_in_the_student():
    student, teacher = Net(1), Net(2)
    objective = build(KDUDA(), student, teacher)
    updates = objective.updates(batch(), moment())
    sum(next(updates).terms.values()).backward()
    assert all(parameter.grad is None for parameter in student.parameters())
    objective.adapted.zero_grad()
    sum(next(updates).terms.values()).backward()
    assert all(parameter.grad is None for parameter in [*teacher.parameters(), *objective.adapted.parameters()])


@pytest.fixture
def states(tiny):
    """A function that begins a joint training of two small networks with BatchNorm."""

    def start():
        torch.manual_seed(0)
        student, teacher = tiny(), tiny(width=12)
        setting = Setting(
            student=student,
            teachers=(teacher,),
            classes=4,
            input_shape=(3, 8, 8),
            samples=8,
            std=torch.ones(3),
            device=CPU,
        )
        objective = KDUDA().build(setting)
        return TrainingState(student, objective, Training(epochs=4), seed=0, device=CPU, steps_per_epoch=2)

    return start


def pictures(step):
    generator = torch.Generator().manual_seed(step)
    images = torch.rand(12, 3, 8, 8, generator=generator)
    return Batch(images[:8], torch.arange(8) % 4, torch.arange(8), unlabelled=images[8:])


def test_the_given_teacher_stays_as_it_is_and_its_copy_is_resumed(states):
    state = states()
    given = state.objective.setting.teachers[0]
    before = copy.deepcopy(given.state_dict())
    state.enter_training()
    for step in range(2):
        state.advance(pictures(step))
        if step == 0:
            saved = copy.deepcopy(state.state_dict())

    adapted = state.objective.adapted.state_dict()
    assert all(torch.equal(value, given.state_dict()[name]) for name, value in before.items())
    assert not any(torch.equal(adapted[name], value) for name, value in before.items())  # its BatchNorm adapts too
    assert not any(name.startswith("adapted") for name in state.student.state_dict())

    again = states()
    again.load_state_dict(saved)
    again.enter_training()
    again.advance(pictures(1))
    for name, value in again.objective.state_dict().items():
        assert torch.equal(value, state.objective.state_dict()[name])
    for name, value in again.student.state_dict().items():
        assert torch.equal(value, state.student.state_dict()[name])


def test_the_teacher_has_a_rate_of_its_own_that_falls(states):
    state = states()
    rates = []
    for step in (0, 4):
        state.players["teacher"].set_rates(step)
        rates.append(state.players["teacher"].optimizer.param_groups[0]["lr"])
    assert rates == pytest.approx([0.001, 0.001 * (1 + 10 * 4 / 8) ** -0.75])


# The whole path


@pytest.mark.trains
def test_both_methods_train_and_are_scored_in_the_target_domain(here):
    """The target is the data themselves, so that no file is needed: what is scored is the test split again."""
    short = ["--student", "lenet5-half", "--data", "digits", "--target", "digits", "--epochs", "1", "--quiet"]
    ran(["distill", "--teacher", "runs/teacher-1", "--method", "kd-uda", *short, "--out", "joint"])
    joint = record.read(here / "joint")
    assert joint.data.target == "digits"
    assert joint.data.target_test == joint.data.test == 359
    assert joint.student.target_top1 == joint.student.top1
    assert (joint.teacher.target_top1, joint.teacher.target_top1_ci) == (joint.teacher.top1, joint.teacher.top1_ci)
    assert joint.teacher.sha256 == record.read(here / "runs/teacher-1").student.sha256

    words = ["train", "--arch", "lenet5-half", *short[2:], "--set", "method.kind=uda", "--out", "alone"]
    assert "target %" in ran(words).out
    assert record.read(here / "alone").student.target_top1 is not None


def test_a_method_without_use_for_a_target_refuses_it():
    words = ["train", "--arch", "lenet5-half", "--data", "digits", "--target", "digits", "--quiet"]
    refused(words, 2, "method ce has no use for a target domain", "compress validate")
    refused([*words[:-3], "--set", "method.kind=uda", "-q"], 2, "adapts to another domain", "--target")
    refused([*words, "--set", "method.kind=uda", "--unlabelled", "digits"], 2, "is a second stream already")
