"""Several teachers: their weights, their losses, and who is refused."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from lessons import Says
from pydantic import TypeAdapter, ValidationError
from torch.nn import functional as F

from compressor import checkpoint, models
from compressor.batch import Batch
from compressor.checkpoint.match import fitted
from compressor.data import open_data
from compressor.errors import InputRejected, UsageError
from compressor.methods import AnyMethod, Moment, Setting
from compressor.methods.ensemble import CAMKD, Average, _resized, confidence_weights, equal_weights
from compressor.methods.losses.ctkd import CTKD
from compressor.methods.losses.wkd_l import WKDL
from compressor.recipe import Data, Recipe, Student, Teacher, require_runnable

MOMENT = Moment(epoch=0, epochs=10, step=0, generator=torch.Generator())
LABELS = torch.tensor([0, 1])


def sure(*probabilities):
    return [[math.log(p) for p in row] for row in probabilities]


RIGHT = sure((0.9, 0.1), (0.1, 0.9))
WRONG = sure((0.1, 0.9), (0.5, 0.5))
STUDENT = sure((0.6, 0.4), (0.3, 0.7))


def setting(student, *teachers, classes=2):
    return Setting(student, teachers, classes, (3, 8, 8), 16, torch.ones(3), torch.device("cpu"))


def lesson(config, *teachers):
    batch = Batch(torch.zeros(2, 3, 8, 8), LABELS, torch.arange(2))
    student = Says(STUDENT)
    (update,) = config.build(setting(student, *map(Says, teachers))).updates(batch, MOMENT)
    return student, update.terms


def divergence(teacher, temperature):
    """`-sum p log q` of each image, times the temperature squared."""
    p, q = ((torch.tensor(each) / temperature).softmax(dim=1) for each in (teacher, STUDENT))
    return -(p * q.log()).sum(dim=1) * temperature**2


# Weights


def test_a_teacher_that_is_right_weighs_what_the_other_ones_error_says():
    weights = confidence_weights(torch.tensor([RIGHT, WRONG]), LABELS)

    # exp(CE) is 1 / p of the label: 1/0.9 against 1/0.1, then 1/0.9 against 1/0.5; one minus each one's share.
    expected = [[10 / (10 / 9 + 10), 2 / (10 / 9 + 2)], [(10 / 9) / (10 / 9 + 10), (10 / 9) / (10 / 9 + 2)]]
    torch.testing.assert_close(weights, torch.tensor(expected))
    torch.testing.assert_close(weights[:, 0], torch.tensor([0.9, 0.1]))


def test_one_wrong_teacher_of_three_is_left_out_and_the_others_share():
    lost = torch.tensor([[-40.0, 40.0], [40.0, -40.0]])
    weights = confidence_weights(torch.stack([torch.tensor(RIGHT), lost, torch.tensor(RIGHT)]), LABELS)

    torch.testing.assert_close(weights, torch.tensor([[0.5, 0.5], [0.0, 0.0], [0.5, 0.5]]))


@pytest.mark.parametrize("weigh", [equal_weights, confidence_weights])
@pytest.mark.parametrize("count", [2, 3, 7])
def test_weights_sum_to_one_for_every_image_and_none_is_negative(weigh, count):
    taught = torch.randn(count, 20, 5) * 30
    weights = weigh(taught, torch.randint(5, (20,)))

    assert weights.shape == (count, 20)
    assert (weights >= 0).all()
    torch.testing.assert_close(weights.sum(dim=0), torch.ones(20))


def test_teachers_that_are_equally_right_weigh_the_same():
    taught = torch.tensor([RIGHT, RIGHT, RIGHT])

    torch.testing.assert_close(confidence_weights(taught, LABELS), equal_weights(taught, LABELS))


# Losses


def test_averaging_teaches_the_mean_of_the_softened_predictions():
    student, terms = lesson(Average(temperature=3), RIGHT, WRONG)

    mean = sum((torch.tensor(each) / 3).softmax(dim=1) for each in (RIGHT, WRONG)) / 2
    expected = 9 * F.cross_entropy(torch.tensor(STUDENT) / 3, mean)
    torch.testing.assert_close(terms["kd"], expected)
    torch.testing.assert_close(terms["ce"], F.cross_entropy(torch.tensor(STUDENT), LABELS))
    terms["kd"].backward()
    torch.testing.assert_close(student.logits.grad, 3 * ((torch.tensor(STUDENT) / 3).softmax(dim=1) - mean) / 2)


def test_each_image_is_taught_by_the_weights_of_its_own_teachers():
    _, terms = lesson(CAMKD(), RIGHT, WRONG)

    right, wrong = divergence(RIGHT, 4), divergence(WRONG, 4)
    first, second = 2 / (10 / 9 + 2), (10 / 9) / (10 / 9 + 2)
    expected = (0.9 * right[0] + 0.1 * wrong[0] + first * right[1] + second * wrong[1]) / 2
    torch.testing.assert_close(terms["kd"], expected)


def test_the_order_of_the_teachers_does_not_matter():
    torch.testing.assert_close(lesson(CAMKD(), RIGHT, WRONG)[1], lesson(CAMKD(), WRONG, RIGHT)[1])


def test_each_teacher_has_a_loss_of_its_own_that_is_trained_and_resumed(tiny):
    student, teachers = tiny(), [tiny(seed=seed) for seed in (1, 2, 3)]
    objective = CAMKD(soft=CTKD(), temperature=4).build(setting(student, *teachers, classes=4)).train()
    batch = Batch(torch.rand(4, 3, 8, 8), torch.arange(4), torch.arange(4))
    (update,) = objective.updates(batch, MOMENT)
    sum(update.terms.values()).backward()

    assert sorted(objective.state_dict()) == [f"soft.{k}.term.{name}" for k in range(3) for name in ("met", "theta")]
    assert [int(value) for name, value in objective.state_dict().items() if name.endswith("met")] == [4, 4, 4]
    assert all(parameter.grad is None for teacher in teachers for parameter in teacher.parameters())

    costs = [soft.term.cost for soft in Average(soft=WKDL()).build(setting(student, *teachers, classes=4)).soft]
    assert not torch.equal(costs[0], costs[1])  # of each teacher's own classifier


def test_features_are_weighed_by_what_each_teachers_classifier_makes_of_them(tiny, images):
    student, teachers = tiny(), [tiny(width=12, seed=1), tiny(seed=2)]
    config = CAMKD(intermediate={"student": "body", "teachers": ["body"], "weight": 3.0})
    objective = config.build(setting(student, *teachers, classes=4)).eval()
    batch = Batch(images(4), torch.arange(4), torch.arange(4))

    (update,) = objective.updates(batch, MOMENT)

    embedded = [embed(student.body(batch.images)) for embed in objective.inner.embeddings]
    apart = [(e - t.body(batch.images)).square().mean(dim=(1, 2, 3)) for e, t in zip(embedded, teachers, strict=True)]
    answers = torch.stack([t.head(e.mean(dim=(2, 3))) for e, t in zip(embedded, teachers, strict=True)])
    expected = 3 * (confidence_weights(answers, batch.labels) * torch.stack(apart)).sum(dim=0).mean()
    torch.testing.assert_close(update.terms["intermediate"], expected)
    sum(update.terms.values()).backward()
    assert all(parameter.grad is not None for parameter in objective.parameters())
    assert all(parameter.grad is None for teacher in teachers for parameter in teacher.parameters())
    held = {id(parameter) for teacher in teachers for parameter in teacher.parameters()}
    assert not held & {id(parameter) for parameter in objective.parameters()}  # nothing of a teacher is saved again


@pytest.mark.parametrize(("ours", "theirs"), [((1, 2, 4, 4), (2, 2)), ((1, 2, 2, 2), (4, 4)), ((1, 2, 3, 3), (3, 3))])
def test_maps_meet_at_the_teachers_size(ours, theirs):
    resized = _resized(torch.ones(ours), torch.Size(theirs))

    assert resized.shape[2:] == theirs
    assert resized.unique().tolist() == [1]


@pytest.mark.parametrize(
    ("teachers", "sentence"),
    [
        (["body", "body", "body"], "names 3 modules, and there are 2 teachers"),
        (["head"], r"classifier of teacher 1 cannot weigh head, which gives \[4\]: it takes 8"),
        (["body", "bodi"], "no module 'bodi'"),
    ],
)
def test_taps_that_do_not_fit_the_teachers_are_refused(tiny, teachers, sentence):
    config = CAMKD(intermediate={"student": "body", "teachers": teachers})

    with pytest.raises(UsageError, match=sentence):
        config.build(setting(tiny(), tiny(seed=1), tiny(seed=2), classes=4))


# Refusals


@pytest.mark.parametrize("method", [Average(), CAMKD()])
def test_one_teacher_is_refused_and_two_are_not(method):
    def given(count):
        teachers = tuple(Teacher(checkpoint=Path(f"{number}.pt")) for number in range(count))
        return Recipe(student=Student(arch="a"), data=Data(name="digits"), teachers=teachers, method=method)

    with pytest.raises(UsageError, match=f"^method {method.kind} learns from 2 teachers, and the recipe names 1$"):
        require_runnable(given(1))
    require_runnable(given(2))
    require_runnable(given(5))


def test_a_teacher_with_other_classes_is_refused_by_its_number(tmp_path):
    digits = open_data(Data(name="digits"), device=torch.device("cpu"))
    file = tmp_path / "five.pt"
    torch.save(models.build("lenet5", classes=5, input_shape=digits.input_shape).state_dict(), file)
    network = checkpoint.load_network(file, arch="lenet5", input_shape=digits.input_shape)

    with pytest.raises(InputRejected, match=r"^teacher 2 has 5 classes, but .* has 10$"):
        fitted(replace(network, called="teacher 2"), digits)


def test_features_of_one_teacher_have_no_place_among_several():
    feature = {"kind": "fitnet", "student": "body", "teacher": "body"}
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        TypeAdapter(AnyMethod).validate_python({"kind": "ca-mkd", "features": [feature]})
