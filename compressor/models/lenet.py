"""LeNet-5 with ReLU and maximum pooling, and its half: what data-free methods use on MNIST.

Source: LeCun et al., Proceedings of the IEEE 86 (1998), figure 2.
"""

from collections.abc import Iterator, Mapping, Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from compressor.models.layers import he_normal

PREFIX = "lenet5"
LABEL = "MNIST"
INPUT_SHAPE = (1, 28, 28)
FIELD = 32  # pixels of height and width that the three convolutions turn into one
WIDTHS = {"lenet5": (6, 16, 120, 84), "lenet5-half": (3, 8, 60, 42)}
EXAMPLES: Mapping[str, str] = {"lenet5": "three 5x5 convolutions", "lenet5-half": "half the channels"}


def build(arch: str, classes: int, input_shape: tuple[int, int, int]) -> nn.Module | None:
    """Return one of `EXAMPLES`."""
    return LeNet(WIDTHS[arch], classes, input_shape) if arch in WIDTHS else None


def proposals(kernels: Sequence[Sequence[int]]) -> Iterator[str]:
    if len(kernels) == 3:
        yield from WIDTHS


class LeNet(nn.Module):
    """Images below 32x32 get a border of zeros, as MNIST always had; larger ones end in an average."""

    def __init__(self, widths: Sequence[int], classes: int, input_shape: tuple[int, int, int]) -> None:
        super().__init__()
        channels, height, width = input_shape
        self.border = (*_border(width), *_border(height))
        self.conv1 = nn.Conv2d(channels, widths[0], 5)
        self.conv2 = nn.Conv2d(widths[0], widths[1], 5)
        self.conv3 = nn.Conv2d(widths[1], widths[2], 5)
        self.fc1 = nn.Linear(widths[2], widths[3])
        self.fc2 = nn.Linear(widths[3], classes)
        he_normal(self)

    def forward(self, images: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.conv1(F.pad(images, self.border))), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        x = F.relu(self.conv3(x)).mean(dim=(2, 3))
        logits: Tensor = self.fc2(F.relu(self.fc1(x)))
        return logits


def _border(size: int) -> tuple[int, int]:
    missing = max(0, FIELD - size)
    return missing // 2, missing - missing // 2
