"""Generators that double their image by repeating pixels, then convolve: those of the data-free methods.

Source: the generators of DFAD (Fang et al., arXiv:1912.11006; its generator A, which Qimera uses too) and of the
benchmark form of DFQ-AKD (Choi et al., CVPR-W 2020), which is wider at its start.
"""

from typing import Literal

from pydantic import Field, PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from compressor.generators.protocol import Border, End, ImageKind, code
from compressor.kinds import Config


class _Upsampling(Config):
    """The keys of both."""

    kind: str
    noise: PositiveInt = 256
    width: PositiveInt = Field(default=64, description="channels before the last convolution; the published is 64")
    end: End
    batchnorm_eps: float = Field(default=1e-5, gt=0, description="of inner layers; the code of Qimera has 0.8")


class Upsample(_Upsampling):
    """`noise -> linear -> 2w at a quarter of the size -> double, conv 2w -> double, conv w -> conv` (DFAD)."""

    kind: Literal["upsample"] = "upsample"
    end: End = "batchnorm"

    def build(self, images: ImageKind) -> nn.Module:
        return UpsamplingNetwork(self, (2 * self.width, 2 * self.width, self.width), images)


class UpsampleLarge(_Upsampling):
    """The same from `4w` channels: `linear -> 4w -> double, conv 2w -> double, conv w -> conv` (DFQ-AKD)."""

    kind: Literal["upsample-large"] = "upsample-large"
    end: End = "sigmoid"

    def build(self, images: ImageKind) -> nn.Module:
        return UpsamplingNetwork(self, (4 * self.width, 2 * self.width, self.width), images)


class UpsamplingNetwork(nn.Module):
    """`widths` are the channels at a quarter, half and all of the size; sizes that are no multiple of 4 are rounded up
    at first and cut in the doubling. Weights are drawn as PyTorch does by default, as published.
    """

    def __init__(self, config: _Upsampling, widths: tuple[int, int, int], images: ImageKind) -> None:
        super().__init__()
        channels, height, width = images.shape
        first, second, third = widths
        eps = config.batchnorm_eps
        self.classes = images.classes
        self.start = (first, -(-height // 4), -(-width // 4))
        self.sizes = ((-(-height // 2), -(-width // 2)), (height, width))
        self.linear = nn.Linear(config.noise + images.classes, first * self.start[1] * self.start[2])
        self.norm0 = nn.BatchNorm2d(first, eps=eps)
        self.conv1 = nn.Conv2d(first, second, 3, padding=1)
        self.norm1 = nn.BatchNorm2d(second, eps=eps)
        self.conv2 = nn.Conv2d(second, third, 3, padding=1)
        self.norm2 = nn.BatchNorm2d(third, eps=eps)
        self.conv3 = nn.Conv2d(third, channels, 3, padding=1)
        self.border = Border(config.end, images)

    def forward(self, noise: Tensor, classes: Tensor | None = None) -> Tensor:
        x = self.norm0(self.linear(code(noise, classes, self.classes)).unflatten(1, self.start))
        x = F.leaky_relu(self.norm1(self.conv1(F.interpolate(x, size=self.sizes[0]))), 0.2)
        x = F.leaky_relu(self.norm2(self.conv2(F.interpolate(x, size=self.sizes[1]))), 0.2)
        pixels: Tensor = self.border(self.conv3(x))
        return pixels
