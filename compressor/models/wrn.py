"""Wide residual networks for 32x32 images: blocks that normalise before they convolve, 1x1 convolutions as shortcuts.

Source: Zagoruyko and Komodakis, BMVC 2016 (arXiv:1605.07146), without dropout.
"""

import re
from collections.abc import Iterator, Mapping, Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from compressor.errors import UsageError
from compressor.models.layers import conv3x3, he_normal

PREFIX = "wrn"
LABEL = "CIFAR"
INPUT_SHAPE = (3, 32, 32)
EXAMPLES: Mapping[str, str] = {
    f"wrn-{d}-{k}": "wide ResNet: depth 6n+4, width" for d, k in ((16, 1), (16, 2), (40, 1), (40, 2))
}
DEEPEST, WIDEST = 1204, 32


def build(arch: str, classes: int, input_shape: tuple[int, int, int]) -> nn.Module | None:
    """Return `wrn-D-K` (also spelt `wrn_D_K`) of depth D = 6n+4 and K times the usual width."""
    match = re.fullmatch(r"wrn[-_]?(\d+)[-_](\d+)", arch)
    if match is None:
        return None
    depth, width = int(match[1]), int(match[2])
    blocks, rest = divmod(depth - 4, 6)
    if rest or blocks < 1 or depth > DEEPEST:
        nearest = 6 * min(max(1, round((depth - 4) / 6)), (DEEPEST - 4) // 6) + 4
        raise UsageError(
            f"{arch!r} cannot be: a wide ResNet has a depth of 6n+4, from 10 to {DEEPEST}",
            hint=f"did you mean 'wrn-{nearest}-{width}'?",
        )
    if not 1 <= width <= WIDEST:
        raise UsageError(f"{arch!r} cannot be: a wide ResNet is 1 to {WIDEST} times as wide", hint="known: wrn-40-2")
    return WideResNet(blocks, width, classes, input_shape[0])


def proposals(kernels: Sequence[Sequence[int]]) -> Iterator[str]:
    blocks, rest = divmod(sum(tuple(kernel[2:]) == (3, 3) for kernel in kernels) - 1, 6)
    width = max((kernel[0] for kernel in kernels), default=0) // 64
    if rest == 0 and 10 <= 6 * blocks + 4 <= DEEPEST and 1 <= width <= WIDEST:
        yield f"wrn-{6 * blocks + 4}-{width}"


class WideResNet(nn.Module):
    """Three stages of `16 width`, `32 width` and `64 width` channels; the second and third halve the size."""

    def __init__(self, blocks: int, width: int, classes: int, channels: int) -> None:
        super().__init__()
        self.conv1 = conv3x3(channels, 16)
        self.layer1 = _stage(blocks, 16, 16 * width, 1)
        self.layer2 = _stage(blocks, 16 * width, 32 * width, 2)
        self.layer3 = _stage(blocks, 32 * width, 64 * width, 2)
        self.bn1 = nn.BatchNorm2d(64 * width)
        self.fc = nn.Linear(64 * width, classes)
        he_normal(self)

    def forward(self, images: Tensor) -> Tensor:
        x = self.layer3(self.layer2(self.layer1(self.conv1(images))))
        logits: Tensor = self.fc(F.relu(self.bn1(x)).mean(dim=(2, 3)))
        return logits


def _stage(blocks: int, inputs: int, outputs: int, stride: int) -> nn.Sequential:
    return nn.Sequential(Block(inputs, outputs, stride), *(Block(outputs, outputs, 1) for _ in range(blocks - 1)))


class Block(nn.Module):
    """Where the width changes, the shortcut starts after the first activation; elsewhere it is the identity."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = conv3x3(inputs, outputs, stride)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.conv2 = conv3x3(outputs, outputs)
        changes = stride != 1 or inputs != outputs
        self.shortcut = nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False) if changes else None

    def forward(self, x: Tensor) -> Tensor:
        active = F.relu(self.bn1(x))
        y: Tensor = self.conv2(F.relu(self.bn2(self.conv1(active))))
        return y + (x if self.shortcut is None else self.shortcut(active))
