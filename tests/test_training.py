import io
import math
import os
import signal
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from compressor.batch import Batch, Mixed
from compressor.errors import Diverged, Interrupted, UsageError
from compressor.machine.interrupt import interruptible
from compressor.methods import Objective, Player, Setting, Update
from compressor.recipe import Schedule, Training
from compressor.training.loop import TrainingState, fit

CPU = torch.device("cpu")
STEPS = 4  # batches in an epoch
CONSTANT = Schedule(kind="constant")


class Taught(Objective):
    """Cross-entropy and, where there is a teacher, its logits."""

    def updates(self, batch, moment):
        logits = self.setting.student(batch.images)
        terms = {"ce": F.cross_entropy(logits, batch.labels)}
        for teacher in self.setting.teachers:
            terms["kd"] = F.mse_loss(logits, teacher(batch.images))
        yield Update(terms)


class Slope(Objective):
    """A loss whose gradient to the student's weight is always `slope`."""

    slope = torch.tensor([[3.0, -4.0]])

    def updates(self, batch, moment):
        yield Update({"slope": (self.setting.student.weight * self.slope).sum()})


def setting(student, *teachers, classes=4):
    return Setting(student, teachers, classes, (3, 8, 8), 32, torch.ones(3), CPU)


def state_of(student, objective, *, seed=0, steps_per_epoch=STEPS, **config):
    return TrainingState(student, objective, Training(**config), seed=seed, device=CPU, steps_per_epoch=steps_per_epoch)


def batches(epoch, start):
    """Random images and labels, a function of the epoch and the batch's number."""
    for number in range(start, STEPS):
        generator = torch.Generator().manual_seed(100 * epoch + number)
        yield Batch(
            torch.rand(8, 3, 8, 8, generator=generator),
            torch.randint(4, (8,), generator=generator),
            torch.arange(8 * number, 8 * number + 8),
        )


def sliding(linear, **config):
    """A state whose student has the weight (1, 2), with the slope (3, -4)."""
    student = linear(torch.tensor([[1.0, 2.0]]))
    config = {"epochs": 1, "lr": 0.1, "momentum": 0.0, "weight_decay": 0.0, "schedule": CONSTANT} | config
    return state_of(student, Slope(setting(student)), **config)


def advance(state, steps):
    """Run some steps on a batch whose content does not matter and return the weight after each."""
    weights = []
    for _ in range(steps):
        state.advance(next(batches(0, 0)))
        weights.append(state.student.weight.detach().flatten().clone())
    return weights


# Closed forms


@pytest.mark.parametrize("nesterov", [False, True])
def test_two_sgd_steps_equal_the_formula(linear, nesterov):
    lr, momentum, decay = 0.1, 0.9, 0.5
    weight, velocity, expected = torch.tensor([1.0, 2.0]), torch.zeros(2), []
    for _ in range(2):
        gradient = torch.tensor([3.0, -4.0]) + decay * weight
        velocity = momentum * velocity + gradient
        weight = weight - lr * (gradient + momentum * velocity if nesterov else velocity)
        expected.append(weight)

    moved = advance(sliding(linear, lr=lr, momentum=momentum, weight_decay=decay, nesterov=nesterov), 2)

    torch.testing.assert_close(moved, expected)


def test_first_adamw_step_decays_and_moves_by_the_rate(linear):
    (moved,) = advance(sliding(linear, optimizer="adamw", lr=0.01, momentum=0.9, weight_decay=0.5), 1)

    torch.testing.assert_close(moved, torch.tensor([0.995 - 0.01, 2 * 0.995 + 0.01]))


@pytest.mark.parametrize(("clip_norm", "length"), [(1.0, 1.0), (10.0, 5.0), (None, 5.0)])
def test_clipping_bounds_the_length_of_the_gradient(linear, clip_norm, length):
    (moved,) = advance(sliding(linear, clip_norm=clip_norm), 1)

    torch.testing.assert_close(moved, torch.tensor([1.0, 2.0]) - 0.1 * length * torch.tensor([0.6, -0.8]))


def test_the_rate_is_set_at_every_step(linear):
    state = sliding(linear, epochs=2, schedule=Schedule(kind="steps", at=(1,), warmup=0.5))

    epochs = list(fit(state, batches))

    travelled = 0.1 * (0.5 + 1 + 1 + 1) + 0.01 * 4  # two warm-up steps, a drop after one epoch of four steps
    torch.testing.assert_close(state.student.weight[0].detach(), torch.tensor([1 - 3 * travelled, 2 + 4 * travelled]))
    assert [epoch.lr for epoch in epochs] == pytest.approx([0.1, 0.01])


@pytest.mark.parametrize("ema", [0.999, 0.15])
def test_average_follows_the_formula_with_a_rising_decay(linear, ema):
    state = sliding(linear, ema=ema)
    average = torch.tensor([1.0, 2.0])

    weights = advance(state, 3)

    for step, weight in enumerate(weights):
        decay = min(ema, (1 + step) / (10 + step))
        average = decay * average + (1 - decay) * weight
    torch.testing.assert_close(state.reported().weight.detach().flatten(), average)
    assert state.student.weight.detach().flatten().tolist() == weights[-1].tolist()


def test_average_takes_in_batchnorm_statistics_and_copies_counters(tiny):
    student = tiny()
    before = {name: value.clone() for name, value in student.state_dict().items()}
    state = state_of(student, Taught(setting(student)), ema=0.5, lr=0.01)

    state.enter_training()
    state.advance(next(batches(0, 0)))

    reported = state.reported()
    norm, was = student.body[1], before["body.1.running_mean"]
    assert not torch.equal(norm.running_mean, was)
    torch.testing.assert_close(reported.body[1].running_mean, 0.1 * was + 0.9 * norm.running_mean)
    assert reported.body[1].num_batches_tracked == norm.num_batches_tracked == 4
    assert not reported.training
    assert not any(parameter.requires_grad for parameter in reported.parameters())


def test_without_an_average_the_student_is_reported(tiny):
    student = tiny()

    assert state_of(student, Taught(setting(student))).reported() is student


def test_an_epoch_tells_means_counts_and_its_number(linear):
    class Counted(Objective):
        def updates(self, batch, moment):
            def term(value):
                return self.setting.student.weight.sum() * 0 + value

            yield Update({"step": term(moment.step), "fixed": term(2)})
            yield Update({"step": term(moment.step)})
            if moment.step % 2:
                yield Update({"odd": term(moment.step)})
            if moment.epoch:
                yield Update({"images": term(len(batch.images))})

    student = linear(torch.ones(1, 2))
    first, second = fit(state_of(student, Counted(setting(student)), epochs=2), batches)

    assert first.losses == {"step": 1.5, "fixed": 2.0, "odd": 2.0}
    assert second.losses == {"step": 5.5, "fixed": 2.0, "odd": 6.0, "images": 8.0}
    assert [(epoch.number, epoch.steps, epoch.images) for epoch in (first, second)] == [(1, 4, 32), (2, 4, 32)]
    assert first.images_per_second == pytest.approx(32 / first.seconds)


# Networks and modes


def test_teacher_with_batchnorm_is_left_as_it_was_and_in_eval_mode(tiny):
    student, teacher = tiny(seed=1), tiny(width=12)
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    state = state_of(student, Taught(setting(student, teacher)), epochs=2, lr=0.1)

    for epoch in fit(state, batches):
        assert epoch.losses["kd"] > 0
        assert not teacher.training
        teacher.train()  # what a careless caller does is put right before the next epoch

    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in teacher.parameters())


def test_modes_are_set_again_after_the_caller_evaluated(tiny):
    class Moded(Taught):
        def __init__(self, given):
            super().__init__(given)
            self.own, self.kept = nn.Dropout(), given.teachers[0]  # a teacher kept as a submodule is still a teacher

        def updates(self, batch, moment):
            modes.append((self.setting.student.training, self.own.training, self.setting.teachers[0].training))
            yield from super().updates(batch, moment)

    modes, student, teacher = [], tiny(seed=1), tiny()
    objective = Moded(setting(student, teacher))
    state = state_of(student, objective, epochs=2)

    for _ in fit(state, batches):
        objective.eval()
        student.eval()
        teacher.train()

    assert modes == [(True, True, False)] * 2 * STEPS
    assert not any(id(kept) in map(id, teacher.parameters()) for kept in state.players["student"].parameters)


@pytest.mark.parametrize("channels_last", [True, False])
def test_images_and_student_share_the_memory_layout(tiny, channels_last):
    class Strides(Taught):
        def updates(self, batch, moment):
            streams = (batch.images, batch.unlabelled, self.setting.student.body[0].weight)
            layouts.extend(value.is_contiguous(memory_format=torch.channels_last) for value in streams)
            yield from super().updates(batch, moment)

    layouts, student = [], tiny()
    state = state_of(student, Strides(setting(student)), channels_last=channels_last)
    batch = next(batches(0, 0))

    state.advance(Batch(batch.images, batch.labels, batch.indices, unlabelled=torch.rand(2, 3, 8, 8)))

    assert layouts == [channels_last] * 3


@pytest.mark.heavy
def test_compiling_changes_neither_state_keys_nor_results(tiny, monkeypatch):
    compiled, compiler = [], torch.compile

    def backend(graph, _inputs):
        compiled.append(graph)
        return graph.forward

    monkeypatch.setattr(torch, "compile", lambda function, **_: compiler(function, backend=backend))
    plain, student = tiny(), tiny()
    for network, compile_it in ((plain, False), (student, True)):
        state = state_of(network, Taught(setting(network)), epochs=1, lr=0.01, compile=compile_it, ema=0.9)
        next(fit(state, batches))
        torch._dynamo.reset()

    assert compiled
    assert state.state_dict()["student"].keys() == plain.state_dict().keys()
    torch.testing.assert_close(dict(student.state_dict()), dict(plain.state_dict()))
    torch.testing.assert_close(state.reported()(torch.ones(1, 3, 8, 8)).shape, torch.Size([1, 4]))


# Precision


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_autocast_covers_the_objective_and_not_the_backward_pass(tiny, precision):
    class Cast(Objective):
        def updates(self, batch, moment):
            for _ in range(2):
                logits = self.setting.student(batch.images)
                logits.register_hook(lambda _: seen.append(("backward", torch.is_autocast_enabled("cpu"))))
                seen.append((logits.dtype, torch.is_autocast_enabled("cpu")))
                yield Update({"ce": F.cross_entropy(logits, batch.labels)})

    seen, student = [], tiny()
    state = state_of(student, Cast(setting(student)), precision=precision, lr=0.01)

    state.advance(next(batches(0, 0)))

    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    assert seen == [(dtype, True), ("backward", False)] * 2
    assert all(parameter.dtype == torch.float32 for parameter in student.parameters())


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_trains_nearly_what_full_precision_trains(tiny, precision):
    trained = {}
    for name in ("fp32", precision):
        student = tiny()
        list(fit(state_of(student, Taught(setting(student)), epochs=1, lr=0.05, precision=name), batches))
        trained[name] = student.state_dict()

    torch.testing.assert_close(trained[precision], trained["fp32"], rtol=0.05, atol=0.02)
    assert not torch.equal(trained[precision]["head.weight"], trained["fp32"]["head.weight"])


def test_a_forward_without_gradients_before_the_trained_one_loses_none_under_autocast(tiny):
    class Looks(Taught):
        def updates(self, batch, moment):
            with torch.no_grad():
                self.setting.student.eval()(batch.images)
                self.setting.student.train()
            yield from super().updates(batch, moment)

    trained = []
    for kind in (Taught, Looks):
        student = tiny()
        list(fit(state_of(student, kind(setting(student)), epochs=1, lr=0.05, precision="bf16"), batches))
        trained.append(student.state_dict())

    torch.testing.assert_close(*trained, rtol=0, atol=0)


def test_an_overflowing_fp16_gradient_skips_the_step_and_halves_the_scale(linear):
    state = sliding(linear, precision="fp16")
    state.objective.slope = torch.tensor([[2e34, -1e34]])  # finite, until it is scaled by 65536

    (moved,) = advance(state, 1)
    assert moved.tolist() == [1.0, 2.0]
    assert state.scaler.get_scale() == 32768
    resumed = sliding(linear, precision="fp16")
    resumed.load_state_dict(through_a_file(state.state_dict()))
    assert resumed.scaler.get_scale() == 32768

    state.objective.slope = torch.tensor([[3.0, -4.0]])
    (moved,) = advance(state, 1)
    torch.testing.assert_close(moved, torch.tensor([1 - 0.3, 2 + 0.4]))


def test_clipping_sees_gradients_without_the_fp16_scale(linear):
    (moved,) = advance(sliding(linear, precision="fp16", clip_norm=1.0), 1)

    torch.testing.assert_close(moved, torch.tensor([1.0 - 0.06, 2.0 + 0.08]))


# Randomness and resuming


def student_with_dropout(tiny, seed=0):
    network = tiny(seed=seed)
    network.head = nn.Sequential(nn.Dropout(0.5), nn.Linear(8, 4))
    return network


def run_of(tiny, **config):
    student = student_with_dropout(tiny)
    return state_of(student, Taught(setting(student, tiny(width=12))), epochs=3, lr=0.05, **config)


def evaluating(state, epochs):
    """Between epochs a caller evaluates: the mode it leaves and the numbers it draws are nobody else's."""
    for epoch in epochs:
        state.student.eval()
        torch.rand(3)
        yield epoch


def stopping(at_epoch, at_batch):
    def source(epoch, start):
        for number, batch in enumerate(batches(epoch, start), start):
            if (epoch, number) == (at_epoch, at_batch):
                raise Interrupted("stopped")
            yield batch

    return source


def through_a_file(saved):
    file = io.BytesIO()
    torch.save(saved, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def flat(value, path=""):
    """A nested dict or list as one dict, its tensors as what they are bit by bit."""
    if isinstance(value, (dict, list, tuple)):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        return {inner: leaf for key, item in items for inner, leaf in flat(item, f"{path}/{key}").items()}
    return {path: (value.dtype, value.tolist()) if isinstance(value, torch.Tensor) else value}


def everything(state):
    """All that a state saves but the wall time."""
    return {path: leaf for path, leaf in flat(state.state_dict()).items() if path != "/seconds"}


def told(epochs):
    return [(epoch.number, epoch.losses, epoch.lr, epoch.steps, epoch.images) for epoch in epochs]


@pytest.mark.heavy
@pytest.mark.parametrize("stop", [(0, 0), (1, 0), (1, 2), (2, 3)])
@pytest.mark.parametrize(
    "config",
    [
        {},
        {"precision": "bf16", "ema": 0.9},
        {"precision": "fp16", "schedule": Schedule(kind="cosine", warmup=1)},
        {"optimizer": "adamw", "clip_norm": 0.1},
        {"accumulate": 3},
    ],
    ids=["sgd", "bf16-ema", "fp16-cosine", "adamw", "parts"],
)
def test_a_run_resumed_after_any_step_ends_in_the_same_bits(tiny, config, stop):
    whole = run_of(tiny, **config)
    expected = told(fit(whole, batches))

    stopped, first = run_of(tiny, **config), []
    with pytest.raises(Interrupted):
        first.extend(evaluating(stopped, fit(stopped, stopping(*stop))))
    saved = through_a_file(stopped.state_dict())

    torch.manual_seed(123)
    resumed = run_of(tiny, **config)
    with torch.no_grad():
        for parameter in (*resumed.student.parameters(), *resumed.reported().parameters()):
            parameter.add_(1.0)  # nothing of the fresh networks may survive
    resumed.load_state_dict(saved)
    second = list(fit(resumed, batches))

    assert everything(resumed) == everything(whole)
    assert told(first + second) == expected


def test_a_state_saved_between_epochs_resumes_with_the_next(tiny):
    whole = run_of(tiny, ema=0.9)
    epochs, saved = [], {}
    for epoch in fit(whole, batches):
        epochs.append(epoch)
        saved[epoch.number] = whole.state_dict()

    resumed = run_of(tiny, ema=0.9)
    resumed.load_state_dict(saved[1])
    assert told(fit(resumed, batches)) == told(epochs[1:])
    assert everything(resumed) == everything(whole)

    finished = run_of(tiny, ema=0.9)
    finished.load_state_dict(saved[3])
    assert list(fit(finished, batches)) == []


def test_a_saved_state_is_a_copy_and_can_be_loaded_twice(tiny):
    state = run_of(tiny, ema=0.9)
    next(fit(state, batches))
    saved = state.state_dict()

    ends = []
    for _ in range(2):
        resumed = run_of(tiny, ema=0.9)
        resumed.load_state_dict(saved)
        list(fit(resumed, batches))
        ends.append(everything(resumed))

    assert ends[0] == ends[1]


def test_the_same_seed_gives_the_same_bits_and_another_does_not(tiny):
    ends = []
    for seed in (0, 0, 1):
        torch.manual_seed(len(ends))
        state = run_of(tiny, seed=seed)
        list(fit(state, batches))
        ends.append(flat(state.student.state_dict()))

    assert ends[0] == ends[1]
    assert ends[0]["/head.1.weight"] != ends[2]["/head.1.weight"]


def test_training_leaves_the_global_generator_as_it_was(tiny):
    state = run_of(tiny)
    before = torch.get_rng_state()

    next(fit(state, batches))

    assert torch.equal(torch.get_rng_state(), before)


def test_draws_of_a_step_depend_on_seed_and_step_alone(linear):
    class Drawn(Slope):
        def updates(self, batch, moment):
            draws.append((torch.rand(2, generator=moment.generator).tolist(), torch.rand(2).tolist()))
            yield from super().updates(batch, moment)

    draws, student = [], linear(torch.ones(1, 2))
    list(fit(state_of(student, Drawn(setting(student)), epochs=2, seed=5), batches))
    later = state_of(student, Drawn(setting(student)), epochs=2, seed=5)
    later.epoch = 1
    list(fit(later, batches))

    assert draws[STEPS : 2 * STEPS] == draws[2 * STEPS :]
    distinct = {tuple(draw) for pair in draws[: 2 * STEPS] for draw in pair}
    assert len(distinct) == 2 * 2 * STEPS  # the two streams share nothing either


# Refusals


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"steps_per_epoch": 5}, "cannot resume: the saved run has steps_per_epoch 4, this one 5"),
        ({"seed": 1}, "cannot resume: the saved run has seed 0, this one 1"),
        ({"lr": 0.2}, "cannot resume: the saved run has lr 0.1, this one 0.2"),
        ({"precision": "bf16"}, "cannot resume: the saved run has precision fp32, this one bf16"),
    ],
)
def test_resuming_another_run_is_refused(tiny, changed, sentence):
    student = tiny()
    saved = through_a_file(state_of(student, Taught(setting(student))).state_dict())

    with pytest.raises(UsageError) as caught:
        state_of(student, Taught(setting(student)), **changed).load_state_dict(saved)

    assert caught.value.message == sentence


@pytest.mark.heavy
def test_a_compiled_run_may_continue_one_that_was_not(tiny):
    student = tiny()
    saved = state_of(student, Taught(setting(student))).state_dict()

    state_of(student, Taught(setting(student)), compile=True).load_state_dict(saved)


@pytest.mark.parametrize(("value", "became"), [(math.nan, "NaN"), (math.inf, "infinite")])
def test_a_term_that_is_not_finite_is_named_and_moves_nothing(tiny, value, became):
    class Breaks(Taught):
        def updates(self, batch, moment):
            (update,) = super().updates(batch, moment)
            kd = update.terms["kd"] * (value if moment.step == 5 else 1.0)
            yield Update({**update.terms, "kd": kd})

    student = tiny(seed=1)
    state = state_of(student, Breaks(setting(student, tiny())), lr=0.05)
    weights = {}

    def watched(epoch, start):
        for batch in batches(epoch, start):
            weights.update({name: value.detach().clone() for name, value in student.named_parameters()})
            yield batch

    with pytest.raises(Diverged) as caught:
        list(fit(state, watched))

    assert caught.value.message == f"loss term 'kd' became {became} at step 6 (epoch 2)"
    assert caught.value.exit_code == 5
    assert all(torch.equal(value, weights[name]) for name, value in student.named_parameters())
    with pytest.raises(Diverged, match="'kd'"):
        state.state_dict()  # such a state is not saved over a good one


def test_an_unknown_player_is_a_programmers_error(tiny):
    class Strange(Objective):
        def updates(self, batch, moment):
            yield Update({"x": self.setting.student(batch.images).sum()}, player="critic")

    student = tiny()
    with pytest.raises(ValueError, match="Strange yields an update for 'critic', its players are 'student'"):
        state_of(student, Strange(setting(student))).advance(next(batches(0, 0)))


def test_an_objective_cannot_take_the_students_place(tiny):
    objective = Taught(setting(tiny()))
    objective.players = lambda: {"student": Player(parameters=nn.Linear(1, 1).parameters())}

    with pytest.raises(ValueError, match="cannot be called 'student'"):
        state_of(objective.setting.student, objective)


def test_too_few_batches_are_an_error_and_too_many_are_not_asked_for(linear):
    with pytest.raises(ValueError, match="epoch 1 gave 3 batches where 4 were announced"):
        list(fit(sliding(linear), lambda epoch, _: batches(epoch, 1)))

    asked = []

    def generous(epoch, _start):
        for number in range(10):
            asked.append(number)
            yield next(batches(epoch, 0))

    assert len(list(fit(sliding(linear), generous))) == 1
    assert asked == [0, 1, 2, 3]


def test_an_epoch_has_at_least_one_batch(tiny):
    student = tiny()
    with pytest.raises(ValueError, match="at least one batch"):
        state_of(student, Taught(setting(student)), steps_per_epoch=0)


# End to end


def test_a_signal_ends_training_between_two_steps(tiny):
    state = run_of(tiny)

    def watching(stop, epoch, start):
        for number, batch in enumerate(batches(epoch, start), start):
            if stop.requested:
                raise Interrupted("interrupted, the state is saved", hint="continue with --resume")
            if (epoch, number) == (1, 1):
                os.kill(os.getpid(), signal.SIGTERM)
            yield batch

    with interruptible() as stop, pytest.raises(Interrupted):
        list(fit(state, partial(watching, stop)))

    assert (state.epoch, state.batch, state.step) == (1, 2, 6)  # the step under way was finished


def test_the_student_learns(tiny):
    student, teacher = tiny(seed=1), tiny()
    state = state_of(student, Taught(setting(student, teacher)), epochs=12, lr=0.05, schedule=Schedule(kind="cosine"))

    epochs = list(fit(state, lambda _, start: batches(0, start)))

    assert epochs[-1].losses["ce"] + epochs[-1].losses["kd"] < 0.8 * (epochs[0].losses["ce"] + epochs[0].losses["kd"])


# Accumulation


@pytest.mark.parametrize("parts", [2, 3, 4])
def test_a_step_in_parts_is_the_step_of_the_whole_batch(linear, parts):
    class Regression(Objective):
        def updates(self, batch, moment):
            logits = self.setting.student(batch.images.mean(dim=(2, 3))[:, :2])
            yield Update({"error": (logits[:, 0] - batch.labels).square().mean()}, notes={"size": logits.sum() * 0 + 1})

    def trained(**config):
        student = linear(torch.tensor([[1.0, 2.0]]))
        state = state_of(student, Regression(setting(student)), epochs=2, lr=0.05, clip_norm=1.0, **config)
        return list(fit(state, batches)), student.weight.detach()

    (whole, expected), (split, found) = trained(), trained(accumulate=parts)

    torch.testing.assert_close(found, expected)
    assert [epoch.losses["error"] for epoch in split] == pytest.approx([epoch.losses["error"] for epoch in whole])
    assert [epoch.notes["size"] for epoch in split] == pytest.approx([1.0, 1.0])
    assert [(epoch.images, epoch.steps) for epoch in split] == [(epoch.images, epoch.steps) for epoch in whole]


def test_players_take_turns_between_the_updates_of_all_parts(linear):
    class Turns(Objective):
        def __init__(self, given):
            super().__init__(given)
            self.judge = nn.Linear(1, 1, bias=False)

        def players(self):
            return {"judge": Player(parameters=self.judge.parameters())}

        def updates(self, batch, moment):
            seen.append(("judge", moment.rank, moment.world, len(batch.images)))
            yield Update({"judge": self.judge.weight.sum() * self.setting.student.weight.sum()}, player="judge")
            seen.append(("student", moment.rank, moment.world, self.judge.weight.item()))
            yield Update({"student": self.setting.student.weight.sum() * self.judge.weight.sum()})

    seen, student = [], linear(torch.tensor([[1.0, 2.0]]))
    objective = Turns(setting(student))
    state = state_of(student, objective, accumulate=2, lr=0.1, momentum=0.0, weight_decay=0.0, schedule=CONSTANT)
    before = objective.judge.weight.item()

    state.advance(next(batches(0, 0)))

    assert [each[:3] for each in seen] == [("judge", 0, 2), ("judge", 1, 2), ("student", 0, 2), ("student", 1, 2)]
    assert [each[3] for each in seen[:2]] == [4, 4]
    moved = before - 0.1 * 3.0
    assert [each[3] for each in seen[2:]] == pytest.approx([moved, moved])
    torch.testing.assert_close(student.weight.detach(), torch.tensor([[1.0, 2.0]]) - 0.1 * moved)


def test_parts_have_two_images_or_more_and_all_that_belongs_to_them():
    images = torch.rand(7, 3, 2, 2)
    mixed = Mixed(torch.arange(7) + 10, torch.rand(7))
    batch = Batch(images, torch.arange(7), torch.arange(7) + 20, views=(images + 1,), taught=(images.sum((2, 3)),))
    batch = replace(batch, mixed=mixed, unlabelled=torch.rand(9, 3, 2, 2), weight=0.5, total=14)

    parts = batch.parts(100)

    assert [len(part.images) for part in parts] == [3, 2, 2]
    assert sum(part.weight for part in parts) == pytest.approx(0.5)
    assert [part.weight for part in parts] == pytest.approx([3 / 14, 1 / 7, 1 / 7])
    assert [part.size for part in parts] == [14] * 3
    for whole, cut in (
        (images, [part.images for part in parts]),
        (batch.labels, [part.labels for part in parts]),
        (batch.indices, [part.indices for part in parts]),
        (images + 1, [part.views[0] for part in parts]),
        (batch.taught[0], [part.taught[0] for part in parts]),
        (mixed.labels, [part.mixed.labels for part in parts]),
        (mixed.share, [part.mixed.share for part in parts]),
        (batch.unlabelled, [part.unlabelled for part in parts]),
    ):
        assert torch.equal(torch.cat(cut), whole)
    empty = torch.zeros(0, dtype=torch.int64)
    made = Batch(torch.zeros(0, 3, 2, 2), empty, empty, wanted=9).parts(2)
    assert [(part.wanted, part.weight) for part in made] == [(5, 5 / 9), (4, 4 / 9)]
    assert Batch(images[:3], batch.labels[:3], batch.indices[:3]).parts(2)[0].weight == 1
