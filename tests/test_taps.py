"""Inner outputs by module path, whatever is around the network."""

import pytest
import torch
from torch import nn

from compressor.errors import UsageError
from compressor.methods import Setting, Taps
from compressor.methods.taps import unwrap
from compressor.models import Normalized

CPU = torch.device("cpu")


class Distributed(nn.parallel.DataParallel):
    """A wrapper whose network is its `module`, without a device to distribute to."""

    def __init__(self, network):
        nn.Module.__init__(self)
        self.module = network

    def forward(self, images):
        return self.module(images)


def compiled(network):
    return torch.compile(network, backend="eager")


def in_place(network):
    network.compile(backend="eager")
    return network


def normalised(network):
    return Normalized(network, (0.0,) * 3, (1.0,) * 3)


@pytest.fixture(autouse=True)
def _nothing_compiled():
    yield
    torch._dynamo.reset()


WRAPPERS = {
    "bare": [],
    "normalised": [normalised],
    "distributed": [normalised, Distributed],
    "compiled": [normalised, compiled],
    "compiled in place": [normalised, in_place],
    "all": [normalised, compiled, Distributed],
}


@pytest.mark.heavy
@pytest.mark.parametrize("wrappers", WRAPPERS.values(), ids=WRAPPERS)
@pytest.mark.parametrize("called_before", [False, True])
def test_the_path_is_the_networks_own_whatever_is_around_it(tiny, images, wrappers, called_before):
    network = tiny()
    expected = network.body[:3](images())
    wrapped = network
    for wrapper in wrappers:
        wrapped = wrapper(wrapped)
    if called_before:  # code that was compiled without hooks must not be used on
        wrapped(images())

    with Taps(wrapped, ["body.2"]) as taps:
        wrapped(images())
        torch.testing.assert_close(taps["body.2"], expected)
        taps["body.2"].sum().backward()
        assert network.body[0].weight.grad.abs().sum() > 0
        wrapped(images(3))
        assert len(taps["body.2"]) == 3
    assert unwrap(wrapped) is network
    wrapped(images())
    assert taps.outputs == {}


@pytest.mark.heavy
def test_a_module_compiled_by_itself_keeps_its_path(tiny, images):
    network = tiny()
    expected = network.body(images())
    network.body = compiled(network.body)
    with Taps(network, ["body", "body.0"]) as taps:
        network(images())
        torch.testing.assert_close(taps["body"], expected)


@pytest.mark.parametrize(
    ("path", "sentence", "hint"),
    [
        ("bodi", "no module 'bodi'", "did you mean 'body'"),
        ("network.body", "no module 'network.body'", "body"),
        ("layer3", "no module 'layer3'", "known: body, body.0"),
    ],
)
def test_a_path_that_does_not_exist_is_refused_with_the_nearest(tiny, path, sentence, hint):
    with pytest.raises(UsageError) as caught:
        Taps(normalised(tiny()), [path])
    assert sentence in caught.value.message
    assert hint in caught.value.hint


def test_a_module_that_is_not_called_or_returns_no_tensor_is_refused(images):
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.idle, self.pair = nn.Identity(), nn.LSTM(8, 4)

        def forward(self, pixels):
            return self.pair(pixels.mean(dim=1))[0].mean(dim=1)

    network = Odd()
    with Taps(network, ["idle", "pair"]) as taps:
        network(images())
        with pytest.raises(UsageError, match="'idle' is not called"):
            taps["idle"]
        with pytest.raises(UsageError, match="'pair' returns tuple"):
            taps["pair"]


def test_a_dry_pass_tells_shapes_and_leaves_the_network_as_it_was(tiny):
    network = tiny().train()
    network.body[1].eval()
    network.head.bias.requires_grad_(False)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    modes = [module.training for module in network.modules()]
    setting = Setting(normalised(network), [], 4, (3, 8, 8), 8, torch.ones(3), CPU)

    assert setting.shapes(setting.student, ["body.0", "body", "head"]) == {
        "body.0": (8, 8, 8),
        "body": (8, 4, 4),
        "head": (4,),
    }

    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert [module.training for module in network.modules()] == modes
    assert [parameter.requires_grad for parameter in network.head.parameters()] == [True, False]
    assert all(len(module._forward_hooks) == 0 for module in network.modules())
