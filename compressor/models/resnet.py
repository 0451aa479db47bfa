"""Residual networks for 32x32 images: three stages of basic blocks with 16, 32 and 64 channels.

Source: He et al., CVPR 2016 (arXiv:1512.03385), section 4.2. The zero-padding shortcut is their option A, with the new
channels last, as in the code of the boundary-sample paper; `-centred` puts half of them on either side, as a widely
used set of CIFAR-10 checkpoints does; `-conv` is option B. Weights of the first two have the same names and shapes, and
give nonsense in each other's network.
"""

import re
from collections.abc import Iterator, Mapping, Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from compressor.errors import UsageError
from compressor.models.layers import conv3x3, he_normal

PREFIX = "resnet"
LABEL = "CIFAR"
INPUT_SHAPE = (3, 32, 32)
DEPTHS = (8, 14, 20, 26, 32, 44, 56, 110)
DEEPEST = 1202
EXAMPLES: Mapping[str, str] = {
    **{f"resnet{depth}": "shortcuts pad with zero channels; any depth 6n+2" for depth in DEPTHS},
    **{f"resnet{depth}-centred": "zero channels on both sides" for depth in (20, 56)},
    **{f"resnet{depth}-conv": "shortcuts are 1x1 convolutions" for depth in (20, 56)},
    **{f"resnet{depth}x4": "four times as wide, 1x1 convolutions" for depth in (8, 32)},
    "resnet50": "48 thin layers and 2; ImageNet's ResNet-50 is torchvision/resnet50",
}


def build(arch: str, classes: int, input_shape: tuple[int, int, int]) -> nn.Module | None:
    """Return `resnetD`, `resnetD-centred`, `resnetD-conv` or `resnetDx4` for a depth D = 6n+2."""
    match = re.fullmatch(r"resnet(\d+)(x4|-centred|-conv|)", arch)
    if match is None:
        return None
    depth, kind = int(match[1]), match[2]
    blocks, rest = divmod(depth - 2, 6)
    if rest or blocks < 1 or depth > DEEPEST:
        raise UsageError(
            f"{arch!r} cannot be: a CIFAR ResNet has a depth of 6n+2, from 8 to {DEEPEST}",
            hint=_other_depth(depth, kind),
        )
    widths = (32, 64, 128, 256) if kind == "x4" else (16, 16, 32, 64)
    return ResNet(blocks, widths, "-conv" if kind == "x4" else kind, classes, input_shape[0])


def proposals(kernels: Sequence[Sequence[int]]) -> Iterator[str]:
    blocks, rest = divmod(sum(tuple(kernel[2:]) == (3, 3) for kernel in kernels) - 1, 6)
    if rest == 0 and 8 <= 6 * blocks + 2 <= DEEPEST:
        yield from (f"resnet{6 * blocks + 2}{kind}" for kind in ("", "-centred", "-conv", "x4"))


def _other_depth(depth: int, kind: str) -> str:
    if depth in (18, 34, 101):
        return f"ImageNet's is 'torchvision/resnet{depth}'"
    blocks = min(max(1, round((depth - 2) / 6)), (DEEPEST - 2) // 6)
    return f"did you mean 'resnet{6 * blocks + 2}{kind}'?"


class ResNet(nn.Module):
    """`widths` are those of the stem and of the three stages; the second and third stage halve the size."""

    def __init__(self, blocks: int, widths: Sequence[int], shortcut: str, classes: int, channels: int) -> None:
        super().__init__()
        stem, *stages = widths
        self.conv1 = conv3x3(channels, stem)
        self.bn1 = nn.BatchNorm2d(stem)
        self.layer1 = _stage(blocks, stem, stages[0], 1, shortcut)
        self.layer2 = _stage(blocks, stages[0], stages[1], 2, shortcut)
        self.layer3 = _stage(blocks, stages[1], stages[2], 2, shortcut)
        self.linear = nn.Linear(stages[2], classes)
        he_normal(self)

    def forward(self, images: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(images)))
        x = self.layer3(self.layer2(self.layer1(x)))
        logits: Tensor = self.linear(x.mean(dim=(2, 3)))
        return logits


def _stage(blocks: int, inputs: int, outputs: int, stride: int, shortcut: str) -> nn.Sequential:
    first = Block(inputs, outputs, stride, shortcut)
    return nn.Sequential(first, *(Block(outputs, outputs, 1, shortcut) for _ in range(blocks - 1)))


class Block(nn.Module):
    """Two convolutions and a shortcut, ReLU after the sum."""

    def __init__(self, inputs: int, outputs: int, stride: int, shortcut: str) -> None:
        super().__init__()
        self.conv1 = conv3x3(inputs, outputs, stride)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = conv3x3(outputs, outputs)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = _shortcut(inputs, outputs, stride, shortcut)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


def _shortcut(inputs: int, outputs: int, stride: int, kind: str) -> nn.Module:
    if stride == 1 and inputs == outputs:
        return nn.Identity()
    if kind == "-conv":
        return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False), nn.BatchNorm2d(outputs))
    new = outputs - inputs
    return ZeroPad(stride, before=new // 2 if kind == "-centred" else 0, total=new)


class ZeroPad(nn.Module):
    """Every `stride`-th pixel, and `total` more channels that are zero, `before` of them first."""

    def __init__(self, stride: int, *, before: int, total: int) -> None:
        super().__init__()
        self.stride = stride
        self.padding = (0, 0, 0, 0, before, total - before)

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x[:, :, :: self.stride, :: self.stride], self.padding)
