"""What must be the same on a GPU as on the CPU. Without a GPU the CPU stands in, so that the tests themselves run."""

import copy

import pytest
import torch

from compressor.attack import BoundaryAttack
from compressor.data import open_data
from compressor.methods import Setting
from compressor.methods.bss import BSS
from compressor.methods.kd import KD
from compressor.models import Normalized
from compressor.recipe import Data, Training
from compressor.training.loop import TrainingState, fit
from exporters import onnx
from exporters.errors import RuntimeMissing
from exporters.pytorch import TorchRunner

CPU = torch.device("cpu")
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="PyTorch sees no GPU")
DEVICES = ["cpu", pytest.param("cuda", marks=needs_gpu)]


@pytest.fixture(params=DEVICES)
def device(request):
    return torch.device(request.param)


@pytest.fixture
def networks(tiny):
    """A teacher and a student of the digits, on the CPU."""
    return tuple(Normalized(tiny(10, 1, seed=seed), (0.5,), (0.25,)).eval() for seed in (1, 2))


def losses(networks, device, method, *, steps=4, **config):
    """Train copies of the networks for a few steps; return the losses and the state."""
    teacher, student = (copy.deepcopy(network).to(device) for network in networks)
    data = open_data(Data(name="digits"), device=device)
    setting = Setting(
        student, [teacher], 10, data.input_shape, len(data.train), torch.tensor([0.25]).to(device), device
    )
    training = Training(epochs=1, lr=0.02, **config)
    state = TrainingState(student, method.build(setting), training, seed=0, device=device, steps_per_epoch=steps)
    (epoch,) = fit(state, lambda number, start: data.train.batches(32, epoch=number, seed=0, augment=True, start=start))
    return epoch.losses, state


def test_batches_are_the_same_images(device):
    ours, theirs = (
        next(iter(open_data(Data(name="digits"), device=where).train.batches(16, seed=3, augment=True)))
        for where in (device, CPU)
    )
    assert ours.images.device.type == ours.labels.device.type == device.type
    torch.testing.assert_close(ours.images.cpu(), theirs.images, rtol=0, atol=0)
    assert torch.equal(ours.labels.cpu(), theirs.labels)


@pytest.mark.parametrize("walk", ["published", "tight", "newton"])
def test_walks_end_where_they_end_on_the_cpu(linear, images, device, walk):
    network = linear(torch.eye(4, 3 * 64) * 8)
    pixels = images(8)
    base = network(pixels).argmax(dim=1)
    ends = [
        BoundaryAttack(walk=walk)(
            network.to(where),
            *(each.to(where) for each in (pixels, base, (base + 1) % 4)),
            scale=torch.full((3,), 0.5, device=where),
        )
        for where in (CPU, device)
    ]
    torch.testing.assert_close(ends[1].images.cpu(), ends[0].images, rtol=1e-4, atol=1e-5)
    assert torch.equal(ends[1].crossed.cpu(), ends[0].crossed)


@pytest.mark.parametrize("method", [KD(), BSS(bss_weight=0.0)], ids=["kd", "bss without its term"])
def test_training_has_the_losses_of_the_cpu(networks, device, method):
    found, _ = losses(networks, device, method)
    assert found == pytest.approx(losses(networks, CPU, method)[0], rel=1e-3)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("method", [KD(), BSS()], ids=["kd", "bss"])
def test_half_precision_stays_near_single(networks, device, method, precision):
    single, half = (losses(networks, device, method, precision=each)[0] for each in ("fp32", precision))
    assert half.keys() == single.keys()
    assert half["ce"] == pytest.approx(single["ce"], rel=0.05)
    assert half["kd"] == pytest.approx(single["kd"], rel=0.05)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_state_goes_from_one_device_to_another(networks, device, precision):
    _, there = losses(networks, device, KD(), precision=precision)
    _, here = losses(networks, CPU, KD(), precision=precision)
    here.load_state_dict(there.state_dict())
    torch.testing.assert_close(
        dict(here.student.state_dict()), {name: each.cpu() for name, each in there.student.state_dict().items()}
    )


@pytest.mark.parametrize("cuda_graph", [False, True])
@needs_gpu
def test_onnx_runtime_answers_on_the_gpu(networks, images, tmp_path, cuda_graph):
    pixels = images(4, channels=1).numpy()
    onnx.export(networks[0], tmp_path / "a.onnx", input_shape=(1, 8, 8))
    try:
        runner = onnx.load(tmp_path / "a.onnx", provider="cuda", cuda_graph=cuda_graph)
    except RuntimeMissing as missing:
        pytest.skip(missing.message)
    expected = TorchRunner(networks[0], input_shape=(1, 8, 8), classes=10)(pixels)
    torch.testing.assert_close(torch.from_numpy(runner(pixels)), torch.from_numpy(expected), rtol=1e-3, atol=1e-3)
    runner.prepare(pixels)()
