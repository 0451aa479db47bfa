"""The Python API on objects: networks in memory, data sets of torch, and what is refused."""

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

import compressor
from compressor import api, plugins
from compressor.errors import InputRejected, UsageError
from compressor.models import Normalized
from compressor.progress import Tell

QUIET = Tell(quiet=True)
QUICK = {"train.epochs": 3, "train.lr": 0.05, "data.batch_size": 16, "validate.attack_samples": 8}


def halves(count: int, seed: int) -> TensorDataset:
    """Images of one bright half: left or right."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 2
    images = torch.rand(count, 1, 8, 8, generator=generator) / 4
    images[labels == 0, :, :, :4] += 0.5
    images[labels == 1, :, :, 4:] += 0.5
    return TensorDataset(images, labels)


def network(width: int = 4) -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, width, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(width * 64, 2))


DATA = (halves(160, 0), halves(80, 1))


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    return tmp_path


@pytest.mark.trains
def test_networks_in_memory_teach_and_learn(place):
    start = network()
    before = [parameter.clone() for parameter in start.parameters()]
    taught = compressor.train(start, DATA, settings=QUICK, out="teacher", tell=QUIET)
    assert all(torch.equal(now, then) for now, then in zip(start.parameters(), before, strict=True))  # a copy learned
    teacher = taught.student
    assert isinstance(teacher, Normalized)

    run = compressor.distill(teacher, network(2), DATA, method="kd", settings=QUICK, out="student", tell=QUIET)

    assert run.result.teacher.top1 == taught.result.student.top1 == 100.0
    assert run.recipe.student.arch == "given:student"
    assert run.recipe.teacher.mean == pytest.approx(teacher.mean.flatten().tolist())
    assert list((place / "given").glob("Sequential-*.pt"))
    images = torch.rand(3, 1, 8, 8)
    assert run.student(images).shape == (3, 2)
    assert "student" in run._repr_html_()


@pytest.mark.trains
def test_a_run_of_objects_is_opened_only_where_they_are_given_again(place, monkeypatch):
    run = compressor.train(network(), DATA, settings=QUICK, out="run", tell=QUIET)
    run.export(format="onnx", tell=QUIET)

    monkeypatch.setattr(plugins, "_given", {})  # as in another process
    with pytest.raises(UsageError, match="was an object of a Python program"):
        run.validate(tell=QUIET)
    with pytest.raises(InputRejected, match="names code of its own"):
        compressor.Run(run.folder).validate(tell=QUIET)

    plugins.give("student", network)
    plugins.give("data", DATA)
    assert run.validate(tell=QUIET).artifacts[0].top1 is not None


@pytest.mark.trains
def test_what_was_asked_for_stands_in_the_recipe(place):
    settings = {**QUICK, "train.schedule": {"kind": "constant"}, "seed": 3}
    run = compressor.train("lenet5-half", "digits", settings={**settings, "train.epochs": 1}, out="run", tell=QUIET)

    assert (run.recipe.seed, run.recipe.train.epochs, run.recipe.train.schedule.kind) == (3, 1, "constant")
    assert run.recipe.method.kind == "ce"
    again = compressor.resume(run.folder, tell=QUIET)
    assert again.result.student.sha256 == run.result.student.sha256


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"teacher": network, "student": "lenet5-half", "data": "digits"}, "a teacher is a network that is trained"),
        ({"student": "lenet5-half", "data": "digits"}, "needs a teacher"),
        ({"teacher": "t.pt", "student": "lenet5-halb", "data": "digits"}, "lenet5-halb"),
        ({"teacher": "t.pt", "student": "lenet5-half", "settings": {"train.epoch": 3}}, "train.epoch"),
        ({"teacher": "t.pt", "student": "lenet5-half", "method": "bsss"}, "bsss"),
    ],
)
def test_a_mistake_is_the_sentence_that_a_command_would_print(place, arguments, words):
    with pytest.raises(UsageError, match=words):
        compressor.distill(**arguments, tell=QUIET)

    assert list(place.iterdir()) == []


@pytest.mark.parametrize("size", [0, (8, 0), (8,), "8"])
def test_a_size_that_cannot_be_is_a_sentence_too(size):
    with pytest.raises(UsageError, match=r"data\.image_size"):
        api.benchmark("model.onnx", image_size=size)


def test_a_name_that_is_not_offered_is_none_of_the_package():
    with pytest.raises(AttributeError, match="no attribute 'distil'"):
        compressor.distil  # noqa: B018 (an attribute is looked up)

    assert set(compressor.__all__) <= set(dir(compressor))
    assert compressor.distill is api.distill
    assert all(callable(getattr(compressor, name)) for name in compressor.__all__)
