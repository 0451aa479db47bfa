"""Whether confidence is preserved: the spread of what is lost, against the bound of Chebyshev's inequality."""

from math import sqrt
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from report_contents import measured
from test_hard_images import ListSplit

from compressor.measure.evaluation import evaluate, evaluation_set
from compressor.measure.scores import Predictions, spread_within
from compressor.recipe import Validate
from compressor.report.sections.files import measures
from exporters.pytorch import TorchRunner


def test_the_bound_is_met_exactly_where_chebyshevs_inequality_is_an_equality():
    # A quarter of the images differ from the mean by the tolerance, in either direction, and the others not at all.
    lost = np.array([0.5, 0.25, 0.25, 0.25, 0.25, 0.25, 0.25, 0.0])

    assert spread_within(0.25, 0.25) == lost.std() == 0.125
    assert (np.abs(lost - lost.mean()) >= 0.25).mean() == 0.25


def test_the_default_is_a_tenth_for_one_image_in_twenty():
    config = Validate()

    kappa = spread_within(config.confidence_tolerance, config.confidence_share)
    assert kappa == pytest.approx(0.1 * sqrt(0.05))
    assert kappa == pytest.approx(0.02236, abs=1e-5)


@given(st.lists(st.floats(-1, 1), min_size=1, max_size=40), st.floats(0.01, 1), st.floats(0.01, 1))
def test_a_spread_within_it_leaves_no_larger_share_beyond_the_tolerance(lost, tolerance, share):
    differences = np.array(lost)
    differences *= min(1.0, spread_within(tolerance, share) / max(differences.std(), 1e-9)) * (1 - 1e-9)

    assert (np.abs(differences - differences.mean()) >= tolerance).mean() <= share


@pytest.fixture
def preserved(linear, images):
    """A function that evaluates networks against a teacher, and returns what is said of the confidence of each."""
    teacher, pixels = linear(torch.randn(4, 192) / 10), images(40)
    split = ListSplit(pixels, teacher(pixels).argmax(dim=1))
    split.batches = lambda size, *, seed=0: ListSplit.batches(split, size, seed=seed or 0)
    other = linear(teacher.weight.detach() + torch.randn(4, 192) / 20)

    def said(**settings):
        inputs = SimpleNamespace(
            data=SimpleNamespace(test=split, source="made", classes=tuple("abcd"), target=None),
            teacher=None,
            walkable=None,
            device=torch.device("cpu"),
        )
        runners = [TorchRunner(network, input_shape=(3, 8, 8), classes=4) for network in (teacher, other)]
        config = Validate(attack_samples=0, **settings)
        order = next(split.batches(40))
        taught = Predictions(logits=runners[0](order.images.numpy()), labels=order.labels.numpy())
        asked = evaluation_set(inputs, config, teacher_runner=None, student=None, seed=0, taught=taught)
        return [evaluate(runners[0], asked, teacher=True), *(evaluate(runner, asked) for runner in runners)]

    return said


def test_each_file_is_held_against_the_bound_of_the_recipe(preserved):
    teacher, same, other = preserved()
    spread = other["confidence_spread"]

    assert (teacher["confidence_preserved"], teacher["confidence_kappa"]) == (None, None)
    assert (same["confidence_spread"], same["confidence_preserved"]) == (pytest.approx(0, abs=1e-6), True)
    assert (spread > other["confidence_kappa"], other["confidence_preserved"]) == (True, False)
    *_, wider = preserved(confidence_tolerance=spread + 1e-6, confidence_share=1)
    *_, narrower = preserved(confidence_tolerance=spread - 1e-6, confidence_share=1)
    assert (wider["confidence_preserved"], narrower["confidence_preserved"]) == (True, False)


def test_the_page_says_the_verdict_and_the_bound_below_the_spread():
    run = measured(("zero", "one", "two"))
    rows = {row.label: row for group in measures(run.files()) for row in group.measures}
    kept = run.student.model_copy(update={"confidence_spread": 0.01, "confidence_preserved": True})
    good = {
        row.label: row for group in measures(run.model_copy(update={"student": kept}).files()) for row in group.measures
    }

    _, student, _ = rows["Spread of the confidence lost"].cells
    assert (student.text, student.note) == ("0.062", "not preserved: over 0.031")
    _, student, _ = good["Spread of the confidence lost"].cells
    assert (student.text, student.note) == ("0.010", "preserved: at most 0.031")
