from itertools import pairwise

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from compressor.methods import Player
from compressor.recipe import Schedule, Training
from compressor.training.optimiser import rate_factor, trained


def rate(step, steps_per_epoch=10, epochs=80, lr=0.1, **schedule):
    return lr * rate_factor(Training(epochs=epochs, lr=lr, schedule=Schedule(**schedule)), step, steps_per_epoch)


def test_rate_drops_when_the_published_epochs_are_done():
    rates = [rate(step, at=(40, 60)) for step in (0, 399, 400, 599, 600, 799)]

    assert rates == pytest.approx([0.1, 0.1, 0.01, 0.01, 0.001, 0.001])


def test_drops_below_one_are_fractions_of_all_epochs():
    assert [rate(step, at=(0.5, 0.75)) for step in range(800)] == [rate(step, at=(40, 60)) for step in range(800)]


def test_a_drop_at_an_inexact_fraction_is_not_a_step_late():
    # 0.55 * 100 is a little above 55 in floating point.
    rates = [rate(step, steps_per_epoch=3, epochs=100, at=(0.55,), gamma=0.5) for step in (164, 165)]

    assert rates == pytest.approx([0.1, 0.05])


def test_cosine_halves_the_rate_halfway_and_ends_at_zero():
    rates = [rate(step, kind="cosine") for step in (0, 400, 800)]

    assert rates == pytest.approx([0.1, 0.05, 0.0])
    assert rate(799, kind="cosine") > 0


def test_cosine_begins_after_the_warmup():
    rates = [rate(step, kind="cosine", warmup=40) for step in (0, 199, 399, 400, 600)]

    assert rates == pytest.approx([0.1 / 400, 0.05, 0.1, 0.1, 0.05])


def test_warmup_multiplies_the_drops():
    assert rate(11, at=(0.5,), epochs=2, warmup=1.5) == pytest.approx(0.1 * 0.1 * 12 / 15)


@given(
    kind=st.sampled_from(["constant", "steps", "cosine"]),
    epochs=st.integers(1, 20),
    steps_per_epoch=st.integers(1, 20),
    warmup=st.floats(0, 25),
    at=st.sets(st.sampled_from([0.1, 0.25, 0.5, 0.55, 0.75, 0.99]), max_size=3).map(sorted).map(tuple),
)
def test_rate_stays_between_zero_and_the_recipes_rises_in_the_warmup_and_never_after(
    kind, epochs, steps_per_epoch, warmup, at
):
    assume(warmup < epochs)
    total = epochs * steps_per_epoch
    rates = [rate(step, steps_per_epoch, epochs, kind=kind, warmup=warmup, at=at) for step in range(total + 2)]
    risen = int(warmup * steps_per_epoch)  # steps

    assert all(0 <= value <= 0.1 for value in rates)
    assert all(value > 0 for value in rates[:total])
    after = rates[risen:]
    assert all(later <= earlier for earlier, later in pairwise(after))
    if kind != "steps":
        before = rates[: min(risen, total)]
        assert all(later > earlier for earlier, later in pairwise(before))


def test_weight_decay_reaches_batchnorm_and_biases():
    network = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2))

    for kind in ("sgd", "adamw"):
        made = trained(Training(optimizer=kind, weight_decay=0.2), Player(parameters=network.parameters()), 1)
        groups = made.optimizer.param_groups
        assert [(len(group["params"]), group["weight_decay"]) for group in groups] == [(4, 0.2)]
