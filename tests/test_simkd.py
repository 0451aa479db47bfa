"""SimKD: how a student is changed, what it learns, and that its file tells it, so that it loads again everywhere."""

import json
from pathlib import Path

import pytest
import torch
from required import REQUIRED
from safetensors.torch import load_file, save_file
from shell import QUICK, ran, refused
from torch import nn
from torch.nn import functional as F

from compressor import checkpoint, models
from compressor.batch import Batch
from compressor.errors import InputRejected, UsageError
from compressor.methods import METHODS, Moment, Setting
from compressor.methods.protocol import Altering
from compressor.methods.simkd import SimKD, map_distance
from compressor.recipe import Training
from compressor.training.loop import TrainingState, fit

SHAPE = (3, 8, 8)
CONFIG = SimKD(student="body", teacher="body")


def altered(student, teacher, config=CONFIG):
    config.alter(student, [teacher], input_shape=SHAPE)
    return student


def setting(student, teacher):
    return Setting(student, [teacher], 4, SHAPE, 8, torch.ones(3), torch.device("cpu"))


@pytest.fixture
def networks(tiny):
    """A student of 8 channels with a projector, and a teacher of 12."""
    teacher = tiny(width=12, seed=1)
    return altered(tiny(), teacher), teacher


# The change


def test_the_student_ends_in_a_projector_and_the_teachers_own_classifier(networks, images):
    student, teacher = networks

    assert torch.equal(student.head.weight, teacher.head.weight)
    assert not student.head.weight.requires_grad
    assert student.body.projector[0][0].weight.shape == (6, 8, 1, 1)  # half of the teacher's channels inside
    assert student.body.projector[2][0].weight.shape == (12, 6, 1, 1)
    features = student.body(images(4)).mean(dim=(2, 3))
    torch.testing.assert_close(student(images(4)), features @ teacher.head.weight.T + teacher.head.bias)


def test_a_student_that_gives_the_teachers_map_gives_its_logits_and_has_no_loss(networks, images):
    student, teacher = networks
    student.body = teacher.body
    objective = CONFIG.build(setting(student, teacher))

    (update,) = objective.updates(Batch(images(4), torch.zeros(4, dtype=torch.int64), torch.arange(4)), moment())

    assert update.terms.keys() == {"simkd"}
    assert update.terms["simkd"] == 0
    assert torch.equal(student(images(4)), teacher(images(4)))


def moment():
    return Moment(epoch=0, epochs=4, step=0, generator=torch.Generator())


def test_maps_of_two_sizes_meet_at_the_smaller():
    large, small = torch.arange(16.0).view(1, 1, 4, 4), torch.ones(1, 1, 2, 2)
    pooled = torch.tensor([[2.5, 4.5], [10.5, 12.5]])  # the means of the four corners

    expected = (pooled - 1).square().mean()
    torch.testing.assert_close(map_distance(large, small), expected[None])
    torch.testing.assert_close(map_distance(small, large), expected[None])


def test_the_loss_is_the_mean_squared_difference_of_the_maps(networks, images):
    student, teacher = networks
    objective = SimKD(student="body", teacher="body", weight=3.0, ce_weight=0.5).build(setting(student, teacher))
    batch = Batch(images(8), torch.arange(8) % 4, torch.arange(8))

    (update,) = objective.updates(batch, moment())

    maps = student.body(batch.images), teacher.body(batch.images)
    torch.testing.assert_close(update.terms["simkd"], 3 * F.mse_loss(*maps))
    torch.testing.assert_close(update.terms["ce"], 0.5 * F.cross_entropy(student(batch.images), batch.labels))


def test_training_moves_all_but_the_classifier(networks, images):
    student, teacher = networks
    state = TrainingState(
        student,
        CONFIG.build(setting(student, teacher)),
        Training(epochs=3, lr=0.05, weight_decay=0.1),
        seed=0,
        device=torch.device("cpu"),
        steps_per_epoch=2,
    )
    before = {name: value.clone() for name, value in student.named_parameters()}
    shown = Batch(images(8), torch.arange(8) % 4, torch.arange(8))

    epochs = list(fit(state, lambda _epoch, start: [shown] * (2 - start)))

    assert epochs[-1].losses["simkd"] < epochs[0].losses["simkd"]
    still = {name for name, value in student.named_parameters() if torch.equal(value, before[name])}
    assert still == {"head.weight", "head.bias"}


def test_only_this_method_changes_the_student():
    changing = [
        kind for kind, one in METHODS.items() if isinstance(one.model_validate(REQUIRED.get(kind, {})), Altering)
    ]

    assert changing == ["simkd"]


# Its file


def saved(path, network):
    about = {"class_names": None, "mean": (0.0,) * 3, "std": (1.0,) * 3, "data": None}
    checkpoint.save_student(path, network, arch="resnet8", classes=10, input_shape=(3, 32, 32), **about)


@pytest.fixture
def file(tmp_path):
    """A student's file, and the network in it."""
    student, teacher = (
        models.build(arch, classes=10, input_shape=(3, 32, 32)).eval() for arch in ("resnet8", "resnet14")
    )
    SimKD(student="layer3", teacher="layer3").alter(student, [teacher], input_shape=(3, 32, 32))
    saved(tmp_path / "student.safetensors", student)
    return tmp_path / "student.safetensors", student


def test_a_changed_student_loads_as_it_was_saved_and_its_names_are_not_looked_for(file, images, monkeypatch):
    path, student = file
    monkeypatch.setattr(models, "candidates", None)  # which builds every network there is
    pixels = images(3, size=32)

    loaded = checkpoint.load_network(path)

    assert torch.equal(loaded.module(pixels), student(pixels))
    assert models.changes_of(loaded.module) == models.changes_of(student)
    assert loaded.classes == 10


def test_a_file_that_tells_of_no_change_says_nothing_of_changes(tmp_path):
    saved(tmp_path / "plain.safetensors", models.build("resnet8", classes=10, input_shape=(3, 32, 32)))

    assert b"changes" not in (tmp_path / "plain.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("key", "value", "sentence"),
    [
        ("map", "layer9", "contradicts itself: the network has no module 'layer9'"),
        ("features", 60, "does not fit resnet8"),
        ("kind", "pickle", "contradicts itself: changes.0.kind"),
        ("middle", 10**9, "contradicts itself: changes.0.middle"),
    ],
)
def test_a_file_whose_changes_are_not_its_own_is_refused(file, tmp_path, key, value, sentence):
    path, _ = file
    card = json.loads(checkpoint.read_tensors(path).metadata["compressor"])
    card["changes"][0][key] = value
    save_file(load_file(path), tmp_path / "other.safetensors", metadata={"compressor": json.dumps(card)})

    with pytest.raises(InputRejected, match=sentence):
        checkpoint.load_network(tmp_path / "other.safetensors")


@pytest.mark.trains
def test_a_run_trains_exports_and_validates_it(here):
    taps = ["--set", "method.student=layer3", "--set", "method.teacher=layer3"]
    ran(["train", "--arch", "resnet14", "--data", "digits", "--epochs", "2", "--name", "big", *QUICK])
    arguments = ["distill", "--teacher", "runs/big-1", "--student", "resnet8", "--method", "simkd", *taps]
    ran([*arguments, "--epochs", "2", "--name", "reused", *QUICK])
    ran(["export", "--format", "onnx"])
    record = json.loads(ran(["validate", "--json"]).out)

    student, (graph,) = record["student"], record["artifacts"]
    assert graph["top1"] == student["top1"]
    plain = models.build("resnet8", classes=10, input_shape=(1, 8, 8))
    assert student["parameters"] > models.parameters(plain)
    assert '\\"kind\\": \\"reused-classifier\\"' in Path("runs/reused-1/student/student.safetensors").read_text(
        "latin-1"
    )
    again = ["distill", "--teacher", "runs/big-1", "--student", "resnet8", "--init", "runs/reused-1", *arguments[5:]]
    refused([*again, "--epochs", "2", *QUICK], 2, "has a reused classifier already")


# Refusals


class Gated(nn.Module):
    """A network that does more than average between its last map and its classifier."""

    def __init__(self, tiny):
        super().__init__()
        self.body, self.head = tiny.body, tiny.head

    def forward(self, images):
        return self.head(2 * self.body(images).mean(dim=(2, 3)))


@pytest.mark.parametrize("which", ["student", "teacher"])
def test_a_network_that_does_more_than_average_is_refused(tiny, which):
    pair = {"student": tiny(), "teacher": tiny(seed=1)}
    pair[which] = Gated(pair[which])

    with pytest.raises(UsageError, match="averaged over places and classified, and more comes after body"):
        altered(**pair)


@pytest.mark.parametrize(
    ("taps", "sentence"),
    [
        ({"student": "body.0"}, None),
        ({"student": "head"}, r"last map of the student: head gives \[4\], and the classifier takes 8 numbers"),
        ({"teacher": "head"}, r"last map of the teacher: head gives \[4\], and the classifier takes 12 numbers"),
        ({"teacher": "bodi"}, "no module 'bodi'"),
    ],
)
def test_taps_that_are_not_the_last_map_are_refused(tiny, taps, sentence):
    config = SimKD(**{"student": "body", "teacher": "body"} | taps)
    with pytest.raises(UsageError, match=sentence or "more comes after body.0"):
        altered(tiny(), tiny(width=12), config)


def test_a_network_without_a_linear_classifier_is_refused(tiny):
    student = tiny()
    student.head = nn.Identity()

    with pytest.raises(
        UsageError, match=r"^simkd replaces the classifier, and the student has no linear layer of 4 outp"
    ):
        altered(student, tiny())
