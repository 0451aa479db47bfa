"""AutoAttack, which is a package of its own: what we ask of it, and that it leaves the process as it was."""

import json
import logging
import sys
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from rich.console import Console
from shell import QUICK, refused
from test_hard_images import ListSplit, Replay
from torch import nn

from compressor.api import Run
from compressor.attack import autoattack
from compressor.errors import EnvironmentMissing
from compressor.measure.evaluation import evaluate, evaluation_set
from compressor.measure.hard_images import adversarial_set, autoattack_accuracy, autoattack_set, robust_accuracy
from compressor.recipe import Validate
from compressor.report import single

needs_autoattack = pytest.mark.skipif(
    find_spec("pyautoattack") is None, reason="AutoAttack is not installed: pip install 'compressor[robust]'"
)


def settled(linear, classes, *, images=12):
    """A linear network, images that it decides rightly, and how far each one's boundary is in Linf.

    The distance is exact: with no pixel moved by more than `epsilon`, the gap of two classes falls by `epsilon` times
    the sum of the differences of their weights, as long as no pixel meets 0 or 1.
    """
    generator = torch.Generator().manual_seed(0)
    network = linear(torch.randn(classes, 16, generator=generator))
    pixels = 0.3 + 0.4 * torch.rand(images, 1, 4, 4, generator=generator)
    with torch.no_grad():
        logits = network(pixels)
        labels = logits.argmax(dim=1)
        gaps = logits.gather(1, labels[:, None]) - logits
        lengths = (network.weight[labels][:, None] - network.weight[None]).abs().sum(dim=2)
    distances = (gaps / lengths).scatter(1, labels[:, None], float("inf")).min(dim=1).values
    return network, ListSplit(pixels, labels), distances


def attacked(network, split, epsilon, *, count=12):
    return autoattack_set(network, split, count=count, epsilon=epsilon, seed=0, device="cpu")


@needs_autoattack
@pytest.mark.heavy
@pytest.mark.parametrize("classes", [2, 4])
def test_the_accuracy_is_the_closed_form_on_a_linear_network(linear, classes):
    network, split, distances = settled(linear, classes)
    epsilon = distances.median().item() + 1e-4
    assert epsilon < 0.3

    found = attacked(network, split, epsilon)

    holding = int((distances > epsilon).sum())
    assert 0 < holding < 12
    assert autoattack_accuracy(Replay(network, classes), found) == 100 * holding / 12
    (batch,) = split.batches(12, seed=0)
    assert np.abs(found.images - batch.images.numpy()).max() <= epsilon * (1 + 1e-6)
    assert 0 <= found.images.min() <= found.images.max() <= 1
    assert found.doubts == ()


@pytest.mark.heavy
@needs_autoattack
def test_autoattack_leaves_less_than_pgd_which_leaves_less_than_fgsm(tiny, images):
    network, pixels = tiny(), images(24)
    with torch.no_grad():
        network.head.weight *= 100
        network.head.bias -= network(pixels).mean(dim=0)
    labels = network(pixels).argmax(dim=1)
    labels[::6] = (labels[::6] + 1) % 4
    split, runner = ListSplit(pixels, labels), Replay(network, 4)

    robust = robust_accuracy(runner, adversarial_set(network, split, count=24, epsilon=0.033, seed=0, device="cpu"))
    ensemble = autoattack_accuracy(runner, attacked(network, split, 0.033, count=24))

    assert ensemble < robust.pgd_top1 < robust.fgsm_top1 < 100 * 20 / 24


@needs_autoattack
@pytest.mark.parametrize("classes", [2, 3, 4, 11])
def test_fewer_classes_get_the_attacks_that_are_defined_for_them(linear, classes):
    network, split, distances = settled(linear, classes, images=6)

    found = attacked(network, split, distances.max().item() * 1.2, count=6)  # nothing is left to the slow ones

    expected = {
        2: ("apgd-ce", "fab-t", "square"),
        3: ("apgd-ce", "apgd-dlr", "fab-t", "square"),
    }
    assert found.attacks == expected.get(classes, ("apgd-ce", "apgd-t", "fab-t", "square"))
    assert autoattack_accuracy(Replay(network, classes), found) == 0
    assert found.sentence == f"6 by AutoAttack ({', '.join(found.attacks)})"


@needs_autoattack
def test_the_network_the_seeds_the_tracer_and_the_terminal_are_left_as_they_were(tiny, images, capfd):
    network = tiny().train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    logger = logging.getLogger("auto-attack")
    state, handlers = torch.get_rng_state(), list(logger.handlers)

    def tracer(frame, event, argument):
        return None

    found = []
    earlier = sys.gettrace()
    sys.settrace(tracer)
    try:
        for _ in range(2):
            moved = autoattack.attack(network, images(6), torch.zeros(6, dtype=torch.int64), 0.3, seed=3)
            found.append((moved, sys.gettrace()))
    finally:
        sys.settrace(earlier)

    assert [each[1] for each in found] == [tracer, tracer]
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(found[0][0].images, found[1][0].images)
    assert all(module.training for module in network.modules())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in network.parameters())
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert (logger.handlers, logger.propagate) == (handlers, True)
    assert capfd.readouterr() == ("", "")


class Stairs(nn.Module):
    """A network without slopes: the pixels are rounded first."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, images):
        return self.network((10 * images).round() / 10 + 0 * images)


@pytest.mark.heavy
@needs_autoattack
def test_what_the_package_doubts_is_said_once_and_not_printed(linear, capfd):
    network, split, distances = settled(linear, 5, images=8)

    found = attacked(Stairs(network), split, min(0.25, 3 * distances.max().item()), count=8)

    assert any("points with zero gradient" in doubt for doubt in found.doubts)
    assert "(it warns: " in found.sentence
    assert len(set(found.doubts)) == len(found.doubts) <= 3
    assert capfd.readouterr() == ("", "")


@needs_autoattack
def test_oblong_images_are_doubted(linear, images):
    oblong = images(4, channels=1)[..., :4]
    network = linear(torch.randn(4, 32))

    found = autoattack.attack(network, oblong, network(oblong).argmax(dim=1), 0.9, seed=0)

    assert found.doubts == ("Square Attack is made for images as high as wide",)


@pytest.fixture
def asked(linear):
    """A function that makes an evaluation with some images attacked, and evaluates the student in it."""
    network, split, _ = settled(linear, 4)
    split.batches = lambda size, *, seed=0: ListSplit.batches(split, size, seed=seed or 0)
    inputs = SimpleNamespace(
        data=SimpleNamespace(test=split, source="made", classes=tuple("abcd"), target=None),
        teacher=None,
        walkable=None,
        device=torch.device("cpu"),
    )

    def measure(**counts):
        config = Validate(boundary_samples=0, similarity_images=0, epsilon=0.3, **counts)
        found = evaluation_set(inputs, config, teacher_runner=None, student=SimpleNamespace(module=network), seed=0)
        return found, evaluate(Replay(network, 4), found)

    return measure


@needs_autoattack
def test_an_evaluation_counts_the_images_and_says_by_what_they_were_attacked(asked):
    evaluation, measures = asked(attack_samples=0, autoattack_samples=8)

    assert evaluation.sizes == {
        "boundary_samples": None,
        "attack_samples": None,
        "autoattack_samples": 8,
        "made": None,
        "epsilon": 0.3,
    }
    assert "8 by AutoAttack (apgd-ce, apgd-t, fab-t, square)" in evaluation.sentence
    assert measures["autoattack_top1"] == 0
    assert (measures["fgsm_top1"], measures["pgd_top1"]) == (None, None)


def test_what_is_not_measured_takes_back_an_older_value(asked):
    evaluation, measures = asked(attack_samples=0)

    assert (evaluation.sizes["autoattack_samples"], evaluation.sizes["epsilon"]) == (None, None)
    assert measures.items() >= dict.fromkeys(("fgsm_top1", "pgd_top1", "autoattack_top1")).items()


@pytest.fixture
def absent(monkeypatch):
    monkeypatch.setattr("compressor.attack.autoattack.find_spec", lambda name: None)


def test_without_the_package_nothing_is_measured(absent, asked):
    with pytest.raises(EnvironmentMissing, match="needs AutoAttack, which is not installed") as refusal:
        asked(autoattack_samples=8)

    assert refusal.value.hint == "pip install 'compressor[robust]'"


def test_without_the_package_nothing_is_trained(absent, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    wanted = ["--set", "validate.autoattack_samples=8"]
    refused(
        ["train", "--arch", "lenet5-half", "--data", "digits", "--epochs", "2", *QUICK, *wanted],
        3,
        "validate.autoattack_samples needs AutoAttack, which is not installed",
        r"pip install 'compressor\[robust\]'",
    )
    assert list(tmp_path.iterdir()) == []


@needs_autoattack
def test_the_files_of_a_run_are_measured_on_the_students_attacked_images(here):
    settings = {"validate.autoattack_samples": 6, "validate.epsilon": 0.5}
    Run(Path("runs/student-1")).validate(settings=settings)

    result = json.loads(Path("runs/student-1/result.json").read_text(encoding="utf-8"))
    assert result["data"]["autoattack_samples"] == 6
    (graph,) = result["artifacts"]
    assert graph["autoattack_top1"] == result["student"]["autoattack_top1"] < result["student"]["top1"]
    assert result["teacher"]["autoattack_top1"] is not None


def test_the_table_has_the_column_only_where_it_was_measured():
    from test_gates import artifact

    def shown(file):
        console = Console(width=300)
        with console.capture() as captured:
            console.print(single(file))
        return captured.get()

    assert "AutoAttack %" not in shown(artifact())
    text = shown(artifact(autoattack_top1=31.4))
    assert "AutoAttack %" in text
    assert "31.4" in text
