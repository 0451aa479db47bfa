"""A generator of transposed convolutions, as DCGAN has them and CE-GAN uses them.

Source: Radford et al., ICLR 2016 (arXiv:1511.06434), with the sizes of CE-GAN's 32x32 networks (arXiv:2101.11186).
"""

from typing import Literal

from pydantic import Field, PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from compressor.generators.protocol import Border, End, ImageKind, code
from compressor.kinds import Config

_START = 4  # pixels of height and width after the first layer


class DCGAN(Config):
    """`noise -> 4x4 -> doubled by transposed convolutions until the image fits, with BatchNorm and ReLU between`."""

    kind: Literal["dcgan"] = "dcgan"
    noise: PositiveInt = 100
    width: PositiveInt = Field(default=64, description="channels before the last layer, doubled towards the start")
    end: End = "tanh"

    def build(self, images: ImageKind) -> nn.Module:
        return DCGANNetwork(self, images)


class DCGANNetwork(nn.Module):
    """Images are cut from the middle where their size is no power of two. Weights are drawn from `N(0, 0.02)`."""

    def __init__(self, config: DCGAN, images: ImageKind) -> None:
        super().__init__()
        channels, height, width = images.shape
        doublings = max(1, (-(-max(height, width) // _START) - 1).bit_length())
        widths = [config.width << step for step in reversed(range(doublings))]
        self.classes, self.size = images.classes, (height, width)
        layers: list[nn.Module] = [nn.ConvTranspose2d(config.noise + images.classes, widths[0], _START, bias=False)]
        for now, following in zip(widths, [*widths[1:], channels], strict=True):
            layers += [nn.BatchNorm2d(now), nn.ReLU(inplace=True)]
            layers += [nn.ConvTranspose2d(now, following, 4, stride=2, padding=1, bias=following == channels)]
        self.layers = nn.Sequential(*layers)
        self.border = Border(config.end, images)
        for module in self.modules():
            if isinstance(module, nn.ConvTranspose2d):
                nn.init.normal_(module.weight, 0.0, 0.02)
            elif isinstance(module, nn.BatchNorm2d) and module.affine:
                nn.init.normal_(module.weight, 1.0, 0.02)

    def forward(self, noise: Tensor, classes: Tensor | None = None) -> Tensor:
        x = self.layers(code(noise, classes, self.classes)[:, :, None, None])
        down, across = x.shape[2] - self.size[0], x.shape[3] - self.size[1]
        pixels: Tensor = self.border(F.pad(x, (-(across // 2), across // 2 - across, -(down // 2), down // 2 - down)))
        return pixels
