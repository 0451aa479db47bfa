"""Methods without data: their terms in closed form, the turns of their game, and the generators that they leave."""

import copy
import math
import re

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from compressor.batch import Batch
from compressor.errors import CompressError
from compressor.generators import Upsample
from compressor.methods import Moment, Setting
from compressor.methods.datafree import DFAD, DFQ, Qimera, terms
from compressor.methods.datafree.objective import ENTROPY, DataFree, Generating
from compressor.methods.datafree.terms import DISTANCES, GeneratorLoss, Judge, entropy_share, one_hot, statistics
from compressor.models import Normalized, batchnorm
from compressor.recipe import Training
from compressor.training.loop import TrainingState, fit
from compressor.training.sources import empty_batches

SHAPE = (3, 8, 8)
SMALL = Upsample(noise=6, width=4)
LOGITS = torch.tensor([[2.0, 0.0, -1.0], [0.0, 1.0, 1.0]])
OTHERS = torch.tensor([[1.0, 0.5, -1.0], [0.0, 1.0, 4.0]])


def small(config, **changes):
    """The method with a generator that costs nothing."""
    network = config.generator.network.model_copy(update={"noise": 6, "width": 4})
    generator = config.generator.model_copy(update={"network": network, **changes})
    return config.model_copy(update={"generator": generator})


@pytest.fixture
def setting(tiny):
    """A function that makes a setting of a tiny teacher and another student of four classes."""

    def make(**changes):
        student = Normalized(tiny(seed=1), (0.5,) * 3, (0.25,) * 3)
        values = {
            "student": student,
            "teachers": [Normalized(tiny(seed=0), (0.5,) * 3, (0.25,) * 3)],
            "classes": 4,
            "input_shape": SHAPE,
            "samples": 0,
            "std": torch.full((3,), 0.25),
            "mean": torch.full((3,), 0.5),
            "device": torch.device("cpu"),
        }
        return Setting(**{**values, **changes})

    return make


def state_of(config, setting, *, epochs=2, steps=3, **training):
    torch.manual_seed(0)
    made = Training(epochs=epochs, steps_per_epoch=steps, lr=0.05, schedule={"kind": "constant"}, **training)
    objective = config.build(setting)
    return TrainingState(setting.student, objective, made, seed=3, device=torch.device("cpu"), steps_per_epoch=steps)


def batches(steps=3):
    return empty_batches(steps, SHAPE, 16).batches


def moment(step=0):
    return Moment(0, 1, step, torch.Generator().manual_seed(step))


NONE = torch.zeros(0, dtype=torch.int64)
EMPTY = Batch(torch.zeros(0, *SHAPE), NONE, NONE, wanted=16)


# Terms.


def test_the_distances_are_their_closed_forms():
    assert DISTANCES["l1"](LOGITS, OTHERS).tolist() == [0.5, 1.0]
    assert DISTANCES["log-l1"](LOGITS, OTHERS).tolist() == pytest.approx([math.log(1.5), math.log(2)])
    p, q = OTHERS.double().softmax(1), LOGITS.double().softmax(1)
    assert DISTANCES["kl"](LOGITS.double(), OTHERS.double()).tolist() == pytest.approx(
        (p * (p / q).log()).sum(dim=1).tolist()
    )


def test_the_teachers_own_certainty_and_the_spread_of_its_classes():
    assert one_hot(torch.tensor([[50.0, 0.0], [0.0, 0.0]])).tolist() == pytest.approx([0.0, math.log(2)])
    certain = 100 * torch.eye(4)
    assert entropy_share(certain).item() == pytest.approx(1)
    assert entropy_share(certain[[1, 1, 1]]).item() == pytest.approx(0)
    assert entropy_share(certain[[0, 1]]).item() == pytest.approx(0.5)


@pytest.mark.parametrize(("matching", "expected"), [("norm", 5.0 + 12.0), ("mse", (25.0 + 144.0) / 2)])
def test_statistics_are_the_distance_of_means_and_variances(matching, expected):
    network = nn.Sequential(nn.BatchNorm2d(2))
    network[0].running_mean = torch.tensor([-3.0, 4.0])
    network[0].running_var = torch.tensor([1.0, 13.0])
    images = torch.tensor([[[[1.0]], [[1.0]]], [[[-1.0]], [[-1.0]]]])  # means 0, variances 1
    with batchnorm.watched(batchnorm.remembering(network.eval())) as passed:
        network(images)
    assert statistics(passed, matching).item() == pytest.approx(expected)
    assert not network[0]._forward_pre_hooks


def test_statistics_of_a_teacher_without_batchnorm_are_refused_in_a_sentence(setting, linear):
    teacher = linear(torch.randn(4, 192))
    with pytest.raises(CompressError, match="no BatchNorm whose statistics") as refused:
        small(DFQ()).build(setting(teachers=[teacher]))
    assert "statistics_weight=0" in refused.value.hint
    small(DFAD()).build(setting(teachers=[teacher]))  # which asks for none


def test_a_judge_weighs_what_it_is_told_to_and_gradients_reach_the_images(setting):
    made = setting()
    config = GeneratorLoss(
        adversarial_weight=2.0,
        label_weight=3.0,
        one_hot_weight=0.5,
        balance_weight=4.0,
        activation_weight=0.25,
        features="body",
    )
    images = torch.rand(5, *SHAPE, requires_grad=True)
    labels = F.one_hot(torch.tensor([0, 1, 2, 3, 0]), 4).float()
    judged = Judge(config, made.teachers[0], made.student)(images, labels, "l1")
    taught = made.teachers[0](images)
    features = made.teachers[0].network.body((images - 0.5) / 0.25)
    terms_ = judged.terms()
    assert terms_["adversarial"].item() == pytest.approx(-2 * F.l1_loss(made.student(images), taught).item(), rel=1e-5)
    assert terms_["label"].item() == pytest.approx(3 * F.cross_entropy(taught, labels).item(), rel=1e-5)
    assert terms_["one_hot"].item() == pytest.approx(0.5 * one_hot(taught).mean().item(), rel=1e-5)
    assert terms_["balance"].item() == pytest.approx(-4 * math.log(4) * entropy_share(taught).item(), rel=1e-5)
    assert terms_["activation"].item() == pytest.approx(-0.25 * features.abs().mean().item(), rel=1e-5)
    for name, term in terms_.items():
        (gradient,) = torch.autograd.grad(term, images, retain_graph=True)
        assert gradient.abs().sum() > 0, name
    assert set(
        Judge(GeneratorLoss(one_hot_weight=1.0), made.teachers[0], made.student)(images, None, "l1").terms()
    ) == {"one_hot"}


# The game.


def test_the_student_steps_so_often_then_the_generator_once(setting):
    objective = small(DFAD(student_steps=3)).build(setting())
    assert [update.player for update in objective.updates(EMPTY, moment())] == ["student"] * 3 + ["generator"]


def test_the_student_closes_the_distance_that_the_generator_opens(setting):
    made = setting()
    turns = small(DFAD()).build(made).updates(EMPTY, moment())
    terms_ = {update.player: update.terms for update in turns}
    assert terms_["student"]["l1"].item() > 0
    assert terms_["generator"]["adversarial"].item() < 0
    # At a student that is its teacher there is nothing to learn or to find.
    same = setting(student=copy.deepcopy(made.teachers[0]).eval())
    for update in small(DFAD(student_batchnorm="stored")).build(same).updates(EMPTY, moment()):
        assert sum(update.terms.values()).item() == pytest.approx(0, abs=1e-5)


@pytest.mark.heavy
@pytest.mark.parametrize(
    "config", [DFAD(), DFQ(), Qimera(), DFAD(boundary_weight=1.0)], ids=["dfad", "dfq", "qimera", "boundary"]
)
@pytest.mark.parametrize("train", ["gradient", "ce-gan"])
def test_a_run_without_data_moves_student_and_generator_and_leaves_the_teacher(setting, config, train):
    if train == "ce-gan" and isinstance(config, Qimera):
        config = config.model_copy(update={"losses": config.losses.model_copy(update={"adversarial_weight": 1.0})})
    made = setting()
    state = state_of(small(config, train=train), made)
    before = copy.deepcopy(
        [made.student.state_dict(), state.objective.generator.state_dict(), made.teachers[0].state_dict()]
    )
    epochs = list(fit(state, batches()))
    after = [made.student.state_dict(), state.objective.generator.state_dict(), made.teachers[0].state_dict()]
    moved = [
        any(not torch.equal(one[key], other[key]) for key in one) for one, other in zip(before, after, strict=True)
    ]
    assert moved == [True, True, False]
    assert all(math.isfinite(value) for value in epochs[-1].losses.values())
    assert 0 <= epochs[-1].notes[ENTROPY] <= 1
    assert not any(layer._forward_pre_hooks for layer in made.teachers[0].modules())


@pytest.mark.heavy
@pytest.mark.parametrize("train", ["gradient", "ce-gan"])
def test_a_resumed_run_ends_with_the_very_weights(setting, train):
    config = small(DFQ(student_steps=2), train=train)
    whole = state_of(config, setting())
    list(fit(whole, batches()))

    first = state_of(config, setting())
    next(iter(fit(first, batches())))
    second = state_of(config, setting())
    second.load_state_dict(first.state_dict())
    list(fit(second, batches()))
    for one, other in ((whole.student, second.student), (whole.objective, second.objective)):
        pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
        assert all(torch.equal(mine, theirs) for mine, theirs in pairs)


@pytest.mark.heavy
def test_all_copies_of_an_evolution_are_one_network_between_steps(setting):
    state = state_of(small(DFAD(), train="ce-gan"), setting())
    list(fit(state, batches()))
    first, *others = (each.state_dict() for each in state.objective.makers.copies.values())
    assert all(torch.equal(first[key], other[key]) for other in others for key in first)
    assert len(others) == 3  # two other mutants and the offspring


def running_means(network):
    return [each.running_mean.clone() for each in network.modules() if isinstance(each, nn.BatchNorm2d)]


@pytest.mark.parametrize(
    ("use", "moves"), [("batch", [True, True]), ("learning", [True, False]), ("stored", [False] * 2)]
)
def test_whose_statistics_the_students_batchnorm_uses_is_said(setting, use, moves):
    made = setting()
    made.student.train()
    objective = small(DFAD(student_steps=1, student_batchnorm=use)).build(made)
    found, before = [], running_means(made.student)
    for _ in objective.updates(EMPTY, moment()):
        now = running_means(made.student)
        found.append(not all(map(torch.equal, before, now)))
        before = now
    assert found == moves
    assert made.student.training


def test_a_student_that_begins_with_statistics_of_its_own_keeps_them(setting):
    assert small(Qimera()).build(setting()).batchnorm == "stored"
    fresh = Normalized(nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)), (0.5,) * 3, (0.25,) * 3)
    assert small(Qimera()).build(setting(student=fresh)).batchnorm == "learning"


def test_boundary_samples_of_generated_images_are_one_more_term(setting):
    update = next(small(DFAD(boundary_weight=2.0, attack={"size": 8})).build(setting()).updates(EMPTY, moment()))
    assert set(update.terms) == {"l1", "boundary_l1"}


def test_images_are_in_the_box_and_the_generators_alone(setting):
    objective = small(DFAD()).build(setting()).train()
    images = objective.images(21, torch.Generator().manual_seed(1))
    assert images.shape == (21, *SHAPE)
    assert 0 <= images.min() <= images.max() <= 1
    assert torch.equal(images, objective.images(21, torch.Generator().manual_seed(1)))
    assert objective.generator.training


def test_collapse_is_said(setting):
    objective = small(DFAD()).build(setting())
    assert list(objective.warnings({ENTROPY: 0.9})) == list(objective.warnings({})) == []
    (sentence,) = objective.warnings({ENTROPY: 0.31})
    assert re.search(r"collapsed.*0\.31", sentence)


# Qimera.


def test_superposed_images_are_asked_for_as_often_as_is_said(setting):
    for probability, mixed in ((0.0, 1), (1.0, 3)):
        objective = small(Qimera(probability=probability, mixed=3)).build(setting())
        draw = objective.draw(5, torch.Generator())
        assert draw.code[0].shape == (5, mixed)
        assert draw.labels.sum(dim=1).tolist() == pytest.approx([1.0] * 5)


def test_embeddings_may_begin_as_the_teachers_last_weights(setting):
    made = setting()
    objective = small(Qimera(embeddings="teacher")).build(made)
    assert torch.equal(objective.generator.embeddings.vectors, made.teachers[0].network.head.weight)
    assert objective.images(3, torch.Generator()).shape == (3, *SHAPE)
    with pytest.raises(CompressError, match="no linear layer"):
        small(Qimera(embeddings="teacher", losses={"label_weight": 1.0})).build(setting(teachers=[nn.Conv2d(3, 4, 1)]))


def test_the_students_terms_are_the_published_ones(setting):
    objective = small(Qimera(temperature=2.0)).build(setting())
    labels = torch.tensor([[0.5, 0.5, 0.0], [0.0, 0.0, 1.0]])
    found = objective.lesson(LOGITS, OTHERS, labels)
    soft = F.kl_div((LOGITS / 2).log_softmax(1), (OTHERS / 2).softmax(1), reduction="batchmean") / 3
    assert found["kd"].item() == pytest.approx(4 * soft.item(), rel=1e-5)
    assert found["ce"].item() == pytest.approx(F.cross_entropy(LOGITS, labels).item())


# Refusals.


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"generator": {"mutations": ("l1", "kl")}}, "is for the training ce-gan"),
        ({"generator": {"train": "ce-gan", "mutations": ("l1", "l1")}}, "none twice"),
        (
            {"losses": {"adversarial_weight": 0.0, "one_hot_weight": 1.0}, "generator": {"train": "ce-gan"}},
            "needs mutants that differ",
        ),
        ({"losses": {"adversarial_weight": 0.0}}, "no term"),
        ({"losses": {"activation_weight": 1.0}}, "needs the path of a module"),
        ({"losses": {"adversarial_weight": 1.0, "features": "body"}}, "is of activation_weight"),
        ({"attack": {"steps": 3}}, "boundary_weight is 0"),
    ],
)
def test_settings_without_an_effect_are_refused(changes, words):
    with pytest.raises(ValueError, match=words):
        DFAD(**changes)


def test_a_key_of_a_section_leaves_the_methods_other_defaults_alone():
    config = DFQ(losses={"statistics_weight": 0.0}, generator={"lr": 0.1})
    assert (config.losses.balance_weight, config.losses.adversarial) == (20.0, "kl")
    assert (config.generator.betas, config.generator.network.kind) == ((0.5, 0.999), "upsample-large")


def test_labels_are_for_generators_that_are_told_of_classes():
    with pytest.raises(ValueError, match="asks for no classes"):
        DFAD(losses={"label_weight": 1.0})
    assert Qimera().losses.label_weight == 1.0


def test_all_of_them_share_their_keys():
    assert all(issubclass(each, DataFree) and isinstance(each().generator, Generating) for each in (DFAD, DFQ, Qimera))
    assert set(terms.DISTANCES) == {"l1", "kl", "log-l1"}
