"""When two sets of logits are the same, and when they are not."""

import copy
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx as onnx_format
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from exporters import onnx, quantize
from exporters.errors import ArtifactRejected
from exporters.feeding import LEAST, as_logits
from exporters.parity import LIMITS, Response, check, compare, verdict
from exporters.pytorch import TorchRunner

DOCUMENT = Path(__file__).parents[1] / "docs/proof.md"
FINITE = st.floats(-100, 100, width=32)


def logits(*rows):
    return np.array(rows, np.float32)


REFERENCE = logits([3, 0, 0], [0, 3, 0], [0, 0, 3], [2, 1, 0])


def test_the_documented_limits_are_those_of_the_code():
    rows = [line.strip("| ").split(" | ") for line in DOCUMENT.read_text().splitlines()]
    told = {row[0]: [float(cell.strip(" %")) for cell in row[1:]] for row in rows if row[0] in LIMITS}

    assert told == {
        name: pytest.approx([each.max_error, each.rms_error, each.pixel_error, 100 * each.min_agreement])
        for name, each in LIMITS.items()
    }


# Closed forms.


def test_the_errors_are_those_of_the_definition():
    candidate = REFERENCE.copy()
    candidate[1, 2] += 0.5
    candidate[3, 0] -= 0.25
    parity = compare(REFERENCE, candidate)
    assert parity.max_error == pytest.approx(0.5)
    assert parity.mean_error == pytest.approx(0.75 / 12)
    spread = REFERENCE.astype(np.float64).std()
    assert parity.relative_error == pytest.approx(0.5 / spread)
    assert parity.rms_error == pytest.approx(math.sqrt((0.5**2 + 0.25**2) / 12) / spread)
    assert parity.pixel_error is None
    assert (parity.samples, parity.worst, parity.agreement, parity.flips) == (4, 1, 1.0, ())


def test_a_flip_is_as_decisive_as_the_reference_was_sure():
    candidate = REFERENCE.copy()
    candidate[3] = [0, 1, 0]  # the reference had 2 to 1
    candidate[0] = [0, 0, 3]  # the reference had 3 to 0
    parity = compare(REFERENCE, candidate)
    spread = REFERENCE.astype(np.float64).std()
    assert parity.agreement == 0.5
    assert parity.flips == pytest.approx((3 / spread, 1 / spread))
    assert [parity.decisive(gap / spread) for gap in (0.5, 1.5, 3.5)] == [2, 1, 0]


def test_a_flip_between_classes_that_were_level_is_a_tie():
    reference = logits([1.0, 0.9999, -3], [5, 0, -1])
    candidate = logits([0.9999, 1.0, -3], [5, 0, -1])
    parity = compare(reference, candidate)
    assert parity.agreement == 0.5
    assert parity.decisive(LIMITS["fp32"].max_error) == 0
    assert verdict(parity, "fp32") is None


# Invariants.


@given(arrays(np.float32, (5, 3), elements=FINITE))
def test_logits_agree_with_themselves(same):
    parity = compare(same, same)
    assert (parity.max_error, parity.mean_error, parity.relative_error, parity.agreement) == (0, 0, 0, 1)
    assert parity.rms_error == 0
    assert all(verdict(parity, precision) is None for precision in LIMITS)


@given(arrays(np.float32, (5, 3), elements=FINITE), arrays(np.float32, (5, 3), elements=FINITE))
def test_scaling_both_sides_changes_no_verdict(reference, candidate):
    scaled = compare(reference * 4, candidate * 4)
    parity = compare(reference, candidate)
    assert scaled.max_error == pytest.approx(4 * parity.max_error)
    assert scaled.relative_error == pytest.approx(parity.relative_error)
    assert scaled.rms_error == pytest.approx(parity.rms_error)
    assert scaled.flips == pytest.approx(parity.flips)


@given(arrays(np.float32, (6, 3), elements=FINITE), arrays(np.float32, (6, 3), elements=FINITE))
def test_a_flip_never_exceeds_twice_the_error(reference, candidate):
    parity = compare(reference, candidate)
    assert all(0 <= gap <= 2 * parity.relative_error * (1 + 1e-6) for gap in parity.flips)
    assert len(parity.flips) == round((1 - parity.agreement) * parity.samples)


@given(arrays(np.float32, (6, 3), elements=FINITE), arrays(np.float32, (6, 3), elements=FINITE))
def test_the_root_mean_square_lies_between_the_mean_and_the_largest_error(reference, candidate):
    parity = compare(reference, candidate)
    assert parity.rms_error <= parity.relative_error * (1 + 1e-9)
    assert parity.mean_error * parity.relative_error <= parity.max_error * parity.rms_error * (1 + 1e-9)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("broken", ["reference", "candidate", "both"])
def test_a_logit_that_is_not_finite_is_infinitely_wrong(value, broken):
    reference, candidate = REFERENCE.copy(), REFERENCE.copy()
    for name, side in (("reference", reference), ("candidate", candidate)):
        if broken in (name, "both"):
            side[2, 2] = value
    parity = compare(reference, candidate)
    assert parity.max_error == math.inf
    assert parity.relative_error == parity.rms_error == math.inf
    assert (parity.worst, parity.agreement, parity.flips) == (2, 0.75, (math.inf,))
    assert all(verdict(parity, precision) == "a logit of image 2 is not finite" for precision in LIMITS)


def test_nothing_but_nan_is_no_parity():
    assert verdict(compare(REFERENCE * math.nan, REFERENCE * math.nan), "int8") is not None


def test_logits_that_never_vary_allow_no_error():
    flat = np.full((4, 3), 2.0, np.float32)
    assert verdict(compare(flat, flat), "fp32") is None
    assert verdict(compare(flat, flat + 1e-3), "int8") is not None


# Refusals.


def test_another_number_of_classes_is_refused():
    with pytest.raises(ArtifactRejected, match=r"shape \[4, 2\], those of the reference \[4, 3\]"):
        compare(REFERENCE, REFERENCE[:, :2])


def test_no_images_are_no_proof():
    with pytest.raises(ValueError, match="at least one image"):
        compare(REFERENCE[:0], REFERENCE[:0])


def test_the_verdict_names_the_image_and_the_limit():
    parity = compare(REFERENCE, REFERENCE + logits([0, 0, 0], [0, 0, 0], [0, 1, 0], [0, 0, 0]))
    assert verdict(parity, "fp16") == (
        "the logits of image 2 are off by 1, 0.77 of the reference's spread, more than the 0.03 that fp16 explains"
    )


def test_errors_that_are_not_large_but_everywhere_are_too_much():
    spread = REFERENCE.astype(np.float64).std()
    parity = compare(REFERENCE, REFERENCE + np.float32(spread / 5) * logits([1, -1, 1]))
    assert verdict(parity, "int8") == (
        "the logits are off by 0.2 of the reference's spread, root mean square, more than the 0.12 that int8 explains"
    )
    assert verdict(compare(REFERENCE, REFERENCE + np.float32(spread / 10)), "int8") is None


def test_the_verdict_names_another_mean():
    parity = replace(compare(REFERENCE, REFERENCE), pixel_error=3.14)
    assert verdict(parity, "int8") == (
        "the logits are those of pixels that are 3.1 steps of 1/255 off, more than the 2 that int8 explains, "
        "as with another mean or standard deviation inside"
    )
    assert verdict(replace(parity, pixel_error=1.9), "int8") is None


def test_too_many_decisive_flips_fail_although_the_errors_are_small():
    parity = replace(compare(REFERENCE, REFERENCE), agreement=0.25, flips=(0.9, 0.8, 0.01))
    assert verdict(parity, "int8") == (
        "2 of 4 images are decided differently, although the reference is not near a tie"
    )


# What other pixels would explain.

CHANGES = st.floats(-1, 1)


def response(seed=0, *, channels=3, strength=1000.0):
    """Slopes of 20 images and 4 classes, so strong that the penalty on faint ones does not show."""
    generator = np.random.default_rng(seed)
    slopes = strength * generator.standard_normal((2 * channels, 20, 4))
    return Response(np.arange(20), slopes, generator.uniform(0.1, 0.3, channels))


def explained(known, change):
    """The errors `[N, K]` that follow from a change `[2C]` of the pixels."""
    return np.tensordot(np.array(change), known.slopes, 1)


@given(st.lists(CHANGES, min_size=6, max_size=6), st.floats(0.1, 10))
def test_errors_that_other_pixels_explain_say_how_far_off_these_are(change, spread):
    known = response()
    brighter, contrast = np.array(change).reshape(2, 3)
    expected = 255 * math.sqrt(np.mean(brighter**2 + (contrast * known.contrast) ** 2))
    assert known.pixel_error(explained(known, change), spread) == pytest.approx(expected, rel=1e-4, abs=1e-6)


@given(st.floats(0.01, 100), st.integers(0, 9))
def test_the_scale_of_the_logits_does_not_matter(scale, seed):
    known, errors = response(seed, strength=1), np.random.default_rng(seed).standard_normal((20, 4))
    scaled = replace(known, slopes=scale * known.slopes)
    assert scaled.pixel_error(scale * errors, scale) == pytest.approx(known.pixel_error(errors, 1))


@given(st.integers(0, 9))
def test_errors_that_no_other_pixels_explain_are_not_theirs(seed):
    known, errors = response(seed, strength=1), np.random.default_rng(seed).standard_normal((20, 4))
    columns = known.slopes.reshape(6, -1).T
    rest = errors.ravel() - columns @ np.linalg.lstsq(columns, errors.ravel(), rcond=None)[0]
    assert known.pixel_error(rest.reshape(20, 4), 1) < 1e-9


def test_pixels_that_the_logits_hardly_answer_to_explain_nothing():
    faint, errors = response(strength=1e-6), np.random.default_rng(1).standard_normal((20, 4)) / 10
    assert faint.pixel_error(errors, 1) < 1e-3


class Colours(nn.Module):
    """A network whose logits are the means of its normalised channels, and a zero."""

    def __init__(self, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25)) -> None:
        super().__init__()
        self.mean, self.std = (nn.Buffer(torch.tensor(value).view(1, 3, 1, 1)) for value in (mean, std))

    def forward(self, images):
        return nn.functional.pad(((images - self.mean) / self.std).mean(dim=(2, 3)), (0, 1))


def lights(count=64):
    """Images of one colour each, as different in brightness as can be."""
    return np.random.default_rng(0).random((count, 3, 1, 1), dtype=np.float32).repeat(8, 2).repeat(8, 3)


@pytest.mark.parametrize(
    ("mean", "std"),
    [
        ((0.52, 0.5, 0.48), (0.25, 0.25, 0.25)),
        ((0.5, 0.5, 0.5), (0.22, 0.25, 0.28)),
        ((0.48, 0.52, 0.5), (0.28, 0.25, 0.25)),
        ((0.0, 0.0, 0.0), (0.25, 0.25, 0.25)),
    ],
)
@pytest.mark.parametrize("count", [64, 300])
def test_another_mean_and_std_are_as_far_off_as_the_pixels_that_they_stand_for(count, mean, std):
    images = lights(count)
    found = check(run(Colours(mean, std)), run(Colours()), images, batch_sizes=())[count]
    other = (images - np.reshape(mean, (3, 1, 1))) / np.reshape(
        std, (3, 1, 1)
    ) * 0.25 + 0.5  # pixels that look the same
    distance = 255 * math.sqrt(np.mean((other - images) ** 2))
    assert 0.8 * distance < found.pixel_error < 1.01 * distance  # less by the penalty


@pytest.mark.parametrize("broken", ["reference", "candidate", "both"])
def test_logits_that_are_not_finite_have_no_pixels(broken):
    def answering(network, name):
        class Overflowing(TorchRunner):
            def __call__(self, images):
                logits = super().__call__(images)
                return np.copysign(np.float32(np.inf), logits) if broken in (name, "both") else logits

        return Overflowing(network, input_shape=(3, 8, 8), classes=4)

    found = check(answering(Colours(), "candidate"), answering(Colours(), "reference"), lights(), batch_sizes=())[64]
    assert "not finite" in str(verdict(found, "int8"))


# Healthy and broken networks.


class Student(nn.Module):
    """A small network with its normalisation inside, whose pieces can be broken one by one."""

    def __init__(self) -> None:
        super().__init__()
        self.mean, self.std = (
            nn.Buffer(torch.tensor(value).view(1, 3, 1, 1)) for value in ([0.5, 0.4, 0.3], [0.2] * 3)
        )
        self.first = nn.Conv2d(3, 16, 3, padding=1)
        self.second = nn.Conv2d(16, 16, 3, stride=2)
        self.head = nn.Linear(16, 4)
        self.ceiling = math.inf
        self.transposed = False
        self.scale: float | None = None  # of 8-bit activations

    def forward(self, images):
        if self.transposed:
            images = images.transpose(2, 3)
        hidden = self.first((images - self.mean) / self.std).relu().clamp(max=self.ceiling)
        hidden = self.second(self.rounded(hidden)).relu()
        return self.head(self.rounded(hidden).amax(dim=(2, 3)))

    def rounded(self, hidden):
        return hidden if self.scale is None else torch.fake_quantize_per_tensor_affine(hidden, self.scale, 0, 0, 255)


@pytest.fixture(scope="module")
def student():
    torch.manual_seed(1)
    return Student().eval()


def run(network, precision="fp32"):
    return TorchRunner(network, input_shape=(3, 8, 8), classes=4, precision=precision)


def random_images(count=64):
    return np.random.default_rng(0).random((count, 3, 8, 8), dtype=np.float32)


def boundary_images(network, count=64):
    """Pairs of images, mixed until two classes are level: halving finds where the prediction changes."""
    runner = run(network)
    low, high = random_images(2 * count)[:count], random_images(2 * count)[count:]
    for _ in range(20):
        middle = (low + high) / 2
        same = runner(middle).argmax(1) == runner(low).argmax(1)
        low, high = np.where(same[:, None, None, None], middle, low), np.where(same[:, None, None, None], high, middle)
    return np.concatenate([low, high])


@pytest.fixture(scope="module")
def sets(student):
    return {"random": random_images(), "boundary": boundary_images(student)}


def broken(network, **changes):
    copied = copy.deepcopy(network)
    for name, value in changes.items():
        setattr(copied, name, value)
    return copied


@pytest.mark.parametrize("images", ["random", "boundary"])
@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_a_healthy_network_passes(student, sets, images, precision):
    for size, parity in check(run(student, precision), run(student), sets[images]).items():
        assert verdict(parity, precision) is None, (size, parity)
        assert (parity.max_error > 0) == (precision != "fp32") or size == 1


def test_images_on_the_boundary_flip_and_are_excused(student, sets):
    parity = check(run(student, "fp16"), run(student), sets["boundary"], batch_sizes=())[128]
    assert parity.agreement < 1
    assert parity.decisive(LIMITS["fp16"].max_error) == 0


@pytest.mark.heavy
@pytest.mark.parametrize("images", ["random", "boundary"])
@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
@pytest.mark.parametrize(
    "fault",
    [
        {"transposed": True},
        {"mean": torch.tensor([0.3, 0.4, 0.5]).view(1, 3, 1, 1)},
        {"std": torch.tensor([0.25, 0.25, 0.25]).view(1, 3, 1, 1)},
        {"ceiling": 1.0},
    ],
    ids=["transposed", "wrong mean", "wrong std", "saturated"],
)
def test_a_broken_network_fails(student, sets, images, precision, fault):
    results = check(run(broken(student, **fault), precision), run(student), sets[images])
    assert all(verdict(parity, precision) is not None for parity in results.values())


def test_a_check_uses_batches_of_each_size_and_all_images_at_once(student):
    seen = []

    class Counting(TorchRunner):
        def __call__(self, images):
            seen.append(len(images))
            return super().__call__(images)

    counting = Counting(student, input_shape=(3, 8, 8), classes=4)
    results = check(counting, run(student), random_images(9))
    assert list(results) == [1, 2, 7, 9]
    assert seen == [1] * 9 + [2, 2, 2, 2, 1] + [7, 2] + [9]
    assert all(parity.samples == 9 for parity in results.values())


def test_a_network_that_is_wrong_at_one_batch_size_only_is_found(student):
    class Odd(TorchRunner):
        def __call__(self, images):
            return super().__call__(images) * (1 if len(images) != 2 else -1)

    results = check(Odd(student, input_shape=(3, 8, 8), classes=4), run(student), random_images(8))
    assert [size for size, parity in results.items() if verdict(parity, "fp32")] == [2]


@pytest.mark.parametrize("images", ["random", "boundary"])
def test_eight_bit_activations_pass_as_int8_until_their_scale_saturates_them(student, sets, images):
    for scale, healthy in ((6 / 255, True), (1 / 255, False)):
        results = check(run(broken(student, scale=scale)), run(student), sets[images])
        assert all((verdict(parity, "int8") is None) == healthy for parity in results.values()), (scale, results)
        assert all(verdict(parity, "fp32") is not None for parity in results.values())


# Exported files with other ends.


@pytest.fixture(scope="module")
def trunk(student, tmp_path_factory):
    path = tmp_path_factory.mktemp("trunk") / "student.onnx"
    onnx.export(student, path, input_shape=(3, 8, 8))
    return path


def converted(trunk, folder, precision, pixels, output, plant=lambda _graph: None):
    """A file with the ends that are asked for, and a mistake planted in it."""
    path = folder / "student.onnx"
    onnx.convert(trunk, path, precision=precision, pixels=pixels, output=output)
    model = onnx_format.load(path)
    plant(model.graph)
    path.write_bytes(model.SerializeToString())
    return onnx.load(path)


FORMS = [("uint8", "logits"), ("float32", "probabilities"), ("uint8", "probabilities")]


@pytest.mark.heavy
@pytest.mark.parametrize("images", ["random", "boundary"])
@pytest.mark.parametrize(("pixels", "output"), FORMS)
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_healthy_file_with_other_ends_passes(student, trunk, sets, tmp_path, images, precision, pixels, output):
    runner = converted(trunk, tmp_path, precision, pixels, output)
    assert (runner.pixels, runner.output) == (pixels, output)
    results = check(runner, run(student), sets[images])
    assert list(results) == [1, 2, 7, len(sets[images])]
    assert all(verdict(parity, precision) is None for parity in results.values()), results


def node(graph, kind, index=0):
    return [each for each in graph.node if each.op_type == kind][index]


def replace_constant(graph, name, change):
    tensor = next(tensor for tensor in graph.initializer if tensor.name == name)
    tensor.CopyFrom(numpy_helper.from_array(change(numpy_helper.to_array(tensor)), name))


def rows_for_columns(graph):
    node(graph, "Transpose").attribute[0].ints[:] = [0, 3, 2, 1]


def blue_for_red(graph):
    replace_constant(graph, node(graph, "Conv").input[1], lambda weight: weight[:, ::-1].copy())


def another_mean(graph):
    replace_constant(graph, node(graph, "Sub").input[1], lambda mean: mean[:, ::-1].copy())


def not_divided(graph):
    replace_constant(graph, node(graph, "Div").input[1], lambda _: np.float32(1))


def saturated(graph):
    relu = node(graph, "Relu")
    relu.op_type = "Clip"
    kind = next(tensor.data_type for tensor in graph.initializer if tensor.name == node(graph, "Conv").input[1])
    for name, value in (("lowest", 0), ("highest", 1)):
        graph.initializer.append(onnx_format.helper.make_tensor(name, kind, [], [value]))
        relu.input.append(name)


def softmax_twice(graph):
    graph.node.append(onnx_format.helper.make_node("Softmax", [graph.output[0].name], ["again"], axis=-1))
    graph.output[0].name = "again"


@pytest.mark.heavy
@pytest.mark.parametrize("images", ["random", "boundary"])
@pytest.mark.parametrize(
    ("pixels", "output", "plant"),
    [
        ("uint8", "logits", rows_for_columns),
        ("uint8", "probabilities", rows_for_columns),
        ("uint8", "logits", blue_for_red),
        ("uint8", "probabilities", another_mean),
        ("float32", "probabilities", another_mean),
        ("uint8", "logits", not_divided),
        ("uint8", "logits", saturated),
        ("float32", "probabilities", saturated),
        ("float32", "probabilities", softmax_twice),
    ],
)
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_mistake_in_a_file_with_other_ends_is_found_at_every_batch_size(
    student, trunk, sets, tmp_path, images, precision, pixels, output, plant
):
    runner = converted(trunk, tmp_path, precision, pixels, output, plant)
    assert (runner.pixels, runner.output) == (pixels, output)
    results = check(runner, run(student), sets[images])
    assert all(verdict(parity, precision) is not None for parity in results.values()), results


def quantised(trunk, folder, mean):
    """The INT8 file of the network with so much added to its mean, in steps of 1/255."""
    model = onnx_format.load(trunk)
    added = np.reshape(mean, (1, 3, 1, 1)).astype(np.float32) / 255
    replace_constant(model.graph, node(model.graph, "Sub").input[1], lambda known: known + added)
    source, path = folder / "student.onnx", folder / "student.int8.onnx"
    source.write_bytes(model.SerializeToString())
    quantize.quantize(source, path, random_images(128)[64:], recipe="cpu")
    return onnx.load(path)


@pytest.mark.heavy
@pytest.mark.parametrize("mean", [(0, 0, 0), (3, 3, 3), (5, 0, -5), (8, 8, 8)], ids=str)
def test_another_mean_that_hides_in_the_rounding_of_int8_is_found(student, trunk, sets, tmp_path, mean):
    runner = quantised(trunk, tmp_path, mean)
    distance = math.sqrt(np.mean(np.square(mean)))
    for parity in [each for images in sets.values() for each in check(runner, run(student), images).values()]:
        assert parity.pixel_error == pytest.approx(distance, rel=0.2, abs=0.5)
        assert verdict(replace(parity, pixel_error=None), "int8") is None
        assert ("another mean or standard deviation" in str(verdict(parity, "int8"))) == any(mean), parity


@pytest.mark.heavy
def test_images_are_rounded_for_both_sides_where_one_takes_uint8(student, trunk, sets, tmp_path):
    runner = converted(trunk, tmp_path, "fp32", "uint8", "logits")
    images = sets["random"]
    assert verdict(compare(run(student)(images), runner(images)), "fp32") is not None
    for pair in ((runner, run(student)), (run(student), runner)):
        assert verdict(check(*pair, images)[64], "fp32") is None


def test_what_a_probability_cannot_tell_is_not_asked_of_it(student, trunk, sets, tmp_path):
    runner = converted(trunk, tmp_path, "fp32", "float32", "probabilities")
    sure = broken(student, head=copy.deepcopy(student.head))
    with torch.no_grad():
        sure.head.weight *= 1000
        sure.head.bias *= 1000

    class StoredPredictions(TorchRunner):
        """Logits as their probabilities in fp32 tell them."""

        def __call__(self, images):
            return as_logits(torch.from_numpy(super().__call__(images)).softmax(1).numpy())

    candidate = StoredPredictions(sure, input_shape=(3, 8, 8), classes=4)
    candidate.output = runner.output
    assert (candidate(sets["random"]) == LEAST).any()
    for pair in ((candidate, run(sure)), (run(sure), candidate)):
        assert all(verdict(parity, "fp32") is None for parity in check(*pair, sets["random"]).values())


def test_logits_that_are_not_finite_stay_so_as_probabilities(student, sets):
    class Broken(TorchRunner):
        def __call__(self, images):
            logits = super().__call__(images)
            logits[0, 0] = math.nan
            return logits

    candidate = Broken(student, input_shape=(3, 8, 8), classes=4)
    candidate.output = "probabilities"
    assert "not finite" in str(verdict(check(candidate, run(student), sets["random"])[64], "int8"))


def test_a_sure_softmax_in_fp16_is_compared_down_to_what_fp16_holds(tmp_path):
    """A probability of e^-40 is zero in fp16."""
    sure = np.zeros((12, 3), np.float16)
    sure[:, 0] = 10 * np.arange(12) / 12
    sure[:, 1] = 3
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["x"], ["h"], to=TensorProto.FLOAT16),
            helper.make_node("Flatten", ["h"], ["f"]),
            helper.make_node("MatMul", ["f", "w"], ["l"]),
            helper.make_node("Softmax", ["l"], ["y"], axis=-1),
        ],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 2, 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT16, ["n", 3])],
        [numpy_helper.from_array(sure, "w")],
    )
    path = tmp_path / "sure.onnx"
    opsets = [helper.make_opsetid("", 20)]
    path.write_bytes(helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString())
    onnx.convert(path, tmp_path / "logits.onnx")
    reference, candidate = onnx.load(path), onnx.load(tmp_path / "logits.onnx")
    images = np.random.default_rng(0).random((32, 3, 2, 2), dtype=np.float32)
    assert candidate(images).max() > 30

    for parity in check(candidate, reference, images).values():
        assert verdict(parity, "fp16") is None
