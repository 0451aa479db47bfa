"""VGG with BatchNorm for small images: five stages of 3x3 convolutions and one linear layer.

Two forms are in use, with weights of the same shapes. `vggN` pools by maximum after the first three stages (four from
64x64 on) and averages what is left; `vggN-pool5` pools by maximum after all five.

Source: Simonyan and Zisserman, ICLR 2015 (arXiv:1409.1556), with the head used for CIFAR.
"""

from collections.abc import Iterator, Mapping, Sequence

from torch import Tensor, nn

from compressor.models.layers import he_normal

PREFIX = "vgg"
LABEL = "CIFAR"
INPUT_SHAPE = (3, 32, 32)
WIDTHS = (64, 128, 256, 512, 512)
CONVOLUTIONS = {  # of each stage
    "vgg8": (1, 1, 1, 1, 1),
    "vgg11": (1, 1, 2, 2, 2),
    "vgg13": (2, 2, 2, 2, 2),
    "vgg16": (2, 2, 3, 3, 3),
    "vgg19": (2, 2, 4, 4, 4),
}
EXAMPLES: Mapping[str, str] = {
    **dict.fromkeys(CONVOLUTIONS, "with BatchNorm, global average at the end"),
    **{f"{name}-pool5": "with BatchNorm, maximum after all five stages" for name in CONVOLUTIONS},
}


def build(arch: str, classes: int, input_shape: tuple[int, int, int]) -> nn.Module | None:
    """Return one of `EXAMPLES`."""
    name = arch.removesuffix("-pool5")
    if name not in CONVOLUTIONS:
        return None
    if name != arch:
        return PooledVGG(CONVOLUTIONS[name], classes, input_shape[0])
    return VGG(CONVOLUTIONS[name], classes, input_shape[0], pools=4 if min(input_shape[1:]) >= 64 else 3)


def proposals(kernels: Sequence[Sequence[int]]) -> Iterator[str]:
    for name, counts in CONVOLUTIONS.items():
        if len(kernels) == sum(counts):
            yield from (name, f"{name}-pool5")


class VGG(nn.Module):
    """Maximum pooling after the first `pools` of the five stages, then a global average."""

    def __init__(self, counts: Sequence[int], classes: int, channels: int, *, pools: int) -> None:
        super().__init__()
        inputs = (channels, *WIDTHS[:-1])
        for stage, (before, width, count) in enumerate(zip(inputs, WIDTHS, counts, strict=True)):
            self.add_module(f"block{stage}", nn.Sequential(*_stage(before, width, count)))
        self.classifier = nn.Linear(WIDTHS[-1], classes)
        self.pools = pools
        he_normal(self)

    def forward(self, images: Tensor) -> Tensor:
        x = images
        for stage in range(len(WIDTHS)):
            x = self.get_submodule(f"block{stage}")(x)
            if stage < self.pools:
                x = nn.functional.max_pool2d(x, 2)
        logits: Tensor = self.classifier(x.mean(dim=(2, 3)))
        return logits


class PooledVGG(nn.Module):
    """Maximum pooling after every stage, which a map of one pixel passes; what large images leave is averaged."""

    def __init__(self, counts: Sequence[int], classes: int, channels: int) -> None:
        super().__init__()
        inputs = (channels, *WIDTHS[:-1])
        layers: list[nn.Module] = []
        for before, width, count in zip(inputs, WIDTHS, counts, strict=True):
            layers += [*_stage(before, width, count), nn.MaxPool2d(2, ceil_mode=True)]
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(WIDTHS[-1], classes)
        he_normal(self)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.features(images).mean(dim=(2, 3)))
        return logits


def _stage(inputs: int, width: int, count: int) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for index in range(count):
        # The bias is redundant before BatchNorm, but the checkpoints in use have it.
        layers += [nn.Conv2d(width if index else inputs, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
    return layers
