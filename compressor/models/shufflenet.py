"""ShuffleNetV2 for small images: torchvision's network with a stem that keeps the size and no pooling after it.

Weights have the names and shapes of torchvision's: a checkpoint alone cannot tell the two apart.

Source: Ma et al., ECCV 2018 (arXiv:1807.11164), table 5.
"""

from collections.abc import Iterator, Mapping, Sequence

from torch import nn

from compressor.models.layers import conv3x3, he_normal

PREFIX = "shufflenetv2"
LABEL = "CIFAR"
INPUT_SHAPE = (3, 32, 32)
REPEATS = (4, 8, 4)
CHANNELS = {  # of the stem, the three stages and the last convolution
    "shufflenetv2-0.5": (24, 48, 96, 192, 1024),
    "shufflenetv2-1.0": (24, 116, 232, 464, 1024),
}
TWINS = {"shufflenetv2-0.5": "torchvision/shufflenet_v2_x0_5", "shufflenetv2-1.0": "torchvision/shufflenet_v2_x1_0"}
EXAMPLES: Mapping[str, str] = {name: f"for small images, width {name.partition('-')[2]}" for name in CHANNELS}


def build(arch: str, classes: int, input_shape: tuple[int, int, int]) -> nn.Module | None:
    """Return one of `EXAMPLES`."""
    if arch not in CHANNELS:
        return None
    from torchvision.models import ShuffleNetV2  # takes seconds to import

    network: nn.Module = ShuffleNetV2(list(REPEATS), list(CHANNELS[arch]), num_classes=classes)
    stem = network.get_submodule("conv1")
    assert isinstance(stem, nn.Sequential)
    stem[0] = conv3x3(input_shape[0], CHANNELS[arch][0])
    network.add_module("maxpool", nn.Identity())
    he_normal(network)
    return network


def proposals(kernels: Sequence[Sequence[int]]) -> Iterator[str]:
    # A stem and a last convolution; five a block that halves the size, three a block that does not.
    if len(kernels) == 2 + sum(5 + 3 * (count - 1) for count in REPEATS):
        yield from CHANNELS
        yield from TWINS.values()
