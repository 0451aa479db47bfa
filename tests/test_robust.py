"""Robust distillation: where each method's attack goes, what it teaches there, and what it leaves as it was."""

import math

import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from torch.nn import functional as F

from compressor.attack import PGD
from compressor.attack.slope import apart, divergence, loss, slope
from compressor.batch import Batch
from compressor.methods import AnyMethod, Moment, Setting
from compressor.methods.robust import ARD, DGAD, PGDAT, RSLAD, AdaAD, SideBySide, righted
from compressor.recipe import Training
from compressor.training.loop import TrainingState, fit

EPSILON, IMAGE = 0.05, [0.6, 0.4]
ATTACK = {"epsilon": EPSILON, "steps": 4, "step_size": 0.03}
METHODS = [PGDAT, ARD, RSLAD, AdaAD, DGAD]


def moment(seed=0, epoch=0):
    return Moment(epoch=epoch, epochs=10, step=0, generator=torch.Generator().manual_seed(seed))


def pair(*rows):
    """Images of two pixels, `[B, 1, 1, 2]`."""
    return torch.tensor(rows).view(-1, 1, 1, 2)


def batch(images, labels):
    return Batch(images, torch.tensor(labels), torch.arange(len(labels)))


@pytest.fixture
def scaled(linear):
    """A function that makes a network whose logits are the two pixels, times a factor."""
    return lambda factor: linear(factor * torch.eye(2))


def build(config, student, *teachers, classes=2, input_shape=(1, 1, 2)):
    device = torch.device("cpu")
    return config.build(Setting(student, teachers, classes, input_shape, 16, torch.ones(1), device))


def lesson(config, student, teacher, images=None, labels=(0,)):
    images = pair(IMAGE) if images is None else images
    (update,) = build(config, student, teacher).updates(batch(images, labels), moment())
    return {name: term.item() for name, term in update.terms.items()}, update.notes


def soft(taught, learnt, temperature=1.0):
    """`-sum p log q` of one image's logits."""
    p, q = ((torch.tensor(each) / temperature).softmax(dim=0) for each in (taught, learnt))
    return -(p * q.log()).sum().item()


# What is climbed


def test_values_equal_their_formulas():
    taught, learnt = torch.randn(5, 4), torch.randn(5, 4)
    p, q = taught.softmax(dim=1), learnt.softmax(dim=1)
    expected = (p * (p / q).log()).sum(dim=1)

    torch.testing.assert_close(divergence(taught)(learnt).float(), expected)
    torch.testing.assert_close(apart(torch.cat((learnt, taught), dim=1)).float(), expected)


def test_the_slope_of_two_networks_goes_through_both(scaled):
    both, images = SideBySide(scaled(1.0), scaled(2.0)), pair(IMAGE, [0.3, 0.8])

    gradient = slope(both, images, apart).gradient
    torch.autograd.gradcheck(lambda x: apart(both.double()(x)), images.double().requires_grad_())

    fixed = slope(scaled(1.0), images, divergence(scaled(2.0)(images).detach())).gradient
    assert not torch.allclose(gradient, fixed)


@pytest.mark.parametrize("start", ["uniform", "normal"])
def test_an_attack_reaches_the_corner_of_the_ball_on_a_linear_network(scaled, start):
    attack = PGD(start=start, **{**ATTACK, "steps": 9})
    moved = attack(scaled(1.0), pair(IMAGE), loss(torch.tensor([0])), generator=torch.Generator())

    assert moved.flatten().tolist() == pytest.approx([0.55, 0.45], abs=1e-6)


def test_a_normal_start_is_hardly_off_the_image(scaled):
    images = torch.full((500, 1, 1, 2), 0.5)
    attack = PGD(steps=0, start="normal")
    moved = attack(scaled(1.0), images, loss(torch.zeros(500, dtype=torch.int64)), generator=torch.Generator())

    assert (moved - images).std().item() == pytest.approx(1e-3, rel=0.1)


# What is taught


def test_pgd_at_teaches_labels_where_the_student_errs_most(scaled):
    config = PGDAT(attack={**ATTACK, "steps": 9, "start": "uniform"})
    (update,) = build(config, scaled(1.0)).updates(batch(pair(IMAGE), [0]), moment())

    assert update.terms["ce"].item() == pytest.approx(math.log(1 + math.exp(-0.1)), abs=1e-6)  # the gap is 0.55 - 0.45
    assert update.notes["attacked_right"] == 1


def test_ard_teaches_the_clean_answer_on_images_attacked_by_their_labels(scaled):
    config = ARD(attack={**ATTACK, "steps": 9, "start": "uniform"}, temperature=3, ce_weight=0.25, kd_weight=0.75)
    terms, _ = lesson(config, scaled(1.0), scaled(2.0))

    assert terms["kd"] == pytest.approx(0.75 * 9 * soft([1.2, 0.8], [0.55, 0.45], 3), abs=1e-5)
    assert terms["ce"] == pytest.approx(0.25 * math.log(1 + math.exp(-0.2)), abs=1e-6)
    assert "clean" not in terms


def test_rslad_leads_away_from_what_the_teacher_says_of_the_clean_image(scaled):
    terms, _ = lesson(RSLAD(attack=ATTACK), scaled(1.0), scaled(2.0))

    # The student's gap is below the teacher's 0.4, so the divergence grows as it falls.
    assert terms["kd"] == pytest.approx(5 / 6 * soft([1.2, 0.8], [0.55, 0.45]), abs=1e-5)
    assert terms["clean"] == pytest.approx(1 / 6 * soft([1.2, 0.8], [0.6, 0.4]), abs=1e-5)


def test_adaad_leads_to_where_the_two_differ_most_and_asks_the_teacher_there(scaled):
    terms, _ = lesson(AdaAD(attack=ATTACK), scaled(1.0), scaled(2.0))

    # Both gaps grow together, and the teacher's faster: the other way than with a teacher that stands still.
    assert terms == {"kd": pytest.approx(soft([1.3, 0.7], [0.65, 0.35]), abs=1e-5)}


def test_dgad_teaches_clean_where_the_teacher_errs_and_attacked_elsewhere(scaled):
    images, labels = pair(IMAGE, IMAGE), [0, 1]
    terms, notes = lesson(DGAD(attack=ATTACK, consistency_weight=2.0), scaled(1.0), scaled(2.0), images, labels)

    clean, attacked = (torch.tensor(logits).softmax(dim=0) for logits in ([0.6, 0.4], [0.65, 0.35]))
    assert terms["kd"] == pytest.approx(soft([1.3, 0.7], [0.65, 0.35]) / 2, abs=1e-5)
    assert terms["clean"] == pytest.approx(soft([0.8, 1.2], [0.6, 0.4]) / 2, abs=1e-5)  # exchanged
    assert terms["consistency"] == pytest.approx(2 * (clean - attacked).square().mean().item(), rel=1e-3)
    assert notes["teacher_right"] == 0.5
    assert notes["attacked_right"] == 0.5


def test_dgad_of_a_teacher_that_is_always_wrong_is_finite(scaled):
    terms, _ = lesson(DGAD(attack=ATTACK), scaled(1.0), scaled(2.0), labels=(1,))

    assert terms["kd"] == 0
    assert all(math.isfinite(value) for value in terms.values())


def test_exchanging_makes_the_labels_class_the_first_and_changes_no_other():
    logits = torch.tensor([[3.0, 1.0, 2.0], [0.0, 5.0, 4.0], [1.0, 2.0, 9.0]])

    swapped = righted(logits, torch.tensor([1, 1, 0]))

    assert swapped.tolist() == [[1, 3, 2], [0, 5, 4], [9, 2, 1]]


@pytest.mark.parametrize("config", [ARD, RSLAD, AdaAD, DGAD])
def test_any_soft_loss_teaches(tiny, images, config):
    student, teacher = tiny(), tiny(seed=1)
    made = config(soft={"kind": "dist"}, **({"temperature": 1.0, "t2": False} if config is not ARD else {}))
    shown = Batch(images(8), torch.arange(8) % 4, torch.arange(8))
    (update,) = build(made, student, teacher, classes=4, input_shape=(3, 8, 8)).updates(shown, moment())

    sum(update.terms.values()).backward()
    assert all(parameter.grad is not None for parameter in student.parameters())


# What is left as it was


@pytest.mark.parametrize("config", METHODS)
def test_an_attack_moves_no_statistics_and_leaves_no_gradient(tiny, images, config, monkeypatch):
    student, teacher = tiny().train(), tiny(seed=1)
    objective = build(config(), student, teacher, classes=4, input_shape=(3, 8, 8))
    seen, before = [], {name: value.clone() for name, value in student.state_dict().items()}

    def watched(self, network, images, value, *, generator):
        moved = PGD.__wrapped__(self, network, images, value, generator=generator)
        seen.append((images, moved))
        assert student.training
        assert not teacher.training
        assert all(torch.equal(value, before[name]) for name, value in student.state_dict().items())
        assert all(p.grad is None and p.requires_grad for p in student.parameters())
        return moved

    monkeypatch.setattr(PGD, "__wrapped__", PGD.__call__, raising=False)
    monkeypatch.setattr(PGD, "__call__", watched)
    shown = Batch(images(8), torch.arange(8) % 4, torch.arange(8))
    (update,) = objective.updates(shown, moment())

    ((clean, moved),) = seen
    assert (moved - clean).abs().max() <= 8 / 255 + 1e-6
    assert 0 <= moved.min() <= moved.max() <= 1
    assert not torch.equal(moved, clean)
    sum(update.terms.values()).backward()
    assert all(p.grad is None for p in teacher.parameters())


@pytest.mark.heavy
@pytest.mark.parametrize("config", METHODS)
def test_it_trains_through_the_loop_and_the_same_seed_gives_the_same_weights(tiny, images, config):
    def trained():
        student, teacher = tiny(), tiny(seed=1)
        objective = build(config(), student, teacher, classes=4, input_shape=(3, 8, 8))
        state = TrainingState(
            student, objective, Training(epochs=2, lr=0.05), seed=3, device=torch.device("cpu"), steps_per_epoch=2
        )
        shown = Batch(images(8), torch.arange(8) % 4, torch.arange(8))
        (first, _) = fit(state, lambda _epoch, start: [shown] * (2 - start))
        assert 0 <= first.notes["attacked_right"] <= 1
        return torch.cat([parameter.detach().flatten() for parameter in student.parameters()])

    once, again = trained(), trained()
    assert torch.equal(once, again)
    assert once.isfinite().all()


def test_only_those_that_attack_the_teacher_need_gradients_through_it():
    assert [config.needs.gradients for config in METHODS] == [False, False, False, True, True]


@pytest.mark.parametrize(
    "wrong",
    [
        {"kind": "dgad", "attack": {"epsilon": 0}},
        {"kind": "ard", "attack": {"steps": 0}},
        {"kind": "rslad", "attack": {"start": "none"}},
        {"kind": "dgad", "consistency_weight": -1},
        {"kind": "adaad", "consistency_weight": 1},
        {"kind": "rslad", "features": []},
        {"kind": "pgd-at", "temperature": 1},
    ],
)
def test_wrong_keys_are_refused(wrong):
    with pytest.raises(ValidationError):
        TypeAdapter(AnyMethod).validate_python(wrong)


def test_cross_entropy_is_what_a_uniform_teacher_of_one_class_teaches(scaled):
    """A teacher that is sure is a label: RSLAD then is adversarial training beside the clean loss."""
    sure = scaled(1e4)
    terms, _ = lesson(RSLAD(attack={**ATTACK, "steps": 9}), scaled(1.0), sure)

    corner = F.cross_entropy(torch.tensor([[0.55, 0.45]]), torch.tensor([0])).item()
    assert terms["kd"] == pytest.approx(5 / 6 * corner, abs=1e-5)
