"""The teacher is tried on the data before anything is spent: normalisation, class order, classes, channels, sizes."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from compressor import models
from compressor.batch import Batch
from compressor.checkpoint import Network, check_teacher
from compressor.checkpoint.class_order import apply_order, best_order
from compressor.checkpoint.match import fitted, in_other_form
from compressor.checkpoint.normalisation import Tried, chosen
from compressor.checkpoint.teacher_check import _clearly_better
from compressor.data import NORMALISATIONS
from compressor.errors import InputRejected
from compressor.models import Normalized, wide_stem

NAMES = ("dark", "dim", "light", "bright")
LEVELS = torch.tensor([0.2, 0.4, 0.6, 0.8])  # the brightness of each class
SHAPE = (3, 4, 4)
CIFAR10 = NORMALISATIONS["cifar10"]


class Images:
    """Grey images `[N, C, H, W]` with labels, in the file's order or in one that the seed decides."""

    def __init__(self, images, labels):
        self.images, self.labels = images, labels

    def __len__(self):
        return len(self.labels)

    def batches(self, batch_size, *, seed=None):
        order = torch.arange(len(self))
        if seed is not None:
            order = torch.randperm(len(self), generator=torch.Generator().manual_seed(seed))
        for rows in order.split(batch_size):
            yield Batch(self.images[rows], self.labels[rows], rows)


def grey(levels, shape=SHAPE):
    return levels.view(-1, 1, 1, 1).expand(-1, *shape).contiguous()


@pytest.fixture
def data():
    """A function that makes a data set sorted by class: brightness, give or take `noise`, decides the class."""

    def make(count=400, noise=0.05, source="folder:/LAMPS", names=NAMES, labels=None, **changes):
        true = torch.arange(count).sort().values * 4 // count
        spread = noise * torch.randn(count, generator=torch.Generator().manual_seed(1))
        images = grey(LEVELS[true] + spread, changes.pop("shape", SHAPE)).clamp(0, 1)
        split = Images(images, true if labels is None else labels(true))
        fields = {
            "name": source.rpartition("/")[2], "source": source, "classes": names,
            "input_shape": tuple(images.shape[1:]), "mean": (0.3, 0.3, 0.3),
            "std": (0.1, 0.1, 0.1), "test": split, "validation": split, "train": split,
        }  # fmt: skip
        return SimpleNamespace(**(fields | changes))

    return make


@pytest.fixture
def teacher(linear):
    """A function that makes a teacher which knows `LEVELS` under `trained`, and says that it wants `stated`."""

    def make(trained=CIFAR10, stated=None, order=(0, 1, 2, 3), shape=SHAPE, class_names=None):
        centres = ((LEVELS - trained[0][0]) / trained[1][0])[list(order)]  # -(x - c)² is linear in x but for x² itself
        pixels = shape[0] * shape[1] * shape[2]
        inner = linear((2 * centres / pixels).view(-1, 1).repeat(1, pixels), -(centres**2))
        mean, std = stated or ((0.0,) * shape[0], (1.0,) * shape[0])
        return Network(
            module=Normalized(inner, mean, std).eval(), arch=None, classes=4, class_names=class_names,
            input_shape=shape, mean=mean, std=std, stated=stated is not None, data=None, parameters=100,
            path=Path("x.pt"), sha256="0", summary="",
        )  # fmt: skip

    return make


def same(value, channels=3):
    return (value,) * channels


EQUAL = (same(0.4914), same(0.2023))  # as CIFAR-10's first channel, where the teacher's centres come from
NONE = NORMALISATIONS["none"]


def rejected(action, *words):
    with pytest.raises(InputRejected) as caught:
        action()
    text = f"{caught.value.message} | {caught.value.hint}"
    for word in words:
        assert word in text, text


# --- what clearly better means


@pytest.mark.parametrize(
    ("gained", "lost", "count", "clear"),
    [(10, 0, 100, True), (9, 0, 100, False), (31, 0, 1000, True), (30, 0, 1000, False), (60, 29, 1000, True),
     (60, 30, 1000, False), (150, 110, 1000, False), (2, 0, 10, False)],
)  # fmt: skip
def test_clearly_better_needs_three_points_and_three_standard_errors(gained, lost, count, clear):
    one, other = torch.zeros(2, count, dtype=torch.bool)
    one[:gained] = True
    other[gained : gained + lost] = True

    # The paired difference has standard error sqrt(gained + lost): 10 > 3 sqrt(10) > 9, and 31 > 3 sqrt(89) > 30 - 0.
    assert _clearly_better(one, other) == clear
    assert not _clearly_better(other, one)


def test_the_best_class_order_is_the_permutation_that_was_applied():
    order = torch.tensor([2, 0, 3, 1, 4, 5])
    true = torch.randint(0, 4, (200,))  # classes 4 and 5 never occur and keep their places
    predictions = order.argsort()[true]

    assert best_order(predictions, true, 6).tolist() == order.tolist()
    assert apply_order(order, predictions).equal(true)


# --- normalisation


def test_a_teacher_that_is_right_under_its_own_normalisation_is_kept(teacher, data):
    checked = check_teacher(teacher(stated=EQUAL), data())

    assert checked.top1 > 95
    assert checked.sentence.startswith(f"right on {checked.top1:.1f} % of 400 test images with the given normalisation")
    assert (checked.network.mean, checked.network.std) == EQUAL


def test_a_wrong_normalisation_is_refused_with_both_numbers_and_the_way_out(teacher, data):
    rejected(
        lambda: check_teacher(teacher(stated=NONE), data()),
        "right on 25.0 % of 400 validation images with the given normalisation, on 9",
        "% with CIFAR-10's normalisation | --normalize auto",
        "[0.4914, 0.4822, 0.4465] and teacher.std [0.2023, 0.1994, 0.201]",
    )


def test_a_wrong_normalisation_is_corrected_on_request(teacher, data):
    checked = check_teacher(teacher(stated=NONE), data(), normalize="auto")

    assert " of 400 test images with CIFAR-10's normalisation (on 25.0 % of 400 validation images" in checked.sentence
    assert checked.sentence.endswith("% with CIFAR-10's normalisation; using that)")
    assert checked.network.mean == CIFAR10[0]
    assert checked.top1 > 90
    right = checked.network.module(grey(LEVELS)).argmax(dim=1)
    assert right.tolist() == [0, 1, 2, 3]


def test_a_small_gain_keeps_what_was_given_and_is_mentioned(teacher, data):
    shifted = (same(0.52), same(0.2023))  # a little off: some images at the edges of the classes are lost

    checked = check_teacher(teacher(stated=shifted), data(count=1000, noise=0.03), normalize="auto")

    assert checked.network.mean == shifted[0]
    assert "with the given normalisation (" in checked.sentence
    assert "% of 1,000 validation images with CIFAR-10's normalisation, " in checked.sentence


def test_a_large_gain_on_few_images_proves_nothing(teacher, data):
    shifted = (same(0.57), same(0.2023))
    few, many = data(count=12, noise=0.03), data(count=1200, noise=0.03)

    assert check_teacher(teacher(stated=shifted), few, normalize="auto").network.mean == shifted[0]
    assert check_teacher(teacher(stated=shifted), many, normalize="auto").network.mean == CIFAR10[0]


def test_for_a_folder_and_a_silent_file_the_best_normalisation_is_chosen_and_the_next_one_named(teacher, data):
    checked = check_teacher(teacher(), data())

    assert checked.network.mean == CIFAR10[0]
    assert checked.network.stated
    assert "with CIFAR-10's normalisation (none is stated; chosen by 9" in checked.sentence


def test_the_datas_own_normalisation_is_among_those_tried(teacher, data):
    own = (same(0.7), same(0.05))

    checked = check_teacher(teacher(trained=own), data(mean=own[0], std=own[1]))

    assert checked.network.mean == own[0]
    assert "with the data's own normalisation" in checked.sentence


def test_the_published_normalisation_of_a_named_data_set_counts_as_given(teacher, data):
    checked = check_teacher(teacher(), data(source="cifar10", mean=CIFAR10[0], std=CIFAR10[1]))
    assert "with cifar10's own normalisation" in checked.sentence
    assert checked.network.mean == CIFAR10[0]

    rejected(
        lambda: check_teacher(teacher(), data(source="cifar100", mean=same(0.9), std=same(0.9))),
        "with cifar100's own normalisation, on 9",
        "--normalize auto",
    )


def test_images_of_one_channel_are_tried_with_normalisations_of_one_channel(teacher, data):
    shape = (1, 4, 4)
    mnist = NORMALISATIONS["mnist"]
    images = data(shape=shape, mean=(0.9,), std=(0.9,))

    checked = check_teacher(teacher(trained=mnist, shape=shape), images)

    assert checked.network.mean == mnist[0]
    assert "with MNIST's normalisation" in checked.sentence


def tried(phrase, logits, labels, statistics=NONE):
    return Tried(phrase, statistics, logits, labels)


def test_where_accuracies_are_equal_the_scale_of_the_logits_decides():
    """Pixels of 0 to 255 make a network as right and far too sure: one image of twenty is then very wrong."""
    labels = torch.arange(400) % 4
    shown = torch.where(torch.arange(400) % 20 == 0, (labels + 1) % 4, labels)
    logits = 4.0 * torch.nn.functional.one_hot(shown, 4)
    sure, fair = tried("sure", 80 * logits, labels), tried("fair", logits, labels)

    assert sure.tempered == pytest.approx(fair.tempered, rel=1e-4)  # the best temperature knows no scale
    assert fair.nll.mean() < sure.nll.mean()
    assert chosen([sure, fair], own=EQUAL).phrase == chosen([fair, sure], own=EQUAL).phrase == "fair"


def test_accuracy_decides_where_it_can_be_told_apart():
    labels = torch.arange(400) % 4
    logits = 9.0 * torch.nn.functional.one_hot(labels, 4)
    worse = torch.where(torch.arange(400)[:, None] % 10 == 0, logits.roll(1, dims=1), logits)

    assert chosen([tried("worse", worse, labels), tried("better", 50 * logits, labels)], own=NONE).phrase == "better"


def test_where_nothing_tells_the_datas_own_statistics_decide():
    labels = torch.arange(400) % 4
    logits = 9.0 * torch.nn.functional.one_hot(labels, 4) + torch.randn(400, 4)
    one, own = tried("one", logits, labels), tried("own", logits + 1e-3 * torch.randn(400, 4), labels, EQUAL)

    assert chosen([one, own], own=EQUAL).phrase == "own"
    assert chosen([own, one], own=EQUAL).phrase == "own"
    assert chosen([own, one], own=NONE).phrase == "one"


def test_the_test_images_have_no_part_in_the_choice(teacher, data):
    """On the test images another normalisation would win; what validation images say is taken and stated on test."""
    images = data()
    shifted = Images((images.test.images * CIFAR10[1][0] + 0.0).clamp(0, 1), images.test.labels)
    checked = check_teacher(teacher(), SimpleNamespace(**vars(images) | {"test": shifted}))

    assert checked.network.mean == CIFAR10[0]
    assert checked.top1 < 60
    assert checked.sentence.startswith(f"right on {checked.top1:.1f} % of 400 test images")


def test_few_validation_images_leave_the_choice_to_training_images(teacher, data):
    images = data(count=1200)
    few = Images(images.test.images[:20], images.test.labels[:20])

    checked = check_teacher(teacher(), SimpleNamespace(**vars(images) | {"validation": few}))

    assert "of 1,000 training images" in checked.sentence


def test_probabilities_in_place_of_logits_are_seen(teacher, data):
    network = teacher(stated=EQUAL)
    module = Normalized(torch.nn.Sequential(network.module.network, torch.nn.Softmax(dim=1)), *EQUAL)

    rejected(lambda: check_teacher(replace(network, module=module), data()), "answers with probabilities", "softmax")


# --- classes


def test_a_re_ordering_that_only_helps_a_little_is_not_called_a_shuffled_order(teacher, data):
    """A last layer that was not trained says something of the classes, by chance, in any order."""

    def vague(true):
        draw = torch.Generator().manual_seed(5)
        wrong = torch.rand(len(true), generator=draw) < 0.7
        return torch.where(wrong, torch.randint(0, 4, true.shape, generator=draw), (true + 1) % 4)

    rejected(lambda: check_teacher(teacher(stated=EQUAL), data(count=1200, labels=vague)), "hardly more than guessing")


def test_a_shuffled_class_order_is_found_and_its_accuracy_given(teacher, data):
    rejected(
        lambda: check_teacher(teacher(stated=EQUAL, order=(2, 0, 3, 1)), data()),
        "the order of the classes looks shuffled",
        "right on 1.0 %", "on 9",
        "its class 0 is 'light', 1 is 'dark', 2 is 'bright', 3 is 'dim'",
    )  # fmt: skip


def test_two_swapped_classes_are_found(teacher, data):
    rejected(
        lambda: check_teacher(teacher(stated=EQUAL, order=(0, 2, 1, 3)), data()),
        "looks shuffled",
        "its class 1 is 'light', 2 is 'dim'",
    )


def test_a_shuffled_order_is_found_under_a_normalisation_that_nobody_stated(teacher, data):
    rejected(lambda: check_teacher(teacher(order=(2, 0, 3, 1)), data()), "looks shuffled", "on 9", "re-ordered")


def test_a_poor_teacher_is_not_taken_for_a_shuffled_one(teacher, data):
    def mislabelled(true):
        wrong = torch.rand(len(true), generator=torch.Generator().manual_seed(2)) < 0.5
        return torch.where(wrong, torch.randint(0, 4, true.shape, generator=torch.Generator().manual_seed(3)), true)

    checked = check_teacher(teacher(stated=EQUAL), data(labels=mislabelled))

    assert 50 < checked.top1 < 70


def test_a_teacher_that_guesses_is_refused(teacher, data):
    random = data(labels=lambda true: true[torch.randperm(len(true), generator=torch.Generator().manual_seed(4))])

    rejected(lambda: check_teacher(teacher(stated=EQUAL), random), "at best, hardly more than guessing (25.0 %)")


def test_what_the_file_tells_of_other_data_is_said(teacher, data):
    random = data(labels=lambda true: true[torch.randperm(len(true), generator=torch.Generator().manual_seed(4))])
    animals = teacher(stated=EQUAL, class_names=("cat", "dog", "horse", "frog"))

    rejected(
        lambda: check_teacher(animals, random),
        "hardly more than guessing",
        "its file calls its classes 'cat', 'dog', 'horse', ..., none as LAMPS does: give the data it was trained on",
    )
    rejected(
        lambda: check_teacher(replace(animals, data="zoo"), random),
        "its file says that it was trained on zoo: give the data it was trained on",
    )
    rejected(
        lambda: check_teacher(teacher(stated=EQUAL, class_names=NAMES), random), "it was probably trained on other"
    )


def test_an_order_that_looks_shuffled_is_doubted_where_the_file_tells_of_other_classes(teacher, data):
    animals = teacher(stated=EQUAL, order=(2, 0, 3, 1), class_names=("cat", "dog", "horse", "frog"))

    rejected(
        lambda: check_teacher(animals, data()),
        "looks shuffled",
        "its class 0 is 'light', 1 is 'dark', 2 is 'bright', 3 is 'dim'; but its file calls its classes 'cat', 'dog', ",
    )


def test_class_names_in_another_order_are_gone_by_and_found_out_where_they_are_not_true(teacher, data):
    swapped = ("dark", "light", "dim", "bright")

    checked = check_teacher(teacher(stated=EQUAL, order=(0, 2, 1, 3), class_names=swapped), data())
    assert checked.sentence.endswith("; its classes are put in the data's order by their names")
    rejected(
        lambda: check_teacher(teacher(stated=EQUAL, class_names=swapped), data()),
        "the order of the classes looks shuffled",
    )
    check_teacher(teacher(stated=EQUAL, class_names=("0", "1", "2", "3")), data())


def test_another_number_of_classes_is_refused_naming_both(teacher, data):
    rejected(lambda: check_teacher(teacher(), data(names=("on", "off"))), "has 4 classes, but LAMPS has 2")


# --- architectures with the same tensors


@pytest.fixture
def centred(data, teacher):
    """A ResNet-8 that pads on both sides, whose BatchNorm remembers images, and the data that it is right on."""
    images = torch.rand(400, 3, 2, 2).repeat_interleave(4, 2).repeat_interleave(4, 3)
    trained = models.build("resnet8-centred", classes=4, input_shape=(3, 8, 8))
    torch.nn.init.normal_(trained.linear.weight)
    for layer in trained.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.momentum = None  # remembers what it sees at once
            torch.nn.init.normal_(layer.bias, std=4)  # channels that differ, as those of trained networks do
    with torch.no_grad():
        trained.train()(images)
    return balanced(trained, images), images


def balanced(network, images):
    """The same network, which now says every class now and then."""
    with torch.no_grad():
        network.eval().linear.bias -= network(images).mean(dim=0)
    return network


def loaded(teacher, trained, arch):
    """The teacher that `--teacher-arch` makes of the tensors."""
    module = models.build(arch, classes=4, input_shape=(3, 8, 8))
    module.load_state_dict(trained.state_dict())
    return Network(**vars(teacher(shape=(3, 8, 8))) | {
        "module": Normalized(module, *NONE).eval(), "arch": arch, "stated": True, "mean": NONE[0], "std": NONE[1],
    })  # fmt: skip


def answered(data, images, network):
    """The data whose labels a network gives."""
    with torch.no_grad():
        split = Images(images, network.eval()(images).argmax(dim=1))
    return SimpleNamespace(**vars(data(count=4)) | {"input_shape": (3, 8, 8), "test": split, "validation": split})


@pytest.mark.heavy
def test_a_forced_architecture_with_the_same_tensors_is_refused_with_the_one_that_was_trained(teacher, data, centred):
    trained, images = centred

    rejected(
        lambda: check_teacher(loaded(teacher, trained, "resnet8"), answered(data, images, trained)),
        "% of 400 validation images as resnet8, on 100.0 % as resnet8-centred, which has the same tensors",
        "--teacher-arch resnet8-centred, or leave it out",
    )
    checked = check_teacher(loaded(teacher, trained, "resnet8-centred"), answered(data, images, trained))
    assert checked.top1 == 100


def test_what_batchnorm_remembers_is_not_believed_against_the_images(teacher, data, centred):
    trained, images = centred
    forced = loaded(teacher, trained, "resnet8")
    right = balanced(forced.module.network, images)

    assert in_other_form(forced).arch == "resnet8-centred"
    assert check_teacher(forced, answered(data, images, right)).top1 == 100


@pytest.mark.heavy
def test_images_tell_whether_a_stem_was_pooled(teacher, data, monkeypatch):
    monkeypatch.setattr(wide_stem, "WIDTHS", (4, 4, 4, 4))
    torch.manual_seed(0)
    trained = models.build("resnet18-stem3-pooled", classes=4, input_shape=(3, 8, 8)).eval()
    torch.nn.init.normal_(trained.fc.weight)
    images = torch.rand(400, 3, 8, 8)
    with torch.no_grad():
        trained.fc.bias -= trained(images).mean(dim=0)
    known = answered(data, images, trained)
    plain, pooled = (loaded(teacher, trained, f"resnet18-stem3{form}") for form in ("", "-pooled"))

    rejected(lambda: check_teacher(plain, known), "as resnet18-stem3-pooled", "--teacher-arch resnet18-stem3-pooled")
    assert check_teacher(pooled, known).top1 == 100


def test_without_a_memory_there_is_no_other_form(teacher, centred, monkeypatch):
    trained, _ = centred
    for layer in trained.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.reset_running_stats()

    assert in_other_form(loaded(teacher, trained, "resnet8")) is None
    monkeypatch.setattr(models, "candidates", None)  # nor is one looked for where none is known
    for arch in (None, "torchvision/resnet18", "timm/resnet18", "package.module:make"):
        assert in_other_form(replace(teacher(), arch=arch)) is None


# --- images


def test_other_channels_and_sizes_are_refused_naming_both(teacher, data):
    rejected(
        lambda: check_teacher(teacher(), data(shape=(1, 4, 4), mean=(0.5,), std=(0.5,))),
        "takes images of 3 channels, but those of LAMPS have 1",
    )
    rejected(
        lambda: check_teacher(teacher(), data(shape=(3, 8, 6))),
        "takes images of 4x4, but those of LAMPS are 8x6 | --image-size 4",
    )
    rejected(
        lambda: check_teacher(teacher(shape=(3, 4, 6)), data(shape=(3, 8, 6))),
        "takes images of 4x6, but those of LAMPS are 8x6 | --image-size 4x6",
    )


def test_a_network_that_depends_on_the_image_size_is_built_for_the_datas(data, teacher):
    given = models.build("lenet5-half", classes=4, input_shape=(1, 28, 28))
    network = Network(**vars(teacher()) | {
        "module": Normalized(given, (0.5,), (0.5,)).eval(), "arch": "lenet5-half", "input_shape": (1, 28, 28),
        "mean": (0.5,), "std": (0.5,), "stated": True,
    })  # fmt: skip
    larger = data(count=40, shape=(1, 32, 32), mean=(0.5,), std=(0.5,))

    rebuilt = fitted(network, larger)

    assert rebuilt.input_shape == (1, 32, 32)
    assert rebuilt.module.network.border == (0, 0, 0, 0)
    assert given.border == (2, 2, 2, 2)
    assert torch.equal(rebuilt.module.network.conv1.weight, given.conv1.weight)


def test_a_limited_check_sees_all_classes_of_a_sorted_folder(teacher, data):
    only_dark = teacher(stated=EQUAL)
    only_dark.module.network.bias.data[1:] -= 100  # says the first class for everything
    few = data(count=2000)

    rejected(
        lambda: check_teacher(only_dark, few, limit=256), "of 256 validation images at best, hardly more than guessing"
    )


def test_validation_images_stand_in_for_missing_test_images(teacher, data):
    full = data()
    nothing = Images(full.test.images[:0], full.test.labels[:0])

    checked = check_teacher(
        teacher(stated=EQUAL), SimpleNamespace(**vars(full) | {"validation": full.test, "test": nothing})
    )

    assert "of 400 validation images" in checked.sentence
    rejected(
        lambda: check_teacher(
            teacher(), SimpleNamespace(**vars(full) | dict.fromkeys(("train", "validation"), nothing))
        ),
        "LAMPS has no images to try the teacher on",
    )


def test_the_teacher_is_left_as_it_was(teacher, data):
    network = teacher(stated=EQUAL)
    before = {name: tensor.clone() for name, tensor in network.module.state_dict().items()}

    checked = check_teacher(network, data())

    assert all(torch.equal(tensor, before[name]) for name, tensor in checked.network.module.state_dict().items())
    assert not checked.network.module.training
    assert all(parameter.grad is None for parameter in checked.network.module.parameters())
