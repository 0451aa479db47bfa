"""CE, KD and BSS, and the weights that fade, run by the smallest loop that keeps the contract."""

import math

import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from required import REQUIRED
from torch import nn
from torch.nn import functional as F

from compressor.attack import CROSSED, BoundaryAttack, sample_targets, select_bases
from compressor.batch import Batch
from compressor.methods import METHODS, AnyMethod, Config, Moment, Setting
from compressor.methods.bss import BSS, Attack
from compressor.methods.cckd import CCKD
from compressor.methods.ce import CE
from compressor.methods.kd import KD, ask
from compressor.methods.losses.kl import Softened
from compressor.methods.weights import Weight

STD = torch.tensor([0.2, 0.25, 0.3])


def moment(epoch=0, epochs=80, step=0, seed=0):
    return Moment(epoch=epoch, epochs=epochs, step=step, generator=torch.Generator().manual_seed(seed))


def build(config, student, *teachers):
    return config.build(
        Setting(
            student=student,
            teachers=teachers,
            classes=4,
            input_shape=(3, 8, 8),
            samples=64,
            std=STD,
            device=torch.device("cpu"),
        )
    )


def fit(objective, student, batches, lr=0.1, epochs=80):
    """The contract and nothing else: sum the terms, backward, step."""
    optimiser = torch.optim.SGD(student.parameters(), lr=lr)
    history = []
    for step, batch in enumerate(batches):
        student.train()
        for update in objective.updates(batch, moment(step=step, seed=step, epochs=epochs)):
            optimiser.zero_grad()
            if update.terms:
                sum(update.terms.values()).backward()
                optimiser.step()
            history.append({name: term.item() for name, term in update.terms.items()})
    return history


def soft_loss(logits, taught, temperature, *, t2):
    return Softened(temperature, t2=t2)(logits, taught, None).mean()


def only(objective, batch, at):
    (update,) = objective.updates(batch, at)
    assert update.player == "student"
    return update.terms


@pytest.fixture
def lesson(tiny, images):
    """A teacher, a student that is its noisy copy, and a batch which the teacher labels."""

    def make(count=32, noise=0.1):
        teacher, student = tiny(seed=1), tiny(seed=1)
        # Tinted images and centred, wide logits: every class occurs, and boundaries are near.
        pixels = (images(count) + 2 * torch.rand(count, 3, 1, 1, generator=torch.Generator().manual_seed(1))) / 3
        with torch.no_grad():
            teacher.train()
            for _ in range(30):
                teacher(pixels)
            teacher.eval()
            teacher.head.weight.mul_(100.0)
            teacher.head.bias.sub_(teacher(pixels).mean(dim=0))
            student.load_state_dict(teacher.state_dict())
            for parameter in student.parameters():
                parameter.mul_(1 + noise * torch.randn_like(parameter))
            labels = teacher(pixels).argmax(dim=1)
        return teacher, student.train(), Batch(pixels, labels, torch.arange(count))

    return make


class Counting(nn.Module):
    """Passes images on and remembers how many there were in each call, and whether a graph was asked for."""

    def __init__(self, network):
        super().__init__()
        self.network = network
        self.calls = []

    def forward(self, pixels):
        self.calls.append((len(pixels), torch.is_grad_enabled() and pixels.requires_grad))
        return self.network(pixels)


# Weights


@pytest.mark.parametrize(
    ("weight", "epoch", "expected"),
    [
        ([4, 1], 1, 3.9625),
        ([4, 1], 40, 2.5),
        ([4, 1], 80, 1.0),
        ([2, 0, 0.75], 1, 2 - 8 / 3 / 80),
        ([2, 0, 0.75], 40, 2 / 3),
        ([2, 0, 0.75], 59, 2 / 45 * 0.75),
        ([2, 0, 0.75], 60, 0.0),
        ([2, 0, 0.75], 80, 0.0),
        (0.7, 33, 0.7),
        ([0, 3, 0.5], 20, 1.5),
        ([0, 3, 0.5], 41, 3.0),
    ],
)
def test_weights_fade_as_published(weight, epoch, expected):
    at = Weight.model_validate(weight).at(moment(epoch=epoch - 1).elapsed)
    assert at == pytest.approx(expected, abs=1e-12)
    assert at != 0 or expected == 0


def test_a_weight_that_fades_to_zero_is_exactly_zero_from_there_on():
    for epochs in range(1, 200):
        for until in (0.1, 0.3, 0.7, 0.75, 0.9):
            at = Weight((2.0, 0.0, until)).at
            assert all(at(epoch / epochs) == 0 for epoch in range(math.ceil(until * epochs + 1e-9), epochs + 1))


@pytest.mark.parametrize("weight", [0, 1.5, [4, 1], [2, 0, 0.75]])
def test_a_weight_is_written_the_way_it_is_read(weight):
    config = BSS.model_validate({"bss_weight": weight})
    assert config.model_dump(mode="json")["bss_weight"] == weight
    assert BSS.model_validate(config.model_dump(mode="json")) == config


@pytest.mark.parametrize(
    ("weight", "sentence"),
    [
        ([1], "a weight is a number, [start, end] or [start, end, until]"),
        ([1, 2, 0.5, 4], "a weight is a number, [start, end] or [start, end, until]"),
        (True, "a weight is a number, [start, end] or [start, end, until]"),
        ({"start": 1}, "a weight is a number, [start, end] or [start, end, until]"),
        (-1, "greater than or equal to 0"),
        ([1, 0, 0], "greater than 0"),
        ([1, 0, 1.5], "less than or equal to 1"),
        ([1, math.nan], "finite"),
        ("heavy", "valid number"),
    ],
)
def test_a_wrong_weight_is_refused(weight, sentence):
    with pytest.raises(ValidationError) as refusal:
        KD.model_validate({"kd_weight": weight})
    assert sentence in str(refusal.value)


# Losses


def test_the_soft_loss_and_its_gradient_equal_the_formula():
    torch.manual_seed(0)
    student = (torch.randn(6, 5, dtype=torch.float64) * 3).requires_grad_()
    teacher = torch.randn(6, 5, dtype=torch.float64) * 3
    loss = soft_loss(student, teacher, 3.0, t2=False)
    loss.backward()
    p, q = (teacher / 3).softmax(dim=1), (student.detach() / 3).softmax(dim=1)
    assert loss.item() == pytest.approx(-(p * q.log()).sum().item() / 6, rel=1e-12)
    torch.testing.assert_close(student.grad, (q - p) / (3 * 6), rtol=0, atol=1e-15)
    kl = F.kl_div(q.log(), p, reduction="batchmean")
    entropy = -(p * p.log()).sum() / 6
    assert loss.item() == pytest.approx((kl + entropy).item(), rel=1e-12)


@pytest.mark.parametrize("temperature", [1.0, 3.0, 20.0])
def test_t2_multiplies_loss_and_gradient_by_the_temperature_squared(temperature):
    teacher = torch.randn(4, 5, dtype=torch.float64)
    gradients = []
    for t2 in (False, True):
        student = torch.linspace(-1, 1, 20, dtype=torch.float64).view(4, 5).requires_grad_()
        soft_loss(student, teacher, temperature, t2=t2).backward()
        gradients.append(student.grad)
    torch.testing.assert_close(gradients[1], temperature**2 * gradients[0])


def test_with_t2_the_gradient_does_not_depend_on_a_high_temperature():
    # Hinton et al., section 2.1: for high T, T² times the gradient tends to (z_student - z_teacher) / (K B), centred.
    student = torch.randn(3, 4, dtype=torch.float64).requires_grad_()
    teacher = torch.randn(3, 4, dtype=torch.float64)
    soft_loss(student, teacher, 1e4, t2=True).backward()
    difference = student.detach() - teacher
    centred = difference - difference.mean(dim=1, keepdim=True)
    torch.testing.assert_close(student.grad, centred / (4 * 3), rtol=1e-3, atol=1e-5)


def test_a_student_that_equals_its_teacher_has_no_distillation_gradient(lesson):
    teacher, _, batch = lesson()
    student = teacher  # in eval mode both ways, so that BatchNorm is the same
    terms = only(build(BSS(), student, teacher), batch, moment())
    assert "bss" in terms
    gradients = torch.autograd.grad(terms["kd"] + terms["bss"], list(student.parameters()))
    assert all(gradient.abs().max() < 1e-5 for gradient in gradients)


# CE and KD


def test_ce_is_the_cross_entropy_with_the_labels(lesson):
    _, student, batch = lesson()
    student.eval()
    logits = student(batch.images)
    for smoothing in (0.0, 0.1):
        terms = only(build(CE(label_smoothing=smoothing), student), batch, moment())
        target = F.one_hot(batch.labels, 4) * (1 - smoothing) + smoothing / 4
        expected = -(target * logits.log_softmax(dim=1)).sum(dim=1).mean()
        assert set(terms) == {"ce"}
        torch.testing.assert_close(terms["ce"], expected)
    assert CE.needs.teachers == 0


def test_kd_terms_carry_the_weights_of_the_moment(lesson):
    teacher, student, batch = lesson()
    student.eval()
    logits, taught = student(batch.images), teacher(batch.images)
    config = KD(temperature=2.0, ce_weight=Weight(0.5), kd_weight=Weight((4.0, 1.0)), t2=True)
    terms = only(build(config, student, teacher), batch, moment(epoch=39))
    torch.testing.assert_close(terms["ce"], 0.5 * F.cross_entropy(logits, batch.labels))
    torch.testing.assert_close(terms["kd"], 2.5 * soft_loss(logits, taught, 2.0, t2=True))


def test_the_teacher_is_asked_in_eval_mode_and_left_as_found(lesson):
    teacher, _, batch = lesson()
    expected = teacher(batch.images).detach()
    teacher.train()
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    taught = ask(teacher, batch.images.clone().requires_grad_())
    torch.testing.assert_close(taught, expected)
    assert not taught.requires_grad
    assert all(module.training for module in teacher.modules())
    assert all(torch.equal(tensor, before[name]) for name, tensor in teacher.state_dict().items())


# BSS


@pytest.mark.parametrize("walk", ["published", "tight", "newton"])
def test_the_boundary_term_equals_the_attack_done_by_hand(lesson, walk):
    teacher, student, batch = lesson()
    student.eval()
    config = BSS(attack=Attack(size=12, walk=walk), temperature=4.0, t2=True)
    terms = only(build(config, student, teacher), batch, moment(epoch=19, seed=5))

    taught, logits = teacher(batch.images).detach(), student(batch.images)
    chosen = select_bases(taught, logits, batch.labels, 12)
    assert len(chosen) == 12
    base = batch.labels[chosen]
    target = sample_targets(taught[chosen], base, torch.Generator().manual_seed(5))
    walked = BoundaryAttack(walk=walk)(teacher, batch.images[chosen], base, target, scale=STD)
    soft = 16 * soft_loss(student(walked.images), teacher(walked.images).detach(), 4.0, t2=False)
    assert (walked.steps > 0).all()
    torch.testing.assert_close(terms["bss"], (2 - 2 * (20 / 80) / 0.75) * soft)
    assert list(terms) == ["ce", "kd", "bss"]


@pytest.mark.parametrize("shared", [{}, {"ce_weight": 0.1, "kd_weight": 0.9, "temperature": 5.0, "t2": True}])
def test_without_its_boundary_term_bss_is_kd(lesson, shared):
    teacher, student, batch = lesson()
    student.eval()
    bss = only(build(BSS(**shared), student, teacher), batch, moment(epoch=9))
    kd = only(build(KD(**shared), student, teacher), batch, moment(epoch=9))
    assert {name: term.item() for name, term in kd.items()} == {name: bss[name].item() for name in ("ce", "kd")}


@pytest.mark.parametrize(
    ("config", "at"),
    [
        (BSS(), moment(epoch=59)),
        (BSS(bss_weight=Weight(0.0)), moment()),
        (BSS(every=3), moment(step=4)),
    ],
    ids=["faded", "weight zero", "not this step"],
)
def test_when_the_boundary_term_rests_nothing_is_attacked(lesson, config, at):
    teacher, student, batch = lesson()
    counting = Counting(teacher)
    assert set(only(build(config, student, counting), batch, at)) == {"ce", "kd"}
    assert counting.calls == [(32, False)]


def test_every_third_step_is_attacked(lesson):
    teacher, student, batch = lesson()
    objective = build(BSS(every=3), student, teacher)
    attacked = ["bss" in only(objective, batch, moment(step=step)) for step in range(7)]
    assert attacked == [True, False, False, True, False, False, True]


def test_at_most_size_images_are_attacked_and_the_student_sees_them_apart(lesson):
    teacher, student, batch = lesson()
    teachers, students = Counting(teacher), Counting(student)
    only(build(BSS(attack=Attack(size=8)), students, teachers), batch, moment())
    assert [count for count, _ in students.calls] == [32, 8]
    assert teachers.calls[:2] == [(32, False), (8, True)]
    assert all(count <= 8 for count, _ in teachers.calls[1:])


def test_without_a_candidate_there_is_no_boundary_term(lesson):
    teacher, student, batch = lesson()
    wrong = Batch(batch.images, (batch.labels + 1) % 4, batch.indices)
    counting = Counting(teacher)
    assert set(only(build(BSS(), student, counting), wrong, moment())) == {"ce", "kd"}
    assert counting.calls == [(32, False)]


def test_one_candidate_is_enough_and_uses_the_running_statistics(lesson):
    teacher, student, batch = lesson()
    labels = (batch.labels + 1) % 4
    right = int((student.eval()(batch.images).argmax(dim=1) == batch.labels).nonzero()[0])
    labels[right] = batch.labels[right]
    student.train()
    student.body[1].eval()  # a frozen layer stays frozen
    modes = []
    student.body[4].register_forward_hook(lambda layer, _inputs, _output: modes.append(layer.training))
    objective = build(BSS(), student, teacher)
    terms = only(objective, Batch(batch.images, labels, batch.indices), moment())
    assert "bss" in terms
    sum(terms.values()).backward()
    assert modes == [True, False]
    assert [student.body[1].training, student.body[4].training] == [False, True]
    assert all(parameter.grad.isfinite().all() for parameter in student.parameters())


def test_one_candidate_passes_a_batchnorm_of_one_pixel(images):
    # Refused by PyTorch in training mode: "Expected more than 1 value per channel".
    pool = nn.AdaptiveAvgPool2d(1)
    student = nn.Sequential(pool, nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(3, 4)).train()
    teacher = nn.Sequential(pool, nn.Flatten(), nn.Linear(3, 4)).eval()
    pixels, indices = images(16), torch.arange(16)
    with torch.no_grad():
        found = student(pixels).argmax(dim=1)
        teacher[2].bias[found[0]] += 100.0  # it answers what the student says of the first image, to all of them
    labels = torch.where(indices == 0, found, (found + 1) % 4)
    terms = only(build(BSS(), student, teacher), Batch(pixels, labels, indices), moment())
    assert terms["bss"].isfinite()


def test_all_images_may_be_candidates(lesson):
    teacher, student, batch = lesson(noise=0.0)
    student.eval()
    students = Counting(student)
    only(build(BSS(), students, teacher), batch, moment())
    assert [count for count, _ in students.calls] == [32, 32]


def test_keep_crossed_drops_what_did_not_reach_its_target(lesson):
    teacher, student, batch = lesson()
    student.eval()
    walk = {"steps": 1, "step_size": 0.3}
    seen = {}
    for keep in ("all", "crossed"):
        students = Counting(student)
        terms = only(build(BSS(attack=Attack(**walk, keep=keep)), students, teacher), batch, moment(seed=1))
        seen[keep] = students.calls[1][0], terms["bss"].item()

    taught, logits = teacher(batch.images).detach(), student(batch.images)
    chosen = select_bases(taught, logits, batch.labels, 64)
    base = batch.labels[chosen]
    target = sample_targets(taught[chosen], base, torch.Generator().manual_seed(1))
    walked = BoundaryAttack(**walk)(teacher, batch.images[chosen], base, target, scale=STD)
    kept = walked.crossed == CROSSED
    assert 1 < int(kept.sum()) < len(chosen)
    assert seen["all"][0] == len(chosen)
    assert seen["crossed"][0] == int(kept.sum())
    soft = soft_loss(student(walked.images[kept]), walked.logits[kept], 3.0, t2=False)
    assert seen["crossed"][1] == pytest.approx(((2 - 8 / 3 / 80) * soft).item(), rel=1e-5)


def test_keep_crossed_may_keep_nothing(lesson):
    teacher, student, batch = lesson()
    config = BSS(attack=Attack(steps=1, step_size=1e-6, keep="crossed"))
    assert set(only(build(config, student, teacher), batch, moment())) == {"ce", "kd"}


@pytest.mark.parametrize("update", [True, False])
def test_boundary_samples_move_the_running_statistics_only_when_asked(lesson, update):
    teacher, student, batch = lesson()
    _, clean, _ = lesson()
    clean.load_state_dict(student.state_dict())
    clean(batch.images)
    answers = []
    student.register_forward_hook(lambda _module, _inputs, output: answers.append(output))
    terms = only(build(BSS(update_batchnorm=update), student, teacher), batch, moment())
    assert "bss" in terms
    buffers = dict(student.named_buffers())
    same = [torch.equal(buffer, buffers[name]) for name, buffer in clean.named_buffers()]
    assert all(same) or update
    assert not any(same) or not update
    assert all(layer.training and getattr(layer, "track_running_stats", True) for layer in student.modules())


def test_the_boundary_pass_normalises_by_its_own_batch_either_way(lesson):
    teacher, student, batch = lesson()
    state = {name: tensor.clone() for name, tensor in student.state_dict().items()}
    values = []
    for update in (True, False):
        student.load_state_dict(state)
        values.append(only(build(BSS(update_batchnorm=update), student, teacher), batch, moment())["bss"].item())
    assert values[0] == values[1]


def test_a_saturated_teacher_gives_finite_terms_and_gradients(lesson):
    teacher, student, batch = lesson()
    with torch.no_grad():
        teacher.head.weight.mul_(1e4)
        teacher.head.bias.mul_(1e4)
    assert teacher(batch.images).abs().max() > 1e4
    terms = only(build(BSS(), student, teacher), batch, moment())
    assert "bss" in terms
    sum(terms.values()).backward()
    assert all(term.isfinite() for term in terms.values())
    assert all(parameter.grad.isfinite().all() for parameter in student.parameters())


@pytest.mark.parametrize("training", [False, True], ids=["eval mode", "training mode"])
def test_a_teacher_is_bit_identical_after_training(lesson, training):
    teacher, student, batch = lesson()
    teacher.train(training)
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    history = fit(build(BSS(), student, teacher), student, [batch] * 4)
    assert all("bss" in terms for terms in history)
    assert all(torch.equal(tensor, before[name]) for name, tensor in teacher.state_dict().items())
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert all(parameter.requires_grad for parameter in teacher.parameters())
    assert all(module.training is training for module in teacher.modules())


@pytest.mark.heavy
@pytest.mark.parametrize(
    "method",
    [CE(), KD(), CCKD(form="loss"), BSS(), BSS(update_batchnorm=False, every=2, attack=Attack(keep="crossed"))],
)
def test_training_lowers_the_loss_and_repeats_bit_for_bit(lesson, method):
    runs = []
    for _ in range(2):
        torch.manual_seed(0)
        teacher, student, batch = lesson(noise=0.3)
        objective = build(method, student, *([teacher] * method.needs.teachers))
        history = fit(objective, student, [batch] * 12, lr=0.01, epochs=10_000)
        runs.append((history, student.state_dict()))
    (history, state), (again, same) = runs
    assert history == again
    assert all(torch.equal(tensor, same[name]) for name, tensor in state.items())
    assert history[-1]["ce"] < history[0]["ce"]
    if "kd" in history[0]:
        assert history[-1]["kd"] < history[0]["kd"]


def test_bss_trains_under_bfloat16_autocast(lesson):
    teacher, student, batch = lesson()
    with torch.autocast("cpu", torch.bfloat16):
        terms = only(build(BSS(), student, teacher), batch, moment())
    assert set(terms) == {"ce", "kd", "bss"}
    assert all(term.dtype == torch.float32 for term in terms.values())
    sum(terms.values()).backward()
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in student.parameters())


# The schema


def test_every_method_is_known_by_its_kind_and_survives_a_round_trip():
    adapter = TypeAdapter(AnyMethod)
    for kind, method in METHODS.items():
        config = adapter.validate_python({"kind": kind} | REQUIRED.get(kind, {}))
        assert type(config) is method
        assert adapter.validate_json(config.model_dump_json()) == config
    assert "bss_weight" in str(adapter.json_schema())


@pytest.mark.parametrize(
    "wrong",
    [
        {"kind": "kd", "temprature": 3},
        {"kind": "kd", "temperature": 0},
        {"kind": "ce", "label_smoothing": 1.0},
        {"kind": "bss", "every": 0},
        {"kind": "bss", "attack": {"steps": 0}},
        {"kind": "bss", "attack": {"keep": "none"}},
        {"kind": "bss", "attack": {"size": 0}},
        {"kind": "bss", "attack": {"step_size": -0.3}},
        {"kind": "bss", "attack": {"walk": "straight"}},
        {"kind": "bs"},
    ],
)
def test_a_wrong_method_is_refused(wrong):
    with pytest.raises(ValidationError):
        TypeAdapter(AnyMethod).validate_python(wrong)


def test_methods_are_frozen():
    config: Config = KD()
    with pytest.raises(ValidationError):
        config.temperature = 4.0
