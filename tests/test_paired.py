"""The statistics of pairs: closed forms, what cancels, what is missing, and the grid they come from."""

import math
import re
from statistics import fmean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compressor.errors import UsageError
from compressor.measure.paired import METRICS, Cell, Outcome, analyse, grid, spread

T = {1: 12.7062047, 2: 4.3026527, 4: 2.7764451}  # Student's t, 97.5 %, by degrees of freedom, from a printed table


def outcomes(**by_method: list[float]) -> dict[Cell, Outcome]:
    """Top-1 by method, one value a seed."""
    return {
        Cell("net", method, seed): Outcome(top1=value, agreement=value / 100, seconds=10.0 + seed)
        for method, values in by_method.items()
        for seed, value in enumerate(values)
    }


def rows(found: dict[Cell, Outcome], cells=None):
    return {row.method: row for row in analyse(tuple(cells or found), found)}


# Mean, deviation, interval


def test_the_interval_is_students():
    one_to_five = spread([1, 2, 3, 4, 5])

    assert (one_to_five.n, one_to_five.mean) == (5, 3)
    assert one_to_five.sd == pytest.approx(math.sqrt(2.5))
    half = T[4] * math.sqrt(2.5) / math.sqrt(5)
    assert one_to_five.interval == pytest.approx((3 - half, 3 + half), rel=1e-6)
    assert spread([0, 2]).interval == pytest.approx((1 - T[1], 1 + T[1]), rel=1e-6)


def test_one_seed_or_equal_values_have_no_interval():
    assert (spread([7]).n, spread([7]).mean, spread([7]).sd, spread([7]).interval) == (1, 7, None, None)
    equal = spread([0.1 + 0.2, 0.3, 0.3])
    assert equal.sd == pytest.approx(0)
    assert equal.interval is None


# Differences


def test_any_method_can_be_what_others_are_compared_with():
    found = outcomes(kd=[51, 63], bss=[54, 65], newton=[55, 64])
    by_method = {row.method: row for row in analyse(tuple(found), found, baselines=("bss",))}

    assert by_method["newton"].difference("bss").spread.mean == 0
    assert by_method["newton"].difference("kd") is None
    assert by_method["bss"].difference("bss") is None


def test_differences_are_taken_within_a_seed():
    found = rows(outcomes(ce=[50, 60, 70], kd=[51, 63, 72], bss=[54, 65, 75]))

    difference = found["bss"].difference("kd")
    assert (difference.seeds, difference.wins, difference.losses) == ((0, 1, 2), 3, 0)
    assert difference.spread.mean == pytest.approx(fmean([3, 2, 3]))
    half = T[2] * math.sqrt(1 / 3) / math.sqrt(3)
    assert difference.spread.interval == pytest.approx((8 / 3 - half, 8 / 3 + half), rel=1e-6)
    assert difference.shown  # though each method's own values spread over 20 points
    assert found["bss"].difference("ce").spread.mean == pytest.approx(fmean([4, 5, 5]))
    assert found["bss"].difference("kd", "agreement").spread.mean == pytest.approx(fmean([3, 2, 3]) / 100)


def test_each_method_is_compared_with_the_baselines_that_are_not_itself():
    found = rows(outcomes(ce=[1, 2], kd=[1, 2], bss=[1, 2]))

    compared = {method: {each.baseline for each in row.differences} for method, row in found.items()}
    assert compared == {"ce": set(), "kd": {"ce"}, "bss": {"kd", "ce"}}
    assert rows(outcomes(kd=[1, 2], bss=[1, 2]))["bss"].difference("ce") is None


@pytest.mark.parametrize(
    ("kd", "bss", "shown"),
    [
        ([50, 60, 70], [52, 62.1, 71.9], True),
        ([52, 62.1, 71.9], [50, 60, 70], True),  # worse is shown too
        ([50, 60, 70], [50, 64, 69], False),  # the interval holds zero
        ([50], [60], False),
        ([50, 60, 70], [51, 61, 71], False),  # three times the same: no spread, no interval
    ],
)
def test_only_an_interval_without_zero_shows_a_difference(kd, bss, shown):
    assert rows(outcomes(kd=kd, bss=bss))["bss"].difference("kd").shown is shown


def test_ties_are_neither_won_nor_lost():
    difference = rows(outcomes(kd=[1, 2, 3], bss=[1, 3, 2]))["bss"].difference("kd")

    assert (difference.wins, difference.losses, difference.spread.n) == (1, 1, 3)


def test_a_seed_that_failed_leaves_its_pairs_and_nothing_else():
    found = outcomes(ce=[50, 60, 70], kd=[51, 63, 72], bss=[54, 65, 75])
    cells = tuple(found)
    del found[Cell("net", "kd", 1)]

    rest = rows(found, cells)
    assert (rest["kd"].seeds, rest["kd"].failed) == ((0, 2), (1,))
    assert rest["bss"].seeds == (0, 1, 2)
    assert rest["bss"].difference("kd").seeds == (0, 2)
    assert rest["bss"].difference("kd").spread.mean == pytest.approx(3)
    assert rest["bss"].difference("ce").seeds == (0, 1, 2)


def test_a_method_that_never_finished_still_has_its_row():
    found = outcomes(kd=[51, 63])

    row = analyse((*found, Cell("net", "bss", 0)), found)[1]
    assert (row.method, row.seeds, row.failed, row.differences, row.cost) == ("bss", (), (0,), (), None)
    assert row.spreads == dict.fromkeys(METRICS)


def test_what_was_not_measured_is_absent_and_not_zero():
    row = rows(outcomes(kd=[50, 60]))["kd"]

    assert row.spreads["boundary_agreement"] is None
    assert row.spreads["top1"].mean == 55


def test_cost_is_training_time_over_that_of_kd_for_the_seeds_that_both_finished():
    found = {
        Cell("net", "kd", 0): Outcome(top1=1, seconds=10),
        Cell("net", "kd", 1): Outcome(top1=1, seconds=20),
        Cell("net", "bss", 1): Outcome(top1=1, seconds=30),
        Cell("net", "bss", 2): Outcome(top1=1, seconds=1000),
        Cell("other", "bss", 1): Outcome(top1=1, seconds=7),
    }

    costs = {(row.student, row.method): row.cost for row in analyse(tuple(found), found)}
    assert costs == {("net", "kd"): 1.0, ("net", "bss"): 1.5, ("other", "bss"): None}


def test_students_are_not_compared_with_each_other():
    found = {Cell("a", "kd", 0): Outcome(top1=1), Cell("b", "bss", 0): Outcome(top1=2)}

    assert [row.differences for row in analyse(tuple(found), found)] == [(), ()]


values = st.lists(st.tuples(*[st.integers(0, 1000)] * 3), min_size=2, max_size=6)


@given(values)
def test_what_a_seed_adds_to_both_cancels(triples):
    kd, bss, luck = ([value / 10 for value in column] for column in zip(*triples, strict=True))
    plain = rows(outcomes(kd=kd, bss=bss))["bss"].difference("kd")
    lucky = rows(
        outcomes(kd=[a + b for a, b in zip(kd, luck, strict=True)], bss=[a + b for a, b in zip(bss, luck, strict=True)])
    )
    assert lucky["bss"].difference("kd").spread.mean == pytest.approx(plain.spread.mean, abs=1e-6)
    assert lucky["bss"].difference("kd").spread.sd == pytest.approx(plain.spread.sd, abs=1e-6)


@given(values)
def test_exchanged_sides_exchange_the_sign(triples):
    one, other, _ = ([value / 10 for value in column] for column in zip(*triples, strict=True))
    forth = rows(outcomes(kd=one, bss=other))["bss"].difference("kd")
    back = rows(outcomes(kd=other, bss=one))["bss"].difference("kd")
    assert forth.spread.mean == pytest.approx(-back.spread.mean, abs=1e-9)
    assert (forth.wins, forth.losses) == (back.losses, back.wins)
    assert forth.shown == back.shown


# The grid


def test_the_grid_goes_seed_by_seed_so_that_what_is_done_is_whole_pairs():
    cells = grid(["a", "b"], ["kd", "bss"], [3, 7])

    assert [(cell.student, cell.method, cell.seed) for cell in cells] == [
        ("a", "kd", 3), ("a", "bss", 3), ("b", "kd", 3), ("b", "bss", 3),
        ("a", "kd", 7), ("a", "bss", 7), ("b", "kd", 7), ("b", "bss", 7),
    ]  # fmt: skip


def test_a_cell_is_named_for_a_folder():
    assert Cell("resnet8", "bss", 12).name == "resnet8-bss-s12"
    assert Cell("torchvision/mobilenet_v3_small", "kd", 0).name == "torchvision-mobilenet_v3_small-kd-s0"
    assert Cell("my.nets:tiny", "ce", 0).name == "my.nets-tiny-ce-s0"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((["a"], ["kd", "kd"], [0]), "the method kd is named twice"),
        ((["a", "a"], ["kd"], [0]), "the student a is named twice"),
        ((["a"], ["kd", "ce"], [1, 1]), "the seed 1 is named twice"),
        ((["a"], ["kd"], [0, 1]), "nothing to compare kd on a with"),
        ((["a"], ["kd", "ce"], []), "there is no seed"),
        ((["x/a", "x:a"], ["kd"], [0]), "two of the trainings would share the folder x-a-kd-s0"),
    ],
)
def test_a_grid_that_compares_nothing_is_refused(arguments, words):
    with pytest.raises(UsageError, match=re.escape(words)):
        grid(*arguments)


# What varies beside methods and students

OF_A, OF_B = (("teacher", "a"),), (("teacher", "b"),)


def test_a_method_without_a_key_is_trained_once_for_all_its_values():
    cells = grid(["x"], ["ce", "kd"], [0, 1], {"teacher": ["a", "b"]}, takes=lambda method, _: method == "kd")

    assert [(cell.method, cell.varied) for cell in cells if cell.seed == 0] == [("ce", ()), ("kd", OF_A), ("kd", OF_B)]
    assert [cell.name for cell in cells[:3]] == ["x-ce-s0", "x-kd-a-s0", "x-kd-b-s0"]
    assert len(cells) == 6


def test_two_keys_are_combined():
    cells = grid(["x"], ["kd"], [0], {"method.temperature": ["1", "4"], "train.lr": ["0.1", "0.2"]})

    assert [tuple(dict(cell.varied).values()) for cell in cells] == [
        ("1", "0.1"),
        ("1", "0.2"),
        ("4", "0.1"),
        ("4", "0.2"),
    ]
    assert cells[0].name == "x-kd-method.temperature-1-train.lr-0.1-s0"


def test_a_pair_is_of_the_same_choice_and_a_method_of_all_teachers_is_held_against_the_first():
    cells = grid(["x"], ["ce", "kd", "bss", "avg"], [0], {"teacher": ["a", "b"]}, takes=lambda m, _: m in ("kd", "bss"))
    values = {("ce", ()): 50, ("kd", OF_A): 60, ("kd", OF_B): 61, ("bss", OF_A): 63, ("bss", OF_B): 65, ("avg", ()): 70}
    outcomes = {
        cell: Outcome(top1=values[cell.method, cell.varied], agreement=values[cell.method, cell.varied] / 100)
        for cell in cells
    }

    rows = {(row.method, row.varied): row for row in analyse(cells, outcomes)}

    def mean(method, varied, baseline, metric="top1"):
        found = rows[method, varied].difference(baseline, metric)
        return None if found is None else round(found.spread.mean, 6)

    assert (mean("bss", OF_A, "kd"), mean("bss", OF_B, "kd")) == (3, 4)
    assert (mean("bss", OF_A, "ce"), mean("bss", OF_B, "ce")) == (13, 15)
    assert mean("avg", (), "kd") == 10
    assert (mean("kd", OF_A, "first"), mean("kd", OF_B, "first"), mean("bss", OF_B, "first")) == (None, 1, 2)
    assert mean("ce", (), "kd") is None
    assert rows["bss", OF_B].label == "bss teacher=b"


def test_agreement_with_one_teacher_is_not_taken_from_agreement_with_another():
    cells = grid(["x"], ["ce", "kd"], [0], {"teacher": ["a", "b"]}, takes=lambda method, _: method == "kd")
    outcomes = {cell: Outcome(top1=50, agreement=0.5) for cell in cells}

    _, of_a, of_b = analyse(cells, outcomes)

    assert of_a.difference("ce", "agreement") is not None  # ce was measured against the first teacher
    assert of_b.difference("ce", "agreement") is None
    assert of_b.difference("first", "agreement") is None
    assert of_b.difference("ce", "top1") is not None
