"""MobileNetV2 for small images: torchvision's network with a stem and a second stage that keep the size.

Weights have the names and shapes of `torchvision/mobilenet_v2`: a checkpoint alone cannot tell the two apart.

Source: Sandler et al., CVPR 2018 (arXiv:1801.04381), table 2.
"""

from collections.abc import Iterator, Mapping, Sequence

from torch import nn

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
EXAMPLES: Mapping[str, str] = {name: f"for small images, width {width:g}" for name, width in WIDTHS.items()}
# Expansion, channels, blocks, stride of the first block; the published stride of the second row is 2.
STAGES = ((1, 16, 1, 1), (6, 24, 2, 1), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))


def build(arch: str, classes: int, input_shape: tuple[int, int, int]) -> nn.Module | None:
    """Return one of `EXAMPLES`."""
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
    # A stem, two or three convolutions a block, and a last one.
    if len(kernels) == 2 + sum(count * (2 if expansion == 1 else 3) for expansion, _, count, _ in STAGES):
        yield from WIDTHS
        yield "torchvision/mobilenet_v2"
