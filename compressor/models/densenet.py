"""DenseNet with bottlenecks and compression for small images.

`densenet-bc-L-K` has three blocks, a depth of L = 6n+4 and K new channels a layer, as published for CIFAR.
`densenetD-stem3` has ImageNet's four blocks after a 3x3 stem without pooling; `-k12` makes 12 new channels a layer. In
the published network new channels stand behind the old ones. Public checkpoints have weights of the same shapes that
give nonsense in each other's network: `-front` puts the new ones in front, `-linear` has no ReLU in its transitions.
`-pooled` is torchvision's network with a 3x3 stem of stride 1, which keeps the pooling behind it.

Source: Huang et al., CVPR 2017 (arXiv:1608.06993), section 3 and table 1.
"""

import re
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from compressor.errors import UsageError
from compressor.models.layers import conv3x3, he_normal

PREFIX = "densenet"
LABEL = "CIFAR"
INPUT_SHAPE = (3, 32, 32)
BLOCKS = {121: (6, 12, 24, 16), 161: (6, 12, 36, 24), 169: (6, 12, 32, 32), 201: (6, 12, 48, 32)}
GROWTH = {121: 32, 161: 48, 169: 32, 201: 32}  # new channels a layer
FORMS = ("", "-front", "-linear")
DEEPEST, WIDEST = 250, 64
EXAMPLES: Mapping[str, str] = {
    "densenet-bc-100-12": "three blocks: depth 6n+4, new channels a layer",
    "densenet121-stem3": "ImageNet's blocks, 3x3 stem; also 161, 169, 201",
    "densenet121-stem3-front": "the same, new channels in front of the old ones",
    "densenet121-stem3-linear": "the same, no ReLU in transitions",
    "densenet121-stem3-pooled": "torchvision's with a 3x3 stem, and its pooling",
    "densenet121-k12-stem3": "ImageNet's blocks, 3x3 stem, 12 new channels a layer",
}


def build(arch: str, classes: int, input_shape: tuple[int, int, int]) -> nn.Module | None:
    """Return `densenet-bc-L-K`, `densenetD-stem3` or `densenetD-k12-stem3`, or another form of them."""
    match = re.fullmatch(r"densenet-bc-(\d+)-(\d+)(-front|-linear|)", arch)
    if match is not None:
        depth, growth = int(match[1]), int(match[2])
        layers, rest = divmod(depth - 4, 6)
        if rest or layers < 1 or depth > DEEPEST or not 1 <= growth <= WIDEST:
            raise UsageError(
                f"{arch!r} cannot be: in densenet-bc-L-K, L is 6n+4, from 10 to {DEEPEST}, and K 1 to {WIDEST}",
                hint="known: densenet-bc-100-12",
            )
        return DenseNet([layers] * 3, growth, classes, input_shape[0], match[3])
    match = re.fullmatch(r"densenet(\d+)(-k12|)-stem3(-front|-linear|-pooled|)", arch)
    if match is None or int(match[1]) not in BLOCKS or match[2] + match[3] == "-k12-pooled":
        return None
    depth = int(match[1])
    if match[3] == "-pooled":
        return _pooled(depth, classes, input_shape[0])
    return DenseNet(BLOCKS[depth], 12 if match[2] else GROWTH[depth], classes, input_shape[0], match[3])


def proposals(kernels: Sequence[Sequence[int]]) -> Iterator[str]:
    if not kernels or tuple(kernels[0][2:]) != (3, 3):
        return
    for depth, blocks in BLOCKS.items():
        if len(kernels) == 1 + 2 * sum(blocks) + 3:  # the stem, two a layer, and the transitions
            kind = "-k12" if kernels[0][0] == 24 else ""
            yield from (f"densenet{depth}{kind}-stem3{form}" for form in FORMS)
            if not kind:
                yield f"densenet{depth}-stem3-pooled"
    layers, rest = divmod(len(kernels) - 3, 6)
    growth, odd = divmod(kernels[0][0], 2)
    if not rest and layers >= 1 and 6 * layers + 4 <= DEEPEST and not odd and 1 <= growth <= WIDEST:
        yield from (f"densenet-bc-{6 * layers + 4}-{growth}{form}" for form in FORMS)


class DenseNet(nn.Module):
    """Blocks of `counts` layers; each transition halves the channels and the size. `form` is one of `FORMS`."""

    def __init__(self, counts: Sequence[int], growth: int, classes: int, channels: int, form: str) -> None:
        super().__init__()
        width = 2 * growth
        self.conv1 = conv3x3(channels, width)
        self.blocks = len(counts)
        for number, count in enumerate(counts, start=1):
            layers = [Layer(width + index * growth, growth, front=form == "-front") for index in range(count)]
            self.add_module(f"dense{number}", nn.Sequential(*layers))
            width += count * growth
            if number < self.blocks:
                self.add_module(f"trans{number}", Transition(width, width // 2, active=form != "-linear"))
                width //= 2
        self.bn = nn.BatchNorm2d(width)
        self.linear = nn.Linear(width, classes)
        he_normal(self)

    def forward(self, images: Tensor) -> Tensor:
        x = self.conv1(images)
        for number in range(1, self.blocks + 1):
            x = self.get_submodule(f"dense{number}")(x)
            if number < self.blocks:
                x = self.get_submodule(f"trans{number}")(x)
        logits: Tensor = self.linear(F.relu(self.bn(x)).mean(dim=(2, 3)))
        return logits


class Layer(nn.Module):
    """`growth` new channels from all there are, by way of `4 growth`; beside the old ones, or in `front` of them."""

    def __init__(self, inputs: int, growth: int, *, front: bool) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, 4 * growth, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(4 * growth)
        self.conv2 = conv3x3(4 * growth, growth)
        self.front = front

    def forward(self, x: Tensor) -> Tensor:
        new = self.conv1(F.relu(self.bn1(x)))
        new = self.conv2(F.relu(self.bn2(new)))
        return torch.cat((new, x) if self.front else (x, new), dim=1)


class Transition(nn.Module):
    """A 1x1 convolution and the average of 2x2 pixels; what is left over at an odd size is dropped."""

    def __init__(self, inputs: int, outputs: int, *, active: bool) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(inputs)
        self.conv = nn.Conv2d(inputs, outputs, 1, bias=False)
        self.active = active

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn(x)
        return F.avg_pool2d(self.conv(F.relu(y) if self.active else y), 2)


def _pooled(depth: int, classes: int, channels: int) -> nn.Module:
    from torchvision.models import DenseNet as ImageNetDenseNet  # takes seconds to import

    stem = 2 * GROWTH[depth]
    network: nn.Module = ImageNetDenseNet(GROWTH[depth], BLOCKS[depth], stem, num_classes=classes)
    features = network.get_submodule("features")
    assert isinstance(features, nn.Sequential)
    features[0] = conv3x3(channels, stem)
    he_normal(features[0])
    return network
