"""The proof of an export: which images it asks, and what it records."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from compressor.artifacts.proof import NOISE, accuracy_drop, prove
from compressor.data import open_data
from compressor.errors import InputRejected
from compressor.measure.scores import predict, score
from compressor.recipe import Data
from exporters.errors import ExportFailed
from exporters.pytorch import TorchRunner

IMAGES = np.random.default_rng(0).random((NOISE + 20, 3, 8, 8), dtype=np.float32)


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(192, 4))


class StoredPredictions(TorchRunner):
    """A network that claims to be of a precision, and says something else of the images of noise."""

    def __init__(self, network, precision, *, error=0.0, on_noise=0.0) -> None:
        super().__init__(network, input_shape=(3, 8, 8), classes=4)
        self.precision = precision
        self.error, self.on_noise = error, on_noise

    def _infer(self, images):
        noise = torch.from_numpy(IMAGES[:NOISE]).flatten(1)
        seen = (images.flatten(1)[:, None] == noise).all(dim=2).any(dim=1)
        wrong = torch.tensor([1.0, -1, 0, 0])
        return self.network(images).detach() + wrong * (self.error + self.on_noise * seen[:, None])


def test_int8_is_not_asked_about_noise(network):
    reference = StoredPredictions(network, "fp32")
    assert prove(StoredPredictions(network, "int8", on_noise=9), reference, IMAGES).samples == 20
    with pytest.raises(ExportFailed, match="does not answer as its source does at batch 1"):
        prove(StoredPredictions(network, "int8", error=9), reference, IMAGES)


@pytest.mark.parametrize(("precision", "of"), [("fp16", "fp32"), ("int8", "int8")])
def test_other_files_are_asked_about_noise(network, precision, of):
    assert prove(StoredPredictions(network, precision), StoredPredictions(network, of), IMAGES).samples == len(IMAGES)
    with pytest.raises(ExportFailed, match="does not answer as its source does at batch 1"):
        prove(StoredPredictions(network, precision, on_noise=9), StoredPredictions(network, of), IMAGES)


def test_the_record_holds_all_errors(network):
    logits = StoredPredictions(network, "fp32")(IMAGES[NOISE:])
    found = prove(StoredPredictions(network, "int8", error=1e-3), StoredPredictions(network, "fp32"), IMAGES)
    assert found.max_error == pytest.approx(1e-3, rel=0.01)
    assert found.relative_error == pytest.approx(1e-3 / logits.std(), rel=0.01)
    assert found.rms_error == pytest.approx(1e-3 / math.sqrt(2) / logits.std(), rel=0.01)
    assert found.pixel_error is not None
    assert found.pixel_error > 0


def test_the_reference_of_a_drop_is_asked_once():
    data = open_data(Data(name="digits"), device=torch.device("cpu"))
    shape = data.input_shape
    network = nn.Sequential(nn.Flatten(), nn.Linear(math.prod(shape), 10))
    asked = []
    network.register_forward_hook(lambda _module, images, _answer: asked.append(len(images[0])))
    reference = TorchRunner(network, input_shape=shape, classes=10)
    other = TorchRunner(nn.Sequential(nn.Flatten(), nn.Linear(math.prod(shape), 10)), input_shape=shape, classes=10)

    drop = accuracy_drop(reference, lambda: data)
    assert asked == []
    first = drop(other)
    assert sum(asked) == len(data.validation)
    assert drop(other) == first
    assert sum(asked) == len(data.validation)
    before, after = (score(predict(each, data.validation)).top1 for each in (reference, other))
    assert first == pytest.approx(before - after)
    assert accuracy_drop(reference, lambda: data)(reference) == 0


def test_a_drop_is_not_measured_on_the_test_images():
    data = open_data(Data(name="digits", validation=0), device=torch.device("cpu"))
    drop = accuracy_drop(None, lambda: data)
    with pytest.raises(InputRejected, match="held-out validation images, and there are none"):
        drop(None)
