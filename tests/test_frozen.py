"""A teacher as a fixed function: the same answers, gradients and losses, whatever computes them."""

import copy
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from compressor.batch import Batch
from compressor.data import open_data
from compressor.errors import UsageError
from compressor.inputs import Prepared
from compressor.methods import METHODS, Setting
from compressor.methods.kd import ask
from compressor.methods.taps import Taps
from compressor.models import Normalized
from compressor.models import frozen as frozen_module
from compressor.models.frozen import Frozen, folded
from compressor.pipeline import teachers
from compressor.pipeline.fastest import with_fastest
from compressor.pipeline.teachers import frozen_teachers
from compressor.progress import Tell
from compressor.recipe import Training, build
from compressor.training.loop import TrainingState
from exporters.errors import RuntimeMissing

CPU = torch.device("cpu")


def normalized(network: nn.Module) -> Normalized:
    channels = next(network.parameters()).shape[1]
    return Normalized(network, (0.4,) * channels, (0.3,) * channels).eval()


def norms(network: nn.Module) -> int:
    return sum(isinstance(module, nn.BatchNorm2d) for module in network.modules())


def test_batchnorm_goes_into_the_convolutions_and_answers_stay(tiny, images):
    network = tiny()
    plain = folded(network, images())
    assert (norms(network), norms(plain)) == (2, 0)
    torch.testing.assert_close(plain(images(seed=1)), network(images(seed=1)))
    assert not any(parameter.requires_grad for parameter in plain.parameters())
    assert any(parameter.requires_grad for parameter in network.parameters())


def test_a_path_that_depends_on_values_and_a_fold_that_answers_otherwise_leave_the_network_alone(
    tiny, images, monkeypatch
):
    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = tiny()

        def forward(self, pixels):
            return self.inner(pixels) if pixels.sum() > 0 else self.inner(-pixels)

    branching = Branching().eval()
    assert folded(branching, images()) is branching
    network = tiny()
    monkeypatch.setattr(frozen_module, "fuse", lambda _plain: tiny(seed=1))
    assert folded(network, images()) is network


def test_gradients_by_the_images_are_the_networks_own(tiny, images):
    teacher, pixels = normalized(tiny()), images()
    gradients = []
    for network in (teacher, Frozen(teacher)):
        moved = pixels.clone().requires_grad_()
        network(moved).square().sum().backward()
        gradients.append(moved.grad)
    torch.testing.assert_close(*gradients)


def test_inner_outputs_are_those_of_the_network(tiny, images):
    teacher = normalized(tiny())
    frozen = Frozen(teacher)
    frozen(images())
    with Taps(teacher, ["body.0", "body.1"]) as expected, torch.no_grad():
        teacher(images())
        with Taps(frozen, ["body.0", "body.1"]) as found:
            frozen(images())
            assert all(torch.equal(found[path], expected[path]) for path in expected.paths)


def test_what_goes_into_an_inner_module_can_be_watched_too(tiny, images):
    frozen, seen = Frozen(normalized(tiny())), []
    norm = frozen.network.body[1]
    with norm.register_forward_pre_hook(lambda _module, given: seen.append(given[0])):
        frozen(images())
    assert len(seen) == 1
    assert norms(frozen.network) == 2


def test_a_copy_is_the_network_again_and_can_be_trained(tiny, images):
    frozen = Frozen(normalized(tiny()))
    frozen(images())
    copied = copy.deepcopy(frozen)
    before = ask(copied, images())
    torch.testing.assert_close(before, ask(frozen, images()))
    with torch.no_grad():
        copied.network.head.bias += 1
    torch.testing.assert_close(ask(copied, images()), before + 1)
    torch.testing.assert_close(ask(frozen, images()), before)
    copied.requires_grad_(True)(images()).sum().backward()
    assert all(parameter.grad is not None for parameter in copied.parameters())


def test_another_runtime_answers_only_where_no_gradient_is_asked_for(tiny, images):
    frozen = Frozen(normalized(tiny()), clean=lambda pixels: torch.full((len(pixels), 4), 7.0))
    assert (ask(frozen, images()) == 7).all()
    moved = images().requires_grad_()
    assert frozen(moved).requires_grad
    assert not (frozen(moved) == 7).any()


def test_it_stands_where_the_network_stands_and_keeps_its_mode(tiny):
    teacher = normalized(tiny())
    assert not Frozen(teacher).training
    assert Frozen(teacher).network is teacher.network
    assert torch.equal(Frozen(teacher).std, teacher.std)


@pytest.mark.parametrize("kind", ["kd", "bss"])
def test_losses_are_the_same_to_rounding(tiny, images, kind):
    teacher, said = normalized(tiny(width=12, seed=1)), []
    for network in (teacher, Frozen(teacher)):
        student = normalized(tiny())
        with torch.no_grad():
            labels = teacher(images(16)).argmax(dim=1)
        setting = Setting(student, [network], 4, (3, 8, 8), 16, torch.full((3,), 0.3), CPU)
        state = TrainingState(
            student, METHODS[kind]().build(setting), Training(lr=0.01), seed=0, device=CPU, steps_per_epoch=3
        )
        state.enter_training()
        for _ in range(3):
            state.advance(Batch(images(16), labels, torch.arange(16)))
        said.append(state.finish_epoch().losses)
    assert said[1] == pytest.approx(said[0], rel=1e-4)
    assert set(said[0]) == {"ce", "kd"} | ({"bss"} if kind == "bss" else set())


# Runtimes


def prepared(teacher: nn.Module, tmp_path, **train) -> Prepared:
    recipe = build(
        {
            "data": {"name": "digits", "batch_size": 64},
            "teacher": {"checkpoint": "teacher.pt"},
            "student": {"arch": "lenet5"},
            "method": {"kind": "kd"},
            "train": train,
        },
        base=tmp_path,
    )
    return Prepared(CPU, open_data(recipe.data, device=CPU), (SimpleNamespace(module=teacher),), recipe)


@pytest.fixture
def teacher(tiny):
    return normalized(tiny(10, 1))


@pytest.mark.heavy
@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_a_runtime_answers_as_the_teacher_does(teacher, images, tmp_path, runtime):
    pytest.importorskip(runtime)
    (frozen,) = frozen_teachers(prepared(teacher, tmp_path, teacher_runtime=runtime))
    pixels = images(5, channels=1).contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(ask(frozen, pixels), ask(teacher, pixels), rtol=1e-3, atol=1e-4)
    assert frozen._fixed is None  # PyTorch was not asked


def test_runtimes_of_the_cpu_are_refused_on_a_gpu(teacher, tmp_path):
    on_gpu = replace(prepared(teacher, tmp_path, teacher_runtime="openvino"), device=torch.device("cuda"))
    with pytest.raises(UsageError, match="openvino is for training on the CPU, not on cuda"):
        frozen_teachers(on_gpu)


@pytest.mark.parametrize(
    ("times", "chosen"),
    [
        ({"torch": 1.0, "onnxruntime": 0.5, "openvino": 0.4}, "openvino"),
        ({"torch": 1.0, "onnxruntime": 0.5, "openvino": None}, "onnxruntime"),
        ({"torch": 1.0, "onnxruntime": 0.99, "openvino": None}, "torch"),  # not worth its start
        ({"torch": 1e-6}, "torch"),  # no other is looked for
    ],
)
def test_auto_becomes_the_fastest_that_is_here_and_is_written_down(
    teacher, tmp_path, monkeypatch, capsys, times, chosen
):
    def clean(_network, _shape, name):
        if times[name] is None:
            raise RuntimeMissing(f"{name} is not installed")
        return name

    monkeypatch.setattr(teachers, "_clean", clean)
    monkeypatch.setattr(
        teachers, "seconds", lambda answer, _images: times[answer if isinstance(answer, str) else "torch"]
    )
    found = with_fastest(prepared(teacher, tmp_path, teacher_runtime="auto"), Tell())
    assert found.recipe.train.teacher_runtime == chosen
    said = capsys.readouterr().err
    assert (f"teacher: asked through {chosen}" in said) == (len(times) > 1)


def test_what_is_asked_for_is_not_measured(teacher, tmp_path):
    given = prepared(teacher, tmp_path, teacher_runtime="onnxruntime")
    assert with_fastest(given, Tell(quiet=True)) is given
