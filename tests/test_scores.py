from dataclasses import dataclass, field
from math import exp, log, sqrt
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from compressor.batch import Batch
from compressor.errors import InputRejected
from compressor.measure.scores import Predictions, agreement, infer, predict, score


@dataclass
class FakeRunner:
    """A runner whose logits are given by a function of the images."""

    answer: object
    classes: int
    input_shape: tuple[int, int, int] = (1, 1, 1)
    path: Path | None = None
    format: str = "fake"
    provider: str = "cpu"
    precision: str = "fp32"
    metadata: dict = field(default_factory=dict)
    threads: int | None = None
    batches: list[int] = field(default_factory=list)

    def __call__(self, images):
        self.batches.append(len(images))
        return self.answer(images)


@dataclass
class ListSplit:
    images: torch.Tensor
    labels: torch.Tensor
    loaded: int = 0

    def __len__(self):
        return len(self.labels)

    def batches(self, batch_size, *, seed=None):
        generator = None if seed is None else torch.Generator().manual_seed(seed)
        order = torch.arange(len(self)) if seed is None else torch.randperm(len(self), generator=generator)
        for chosen in order.split(batch_size):
            self.loaded += len(chosen)
            yield Batch(self.images[chosen], self.labels[chosen], chosen)


def numbered(count, labels=None):
    """A split whose single pixel holds the number of the image, over `count`."""
    labels = torch.zeros(count, dtype=torch.int64) if labels is None else labels
    return ListSplit(torch.arange(count).div(count).view(-1, 1, 1, 1), labels)


def predictions(logits, labels):
    return Predictions(np.array(logits, np.float32), np.array(labels, np.int64))


def answers(classes, count):
    """Predictions of one class an image, without doubt: `[N]` to logits `[N, K]`."""
    return 10 * np.eye(count, dtype=np.float32)[np.array(classes)]


# Closed forms


def test_top1_top5_and_class_accuracies_count_right_answers():
    ranks = np.array([0, 4, 5, 0])  # of the true class 3
    logits = np.zeros((4, 8), np.float32)
    for row, rank in enumerate(ranks):
        logits[row, [k for k in range(8) if k != 3][:rank]] = 2
        logits[row, 3] = 1

    scores = score(predictions(logits, [3, 3, 3, 3]))

    assert (scores.samples, scores.top1, scores.top5) == (4, 50.0, 75.0)
    assert scores.per_class == (None, None, None, 50.0, None, None, None, None)


def test_top5_means_nothing_with_five_classes():
    assert score(predictions(np.eye(5), range(5))).top5 is None
    assert score(predictions(np.eye(6), range(6))).top5 == 100.0


def test_equal_logits_are_decided_for_the_lower_class_in_top1_and_top5():
    scores = score(predictions(np.zeros((8, 10)), [0, 1, 2, 3, 4, 5, 6, 7]))

    assert (scores.top1, scores.top5) == (12.5, 62.5)


def test_nll_is_the_mean_surprise_in_nats():
    scores = score(predictions([[0.0, 0.0], [log(3), 0.0]], [0, 1]))

    assert scores.nll == pytest.approx((log(2) + log(4)) / 2)


def test_logits_of_any_size_do_not_overflow():
    scores = score(predictions([[3e38, -3e38], [-3e38, 3e38]], [0, 1]))

    assert scores.nll == 0.0
    assert scores.ece == 0.0


def test_calibration_error_is_the_gap_between_confidence_and_accuracy_in_each_bin():
    # Two bins: ten answers at 0.9 of which 6 are right, ten at 0.6 of which 9 are right.
    logits = [[log(9), 0.0]] * 10 + [[log(1.5), 0.0]] * 10
    labels = [0] * 6 + [1] * 4 + [0] * 9 + [1]

    assert score(predictions(logits, labels)).ece == pytest.approx((0.3 + 0.3) / 2, abs=1e-6)


def test_gaps_of_different_sign_cancel_within_a_bin_and_nowhere_else():
    # 0.61 and 0.69 share a tenth and no fifteenth, 0.68 and 0.72 a fifteenth and no tenth.
    def ece(first, second):
        logits = [[log(p / (1 - p)), 0.0] for p in (first, second)]
        return score(predictions(logits, [0, 1])).ece

    assert ece(0.68, 0.72) == pytest.approx((0.68 + 0.72 - 1) / 2, abs=1e-6)
    assert ece(0.61, 0.69) == pytest.approx((0.39 + 0.69) / 2, abs=1e-6)


def test_wilson_interval_of_top1_matches_the_textbook_value():
    labels = [0] * 8 + [1] * 2
    low, high = score(predictions(answers([0] * 10, 2), labels)).top1_interval

    assert (low, high) == pytest.approx((49.02, 94.33), abs=0.01)  # 8 of 10


def test_drop_is_paired_with_mcnemars_error_and_adjusted_interval():
    # Of 100 images, 10 only the teacher gets right, 4 only the artifact.
    labels = [0] * 100
    teacher = predictions(answers([1] * 4 + [0] * 96, 3), labels)
    artifact = predictions(answers([0] * 4 + [1] * 10 + [0] * 86, 3), labels)

    scores = score(artifact, teacher=teacher)

    assert (scores.broken, scores.fixed, scores.drop) == (10, 4, 6.0)
    assert scores.drop_error == pytest.approx(100 * sqrt(14 - 36 / 100) / 100)
    half = 1.959964 * sqrt(15 - 36 / 102) / 102
    assert scores.drop_interval == pytest.approx((100 * (6 / 102 - half), 100 * (6 / 102 + half)), abs=1e-4)
    assert scores.agreement == 0.86


def test_mistakes_fixed_and_new_ones_are_shares_of_what_the_teacher_got_wrong_and_right():
    labels = [0] * 10  # the teacher gets the first 4 wrong; of these 1 is right now, and 2 of the other 6 are lost
    teacher = predictions(answers([1] * 4 + [0] * 6, 3), labels)
    artifact = predictions(answers([0, 1, 2, 1] + [1, 2] + [0] * 4, 3), labels)

    scores = score(artifact, teacher=teacher)

    assert (scores.teacher_mistakes_fixed, scores.new_mistakes) == (1 / 4, 2 / 6)


def test_a_share_of_no_mistakes_and_of_no_right_answers_is_unknown():
    labels, right = [0] * 3, answers([0, 0, 0], 2)
    perfect = score(predictions(answers([0, 1, 1], 2), labels), teacher=predictions(right, labels))
    hopeless = score(predictions(answers([0, 1, 1], 2), labels), teacher=predictions(-right, labels))
    alone = score(predictions(right, labels))

    assert (perfect.teacher_mistakes_fixed, perfect.new_mistakes) == (None, 2 / 3)
    assert (hopeless.teacher_mistakes_fixed, hopeless.new_mistakes) == (1 / 3, None)
    assert (alone.teacher_mistakes_fixed, alone.new_mistakes, alone.confidence_spread) == (None, None, None)


def test_confidences_are_compared_in_the_teachers_class_whatever_the_artifact_decides():
    def odds(*shares):
        return predictions([[log(p), log(1 - p)] for p in shares], [0] * len(shares))

    # The teacher's class is 0, 0, 1, 0; the artifact decides for the other one on the second image.
    scores = score(odds(0.8, 0.4, 0.35, 0.6), teacher=odds(0.9, 0.6, 0.2, 0.6))

    lost = [0.1, 0.2, 0.8 - 0.65, 0.0]
    mean = sum(lost) / 4
    assert scores.confidence_drop == pytest.approx(mean, abs=1e-6)
    assert scores.confidence_spread == pytest.approx(sqrt(sum((each - mean) ** 2 for each in lost) / 4), abs=1e-6)


def test_a_confidence_has_changed_by_more_than_a_tenth_in_either_direction():
    def odds(*shares):
        return predictions([[log(p), log(1 - p)] for p in shares], [0] * len(shares))

    scores = score(odds(0.79, 0.71, 0.9, 0.61), teacher=odds(0.7, 0.8, 0.7, 0.8))

    assert scores.confidence_changed == 0.5
    assert scores.confidence_drop == pytest.approx((-0.09 + 0.09 - 0.2 + 0.19) / 4, abs=1e-6)


def test_class_change_is_signed_and_the_worst_drop_is_its_largest_loss():
    labels = [0, 0, 1, 1, 2, 2]
    teacher = predictions(answers([0, 0, 1, 0, 2, 2], 4), labels)
    artifact = predictions(answers([0, 1, 1, 1, 0, 0], 4), labels)

    scores = score(artifact, teacher=teacher)

    assert scores.class_change == (-50.0, 50.0, -100.0, None)
    assert scores.worst_class_drop == 100.0


def test_two_networks_that_never_disagree_still_leave_the_doubt_of_few_images():
    same = predictions(answers([0] * 50, 2), [0] * 50)

    scores = score(same, teacher=same)

    assert (scores.agreement, scores.drop, scores.drop_error) == (1.0, 0.0, 0.0)
    low, high = scores.drop_interval
    assert low == -high
    assert high == pytest.approx(100 * 1.959964 / 52, abs=1e-3)


# Invariants


@given(st.integers(2, 8), st.integers(1, 30), st.integers(0, 2**32 - 1))
@settings(max_examples=50)
def test_scores_stay_in_their_ranges_and_ignore_the_order_of_images(classes, count, seed):
    rng = np.random.default_rng(seed)
    logits, taught = rng.normal(size=(2, count, classes)).round(1).astype(np.float32)
    labels = rng.integers(0, classes, count)
    order = rng.permutation(count)

    scores = score(Predictions(logits, labels), teacher=Predictions(taught, labels))
    again = score(Predictions(logits[order], labels[order]), teacher=Predictions(taught[order], labels[order]))

    assert 0 <= scores.top1_interval[0] <= scores.top1 <= scores.top1_interval[1] <= 100
    assert 0 <= scores.ece <= 1
    assert scores.nll > 0
    assert 0 <= scores.agreement <= 1
    assert scores.top5 is None or scores.top5 >= scores.top1
    assert scores.drop == pytest.approx(score(Predictions(taught, labels)).top1 - scores.top1)
    assert (scores.top1, scores.top5, scores.drop_interval) == (again.top1, again.top5, again.drop_interval)
    assert scores.ece == pytest.approx(again.ece)


def test_predictions_come_in_order_whatever_the_batch_size():
    split = numbered(10, torch.arange(10) % 2)
    runner = FakeRunner(lambda images: np.concatenate([images[:, :, 0, 0], -images[:, :, 0, 0]], axis=1), classes=2)

    found = predict(runner, split, batch_size=4)

    assert runner.batches == [4, 4, 2]
    assert found.logits[:, 0].tolist() == pytest.approx([n / 10 for n in range(10)])
    assert found.labels.tolist() == [0, 1] * 5


def test_a_limit_takes_a_sample_that_is_the_same_each_time_and_not_just_the_first_images():
    split = numbered(100)

    def run():
        return predict(FakeRunner(lambda images: images[:, :, 0, 0], classes=1), split, batch_size=8, limit=20)

    found = run()

    assert found.logits.shape == (20, 1)
    assert np.array_equal(found.logits, run().logits)
    assert found.logits.max() > 0.5
    assert split.loaded == 2 * 24  # and no batch more


def test_agreement_is_the_fraction_of_equal_decisions():
    assert agreement(answers([0, 1, 2, 0], 3), answers([0, 1, 1, 1], 3)) == 0.5


def test_scoring_does_not_depend_on_a_shift_of_the_logits():
    logits, labels = np.array([[1.0, 2.0, 0.5], [0.0, 3.0, 1.0]]), [1, 2]

    moved, still = score(predictions(logits + 100, labels)), score(predictions(logits, labels))

    assert moved.nll == pytest.approx(still.nll, rel=1e-5)
    assert still.nll == pytest.approx((log(1 + exp(-1) + exp(-1.5)) + 2 + log(1 + exp(-2) + exp(-3))) / 2)


# Refusals


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_logits_that_are_not_finite_are_refused_by_file_name(value):
    runner = FakeRunner(lambda images: np.full((len(images), 3), value, np.float32), 3, path=Path("a/student.onnx"))

    with pytest.raises(InputRejected, match=r"^student\.onnx gives logits that are NaN or infinite$"):
        predict(runner, numbered(4))


def test_an_output_of_another_shape_is_refused():
    runner = FakeRunner(lambda images: np.zeros((len(images), 3, 1), np.float32), 3)

    with pytest.raises(InputRejected, match=r"the fake network gives an output of shape \(4, 3, 1\) for 4 images"):
        infer(runner, np.zeros((4, 1, 1, 1), np.float32))


def test_a_label_without_a_class_is_refused():
    runner = FakeRunner(lambda images: np.zeros((len(images), 3), np.float32), 3)

    with pytest.raises(InputRejected, match="has 3 classes, but the data has the label 7"):
        predict(runner, numbered(2, torch.tensor([0, 7])))


@pytest.mark.parametrize(("count", "limit"), [(0, None), (3, 0)])
def test_no_images_are_refused(count, limit):
    with pytest.raises(InputRejected, match="no images to evaluate on"):
        predict(FakeRunner(lambda images: images[:, :, 0, 0], 1), numbered(count), limit=limit)


def test_a_teacher_of_other_classes_is_refused_and_other_images_are_a_bug():
    artifact = predictions(np.eye(2), [0, 1])

    with pytest.raises(InputRejected, match="the teacher has 3 classes and the artifact 2"):
        score(artifact, teacher=predictions(np.eye(3)[:2], [0, 1]))
    with pytest.raises(ValueError, match="different images"):
        score(artifact, teacher=predictions(np.eye(2), [1, 1]))


def test_inferring_nothing_gives_no_logits():
    assert infer(FakeRunner(lambda images: images, 7), np.zeros((0, 1, 1, 1), np.float32)).shape == (0, 7)
