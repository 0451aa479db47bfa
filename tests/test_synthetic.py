"""Calibration images from the statistics that a network remembers."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from compressor.artifacts.calibration import MOST_SYNTHETIC, wanted_images
from compressor.artifacts.synthetic import _distance, synthetic_images
from compressor.errors import InputRejected, UsageError
from compressor.models import Normalized
from compressor.models.batchnorm import remembering, watched
from compressor.recipe import Calibration, build

CPU = torch.device("cpu")
SHAPE = (3, 8, 8)


@pytest.fixture
def network(tiny):
    """A network that has seen dark images alone."""
    found = tiny()
    found.train()
    with torch.no_grad():
        for _ in range(60):
            found(0.1 * torch.rand(32, *SHAPE))
    return Normalized(found.eval(), (0.0,) * 3, (1.0,) * 3).eval()


def distance(network, images):
    with torch.no_grad(), watched(remembering(network)) as passed:
        network(torch.as_tensor(images))
    return float(_distance(passed))


def made(network, **changes):
    settings = {"samples": 24, "seed": 0, "steps": 60} | changes
    return synthetic_images(network, SHAPE, 4, **settings)


def test_they_bring_about_the_statistics_of_the_training_images(network, images):
    found = made(network, samples=64)

    assert found.shape == (64, *SHAPE)
    assert found.dtype == np.float32
    assert 0 <= found.min() <= found.max() <= 1
    assert distance(network, found) < distance(network, images(64)) / 20
    assert found.mean() < 0.2  # dark, as what the network has seen: nobody told but its statistics


def test_the_network_is_left_as_it_was_found(network):
    before = {name: value.clone() for name, value in network.state_dict().items()}
    made(network, steps=3)

    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert all(each.grad is None for each in network.parameters())
    assert not any(each._forward_pre_hooks for each in network.modules())


def test_a_seed_decides_them(network):
    assert np.array_equal(made(network, steps=3), made(network, steps=3))
    assert not np.array_equal(made(network, steps=3), made(network, steps=3, seed=1))


def test_a_network_without_statistics_is_refused():
    plain = nn.Sequential(nn.Flatten(), nn.Linear(192, 4))
    with pytest.raises(InputRejected, match="statistics in a network's BatchNorm layers, and this one has none"):
        made(plain)


def test_a_graph_alone_makes_none():
    with pytest.raises(InputRejected, match="an ONNX file has it folded away"):
        wanted_images(Calibration(images="synthetic"), None, None, walks=None, seed=0, device=CPU)


def test_training_images_need_data():
    with pytest.raises(InputRejected, match="INT8 needs images to calibrate with"):
        wanted_images(Calibration(), None, None, walks=None, seed=0, device=CPU)


def test_boundary_images_are_not_synthetic():
    calibration = {"images": "synthetic", "boundary": 0.5}
    values = {"student": {"arch": "lenet5"}, "export": [{"precision": "int8", "calibration": calibration}]}
    with pytest.raises(UsageError, match="boundary: is walked to from training images"):
        build(values, base=Path("/"))
    assert Calibration().samples >= MOST_SYNTHETIC
