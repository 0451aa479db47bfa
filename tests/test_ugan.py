"""UGAN: each loss on a batch made by hand, who moves in which turn, and what a student without generators is."""

import copy
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from shell import ran, refused
from torch import nn
from torch.nn import functional as F

from compressor.batch import Batch
from compressor.generators import DCGAN, MLP, Upsample
from compressor.methods import Moment, Setting
from compressor.methods.ugan import UGAN, PairDiscriminator, balance, pulled
from compressor.recipe import Training
from compressor.runs import record
from compressor.training.loop import TrainingState

CPU = torch.device("cpu")
SMALL = {"good": MLP(noise=3, width=4), "bad": MLP(noise=5, width=4), "discriminator_width": 8}


class Net(nn.Module):
    """Images of four pixels to features of three and logits of four, without anything random."""

    def __init__(self, seed):
        super().__init__()
        torch.manual_seed(seed)
        self.body, self.head = nn.Linear(4, 3), nn.Linear(3, 4)

    def features(self, images):
        return self.body(images.flatten(1)).tanh()

    def forward(self, images):
        return self.head(self.features(images))


class Fixed(nn.Module):
    """A generator that makes the same images whatever it is given, moved by one parameter."""

    def __init__(self, images):
        super().__init__()
        self.images, self.shift = images, nn.Parameter(torch.zeros(()))

    def forward(self, noise, classes=None):
        assert (classes is None) or torch.equal(classes.sum(dim=1), torch.ones(len(noise)))
        self.given = noise, classes
        return self.images[: len(noise)] + self.shift


class Judge(nn.Module):
    """A discriminator without noise."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(8, 1)

    def forward(self, images, classes):
        return self.layer(torch.cat([images.flatten(1), classes], dim=1)).squeeze(1)


def setting(student, *teachers):
    return Setting(
        student=student,
        teachers=teachers,
        classes=4,
        input_shape=(1, 2, 2),
        samples=3,
        std=torch.ones(1),
        device=CPU,
    )


def pictures(count, seed):
    return torch.rand(count, 1, 2, 2, generator=torch.Generator().manual_seed(seed))


BATCH = Batch(pictures(3, 0), torch.tensor([0, 3, 1]), torch.arange(3), unlabelled=pictures(6, 1))
MADE = pictures(6, 2)


def moment(epoch=1, epochs=4):
    return Moment(epoch=epoch, epochs=epochs, step=0, generator=torch.Generator().manual_seed(0))


def built(student, *teachers, **config):
    """An objective whose generators and discriminator are known."""
    objective = UGAN(**SMALL, **config).build(setting(student, *teachers))
    if objective.good is not None:
        objective.good, objective.pair = Fixed(MADE), Judge()
    if objective.bad is not None:
        objective.bad = Fixed(MADE)
    return objective


def updates(objective):
    return {update.player: update for update in objective.updates(BATCH, moment())}


def bce(logits, answer):
    return F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, float(answer)))


# Each loss


def test_the_discriminator_tells_labelled_pairs_from_generated_and_guessed_ones():
    objective = built(student := Net(1))
    terms = updates(objective)["pair"].terms
    objective = built(Net(1))
    pair, good = objective.pair, objective.good
    first = next(objective.updates(BATCH, moment()))
    classes = good.given[1]

    said = student(BATCH.unlabelled).softmax(dim=1)
    expected = {
        "pair_labelled": bce(pair(BATCH.images, torch.eye(4)[BATCH.labels]), 1),
        "pair_good": 0.5 * bce(pair(MADE, classes), 0),
        "pair_said": 0.5 * bce(pair(BATCH.unlabelled, said), 0),
    }
    torch.testing.assert_close(dict(first.terms), expected)
    assert terms.keys() == expected.keys()


def test_the_good_generator_is_to_pass_for_labelled():
    objective = built(Net(1))
    turns = objective.updates(BATCH, moment())
    next(turns)
    update = next(turns)
    assert update.player == "good"
    expected = 0.5 * bce(objective.pair(MADE, objective.good.given[1]), 1)
    torch.testing.assert_close(dict(update.terms), {"good": expected})


def test_the_bad_generator_matches_mean_features_and_spreads_its_own():
    student = Net(1)
    update = updates(built(student, good_weight=0, pull_away=0.5))["bad"]
    ours, real = student.features(MADE), student.features(BATCH.unlabelled)
    expected = {"bad_match": (ours.mean(dim=0) - real.mean(dim=0)).abs().mean(), "bad_spread": 0.5 * pulled(ours)}
    torch.testing.assert_close(dict(update.terms), expected)


def test_the_student_learns_from_good_samples_what_the_formula_says():
    student = Net(1)
    config = {"good_weight": 2.0, "entropy_weight": 0.3, "pair_weight": 0.25, "balance_weight": 0.125}
    objective = built(student, bad_weight=0, generated_weight=[0.0, 0.5], **config)
    update = updates(objective)["student"]
    classes = objective.good.given[1]
    logits, answer = student(BATCH.unlabelled), student(MADE)
    said = logits.softmax(dim=1)
    real = F.binary_cross_entropy_with_logits(objective.pair(BATCH.unlabelled, said), torch.ones(6), reduction="none")
    expected = {
        "ce": F.cross_entropy(student(BATCH.images), BATCH.labels),
        "entropy": 2 * 0.3 * -(said * said.log()).sum(dim=1).mean(),
        "pair": 2 * 0.25 * (said.max(dim=1).values * real).mean(),
        "generated": 2 * 0.5 * (2 / 4) * F.cross_entropy(answer, classes.argmax(dim=1)),
        "balance": 2 * 0.125 * -said.mean(dim=0).log().mean(),
    }
    torch.testing.assert_close(dict(update.terms), expected)
    assert update.notes["good_right"] == (answer.argmax(dim=1) == classes.argmax(dim=1)).float().mean()


def test_the_student_learns_from_bad_samples_what_the_formula_says():
    student = Net(1)
    objective = built(student, good_weight=0, bad_weight=3.0, smoothness_weight=0.5)
    near = pictures(6, 3)
    calls = iter([MADE, MADE, near])  # its own turn, then the student's two
    objective.bad.forward = lambda noise: next(calls) + objective.bad.shift
    update = updates(objective)["student"]
    real, fake = student(BATCH.unlabelled).logsumexp(dim=1), student(MADE).logsumexp(dim=1)
    logits = student(BATCH.unlabelled)
    said = logits.softmax(dim=1)
    expected = {
        "ce": F.cross_entropy(student(BATCH.images), BATCH.labels),
        "entropy": 3 * 0.3 * -(said * said.log()).sum(dim=1).mean(),
        "balance": 3 * 0.001 * balance(said),
        "real": 3 * (-0.5 * real + 0.5 * F.softplus(real)).mean(),
        "fake": 3 * 0.5 * F.softplus(fake).mean(),
        "smooth": 3 * 0.5 * (student(near) - student(MADE)).square().sum(dim=1).mean(),
    }
    torch.testing.assert_close(dict(update.terms), expected)
    assert update.notes["bad_real"] == (fake > 0).float().mean()


def test_smoothness_is_asked_for_around_each_noise():
    objective = built(Net(1), good_weight=0, perturbation=0.25)
    seen = []
    objective.bad.forward = lambda noise: seen.append(noise) or MADE + objective.bad.shift
    updates(objective)
    _, noise, moved = seen
    assert noise.shape == (6, 5)
    assert 0 < (moved - noise).abs().max() < 0.25 * 4
    assert not torch.equal(seen[0], noise)


def test_a_teacher_teaches_on_the_unlabelled_images():
    student, teacher = Net(1), Net(2)
    update = updates(built(student, teacher, good_weight=0, bad_weight=0, temperature=2, kd_weight=0.5))["student"]
    taught = (teacher(BATCH.unlabelled) / 2).softmax(dim=1)
    lesson = 4 * -(taught * (student(BATCH.unlabelled) / 2).log_softmax(dim=1)).sum(dim=1).mean()
    expected = {"ce": F.cross_entropy(student(BATCH.images), BATCH.labels), "kd": 0.5 * lesson}
    torch.testing.assert_close(dict(update.terms), expected)
    assert "kd" not in updates(built(student, teacher, kd_weight=0))["student"].terms


def test_without_generators_and_teacher_there_are_labels_alone():
    objective = built(student := Net(1), good_weight=0, bad_weight=0)
    assert updates(objective).keys() == {"student"}
    assert objective.players() == {}
    assert list(objective.parameters()) == []
    expected = F.cross_entropy(student(BATCH.images), BATCH.labels)
    torch.testing.assert_close(dict(updates(objective)["student"].terms), {"ce": expected})


def test_the_student_sees_as_much_noise_as_asked_for_(monkeypatch):
    shown = []
    objective = built(Net(1), good_weight=0, bad_weight=0, input_noise=0.5)
    monkeypatch.setattr(torch, "randn_like", torch.ones_like)
    objective.setting.student.register_forward_pre_hook(lambda _, given: shown.append(given[0]))
    updates(objective)
    torch.testing.assert_close(shown, [BATCH.images + 0.5, BATCH.unlabelled + 0.5])


def test_pulling_away_and_balance_have_their_closed_forms():
    vectors = torch.tensor([[3.0, 0.0], [0.0, 2.0], [1.0, 1.0]])
    assert pulled(vectors).item() == pytest.approx(4 * 0.5 / 6)  # cosines 0, and 1/sqrt(2) twice
    assert pulled(torch.eye(3)) == 0
    assert pulled(torch.ones(1, 3)) == 0
    assert balance(torch.full((2, 4), 0.25)).item() == pytest.approx(math.log(4))
    sides = torch.tensor([[0.75, 0.25], [0.25, 0.75]])
    assert balance(sides).item() == pytest.approx(math.log(2))  # of the mean, not of each image
    assert balance(sides[:1]).item() == pytest.approx(-(math.log(0.75) + math.log(0.25)) / 2)
    assert balance(torch.eye(3)[:1]).isfinite()


@given(seed=st.integers(0, 999))
def test_balance_is_least_where_all_classes_are_met_alike(seed):
    said = torch.randn(5, 4, generator=torch.Generator().manual_seed(seed)).softmax(dim=1)
    assert balance(said) >= math.log(4) - 1e-6


def test_the_discriminator_is_noisy_in_training_alone_and_looks_at_image_and_class():
    pair = PairDiscriminator((1, 2, 2), 4, width=8)
    shown = MADE, torch.eye(4)[[0] * 6]
    assert not torch.equal(pair(*shown), pair(*shown))
    pair.eval()
    assert torch.equal(pair(*shown), pair(*shown))
    assert pair(*shown).shape == (6,)
    assert not torch.allclose(pair(*shown), pair(MADE, torch.eye(4)[[1] * 6]))
    assert not torch.allclose(pair(*shown), pair(1 - MADE, shown[1]))
    sizes = [tuple(layer.weight.shape) for layer in PairDiscriminator((1, 28, 28), 10, width=1000).layers]
    assert sizes == [(1000, 794), (500, 1000), (250, 500), (250, 250), (250, 250), (1, 250)]


# Turns


@pytest.fixture
def states(tiny):
    """A function that begins a training of a small network with BatchNorm."""

    def start():
        student = tiny()
        place = Setting(
            student=student,
            teachers=(),
            classes=4,
            input_shape=(3, 8, 8),
            samples=8,
            std=torch.ones(3),
            device=CPU,
        )
        objective = UGAN(**SMALL).build(place)
        return TrainingState(student, objective, Training(epochs=4), seed=0, device=CPU, steps_per_epoch=2)

    return start


def batch(step):
    generator = torch.Generator().manual_seed(step)
    images = torch.rand(12, 3, 8, 8, generator=generator)
    return Batch(images[:4], torch.arange(4), torch.arange(4), unlabelled=images[4:])


def test_each_player_moves_in_its_own_turn_alone(states):
    state = states()
    state.enter_training()
    networks = {"student": state.student, "pair": state.objective.pair}
    networks |= {"good": state.objective.good, "bad": state.objective.bad}

    def all_weights():
        return {
            name: torch.cat([each.detach().flatten() for each in network.parameters()])
            for name, network in networks.items()
        }

    turns, updates = [], state.objective.updates

    def watched(*given):
        for update in updates(*given):
            before = all_weights()
            yield update  # the loop steps
            after = all_weights()
            turns.append([name for name in networks if not torch.equal(before[name], after[name])])

    state.objective.updates = watched
    state.advance(batch(0))
    assert turns == [["pair"], ["good"], ["bad"], ["student"]]


def test_generated_images_leave_the_running_statistics_as_they_are(states):
    both = []
    for weights in ({"good_weight": 0.0, "bad_weight": 0.0}, {}):
        state = states()
        objective = UGAN(**SMALL, **weights).build(state.objective.setting)
        state.enter_training()
        objective.train()
        list(objective.updates(batch(0), moment()))  # none is stepped
        both.append(copy.deepcopy(dict(state.student.named_buffers())))
    assert all(torch.equal(value, both[1][name]) for name, value in both[0].items())


def test_all_players_are_resumed_to_the_last_bit(states):
    whole = states()
    whole.enter_training()
    whole.advance(batch(0))
    saved = copy.deepcopy(whole.state_dict())
    whole.advance(batch(1))

    again = states()
    again.load_state_dict(saved)
    again.enter_training()
    again.advance(batch(1))

    for ours, theirs in ((whole.student, again.student), (whole.objective, again.objective)):
        for name, value in ours.state_dict().items():
            assert torch.equal(value, theirs.state_dict()[name])


@pytest.mark.parametrize("key", ["good", "bad"])
def test_a_generator_that_leaves_the_box_in_training_is_refused(key):
    with pytest.raises(ValidationError, match=r"outside \[0, 1\]"):
        UGAN(**{key: Upsample()})
    UGAN(**{key: Upsample(end="sigmoid")})
    UGAN(**{key: DCGAN()})


# The whole path


@pytest.mark.trains
def test_few_labels_train_alone_and_with_generators(here):
    few = ["--arch", "lenet5-half", "--data", "digits", "--labels", "50", "--epochs", "1", "--quiet"]
    few += ["--set", "train.steps_per_epoch=3", "--lr", "0.01"]
    ran(["train", *few, "--out", "alone"])
    method = "method={kind: ugan, good: {kind: mlp, width: 16}, bad: {kind: mlp, width: 16}, discriminator_width: 16}"
    ran(["train", *few, "--set", method, "--out", "both"])
    ran(["distill", "--teacher", "runs/teacher-1", "--student", *few[1:], "--set", method, "--out", "taught"])

    alone, both, taught = (record.read(here / name) for name in ("alone", "both", "taught"))
    assert (alone.data.train, alone.data.unlabelled) == (both.data.train, both.data.unlabelled) == (50, 1244)
    assert alone.data.fingerprint == both.data.fingerprint  # which is what makes them a pair
    assert both.teacher is None
    assert taught.student.agreement is not None


def test_what_ugan_lacks_or_cannot_use_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["train", "--arch", "lenet5-half", "--data", "digits", "--set", "method.kind=ugan", "--quiet"]
    refused(words, 2, "learns from unlabelled images too, and the recipe names none", "--labels 100")
    refused([*words, "--labels", "2000"], 2, "2,000 images are to keep their labels, and 1,294 are left")
    refused([*words, "--labels", "1294"], 2, "all 1,294 training images keep their labels, and none is left")
    refused([*words, "--labels", "50", "--target", "digits"], 2, "has no use for a target domain")
    refused([*words[:-3], "--unlabelled", "digits", "-q"], 2, "method ce has no use for unlabelled images")
