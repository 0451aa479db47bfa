"""Losses between inner outputs that look at pairs and triples of images, or at several layers: closed forms."""

import math

import pytest
import torch
from pydantic import ValidationError

from compressor.batch import Batch
from compressor.errors import UsageError
from compressor.methods import Moment, Setting, describe
from compressor.methods.kd import KD
from compressor.methods.losses.fsp import FSP, Flow
from compressor.methods.losses.pkt import PKT, Neighbours
from compressor.methods.losses.relations import angles, distances
from compressor.methods.losses.rkd import RKD, Relational
from compressor.methods.losses.sp import SP, Similarity

CPU = torch.device("cpu")


def doubles(rows):
    return torch.tensor(rows, dtype=torch.float64)


def setting(student, teacher):
    return Setting(student, [teacher], 4, (3, 8, 8), 32, torch.ones(3) / 4, CPU)


def related(**settings):
    return Relational(RKD(student="a", teacher="b", **settings))


def huber(difference):
    return difference**2 / 2 if abs(difference) < 1 else abs(difference) - 0.5


def test_sp_is_the_squared_difference_of_normalised_products():
    student = doubles([[3.0, 4.0], [0.0, 1.0]])  # products 25 4, and 4 1
    teacher = doubles([[1.0, 0.0, 0.0], [0.0, 0.0, 2.0]])  # 1 0, and 0 4

    loss = Similarity()(student, teacher)

    first, second = math.hypot(25, 4), math.hypot(4, 1)
    expected = [((1 - 25 / first) ** 2 + (4 / first) ** 2) / 2, ((4 / second) ** 2 + (1 - 1 / second) ** 2) / 2]
    assert loss.tolist() == pytest.approx(expected, rel=1e-12)


def test_rkd_of_two_images_compares_no_distance_since_one_pair_is_its_own_mean():
    loss = related(angle=0.0)(doubles([[0.0], [3.0]]), doubles([[1.0, 1.0], [0.0, 0.0]]))
    assert loss.tolist() == pytest.approx([0, 0], abs=1e-12)


def test_rkd_compares_distances_in_units_of_their_mean():
    student, teacher = doubles([[0.0], [1.0], [3.0]]), doubles([[0.0, 0.0], [3.0, 0.0], [3.0, 4.0]])
    loss = related(distance=3.0, angle=0.0)(student, teacher)

    # Between 0 1, 0 2, and 1 2: the student's are 1 3 2 with mean 2, the teacher's 3 5 4 with mean 4.
    first, second, third = (huber(a / 2 - b / 4) for a, b in ((1, 3), (3, 5), (2, 4)))
    assert loss.tolist() == pytest.approx([first + second, first + third, second + third], rel=1e-12)


def test_rkd_compares_the_cosines_of_the_angles_at_each_image():
    student = doubles([[0.0], [1.0], [3.0]])  # on a line: 0 sees both on one side, 1 on two sides
    teacher = doubles([[0.0, 0.0], [3.0, 0.0], [3.0, 4.0]])  # 3 4 5: right angle at 1
    loss = related(distance=0.0, angle=9.0)(student, teacher)

    # Each angle counts twice among the 9 of an image; an image's way to another has cosine 1 with itself in both.
    expected = [2 * huber(1 - 3 / 5), 2 * huber(-1 - 0), 2 * huber(1 - 4 / 5)]
    assert loss.tolist() == pytest.approx(expected, rel=1e-12)


def test_images_that_coincide_for_the_student_alone_have_a_gradient_that_is_finite():
    student = torch.tensor([[0.0, 0.0], [0.0, 0.0], [1.0, 0.0]]).requires_grad_()
    loss = related()(student, torch.randn(3, 4))
    loss.mean().backward()
    assert loss.isfinite().all()
    assert student.grad.isfinite().all()
    assert student.grad.abs().max() < 100


def test_pkt_is_the_divergence_of_the_neighbours():
    student = doubles([[1.0, 0.0], [0.0, 2.0]])  # cosine 0: kernels 1 and 1/2
    teacher = doubles([[1.0, 0.0], [1.0, 3**0.5]])  # cosine 1/2: kernels 1 and 3/4

    loss = Neighbours()(student, teacher)

    p, q = (4 / 7, 3 / 7), (2 / 3, 1 / 3)
    expected = sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
    assert loss.tolist() == pytest.approx([expected, expected], rel=1e-6)


def test_relations_of_maps_are_those_of_their_means_over_places():
    student, teacher = torch.randn(4, 5, 2, 3), torch.randn(4, 7, 2, 2)
    for loss in (related(), Neighbours()):
        torch.testing.assert_close(loss(student, teacher), loss(student.mean((2, 3)), teacher.mean((2, 3))))


def test_fsp_is_the_squared_difference_of_mean_channel_products():
    first = doubles([[[[1.0, 2.0], [3.0, 4.0]]], [[[0.0, 0.0], [0.0, 8.0]]]])  # [2, 1, 2, 2]: averaged 2.5, and 2
    second = doubles([[[[1.0]], [[-2.0]]], [[[0.5]], [[3.0]]]])  # [2, 2, 1, 1]
    nothing = (torch.zeros_like(first), torch.zeros_like(second))

    assert Flow()((first, second), nothing).tolist() == [(2.5**2 + 5**2) / 2, (1 + 36) / 2]
    whole = second.expand(2, 2, 2, 2) * doubles([[1.0, 0.0], [0.0, 1.0]])  # at the first and the last place
    assert Flow()((first, whole), nothing).tolist() == [((5 / 4) ** 2 + (10 / 4) ** 2) / 2, (1 + 36) / 2]


@pytest.mark.parametrize("loss", [Similarity(), related(), Neighbours()], ids=["sp", "rkd", "pkt"])
def test_gradients_of_relational_losses_are_those_of_finite_differences(loss):
    torch.manual_seed(0)
    student = torch.randn(2, 2, 2, 2, dtype=torch.float64).requires_grad_()
    teacher = torch.randn(2, 3, 3, 3, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda maps: loss(maps, teacher), student)
    three = torch.randn(3, 4, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda maps: loss(maps, torch.eye(3, 5).double()), three)


def test_gradients_of_fsp_are_those_of_finite_differences():
    torch.manual_seed(0)
    first, second = (torch.randn(2, 2, size, size, dtype=torch.float64).requires_grad_() for size in (3, 2))
    taught = tuple(torch.randn(2, 2, 4, 4, dtype=torch.float64) for _ in range(2))
    assert torch.autograd.gradcheck(lambda *maps: Flow()(maps, taught), (first, second))


@pytest.mark.parametrize("loss", [Similarity(), related(), Neighbours()], ids=["sp", "rkd", "pkt"])
def test_relations_do_not_see_the_scale_and_one_image_has_none(loss):
    teacher = torch.randn(4, 6)
    torch.testing.assert_close(loss(teacher * 3, teacher), torch.zeros(4), rtol=0, atol=1e-5)
    assert (loss(torch.randn(4, 6), teacher) > 0).all()
    assert loss(torch.randn(1, 6), teacher[:1]).tolist() == pytest.approx([0], abs=1e-6)


def test_relations_are_as_exact_under_autocast():
    student, teacher = torch.randn(8, 6), torch.randn(8, 6)
    for loss in (Similarity(), related(), Neighbours()):
        with torch.autocast("cpu", torch.bfloat16):
            half = loss(student, teacher)
        torch.testing.assert_close(half, loss(student, teacher))


def test_distances_and_angles_are_those_of_a_right_triangle():
    corners = doubles([[0.0, 0.0], [3.0, 0.0], [3.0, 4.0]])
    assert distances(corners).tolist() == [[0, 3, 5], [3, 0, 4], [5, 4, 0]]
    assert angles(corners)[1].flatten().tolist() == pytest.approx([1, 0, 0, 0, 0, 0, 0, 0, 1])


@pytest.mark.parametrize(
    ("loss", "sentence"),
    [
        (SP(student="layer3", teacher="body"), "the network has no module 'layer3'"),
        (RKD(student="body", teacher="layer3"), "the network has no module 'layer3'"),
        (PKT(student="layer3", teacher="body"), "the network has no module 'layer3'"),
        (FSP(student=("body.0", "layer3"), teacher=("body.0", "body")), "the network has no module 'layer3'"),
        (
            FSP(student=("body.0", "body"), teacher=("body.0", "body")),
            "fsp cannot compare its taps: body.0 and body of the student gives [[8, 8, 8], [8, 4, 4]], "
            "body.0 and body of the teacher [[12, 8, 8], [12, 4, 4]]",
        ),
        (FSP(student=("body", "head"), teacher=("body", "head")), "fsp cannot compare its taps"),
    ],
)
def test_taps_that_cannot_be_compared_are_refused(tiny, loss, sentence):
    with pytest.raises(UsageError) as caught:
        loss.build(setting(tiny(width=8), tiny(width=12, seed=1)))
    assert sentence in caught.value.message


@pytest.mark.parametrize(
    ("section", "sentence"),
    [
        ({"kind": "rkd", "student": "a", "teacher": "b", "distance": 0, "angle": 0}, "leaves nothing to compare"),
        ({"kind": "fsp", "student": ["a"], "teacher": ["a", "b"]}, "missing"),
        ({"kind": "fsp", "student": "a", "teacher": ["a", "b"]}, "tuple"),
    ],
)
def test_impossible_settings_are_refused(section, sentence):
    with pytest.raises(ValidationError) as caught:
        KD.model_validate({"features": [section]})
    assert sentence in str(caught.value).lower()


def test_a_loss_with_several_taps_a_side_is_a_term_named_by_them(tiny, images):
    student, teacher, pixels = tiny(), tiny(seed=1), images(4)
    batch = Batch(pixels, torch.zeros(4, dtype=torch.int64), torch.arange(4))
    section = {"kind": "fsp", "student": ["body.0", "body"], "teacher": ["body.0", "body"]}
    objective = KD.model_validate({"features": [section]}).build(setting(student, teacher))
    (update,) = objective.updates(batch, Moment(0, 80, 0, torch.Generator()))
    learnt, taught = ((network.body[0](pixels), network.body(pixels)) for network in (student, teacher))
    torch.testing.assert_close(update.terms["fsp.body.0+body"], Flow()(learnt, taught).mean())


def test_the_listing_shows_losses_with_one_tap_and_with_two():
    listed = {each["kind"]: each for each in describe()}
    assert listed["rkd"]["required"] == listed["fsp"]["required"] == ["student", "teacher"]
    assert listed["rkd"]["defaults"] == {"weight": 1.0, "distance": 1.0, "angle": 2.0}
