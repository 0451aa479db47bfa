"""INT8 of networks with LayerNorm: their residual sums have channels that no common scale suits."""

import numpy as np
import onnx as onnx_package
import pytest
import torch
from torch import nn

from exporters import onnx, parity, quantize
from exporters.quantize import scheme

pytestmark = pytest.mark.heavy  # every network is traced and quantised

WIDTH, HUGE = 16, 300.0


class Residual(nn.Module):
    """Tokens of which one channel is huge, as trained transformers have them, and which LayerNorm then ignores."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Conv2d(3, WIDTH, 4, stride=4)
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in range(3))
        self.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(2))
        self.head = nn.Linear(WIDTH, 4)
        places = torch.zeros(1, 1, WIDTH)
        places[..., 0] = HUGE
        self.register_buffer("places", places)
        spread = places.std(correction=0)
        with torch.no_grad():  # so that the small channels leave each LayerNorm as they came
            for norm in self.norms:
                norm.weight.copy_(torch.tensor([0.0] + [float(spread)] * (WIDTH - 1)))
                norm.bias.fill_(HUGE / WIDTH)

    def forward(self, images):
        tokens = self.embed(images).flatten(2).transpose(1, 2) + self.places  # [B, T, WIDTH]
        for norm, layer in zip(self.norms, self.layers, strict=False):
            tokens = tokens + layer(norm(tokens)).relu()
        return self.head(self.norms[-1](tokens).mean(1))


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("attention") / "model.onnx"
    onnx.export(Residual().eval(), path, input_shape=(3, 16, 16))
    return path, torch.rand(64, 3, 16, 16).numpy()


def rms(path, images, folder):
    quantize.quantize(path, folder / "int8.onnx", images, recipe="cpu")
    return parity.compare(onnx.load(path)(images), onnx.load(folder / "int8.onnx")(images)).rms_error


def test_residual_sums_stay_in_fp32(network, tmp_path, monkeypatch):
    path, images = network
    spared = rms(path, images, tmp_path)
    model = onnx_package.load(tmp_path / "int8.onnx")
    rounded = {node.output[0] for node in model.graph.node if node.op_type == "DequantizeLinear"}
    stored = {tensor.name for tensor in model.graph.initializer}
    sums = [node for node in model.graph.node if node.op_type == "Add" and stored.isdisjoint(node.input)]
    assert len(sums) == 2
    assert all(rounded.isdisjoint(node.input) for node in sums)

    known = scheme.layers
    monkeypatch.setattr("exporters.quantize.calibrated.layers", lambda model, wanted: known(_unmarked(model), wanted))
    assert rms(path, images, tmp_path) > 1.5 * spared


def _unmarked(model):
    """Return the graph without what tells that its sums are those of an attention network."""
    copy = onnx_package.ModelProto.FromString(model.SerializeToString())
    for node in copy.graph.node:
        if node.op_type == "LayerNormalization":
            node.op_type = "Norm"
    return copy


def test_sums_of_other_networks_are_in_8_bits(tmp_path):
    torch.manual_seed(0)

    class Plain(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two, self.head = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 1), nn.Linear(4, 3)

        def forward(self, images):
            first = self.one(images).relu()
            return self.head((first + self.two(first)).mean((2, 3)))

    onnx.export(Plain().eval(), tmp_path / "plain.onnx", input_shape=(3, 8, 8))
    made = quantize.quantize(
        tmp_path / "plain.onnx", tmp_path / "int8.onnx", np.random.default_rng(0).random((8, 3, 8, 8), np.float32),
        recipe="cpu",
    )  # fmt: skip
    types = {node.name: node.op_type for node in onnx.read(tmp_path / "int8.onnx").graph.node}
    assert "Add" in {types.get(name) for name in made.layers}
