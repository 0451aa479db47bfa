"""MobileNetV2 for small images, in the three forms that are in use.

`mobilenetv2` is torchvision's network with a stem and a second stage that keep the size; its weights have the names and
shapes of `torchvision/mobilenet_v2`: a checkpoint alone cannot tell the two apart. `-conv` has 1x1 convolutions as
shortcuts where a block keeps the size and changes the width, an expansion in its first block too, and ReLU. `-stem1`
has a 1x1 stem with a border, biases, and a last layer that is a convolution.

Source: Sandler et al., CVPR 2018 (arXiv:1801.04381), table 2.
"""

from collections.abc import Iterator, Mapping, Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from compressor.models.layers import conv3x3, he_normal

PREFIX = "mobilenetv2"
LABEL = "CIFAR"
INPUT_SHAPE = (3, 32, 32)
WIDTHS = {
    "mobilenetv2-0.25": 0.25,
    "mobilenetv2-0.5": 0.5,
    "mobilenetv2-0.75": 0.75,
    "mobilenetv2": 1.0,
    "mobilenetv2-1.4": 1.4,
}
CONV, STEM1 = "mobilenetv2-conv", "mobilenetv2-stem1"
EXAMPLES: Mapping[str, str] = {
    **{name: f"for small images, width {width:g}" for name, width in WIDTHS.items()},
    CONV: "shortcuts of 1x1 convolutions, ReLU",
    STEM1: "1x1 stem, convolutions with biases",
}
STEM, LAST = 32, 1280  # channels of the first and the last convolution
# Expansion, channels, blocks, stride of the first block; the published stride of the second row is 2.
STAGES = ((1, 16, 1, 1), (6, 24, 2, 1), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
STEM1_STRIDES = (1, 2, 2, 2, 1, 1, 1)  # of the stages of `-stem1`


def build(arch: str, classes: int, input_shape: tuple[int, int, int]) -> nn.Module | None:
    """Return one of `EXAMPLES`."""
    if arch == CONV:
        return ShortcutMobileNet(classes, input_shape[0])
    if arch == STEM1:
        return BiasedMobileNet(classes, input_shape[0])
    if arch not in WIDTHS:
        return None
    from torchvision.models import MobileNetV2  # takes seconds to import

    network: nn.Module = MobileNetV2(
        num_classes=classes, width_mult=WIDTHS[arch], inverted_residual_setting=[list(stage) for stage in STAGES]
    )
    stem = network.get_submodule("features.0")
    assert isinstance(stem, nn.Sequential)
    assert isinstance(stem[0], nn.Conv2d)
    stem[0] = conv3x3(input_shape[0], stem[0].out_channels)
    he_normal(stem)
    return network


def proposals(kernels: Sequence[Sequence[int]]) -> Iterator[str]:
    blocks = sum(count for _, _, count, _ in STAGES)
    # A stem, two or three convolutions a block, and a last one.
    if len(kernels) == 2 + sum(count * (2 if expansion == 1 else 3) for expansion, _, count, _ in STAGES):
        yield from WIDTHS
        yield "torchvision/mobilenet_v2"
    if len(kernels) == 2 + 3 * blocks + sum(stride == 1 for *_, stride in STAGES):  # each of these changes the width
        yield CONV
    if len(kernels) == 3 + 3 * blocks:  # the classifier is a convolution
        yield STEM1


class ShortcutMobileNet(nn.Module):
    """`-conv`: every block has three convolutions, and a shortcut unless it halves the size."""

    def __init__(self, classes: int, channels: int) -> None:
        super().__init__()
        self.conv1 = conv3x3(channels, STEM)
        self.bn1 = nn.BatchNorm2d(STEM)
        self.layers = nn.Sequential(
            *(ShortcutBlock(*plan) for plan in _blocks([stride for *_, stride in STAGES])),
        )
        self.conv2 = nn.Conv2d(STAGES[-1][1], LAST, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(LAST)
        self.linear = nn.Linear(LAST, classes)
        he_normal(self)

    def forward(self, images: Tensor) -> Tensor:
        x = self.layers(F.relu(self.bn1(self.conv1(images))))
        x = F.relu(self.bn2(self.conv2(x)))
        logits: Tensor = self.linear(x.mean(dim=(2, 3)))
        return logits


class ShortcutBlock(nn.Module):
    """Expansion, a 3x3 convolution a channel, projection; added to the input, or to its 1x1 convolution."""

    def __init__(self, inputs: int, outputs: int, expansion: int, stride: int) -> None:
        super().__init__()
        inner = inputs * expansion
        self.conv1 = nn.Conv2d(inputs, inner, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, inner, 3, stride=stride, padding=1, groups=inner, bias=False)
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv3 = nn.Conv2d(inner, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.adds = stride == 1
        changes = self.adds and inputs != outputs
        self.shortcut = (
            nn.Sequential(nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs)) if changes else None
        )

    def forward(self, x: Tensor) -> Tensor:
        inner = F.relu(self.bn1(self.conv1(x)))
        inner = F.relu(self.bn2(self.conv2(inner)))
        y: Tensor = self.bn3(self.conv3(inner))
        if not self.adds:
            return y
        return y + (x if self.shortcut is None else self.shortcut(x))


class BiasedMobileNet(nn.Module):
    """`-stem1`: the 1x1 stem has a border of one pixel, which is its bias there."""

    def __init__(self, classes: int, channels: int) -> None:
        super().__init__()
        self.pre = nn.Sequential(nn.Conv2d(channels, STEM, 1, padding=1), nn.BatchNorm2d(STEM), nn.ReLU6())
        self.layers = nn.Sequential(*(BiasedBlock(*plan) for plan in _blocks(STEM1_STRIDES)))
        self.conv1 = nn.Sequential(nn.Conv2d(STAGES[-1][1], LAST, 1), nn.BatchNorm2d(LAST), nn.ReLU6())
        self.conv2 = nn.Conv2d(LAST, classes, 1)
        he_normal(self)

    def forward(self, images: Tensor) -> Tensor:
        x = self.conv1(self.layers(self.pre(images)))
        logits: Tensor = self.conv2(x.mean(dim=(2, 3), keepdim=True)).flatten(1)
        return logits


class BiasedBlock(nn.Module):
    """Expansion, a 3x3 convolution a channel, projection; added to the input where that has the same shape."""

    def __init__(self, inputs: int, outputs: int, expansion: int, stride: int) -> None:
        super().__init__()
        inner = inputs * expansion
        self.residual = nn.Sequential(
            *(nn.Conv2d(inputs, inner, 1), nn.BatchNorm2d(inner), nn.ReLU6()),
            *(nn.Conv2d(inner, inner, 3, stride=stride, padding=1, groups=inner), nn.BatchNorm2d(inner), nn.ReLU6()),
            *(nn.Conv2d(inner, outputs, 1), nn.BatchNorm2d(outputs)),
        )
        self.adds = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.residual(x)
        return y + x if self.adds else y


def _blocks(strides: Sequence[int]) -> Iterator[tuple[int, int, int, int]]:
    """Yield inputs, outputs, expansion and stride of each block; `strides` are those of the stages."""
    inputs = STEM
    for (expansion, outputs, count, _), stride in zip(STAGES, strides, strict=True):
        for index in range(count):
            yield inputs, outputs, expansion, 1 if index else stride
            inputs = outputs
