"""Where two artifacts differ. Linear classifiers have known boundaries: between two of them lies all that differs."""

import json
import re
import shutil

import numpy as np
import onnx
import pytest
import torch
from conftest import LinearClassifier
from hypothesis import given as over
from hypothesis import settings
from hypothesis import strategies as st
from shell import ran, refused, typed

from compressor import checkpoint
from compressor.attack import as_found
from compressor.data import Split
from compressor.data.augment import Augmentation
from compressor.data.split import Held
from compressor.difference import TIE, PairLogits, Side, compare_given, search, steering
from compressor.difference.given import images_of
from compressor.difference.lines import GRID, HALVINGS, along, first_change
from compressor.difference.sides import ask
from compressor.difference.steering import likely_targets, neighbours, pull_apart
from compressor.errors import InputRejected
from compressor.report import difference as report
from compressor.report.difference_html import Shown, page
from exporters import onnx as exporter
from exporters.pytorch import TorchRunner

STD = torch.full((1,), 0.25)
RESOLUTION = 1 / (GRID * 2**HALVINGS)
CPU = torch.device("cpu")


class Answering:
    """An artifact without gradients: a network's answers alone."""

    path, format = None, "fake"

    def __init__(self, network, classes):
        self.network, self.classes, self.asked = network, classes, 0

    def __call__(self, images):
        assert images.dtype == np.float32
        assert images.min() >= 0
        assert images.max() <= 1
        self.asked += len(images)
        with torch.no_grad():
            return self.network(torch.from_numpy(images)).numpy()


def split_of(images, labels=None):
    """A split of bytes: images `[N, C, H, W]` in `[0, 1]`."""
    held = Held((images * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous())
    labels = torch.zeros(len(images), dtype=torch.int64) if labels is None else labels
    return Split(held, torch.arange(len(images)), labels, Augmentation(), CPU)


def side(network, classes=2, *, guided=True):
    return Side(Answering(network, classes), network if guided else None)


@pytest.fixture
def threshold(linear):
    """A function that makes a classifier of two pixels: class 1 where `x + y` is above a threshold."""

    def make(at, slope=8.0):
        return linear(slope * torch.tensor([[0.0, 0.0], [1.0, 1.0]]), slope * torch.tensor([0.0, -at]))

    return make


@pytest.fixture
def scholar(tiny, images):
    """A function that makes a network of four classes that uses all of them."""

    def make(seed):
        network = tiny(seed=seed)
        with torch.no_grad():
            network.head.weight *= 100
            network.head.bias -= network(images(200)).mean(dim=0)
        return network

    return make


@pytest.fixture
def square():
    """Two-pixel images, far enough inside the box that no way to a boundary is bent by it."""
    axis = torch.linspace(0.2, 0.8, 16)
    return split_of(torch.cartesian_prod(axis, axis).view(-1, 1, 1, 2))


def both(a, b, split, **options):
    given = compare_given(a, b, split)
    defaults = {"samples": 256, "epsilon": 8 / 255, "std": STD, "seed": 0}
    return given, search(a, b, split, given, **(defaults | options))


def sums(images):
    return images.reshape(len(images), -1).sum(axis=1)


# Closed forms


def test_of_two_parallel_hyperplanes_exactly_the_slab_between_them_differs_on_given_images(threshold, square):
    given = compare_given(side(threshold(0.9)), side(threshold(1.1)), square)

    between = (sums(images_of(square, given.indices)) > 0.9) & (sums(images_of(square, given.indices)) < 1.1)
    assert 0 < between.sum() < len(square)
    assert np.array_equal(given.answers.counted, between)
    assert given.b_by_a.top1 == pytest.approx(100 * (~between).mean())
    assert given.pairs == [(1, 0, between.sum())]


@pytest.mark.heavy
@pytest.mark.parametrize("guides", [(True, True), (True, False), (False, True)])
def test_what_gradients_find_lies_in_the_slab_at_the_known_distance(threshold, square, guides):
    a, b = side(threshold(0.9), guided=guides[0]), side(threshold(1.1), guided=guides[1])

    _, found = both(a, b, square)

    assert len(found.nearest.bases) == len(found)  # each line that crosses one boundary enters the slab
    assert (sums(found.nearest.images) >= 0.9 - 1e-6).all()
    assert (sums(found.nearest.images) <= 1.1 + 1e-6).all()
    start = sums(found.images[found.nearest.bases])
    gap = np.where(start < 1, 0.9 - start, start - 1.1)  # of the sum of both pixels, to the nearer hyperplane
    assert found.nearest.l2 == pytest.approx(255 * gap / np.sqrt(2), abs=0.1)
    assert found.nearest.linf == pytest.approx(255 * gap / 2, abs=0.1)


def test_each_boundary_is_as_far_as_its_hyperplane_and_they_are_as_far_apart_as_the_slab_is_thick(threshold, square):
    _, found = both(side(threshold(0.9)), side(threshold(1.1)), square)

    start = sums(found.images)
    assert found.boundary_a == pytest.approx(255 * abs(start - 0.9) / 2, abs=0.1)
    assert found.boundary_b == pytest.approx(255 * abs(start - 1.1) / 2, abs=0.1, nan_ok=True)
    assert np.nanmax(abs(found.apart - 255 * 0.1)) < 0.1


def test_the_surest_difference_lies_within_epsilon_and_in_the_middle_of_the_slab(threshold):
    split = split_of(torch.tensor([[0.42, 0.42], [0.2, 0.2]]).view(-1, 1, 1, 2))  # sums 0.84 and 0.4

    _, found = both(side(threshold(0.9)), side(threshold(1.1)), split, epsilon=0.1)

    assert found.indices[found.surest.bases].tolist() == [0]  # 0.4 is out of reach
    assert found.surest.linf.max() <= 255 * 0.1 + 1e-3
    assert 0.95 < sums(found.surest.images)[0] < 1.05


def test_without_gradients_lines_to_the_nearest_other_images_meet_the_slab(threshold, square):
    _, found = both(side(threshold(0.9), guided=False), side(threshold(1.1), guided=False), square)

    assert not found.guided
    assert len(found.nearest.bases) == len(found)
    assert (sums(found.nearest.images) >= 0.9 - 1e-6).all()
    assert (sums(found.nearest.images) <= 1.1 + 1e-6).all()
    start = sums(found.images[found.nearest.bases])
    assert (found.nearest.l2 >= 255 * np.where(start < 1, 0.9 - start, start - 1.1) / np.sqrt(2) - 0.1).all()
    assert len(found.surest.bases) == 0


def test_a_change_on_a_line_is_placed_within_the_resolution(threshold):
    start, end = np.zeros((5, 1, 1, 2), np.float32), np.ones((5, 1, 1, 2), np.float32)
    end[3:] = 0.2  # never gets there
    base = np.array([0, 0, 1, 0, 0])

    share = first_change(Answering(threshold(0.9), 2), start, end, base)

    assert share[:2] == pytest.approx(0.45, abs=RESOLUTION)
    assert (sums(along(start, end, share)[:2]) > 0.9).all()
    assert share[2] <= 1 / GRID  # not in its base class at all
    assert np.isinf(share[3:]).all()


def test_a_third_class_counts_as_leaving_and_as_a_difference(linear):
    """Both leave class 0 at the same place, for different classes."""
    weight = torch.tensor([[0.0, 0.0], [4.0, 4.0], [4.0, 4.0]])
    a, b = (linear(weight, torch.tensor([0.0, -4.0 - low, -4.0 - high])) for low, high in ((0, 1), (1, 0)))

    _, found = both(side(a, 3), side(b, 3), split_of(torch.full((3, 1, 1, 2), 0.3)))

    assert len(found.nearest.bases) == 3
    assert sums(found.nearest.images) == pytest.approx(1.0, abs=1e-3)
    assert {tuple(pair) for pair in np.stack(found.nearest.answers.decisions, 1).tolist()} == {(1, 2)}


def test_margins_are_in_spreads_of_the_logits_and_ties_are_what_rounding_explains():
    a = np.array([[2.0, 0.0], [0.0, TIE], [1.0, 0.0], [3.0, 0.0]], np.float32)
    b = np.array([[0.0, 1.0], [TIE, 0.0], [1.0, 0.0], [0.0, 3.0]], np.float32)

    answers = PairLogits(a, b, (2.0, 4.0))

    assert answers.differ.tolist() == [True, True, False, True]
    assert np.stack(answers.margins, 1).tolist() == [[1, 0.25], pytest.approx([TIE / 2, TIE / 4]), [0, 0], [1.5, 0.75]]
    assert answers.tied.tolist() == [False, True, False, False]
    assert answers.counted.tolist() == [True, False, False, True]
    assert answers.confident.tolist() == [False, False, False, True]  # 0.73 is not sure, 0.95 is


def test_flips_come_with_the_surest_first_and_pairs_with_the_most_frequent():
    logits = np.array([[1, 0, 0], [2, 0, 0], [0, 0, 3], [5, 0, 0]], np.float32)
    others = np.array([[0, 1, 0], [0, 2, 0], [0, 3, 0], [4, 0, 0]], np.float32)
    pixels = (torch.arange(4) / 255).view(4, 1, 1, 1)

    def table(rows):
        return Side(Answering(lambda images: torch.from_numpy(rows)[(images[:, 0, 0, 0] * 255).round().long()], 3))

    given = compare_given(table(logits), table(others), split_of(pixels, torch.tensor([0, 1, 0, 0])))

    assert given.pairs == [(0, 1, 2), (2, 1, 1)]
    assert given.flips.tolist() == [2, 1, 0]
    assert (given.b_against_a.broken, given.b_against_a.fixed) == (1, 1)


def test_the_target_is_what_both_together_hold_likely():
    answers = PairLogits(np.array([[5, 3, 0]], np.float32), np.array([[5, 0, 4]], np.float32), (1.0, 1.0))

    assert likely_targets(answers, np.array([0])).tolist() == [2]


# Invariants


@pytest.mark.heavy
@pytest.mark.parametrize("guided", [True, False])
def test_an_artifact_does_not_differ_from_itself(scholar, images, guided):
    a, b = (side(scholar(1), 4, guided=guided) for _ in range(2))

    given, found = both(a, b, split_of(images(64)))

    assert not given.answers.differ.any()
    assert (len(found.nearest.bases), len(found.surest.bases)) == (0, 0)
    assert np.nan_to_num(found.apart).max() == 0


def test_what_rounding_explains_is_not_a_difference(threshold, square):
    """The same boundary but for a hundredth of the limit."""
    a, b = side(threshold(1.0)), side(threshold(1.0 + 0.01 * TIE))

    given, found = both(a, b, square)

    assert not given.answers.counted.any()
    assert len(found.nearest.bases) == 0


@pytest.mark.heavy
def test_a_coarser_copy_differs_in_a_thin_slab_and_another_network_in_a_thick_one(scholar, images):
    """The nearest difference may be as near in both: how far the boundaries are apart tells them from each other."""
    coarse = scholar(1)
    with torch.no_grad():
        for parameter in coarse.parameters():
            parameter.copy_((parameter * 64).round() / 64)
    split = split_of(images(200))

    thin, thick = (both(side(scholar(1), 4), side(x, 4), split, samples=64)[1] for x in (coarse, scholar(2)))

    assert 0 < np.nanmedian(thin.apart) < np.nanmedian(thick.apart) / 4
    weakest = [np.median(np.minimum(*found.surest.answers.margins)) for found in (thin, thick)]
    assert weakest[0] < weakest[1] / 4


@pytest.mark.heavy
def test_finds_differ_stay_in_the_box_and_are_as_far_as_is_said(scholar, images):
    a, b = side(scholar(1), 4), side(scholar(2), 4)

    given, found = both(a, b, split_of(images(96)), samples=80, epsilon=0.05)

    assert 0 < len(found.nearest.bases) <= len(found) <= 80
    assert (found.decided == given.answers.decisions[0][found.indices]).all()
    for finds in (found.nearest, found.surest):
        moved = 255 * (finds.images - found.images[finds.bases]).reshape(len(finds.bases), -1)
        assert finds.linf == pytest.approx(abs(moved).max(axis=1), abs=1e-3)
        assert finds.l2 == pytest.approx(np.linalg.norm(moved, axis=1), abs=1e-3)
        assert (a.runner(finds.images).argmax(axis=1) != b.runner(finds.images).argmax(axis=1)).all()
        assert finds.answers.counted.all()
        assert len(set(finds.bases.tolist())) == len(finds.bases)
    assert (found.surest.linf <= 255 * 0.05 + 1e-3).all()
    nearest = np.minimum(found.boundary_a, found.boundary_b)[found.nearest.bases]
    assert (found.nearest.linf >= np.nan_to_num(nearest) - 1e-3).all()


@pytest.mark.heavy
def test_the_seed_decides_and_the_order_of_the_two_does_not_change_what_is_found(scholar, images):
    split = split_of(images(80))
    one, other = scholar(1), scholar(2)

    first, same, swapped = (
        both(side(x, 4), side(y, 4), split, samples=20)[1] for x, y in ((one, other), (one, other), (other, one))
    )
    different = both(side(one, 4), side(other, 4), split, samples=20, seed=1)[1]

    assert np.array_equal(first.nearest.images, same.nearest.images)
    assert first.nearest.linf.tolist() == same.nearest.linf.tolist()
    assert swapped.nearest.linf.tolist() == pytest.approx(first.nearest.linf.tolist(), rel=1e-3)
    assert np.array_equal(first.boundary_a, swapped.boundary_b, equal_nan=True)
    assert not np.array_equal(first.indices, different.indices)


def test_the_attack_keeps_one_side_and_moves_the_other(threshold):
    base = np.full((1, 1, 1, 2), 0.42, np.float32)
    stays, leaves = side(threshold(1.1)), side(threshold(0.9))

    apart = pull_apart(stays, leaves, base, np.array([0]), np.array([1]), epsilon=0.1, spreads=(1.0, 1.0))
    answers = ask(stays, leaves, apart, (1.0, 1.0))

    assert [decided.tolist() for decided in answers.decisions] == [[0], [1]]
    assert np.minimum(*answers.margins)[0] > 0.3


def test_the_attack_prepares_each_network_once_and_not_in_every_step(threshold, monkeypatch):
    entered = []

    def counted(network):
        entered.append(network)
        return as_found(network)

    monkeypatch.setattr(steering, "as_found", counted)
    stays, leaves, blind = side(threshold(1.1)), side(threshold(0.9)), side(threshold(0.9), guided=False)
    base = np.full((1, 1, 1, 2), 0.42, np.float32)
    for other in (leaves, blind):
        pull_apart(stays, other, base, np.array([0]), np.array([1]), epsilon=0.1, spreads=(1.0, 1.0))

    assert entered == [stays.guide, leaves.guide, stays.guide]


def test_searching_leaves_the_networks_exactly_as_found(scholar, images):
    network, other = scholar(1), scholar(2)
    network.train()
    before = {name: value.clone() for name, value in network.state_dict().items()}

    frozen = scholar(1)
    both(Side(Answering(frozen, 4), network), side(other, 4), split_of(images(16)))

    assert network.training
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in network.parameters())


def test_a_pytorch_artifact_guides_itself(scholar, images):
    runners = [TorchRunner(scholar(seed), input_shape=(3, 8, 8), classes=4) for seed in (1, 2)]

    _, found = both(*(Side(runner, runner.network) for runner in runners), split_of(images(64)))

    assert found.guided
    assert found.nearest.answers.counted.all()


@pytest.mark.heavy
@settings(max_examples=25)
@over(low=st.floats(0.3, 1.0), thick=st.floats(0.05, 0.6), seed=st.integers(0, 99))
def test_whatever_is_found_lies_in_the_slab(low, thick, seed):
    weight = torch.tensor([[0.0, 0.0], [5.0, 5.0]])
    a, b = (LinearClassifier(weight, torch.tensor([0.0, -5 * at])) for at in (low, low + thick))
    pixels = torch.rand(12, 1, 1, 2, generator=torch.Generator().manual_seed(seed))

    _, found = both(side(a), side(b), split_of(pixels), seed=seed)

    if found is not None:
        places = sums(found.nearest.images)
        assert ((places >= low - 1e-5) & (places <= low + thick + 1e-5)).all()


def test_neighbours_are_the_nearest_of_another_class_and_oneself_where_there_is_none():
    images = np.array([0.0, 0.1, 0.5, 0.9], np.float32).reshape(4, 1, 1, 1)

    columns = np.concatenate(neighbours(images, np.array([0, 0, 1, 1])), axis=1).reshape(4, -1)
    alone = neighbours(images, np.zeros(4, np.int64))

    assert columns[0].tolist() == pytest.approx([0.5, 0.9, 0.0, 0.0])
    assert columns[2].tolist() == pytest.approx([0.1, 0.0, 0.5, 0.5])
    assert all(np.array_equal(column, images) for column in alone)


def test_images_without_a_way_out_are_searched_in_vain(linear):
    """Constant artifacts: no boundary, no gradient, no spread."""
    constant = linear(torch.zeros(2, 2), torch.tensor([1.0, 0.0]))

    for guided in (True, False):
        _, found = both(*(side(constant, guided=guided) for _ in range(2)), split_of(torch.rand(5, 1, 1, 2)))

        assert len(found.nearest.bases) == 0
        assert np.isnan(found.boundary_a).all()


# Refusals


def test_artifacts_that_never_agree_leave_nothing_to_search_from(threshold):
    given, found = both(side(threshold(0.5)), side(threshold(1.9)), split_of(torch.full((3, 1, 1, 2), 0.5)))

    assert given.answers.differ.all()
    assert found is None


def test_an_empty_split_is_refused(threshold):
    with pytest.raises(InputRejected, match="no test images"):
        compare_given(side(threshold(1)), side(threshold(1)), split_of(torch.zeros(0, 1, 1, 2)))


# The command

STUDENT, ONNX = "runs/student-1/student/student.safetensors", "runs/student-1/export/student.fp32.onnx"
FEW = ["--samples", "24", "--quiet"]


def compared(*arguments):
    return json.loads(ran(["diff", *arguments, *FEW, "--json"]).out)


@pytest.mark.starts
def test_a_network_and_its_fp32_graph_never_differ(here):
    record = compared("runs/student-1", ONNX)

    assert (record["given"]["agreement"], record["given"]["differ"], record["given"]["flips"]) == (1.0, 0, [])
    assert (record["searched"]["images"], record["searched"]["found"]) == (24, 0)
    assert record["searched"]["linf"] is None
    assert record["searched"]["boundaries_apart"]["median"] == 0
    assert record["searched"]["boundary_a"]["images"] > 12  # it was looked for where it could be
    assert [record[side]["gradients"] for side in "ab"] == ["own", "student.safetensors"]
    assert "none was found on which they differ" in record["summary"]


@pytest.mark.starts
def test_the_same_bytes_under_another_name_never_differ(here, tmp_path):
    copies = [str(shutil.copy(ONNX, tmp_path / name)) for name in ("one.onnx", "two.onnx")]

    record = compared(*copies, "--data", "digits")

    assert record["a"]["sha256"] == record["b"]["sha256"]
    assert (record["given"]["differ"], record["searched"]["found"]) == (0, 0)
    assert record["searched"]["way"] == "lines"
    assert record["searched"]["boundary_a"]["images"] == 24


def test_two_networks_differ_and_every_number_of_the_record_fits_the_others(here):
    record = compared("runs/student-1", "runs/teacher-1")

    read = report.Difference.model_validate(record)
    given, searched = read.given, read.searched
    assert searched is not None
    assert given.differ == len(given.flips) == sum(pair.count for pair in given.pairs) > 0
    assert given.differ == given.ties + given.close + given.confident
    assert given.differ == given.only_a_right + given.only_b_right + given.neither_right
    assert given.agreement == pytest.approx(1 - given.differ / given.images)
    assert given.agreement_ci[0] < given.agreement < given.agreement_ci[1]
    assert read.a.top1 - read.b.top1 == pytest.approx(given.accuracy_drop)
    assert searched.found == len(searched.nearest) > 12
    distances = [find.linf for find in searched.nearest]
    assert distances == sorted(distances)
    assert (searched.linf.minimum, searched.linf.median) == (distances[0], pytest.approx(np.median(distances)))
    for each in searched.within:
        assert each.differ == sum(distance <= each.epsilon for distance in distances)
    assert all(find.a.decision != find.b.decision and find.a.margin >= 0 <= find.b.margin for find in searched.nearest)
    assert all(find.linf <= 8.001 for find in searched.surest)
    assert searched.boundaries_apart.median > 1


def test_the_same_command_says_the_same_twice(here):
    first, second = (compared("runs/student-1", "runs/teacher-1") for _ in range(2))

    assert first["searched"] == second["searched"]
    assert first["given"] == second["given"]


@pytest.mark.starts
def test_a_guide_lends_its_gradients(here, tmp_path):
    copy = str(shutil.copy(ONNX, tmp_path / "copy.onnx"))

    record = compared(copy, "runs/teacher-1", "--data", "digits", "--guide", STUDENT)

    assert [record[side]["gradients"] for side in "ab"] == ["student.safetensors", "own"]
    assert record["searched"]["way"] == "gradients"


def test_the_terminal_shows_the_outcome_first_and_the_files_are_written(here, tmp_path):
    gallery, images = tmp_path / "diff.html", tmp_path / "diff.npz"

    done = ran(
        ["diff", "runs/student-1", "runs/teacher-1", *FEW[:2], "--html", str(gallery), "--save-images", str(images)]
    )

    assert re.match(r"A and B decide alike on \d\d\.\d\d % of 359 images", done.out)
    assert "boundaries lie" in done.out.splitlines()[0]
    assert "Searched from 24 images on which both agree, by gradients." in done.out
    assert f"written: {gallery}" in done.err
    text = gallery.read_text()
    assert "Nearest differences" in text
    assert text.count("data:image/png;base64,") > 30
    assert not re.search(r"""(src|href)=["'](?!data:)""", text)
    with np.load(images) as saved:
        assert len(saved["nearest_images"]) == len(saved["nearest_linf"]) > 0
        moved = 255 * abs(saved["nearest_images"] - saved["nearest_bases"]).max(axis=(1, 2, 3))
        assert saved["nearest_linf"] == pytest.approx(moved, abs=1e-3)
        assert (saved["nearest_logits_a"].argmax(1) != saved["nearest_logits_b"].argmax(1)).all()
        assert (saved["given_logits_a"].argmax(1) != saved["given_logits_b"].argmax(1)).all()
        assert saved["classes"].tolist() == list("0123456789")


def test_without_samples_only_the_given_images_are_compared(here, tmp_path):
    gallery = tmp_path / "diff.html"

    record = json.loads(
        ran(["diff", "runs/student-1", "runs/teacher-1", "--samples", "0", "-q", "--json", "--html", str(gallery)]).out
    )

    assert record["searched"] is None
    assert "Searched" not in record["summary"]
    assert "Nearest differences" not in gallery.read_text()


@pytest.mark.starts
def test_a_promise_on_the_agreement_ends_with_exit_code_7_after_the_result(here):
    assert typed(["diff", "runs/student-1", ONNX, *FEW, "--min-agreement", "1"]).code == 0

    done = typed(["diff", "runs/student-1", "runs/teacher-1", *FEW, "--min-agreement", "1"])

    assert done.code == 7
    assert "decide alike" in done.out
    assert re.search(r"error: A and B agree on 0\.\d{4} of 359 images, promised at least 1\n", done.err)


def test_class_names_are_escaped():
    said = [report.Verdict(decision=f"<b>{name}</b>", probability=0.5, margin=0.1) for name in "xy"]
    flip = report.Flip(index=3, label="<script>", kind="close", right=None, a=said[0], b=said[1])
    both_sides = report.Side(
        path="<i>a", format="onnx", precision="fp32", provider="cpu", sha256="0", size_bytes=1, gradients=None, top1=1,
        top1_ci=(0, 2),
    )  # fmt: skip
    given = report.GivenImages(
        images=9, agreement=0.5, agreement_ci=(0.1, 0.9), differ=1, ties=0, close=1, confident=0, only_a_right=0,
        only_b_right=0, neither_right=1, accuracy_drop=0, accuracy_drop_ci=(-1, 1), pairs=(), flips=(flip,),
    )  # fmt: skip
    record = report.Difference(
        created="now", summary="<u>", a=both_sides, b=both_sides, given=given, searched=None, tie=0, sure=1,
        versions={}, hardware={}, data=report.Images(source="<s>", fingerprint="0", classes=2, test=9),
    )  # fmt: skip

    text = page(record, flips=[Shown(flip, np.zeros((1, 4, 4), np.float32), None)], nearest=(), surest=())

    assert "&lt;b&gt;x&lt;/b&gt;" in text
    assert not any(tag in text for tag in ("<b>x", "<script", "<i>a", "<u>", "<s>"))


@pytest.mark.starts
def test_a_graph_from_elsewhere_gets_the_normalisation_that_suits_the_data(here, tmp_path):
    """The student without its own normalisation, as a graph that says nothing of it."""

    network = checkpoint.load_network(here / STUDENT)
    path = tmp_path / "foreign.onnx"
    exporter.export(network.module.network, path, input_shape=network.input_shape)
    model = onnx.load(path)
    del model.metadata_props[:]  # what this project writes says that the normalisation is inside
    onnx.save(model, path)

    done = ran(["diff", "runs/student-1", str(path), *FEW[:2], "--json"])
    record = json.loads(done.out)

    assert re.search(r"foreign.onnx: .*right on", done.err)
    assert record["given"]["agreement"] > 0.97


@pytest.mark.starts
def test_what_cannot_be_compared_is_refused(here, tmp_path):
    loose = str(shutil.copy(ONNX, tmp_path / "loose.onnx"))
    other = str(shutil.copy(ONNX, tmp_path / "other.onnx"))

    refused(["diff", "runs/student-1", STUDENT], 2, "A and B are the same file", "two different files")
    refused(["diff", loose, other], 2, "no data set is named, and neither A nor B belongs to a run", "--data")
    refused(["diff", "runs/student-1", "runs/teacher-1", "--provider", "cpu"], 2, "neither A nor B is one")
    refused(["diff", "runs/student-1", ONNX, "--epsilon", "1,x"], 2, "--epsilon takes numbers", "1,2,4,8")
    refused(["diff", "runs/student-1", ONNX, "--epsilon", "0"], 2, "--epsilon takes numbers above 0")
    refused(["diff", "runs/student-1", ONNX, "--save-images", "x.png"], 2, "writes an .npz file")
    refused(["diff", "runs/student-1", str(tmp_path)], 2, "not the folder of a run")
    refused(["diff", "runs/student-1", "none.onnx"], 4, "none.onnx")


@pytest.mark.starts
def test_files_that_do_not_fit_each_other_are_refused(here, tmp_path, tiny):
    for name, network, shape in (("classes", tiny(4, 1), (1, 8, 8)), ("shape", tiny(10, 3), (3, 8, 8))):
        exporter.export(network, tmp_path / f"{name}.onnx", input_shape=shape)

    refused(["diff", "runs/student-1", str(tmp_path / "classes.onnx")], 4, "has 10 classes, .*classes.onnx has 4")
    refused(
        ["diff", "runs/student-1", str(tmp_path / "shape.onnx")], 4, "takes images of .*, .* of 3x8x8", "--image-size"
    )


@pytest.mark.skipif(torch.cuda.is_available(), reason="about machines without a GPU")
def test_a_plan_needs_a_gpu(here, tmp_path):
    plan = tmp_path / "student.fp16.plan"
    plan.write_bytes(b"plan")
    plan.with_name(plan.name + ".json").write_text("{}")

    assert typed(["diff", "runs/student-1", str(plan)]).code in (3, 4)
