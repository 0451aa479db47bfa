"""A generator of fully connected layers, for small grey images: far cheaper than convolutions.

Source: the generator of Triple-GAN on MNIST (Li et al., NeurIPS 2017, arXiv:1703.02291), two layers of 500.
"""

from typing import Literal

from pydantic import PositiveInt
from torch import Tensor, nn

from compressor.generators.protocol import Border, End, ImageKind, code
from compressor.kinds import Config


class MLP(Config):
    """`noise -> width -> ... -> pixels`, with softplus and BatchNorm after each hidden layer."""

    kind: Literal["mlp"] = "mlp"
    noise: PositiveInt = 100
    width: PositiveInt = 500
    depth: PositiveInt = 2
    end: End = "sigmoid"

    def build(self, images: ImageKind) -> nn.Module:
        return MLPNetwork(self, images)


class MLPNetwork(nn.Module):
    def __init__(self, config: MLP, images: ImageKind) -> None:
        super().__init__()
        channels, height, width = images.shape
        self.classes = images.classes
        layers: list[nn.Module] = []
        given = config.noise + images.classes
        for _ in range(config.depth):
            layers += [nn.Linear(given, config.width), nn.Softplus(), nn.BatchNorm1d(config.width)]
            given = config.width
        layers += [nn.Linear(given, channels * height * width), nn.Unflatten(1, images.shape)]
        self.layers = nn.Sequential(*layers)
        self.border = Border(config.end, images)

    def forward(self, noise: Tensor, classes: Tensor | None = None) -> Tensor:
        pixels: Tensor = self.border(self.layers(code(noise, classes, self.classes)))
        return pixels
