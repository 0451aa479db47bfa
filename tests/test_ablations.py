"""`benchmarks/ablations.py`: each part of BSS done otherwise is what its name says."""

import importlib.util
from pathlib import Path

import pytest
import torch
from torch import nn

from compressor.attack import BoundaryAttack
from compressor.methods import Setting

_SPEC = importlib.util.spec_from_file_location(
    "ablations", Path(__file__).parent.parent / "benchmarks" / "ablations.py"
)
ablations = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(ablations)

SHAPE, CLASSES = (1, 4, 4), 5
STD = torch.tensor([0.25])


class Linear(nn.Module):
    """A classifier whose boundaries are planes."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(CLASSES, 16, generator=torch.Generator().manual_seed(1)) / 4)

    def forward(self, images):
        return images.flatten(1) @ self.weight.T


@pytest.fixture
def teacher():
    return Linear().eval()


@pytest.fixture
def images():
    return 0.5 + 0.01 * torch.randn(32, *SHAPE, generator=torch.Generator().manual_seed(2))


@pytest.fixture
def objective(teacher):
    def made(**parts):
        setting = Setting(
            student=Linear(),
            teachers=[teacher],
            classes=CLASSES,
            input_shape=SHAPE,
            samples=32,
            std=STD,
            device=torch.device("cpu"),
        )
        return ablations.Ablated(kind="ablations:Ablated", **parts).build(setting)

    return made


def generator():
    return torch.Generator().manual_seed(3)


@pytest.mark.parametrize("sample", ["noise", "fgsm"])
def test_other_samples_go_as_far_as_the_walk_would_have_gone(objective, teacher, images, sample):
    base = teacher(images).argmax(dim=1)
    target = (base + 1) % CLASSES
    walk = BoundaryAttack()(teacher, images, base, target, scale=STD)

    moved = objective(sample=sample).walk(images, base, target, generator())

    def lengths(samples):
        return (samples.images - images).flatten(1).norm(dim=1) / STD

    assert lengths(walk).min() > 0.01
    torch.testing.assert_close(lengths(moved), lengths(walk), rtol=1e-4, atol=1e-6)
    assert not torch.allclose(moved.images, walk.images, atol=1e-3)
    torch.testing.assert_close(moved.logits, teacher(moved.images))


def test_fgsm_goes_along_the_signs_of_the_gradient(objective, teacher, images):
    base = teacher(images).argmax(dim=1)
    here = images.clone().requires_grad_()
    nn.functional.cross_entropy(teacher(here), base, reduction="sum").backward()

    way = objective(sample="fgsm").walk(images, base, (base + 1) % CLASSES, generator()).images - images

    assert torch.equal(way.sign(), here.grad.sign())


def test_deepfool_lands_just_past_the_nearest_plane(teacher, images):
    base = teacher(images).argmax(dim=1)
    logits, weight = teacher(images).detach(), teacher.weight.detach()
    gaps = logits.gather(1, base[:, None]) - logits  # [B, K]
    norms = (weight[base][:, None] - weight[None]).norm(dim=2) * STD
    far, nearest = (gaps / norms).nan_to_num(torch.inf).min(dim=1)

    moved = ablations.deepfool(teacher, images, base, STD.view(1, 1, 1, 1), steps=10)

    torch.testing.assert_close((moved - images).flatten(1).norm(dim=1) / STD, 1.02 * far, rtol=1e-3, atol=1e-5)
    assert torch.equal(teacher(moved).argmax(dim=1), nearest)


def test_bases_and_targets_are_chosen_as_named(objective, teacher, images):
    taught = teacher(images).detach()
    labels = taught.argmax(dim=1)
    labels[::2] = (labels[::2] + 1) % CLASSES  # which the teacher gets wrong
    base = taught.argmax(dim=1)

    assert objective(base="first", attack={"size": 4}).bases(taught, taught, labels).tolist() == [1, 3, 5, 7]
    assert torch.equal(objective(target="second").targets(taught, base, generator()), taught.topk(2).indices[:, 1])
    drawn = objective(target="random").targets(taught.repeat(200, 1), base.repeat(200), generator())
    ahead = (drawn - base.repeat(200)) % CLASSES
    assert ahead.unique().tolist() == [1, 2, 3, 4]
    assert (ahead.bincount()[1:] / len(ahead) - 0.25).abs().max() < 0.03


def test_with_no_part_changed_it_is_bss(objective, teacher, images):
    base = teacher(images).argmax(dim=1)
    target = (base + 1) % CLASSES
    walk = BoundaryAttack()(teacher, images, base, target, scale=STD)
    assert torch.equal(objective().walk(images, base, target, generator()).images, walk.images)
