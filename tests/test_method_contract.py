"""Methods of every shape the contract must carry, each through the real loop and none with a special case in it."""

import copy
import io

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from compressor.batch import Batch
from compressor.errors import Interrupted
from compressor.methods import Objective, Player, Setting, Taps, Update
from compressor.methods.ackd import ACKD
from compressor.methods.aikd import AIKD
from compressor.methods.pskd import PSKD
from compressor.recipe import Schedule, Training
from compressor.training.distributed import ALONE, Processes
from compressor.training.loop import TrainingState, fit

CPU = torch.device("cpu")
STEPS, SIZE = 4, 8  # batches in an epoch, images in a batch
LR, DECAY = 0.05, 0.1


def weights(*modules):
    """All parameters of some modules, copied into one vector."""
    return torch.cat([p.detach().flatten() for module in modules for p in module.parameters()])


def moved(before, *modules):
    return not torch.equal(before, weights(*modules))


class Adversarial(Objective):
    """A discriminator, with its own optimiser, tells the student's logits from the teacher's; they take turns."""

    def __init__(self, setting):
        super().__init__(setting)
        self.critic = nn.Sequential(nn.Linear(setting.classes, 8), nn.ReLU(), nn.Linear(8, 1))
        self.turns = []
        self.gradients = []

    def players(self):
        return {"critic": Player(parameters=self.critic.parameters(), lr=0.01, optimizer=torch.optim.Adam)}

    def judged(self, logits, as_teacher):
        verdict = self.critic(logits)
        return F.binary_cross_entropy_with_logits(verdict, torch.full_like(verdict, float(as_teacher)))

    def updates(self, batch, moment):
        student = self.setting.student
        before = weights(student), weights(self.critic)
        logits = student(batch.images)
        yield Update({"ce": F.cross_entropy(logits, batch.labels), "fool": self.judged(logits, True)})
        self.turns.append((moved(before[0], student), moved(before[1], self.critic)))

        before = weights(student), weights(self.critic)
        real, fake = self.setting.teachers[0](batch.images), logits.detach()
        terms = {"real": self.judged(real, True), "fake": self.judged(fake, False)}
        expected = torch.autograd.grad(sum(terms.values()), list(self.critic.parameters()), retain_graph=True)
        yield Update(terms, player="critic")
        self.turns.append((moved(before[0], student), moved(before[1], self.critic)))
        self.gradients.append((expected, [parameter.grad.clone() for parameter in self.critic.parameters()]))


class Features(Objective):
    """The student's inner features, through a regressor trained with it, match the teacher's."""

    def __init__(self, setting):
        super().__init__(setting)
        self.inner = Taps(setting.student, ["body.2"]), Taps(setting.teachers[0], ["body.2"])
        self.regressor = nn.Conv2d(8, 12, 1)
        self.steps = []

    def updates(self, batch, moment):
        logits = self.setting.student(batch.images)
        self.setting.teachers[0](batch.images)
        student, teacher = (taps["body.2"] for taps in self.inner)
        terms = {"ce": F.cross_entropy(logits, batch.labels), "hint": F.mse_loss(self.regressor(student), teacher)}
        before = self.regressor.weight.detach().clone()
        (gradient,) = torch.autograd.grad(sum(terms.values()), self.regressor.weight, retain_graph=True)
        yield Update(terms)
        self.steps.append((before, gradient, self.regressor.weight.detach().clone()))


class DataFree(Objective):
    """No data: two student steps towards the teacher on generated images, then one of the generator away from it."""

    def __init__(self, setting):
        super().__init__(setting)
        self.generator = nn.Sequential(nn.Linear(6, 3 * 8 * 8), nn.BatchNorm1d(3 * 8 * 8), nn.Sigmoid())
        self.turns = []
        self.gradients = []

    def players(self):
        return {"generator": Player(parameters=self.generator.parameters(), lr=0.01, optimizer=torch.optim.Adam)}

    def disagreement(self, images):
        return F.l1_loss(self.setting.student(images), self.setting.teachers[0](images))

    def updates(self, batch, moment):
        assert len(batch.images) == 0
        student = self.setting.student
        for turn in ("first", "second", "generator"):
            before = weights(student), weights(self.generator)
            images = self.generator(torch.randn(SIZE, 6, generator=moment.generator)).view(-1, 3, 8, 8)
            if turn == "generator":
                terms = {"apart": -self.disagreement(images)}
                expected = torch.autograd.grad(terms["apart"], list(self.generator.parameters()), retain_graph=True)
                yield Update(terms, player="generator")
                self.gradients.append((expected, [parameter.grad.clone() for parameter in self.generator.parameters()]))
            else:
                # Not detached on purpose: what this leaves in the generator must not be in the generator's step.
                yield Update({"together": self.disagreement(images)})
            self.turns.append((turn, moved(before[0], student), moved(before[1], self.generator)))


class Several(Objective):
    """Every teacher teaches, under a name of its own."""

    def updates(self, batch, moment):
        logits = self.setting.student(batch.images)
        taught = [teacher(batch.images) for teacher in self.setting.teachers]
        yield Update({f"kd{number}": F.mse_loss(logits, target) for number, target in enumerate(taught)})


class OwnPast(Objective):
    """From the second epoch on, the student's predictions of the epoch before are its soft labels."""

    def __init__(self, setting):
        super().__init__(setting)
        self.register_buffer("past", torch.zeros(setting.samples, setting.classes))
        self.said, self.used = {}, {}

    def updates(self, batch, moment):
        logits = self.setting.student(batch.images)
        terms = {"ce": F.cross_entropy(logits, batch.labels)}
        if moment.epoch:
            terms["past"] = F.cross_entropy(logits, self.past[batch.indices])
            self.used |= {(moment.epoch, i): self.past[i].tolist() for i in batch.indices.tolist()}
        self.past[batch.indices] = logits.detach().float().softmax(dim=1)
        self.said |= {(moment.epoch, i): self.past[i].tolist() for i in batch.indices.tolist()}
        yield Update(terms)


class Skipping(Objective):
    """Samples with an odd label are skipped, and with them a whole batch that has no other."""

    def __init__(self, setting):
        super().__init__(setting)
        self.moves = []

    def updates(self, batch, moment):
        kept = batch.labels % 2 == 0
        before = weights(self.setting.student)
        terms = {}
        if kept.any():
            logits = self.setting.student(batch.images[kept])
            terms["ce"] = F.cross_entropy(logits, batch.labels[kept])
        yield Update(terms, notes={"kept": kept.float().mean(), "undefined": torch.tensor(torch.nan)})
        self.moves.append((moment.step, moved(before, self.setting.student)))


class Unlabelled(Objective):
    """A second stream without labels, of another size, on which the student follows the teacher."""

    def updates(self, batch, moment):
        student, teacher = self.setting.student, self.setting.teachers[0]
        yield Update(
            {
                "ce": F.cross_entropy(student(batch.images), batch.labels),
                "more": F.mse_loss(student(batch.unlabelled), teacher(batch.unlabelled)),
                "pixels": batch.unlabelled.mean() + student.head.bias.sum() * 0,
            }
        )


def batches(epoch, start):
    """Random batches; the third of each epoch has odd labels only."""
    for number in range(start, STEPS):
        generator = torch.Generator().manual_seed(100 * epoch + number)
        labels = torch.randint(4, (SIZE,), generator=generator)
        yield Batch(
            torch.rand(SIZE, 3, 8, 8, generator=generator),
            labels | 1 if number == 2 else labels,
            torch.randperm(SIZE, generator=generator) + SIZE * number,
            unlabelled=torch.rand(3, 3, 8, 8, generator=generator),
        )


def empty(_epoch, start):
    for _ in range(start, STEPS):
        yield Batch(torch.zeros(0, 3, 8, 8), torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.int64))


SOURCES = {DataFree: empty}  # the others take `batches`


@pytest.fixture
def start(tiny):
    """A function that makes the state of a run with an objective of the given kind, from fixed first weights."""

    def make(kind, *, teachers=1, **config):
        student = tiny(seed=9)
        taught_by = [tiny(width=12, seed=seed) for seed in range(teachers)]
        torch.manual_seed(5)
        objective = kind(Setting(student, taught_by, 4, (3, 8, 8), STEPS * SIZE, torch.ones(3), CPU))
        settings = {"epochs": 3, "lr": LR, "weight_decay": DECAY, "schedule": Schedule(kind="constant")} | config
        return TrainingState(student, objective, Training(**settings), seed=0, device=CPU, steps_per_epoch=STEPS)

    return make


def run(state):
    return list(fit(state, SOURCES.get(type(state.objective), batches)))


def stepped_by_hand(state, loss):
    """The student's weights after one step of plain SGD on `loss(student)`; the student itself is left alone."""
    student = copy.deepcopy(state.student).train()
    gradients = torch.autograd.grad(loss(student), list(student.parameters()))
    steps = zip(student.parameters(), gradients, strict=True)
    return torch.cat([(weight - LR * (gradient + DECAY * weight)).detach().flatten() for weight, gradient in steps])


def watched(state, expected, source):
    """Pass batches on and check, after the first, that the student's weights are the expected ones."""
    for number, batch in enumerate(source):
        if number == 1:
            torch.testing.assert_close(weights(state.student), expected)
        yield batch


# Who moves, when, and by whose gradient


def test_a_discriminator_and_the_student_take_turns(start):
    state = start(Adversarial)

    epochs = run(state)

    assert state.objective.turns == [(True, False), (False, True)] * 3 * STEPS
    assert epochs[-1].losses.keys() == {"ce", "fool", "real", "fake"}
    for expected, used in state.objective.gradients:  # nothing of the student's turn is left in them
        torch.testing.assert_close(used, list(expected))


def test_a_regressor_learns_with_the_student_from_tapped_features(start):
    state = start(Features, momentum=0.0)

    epochs = run(state)

    assert epochs[-1].losses["hint"] < epochs[0].losses["hint"]
    for before, gradient, after in state.objective.steps:
        torch.testing.assert_close(after, before - LR * (gradient + DECAY * before))


def test_a_method_without_data_takes_its_turns_on_empty_batches(start):
    state = start(DataFree)
    teacher = state.objective.setting.teachers[0]
    before = {name: value.clone() for name, value in teacher.state_dict().items()}

    epochs = run(state)

    one_batch = [("first", True, False), ("second", True, False), ("generator", False, True)]
    assert state.objective.turns == one_batch * 3 * STEPS
    assert [epoch.images for epoch in epochs] == [0, 0, 0]
    for expected, used in state.objective.gradients:
        torch.testing.assert_close(used, list(expected))
    # The generator's gradient went through the teacher and left nothing there.
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())


def test_several_teachers_teach_under_their_names_and_none_changes(start):
    state = start(Several, teachers=3)
    teachers = state.objective.setting.teachers
    before = [weights(teacher) for teacher in teachers]
    images = next(batches(0, 0)).images
    expected = stepped_by_hand(state, lambda student: sum(F.mse_loss(student(images), t(images)) for t in teachers))

    steps = fit(state, lambda epoch, begin: watched(state, expected, batches(epoch, begin)))
    losses = next(steps).losses

    assert losses.keys() == {"kd0", "kd1", "kd2"}
    assert len(set(losses.values())) == 3
    for teacher, was in zip(teachers, before, strict=True):
        assert not moved(was, teacher)
        assert not teacher.training


def test_predictions_of_the_epoch_before_are_found_by_sample(start):
    state = start(OwnPast)

    first, *later = run(state)

    said, used = state.objective.said, state.objective.used
    assert "past" not in first.losses
    assert all("past" in epoch.losses for epoch in later)
    assert used == {(epoch + 1, index): prediction for (epoch, index), prediction in said.items() if epoch < 2}
    assert len(used) == 2 * STEPS * SIZE
    assert used[1, 0] != used[2, 0]


def test_a_batch_without_kept_samples_moves_nothing_and_is_in_no_mean(start):
    state = start(Skipping, momentum=0.9)

    (epoch, *_) = run(state)

    assert state.objective.moves == [(step, step % STEPS != 2) for step in range(3 * STEPS)]
    assert epoch.steps == STEPS
    assert state.epoch == 3
    shares = [(batch.labels % 2 == 0).float().mean().item() for batch in batches(0, 0)]
    assert epoch.notes == {"kept": pytest.approx(sum(shares) / STEPS)}  # also of the batch that taught nothing


def test_notes_of_a_cut_short_epoch_are_resumed(start):
    whole, first = start(Skipping), start(Skipping)
    expected = run(whole)[0].notes
    first.enter_training()
    for batch in list(batches(0, 0))[:2]:
        first.advance(batch)

    second = start(Skipping)
    second.load_state_dict(first.state_dict())

    assert run(second)[0].notes == expected


def test_an_unlabelled_stream_arrives_beside_the_labelled_one(start):
    state = start(Unlabelled)
    batch, teacher = next(batches(0, 0)), state.objective.setting.teachers[0]

    def loss(student):
        labelled = F.cross_entropy(student(batch.images), batch.labels)
        return labelled + F.mse_loss(student(batch.unlabelled), teacher(batch.unlabelled))

    expected = stepped_by_hand(state, loss)

    epoch = next(fit(state, lambda epoch, begin: watched(state, expected, batches(epoch, begin))))

    pixels = torch.stack([batch.unlabelled.mean() for batch in batches(0, 0)]).mean()
    assert epoch.losses["pixels"] == pytest.approx(pixels.item(), abs=1e-6)


# Players


def test_a_players_groups_follow_their_own_rates_and_schedule(start):
    class Rates(Adversarial):
        seen = []  # noqa: RUF012 (of one test)

        def players(self):
            first, _, last = self.critic
            groups = [{"params": [first.weight, last.weight]}, {"params": [first.bias, last.bias], "lr": 0.3}]
            return {
                "critic": Player(parameters=groups, lr=0.01, optimizer="sgd", weight_decay=0.5),
                "late": Player(parameters=[self.late], schedule=lambda step, steps: step / steps),
            }

        def __init__(self, setting):
            super().__init__(setting)
            self.late = nn.Parameter(torch.ones(1))

        def updates(self, batch, moment):
            yield from super().updates(batch, moment)
            yield Update({"late": self.late.sum()}, player="late")
            self.seen.append(
                [[group["lr"] for group in each.optimizer.param_groups] for each in state.players.values()]
            )

    state = start(Rates, schedule=Schedule(kind="steps", at=(1, 2)), epochs=3)
    run(state)

    assert [each[0][0] for each in Rates.seen] == pytest.approx([LR] * 4 + [LR / 10] * 4 + [LR / 100] * 4)
    rates = torch.tensor([each[1] for each in Rates.seen])
    torch.testing.assert_close(rates[::4], torch.tensor([[0.01, 0.3], [0.001, 0.03], [0.0001, 0.003]]))
    assert [each[2][0] for each in Rates.seen] == pytest.approx([LR * step / 12 for step in range(12)])
    groups = state.players["critic"].optimizer.param_groups
    assert [group["weight_decay"] for group in groups] == [0.5, 0.5]
    assert state.players["late"].optimizer.param_groups[0]["weight_decay"] == DECAY


def test_clipping_and_the_average_are_the_students_alone(start):
    class Plain(Adversarial):
        def players(self):
            return {"critic": Player(parameters=self.critic.parameters())}  # of plain SGD, unlike Adam, one sees it

    state = start(Plain, clip_norm=1e-6, ema=0.9, momentum=0.0, weight_decay=0.0, epochs=1)
    before = weights(state.student), weights(state.objective.critic)
    run(state)
    assert (weights(state.student) - before[0]).norm() < 1e-5
    assert (weights(state.objective.critic) - before[1]).norm() > 1e-2
    assert state.reported().state_dict().keys() == state.student.state_dict().keys()


def test_optimisers_are_made_of_parameters_that_stay(start):
    state = start(Adversarial, channels_last=True)
    moved_by = {id(parameter) for player in state.players.values() for parameter in player.parameters}
    assert moved_by == {id(each) for network in (state.student, state.objective) for each in network.parameters()}


@pytest.mark.parametrize("whose", ["student", "teacher", "other"])
def test_a_parameter_is_trained_by_one_player(start, whose):
    class Twice(Adversarial):
        def players(self):
            networks = {"student": self.setting.student, "teacher": self.setting.teachers[0], "other": self.critic}
            return super().players() | {"second": Player(parameters=networks[whose].parameters())}

    with pytest.raises(ValueError, match="another player, the student or a teacher"):
        start(Twice)


def test_a_state_saved_before_groups_had_own_rates_resumes(start):
    state = start(Adversarial)
    saved = state.state_dict()
    for player in saved["players"].values():
        for group in player["param_groups"]:
            del group["initial_lr"]
    resumed = start(Adversarial)
    resumed.load_state_dict(saved)
    assert [epoch.losses for epoch in run(resumed)] == [epoch.losses for epoch in run(state)]


# Ranks


def test_draws_differ_between_ranks_and_the_first_draws_what_one_process_does(tiny):
    class Drawing(Objective):
        def updates(self, batch, moment):
            drawn.append((torch.rand(2, generator=moment.generator).tolist(), torch.rand(2).tolist()))
            where.append((moment.rank, moment.world))
            yield Update({"x": self.setting.student(batch.images).sum()})

    drawn, where = [], []
    for group in (ALONE, Processes(0, 2), Processes(1, 2)):
        student = tiny()
        objective = Drawing(Setting(student, [], 4, (3, 8, 8), 0, torch.ones(3), CPU))
        state = TrainingState(student, objective, Training(), seed=0, device=CPU, steps_per_epoch=STEPS, group=group)
        state.advance(next(batches(0, 0)))

    assert where == [(0, 1), (0, 2), (1, 2)]
    assert drawn[0] == drawn[1]
    assert len({tuple(each) for pair in drawn for each in pair}) == 4
    assert objective.setting.gather(torch.ones(2)).tolist() == [1, 1]


# Resuming


@pytest.mark.heavy
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize(
    "kind",
    [
        *(Adversarial, Features, DataFree, Several, OwnPast, Skipping, Unlabelled),
        *(PSKD().build, AIKD().build, ACKD(stages=("body.2", "head")).build),
    ],
)
def test_every_shape_of_method_resumes_in_the_middle_of_an_epoch_to_the_same_bits(start, kind, precision):
    source = SOURCES.get(kind, batches)

    def stopping(epoch, first):
        for number, batch in enumerate(source(epoch, first), first):
            if (epoch, number) == (1, 3):
                raise Interrupted("stopped")
            yield batch

    whole = start(kind, precision=precision)
    expected = list(fit(whole, source))

    stopped = start(kind, precision=precision)
    with pytest.raises(Interrupted):
        list(fit(stopped, stopping))
    file = io.BytesIO()
    torch.save(stopped.state_dict(), file)
    file.seek(0)

    resumed = start(kind, precision=precision)
    with torch.no_grad():
        for tensor in (*resumed.objective.parameters(), *resumed.objective.buffers(), *resumed.student.parameters()):
            tensor.add_(1)  # nothing of the fresh networks may survive
    resumed.load_state_dict(torch.load(file, weights_only=True))
    after = list(fit(resumed, source))

    assert [epoch.losses for epoch in after] == [epoch.losses for epoch in expected[1:]]
    assert bits(resumed) == bits(whole)


def bits(state):
    """Every saved tensor and number but the wall time, by its path."""

    def flat(value, path):
        if isinstance(value, (dict, list, tuple)):
            items = value.items() if isinstance(value, dict) else enumerate(value)
            return {inner: leaf for key, item in items for inner, leaf in flat(item, f"{path}/{key}").items()}
        return {path: value.tolist() if isinstance(value, torch.Tensor) else value}

    saved = flat(state.state_dict(), "")
    del saved["/seconds"]
    return saved
