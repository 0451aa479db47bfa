"""Residual networks with squeeze and excitation: each block weighs its channels by what they are on average.

`seresnetD` is the network for CIFAR of depth D = 6n+2 with 1x1 convolutions as shortcuts. `seresnetD-stem3` is
ImageNet's with a 3x3 stem and no pooling: `-preact` normalises before it convolves (public as SENet18), `-relu` has
biases and a ReLU before the channels are weighed, as a public set of CIFAR-100 networks does.

Source: Hu et al., CVPR 2018 (arXiv:1709.01507), figure 3 and section 6.1, with a reduction of 16.
"""

import re
from collections.abc import Iterator, Mapping, Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from compressor.errors import UsageError
from compressor.models import wide_stem
from compressor.models.layers import conv3x3, he_normal
from compressor.models.resnet import DEEPEST

PREFIX = "seresnet"
LABEL = "CIFAR"
INPUT_SHAPE = (3, 32, 32)
REDUCTION = 16
PREACT = (18, 34)  # depths that have no bottlenecks
EXAMPLES: Mapping[str, str] = {
    **{f"seresnet{depth}": "resnetD-conv whose blocks weigh their channels" for depth in (20, 56)},
    "seresnet18-stem3-preact": "ImageNet's with a 3x3 stem, normalised before each convolution",
    **{f"seresnet{depth}-stem3-relu": "ImageNet's with a 3x3 stem, ReLU before weighing" for depth in (18, 50)},
}


def build(arch: str, classes: int, input_shape: tuple[int, int, int]) -> nn.Module | None:
    """Return `seresnetD` of a depth 6n+2, `seresnetD-stem3-preact` (18 or 34) or `seresnetD-stem3-relu`."""
    match = re.fullmatch(r"seresnet(\d+)(-stem3-preact|-stem3-relu|)", arch)
    if match is None:
        return None
    depth, form = int(match[1]), match[2]
    if form:
        if depth not in (PREACT if form.endswith("preact") else wide_stem.BLOCKS):
            return None
        return WideSENet(depth, classes, input_shape[0], preact=form.endswith("preact"))
    count, rest = divmod(depth - 2, 6)
    if rest or count < 1 or depth > DEEPEST:
        raise UsageError(f"{arch!r} cannot be: its depth is 6n+2, from 8 to {DEEPEST}", hint="known: seresnet20")
    return SENet(count, classes, input_shape[0])


def proposals(kernels: Sequence[Sequence[int]]) -> Iterator[str]:
    if not kernels or tuple(kernels[0][2:]) != (3, 3):
        return
    large = sum(tuple(kernel[2:]) == (3, 3) for kernel in kernels)
    count, rest = divmod(large - 1, 6)
    if not rest and count >= 1 and 6 * count + 2 <= DEEPEST:
        yield f"seresnet{6 * count + 2}"
    for depth, blocks in wide_stem.BLOCKS.items():
        if large == 1 + sum(blocks) * (1 if depth in wide_stem.BOTTLENECKS else 2):
            yield f"seresnet{depth}-stem3-relu"
            if depth in PREACT:
                yield f"seresnet{depth}-stem3-preact"


class SENet(nn.Module):
    """Three stages of `count` blocks with 16, 32 and 64 channels; the second and third halve the size."""

    def __init__(self, count: int, classes: int, channels: int) -> None:
        super().__init__()
        self.conv1 = conv3x3(channels, 16)
        self.bn1 = nn.BatchNorm2d(16)
        inputs = 16
        for stage, width in enumerate((16, 32, 64)):
            layers: list[nn.Module] = []
            for index in range(count):
                layers.append(Basic(inputs, width, 2 if stage and not index else 1))
                inputs = width
            self.add_module(f"layer{stage + 1}", nn.Sequential(*layers))
        self.fc = nn.Linear(inputs, classes)
        he_normal(self)

    def forward(self, images: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(images)))
        for stage in (1, 2, 3):
            x = self.get_submodule(f"layer{stage}")(x)
        logits: Tensor = self.fc(x.mean(dim=(2, 3)))
        return logits


class Basic(nn.Module):
    """Two convolutions, weighed; ReLU after the sum."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = conv3x3(inputs, width, stride)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = conv3x3(width, width)
        self.bn2 = nn.BatchNorm2d(width)
        self.se = Weighed(width, bias=False)
        changes = inputs != width
        self.downsample = (
            nn.Sequential(nn.Conv2d(inputs, width, 1, stride=stride, bias=False), nn.BatchNorm2d(width))
            if changes
            else None
        )

    def forward(self, x: Tensor) -> Tensor:
        y = self.se(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


class Weighed(nn.Module):
    """Each channel times a number in [0, 1] that two linear layers find from the averages of all channels."""

    def __init__(self, width: int, *, bias: bool) -> None:
        super().__init__()
        inner = width // REDUCTION
        self.fc = nn.Sequential(
            nn.Linear(width, inner, bias=bias), nn.ReLU(), nn.Linear(inner, width, bias=bias), nn.Sigmoid()
        )

    def forward(self, x: Tensor) -> Tensor:
        weights: Tensor = self.fc(x.mean(dim=(2, 3)))
        return x * weights[:, :, None, None]


class WideSENet(nn.Module):
    """Four stages of 64 to 512 channels, of which the last three halve the size."""

    def __init__(self, depth: int, classes: int, channels: int, *, preact: bool) -> None:
        super().__init__()
        narrow = depth in wide_stem.BOTTLENECKS
        self.conv1 = nn.Conv2d(channels, wide_stem.WIDTHS[0], 3, padding=1, bias=not preact)
        self.bn1 = nn.BatchNorm2d(wide_stem.WIDTHS[0])
        inputs = wide_stem.WIDTHS[0]
        for stage, (width, count) in enumerate(zip(wide_stem.WIDTHS, wide_stem.BLOCKS[depth], strict=True)):
            layers: list[nn.Module] = []
            for index in range(count):
                stride = 2 if stage and not index else 1
                layers.append(Preact(inputs, width, stride) if preact else Active(inputs, width, stride, narrow=narrow))
                inputs = width * (wide_stem.EXPANSION if narrow else 1)
            self.add_module(f"layer{stage + 1}", nn.Sequential(*layers))
        self.linear = nn.Linear(inputs, classes)
        he_normal(self)

    def forward(self, images: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(images)))
        for stage in range(len(wide_stem.WIDTHS)):
            x = self.get_submodule(f"layer{stage + 1}")(x)
        logits: Tensor = self.linear(x.mean(dim=(2, 3)))
        return logits


class Preact(wide_stem.PreactBlock):
    """The same with its channels weighed before the sum."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__(inputs, width, stride)
        self.fc1 = nn.Conv2d(width, width // REDUCTION, 1)
        self.fc2 = nn.Conv2d(width // REDUCTION, width, 1)

    def weighed(self, residual: Tensor) -> Tensor:
        weights: Tensor = self.fc2(F.relu(self.fc1(residual.mean(dim=(2, 3), keepdim=True)))).sigmoid()
        return residual * weights


class Active(nn.Module):
    """Two 3x3 convolutions, or one between two of 1x1, each with ReLU; the shortcut is as wide; ReLU after the sum."""

    def __init__(self, inputs: int, width: int, stride: int, *, narrow: bool) -> None:
        super().__init__()
        outputs = width * (wide_stem.EXPANSION if narrow else 1)
        plan = (
            ((inputs, width, 1, 1), (width, width, 3, stride), (width, outputs, 1, 1))
            if narrow
            else ((inputs, width, 3, stride), (width, width, 3, 1))
        )
        layers: list[nn.Module] = []
        for before, after, kernel, step in plan:
            layers += [nn.Conv2d(before, after, kernel, stride=step, padding=kernel // 2), nn.BatchNorm2d(after)]
            layers.append(nn.ReLU())
        self.residual = nn.Sequential(*layers)
        self.changes = stride != 1 or inputs != outputs
        parts: list[tuple[str, nn.Module]] = [("se", Weighed(outputs, bias=True))]
        if self.changes:
            shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride=stride), nn.BatchNorm2d(outputs))
            # The order of the public files, which tells the places of their tensors.
            parts.insert(1 if narrow else 0, ("shortcut", shortcut))
        for name, part in parts:
            self.add_module(name, part)

    def forward(self, x: Tensor) -> Tensor:
        y = self.get_submodule("se")(self.residual(x))
        return F.relu(y + (self.get_submodule("shortcut")(x) if self.changes else x))
