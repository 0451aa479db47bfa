"""ImageNet's residual networks with a stem for small images: the commonest CIFAR teachers.

A 3x3 convolution of stride 1 stands for the stem of stride 2 and its pooling; the four stages of 64 to 512 channels are
as published. `-preact` normalises before it convolves. Weights of the public versions fit, whatever their
names are.

Source: He et al., CVPR 2016 (arXiv:1512.03385), table 1; `-preact`: He et al., ECCV 2016 (arXiv:1603.05027), figure 4e.
"""

import re
from collections.abc import Iterator, Mapping, Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from compressor.models.layers import conv3x3, he_normal

PREFIX = r"resnet\d+-stem3"
LABEL = "CIFAR"
INPUT_SHAPE = (3, 32, 32)
WIDTHS = (64, 128, 256, 512)
BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
BOTTLENECKS = (50, 101, 152)
EXPANSION = 4
POOLED = "-pooled"
EXAMPLES: Mapping[str, str] = {
    **{f"resnet{depth}-stem3": "ImageNet's network with a 3x3 stem and no pooling" for depth in BLOCKS},
    "resnet18-stem3-preact": "the same, normalised before each convolution",
    **{f"resnet{depth}-stem3{POOLED}": "the same with its pooling behind the stem" for depth in (18, 34, 50)},
}


def build(arch: str, classes: int, input_shape: tuple[int, int, int]) -> nn.Module | None:
    """Return one of `EXAMPLES`."""
    match = re.fullmatch(r"resnet(\d+)-stem3(-preact|-pooled|)", arch)
    if arch not in EXAMPLES or match is None:
        return None
    depth = int(match[1])
    if match[2] == "-preact":
        return PreactResNet(BLOCKS[depth], classes, input_shape[0])
    kind = Bottleneck if depth in BOTTLENECKS else Basic
    return ResNet(BLOCKS[depth], kind, classes, input_shape[0], pooled=match[2] == "-pooled")


def proposals(kernels: Sequence[Sequence[int]]) -> Iterator[str]:
    if not kernels or tuple(kernels[0][2:]) != (3, 3):
        return
    for depth, blocks in BLOCKS.items():
        narrow = depth in BOTTLENECKS
        inner = sum(blocks) * (3 if narrow else 2)
        if len(kernels) == 1 + inner + (4 if narrow else 3):  # the shortcuts that change the width
            # Not those with pooling: they have the same tensors under the same names, and are rarer; see `twin`.
            names = (name for name in EXAMPLES if name.startswith(f"resnet{depth}-"))
            yield from (name for name in names if not name.endswith(POOLED))


def twin(arch: str) -> str | None:
    """Return the network that differs by the pooling behind the stem alone, which no tensor tells."""
    plain = arch.removesuffix(POOLED)
    other = plain if plain != arch else f"{arch}{POOLED}"
    return other if {arch, other} <= EXAMPLES.keys() else None


class ResNet(nn.Module):
    """Four stages, of which the last three halve the size; `pooled`, the stem does so first."""

    def __init__(
        self,
        blocks: Sequence[int],
        kind: "type[Basic] | type[Bottleneck]",
        classes: int,
        channels: int,
        *,
        pooled: bool,
    ) -> None:
        super().__init__()
        self.pooled = pooled
        self.conv1 = conv3x3(channels, WIDTHS[0])
        self.bn1 = nn.BatchNorm2d(WIDTHS[0])
        inputs = WIDTHS[0]
        for stage, (width, count) in enumerate(zip(WIDTHS, blocks, strict=True)):
            layers: list[nn.Module] = []
            for index in range(count):
                layers.append(kind(inputs, width, 2 if stage and not index else 1))
                inputs = width * kind.expansion
            self.add_module(f"layer{stage + 1}", nn.Sequential(*layers))
        self.fc = nn.Linear(inputs, classes)
        he_normal(self)

    def forward(self, images: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(images)))
        if self.pooled:
            x = F.max_pool2d(x, 3, stride=2, padding=1)
        for stage in range(len(WIDTHS)):
            x = self.get_submodule(f"layer{stage + 1}")(x)
        logits: Tensor = self.fc(x.mean(dim=(2, 3)))
        return logits


class Basic(nn.Module):
    """Two convolutions and a shortcut, ReLU after the sum."""

    expansion = 1

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = conv3x3(inputs, width, stride)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = conv3x3(width, width)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = _shortcut(inputs, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + (x if self.downsample is None else self.downsample(x)))


class Bottleneck(nn.Module):
    """A 3x3 convolution, which has the stride, between two of 1x1."""

    expansion = EXPANSION

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = conv3x3(width, width, stride)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, width * EXPANSION, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(width * EXPANSION)
        self.downsample = _shortcut(inputs, width * EXPANSION, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        return F.relu(self.bn3(self.conv3(y)) + (x if self.downsample is None else self.downsample(x)))


class PreactResNet(nn.Module):
    """Blocks that normalise first; nothing follows the last sum, as in the public networks for CIFAR."""

    def __init__(self, blocks: Sequence[int], classes: int, channels: int) -> None:
        super().__init__()
        self.conv1 = conv3x3(channels, WIDTHS[0])
        inputs = WIDTHS[0]
        for stage, (width, count) in enumerate(zip(WIDTHS, blocks, strict=True)):
            layers: list[nn.Module] = []
            for index in range(count):
                layers.append(PreactBlock(inputs, width, 2 if stage and not index else 1))
                inputs = width
            self.add_module(f"layer{stage + 1}", nn.Sequential(*layers))
        self.linear = nn.Linear(inputs, classes)
        he_normal(self)

    def forward(self, images: Tensor) -> Tensor:
        x = self.conv1(images)
        for stage in range(len(WIDTHS)):
            x = self.get_submodule(f"layer{stage + 1}")(x)
        logits: Tensor = self.linear(x.mean(dim=(2, 3)))
        return logits


class PreactBlock(nn.Module):
    """Where the width changes, the shortcut is a 1x1 convolution of the activated input."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = conv3x3(inputs, width, stride)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv2 = conv3x3(width, width)
        changes = stride != 1 or inputs != width
        self.shortcut = nn.Sequential(nn.Conv2d(inputs, width, 1, stride=stride, bias=False)) if changes else None

    def forward(self, x: Tensor) -> Tensor:
        active = F.relu(self.bn1(x))
        y: Tensor = self.conv2(F.relu(self.bn2(self.conv1(active))))
        return self.weighed(y) + (x if self.shortcut is None else self.shortcut(active))

    def weighed(self, residual: Tensor) -> Tensor:
        """Return what is added to the shortcut: the residual as it is."""
        return residual


def _shortcut(inputs: int, outputs: int, stride: int) -> nn.Sequential | None:
    if stride == 1 and inputs == outputs:
        return None
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False), nn.BatchNorm2d(outputs))
