"""A student of one's own: `--student example_plugin.network:shallow`."""

from torch import nn


def shallow(classes: int, input_shape: tuple[int, int, int], width: int = 8) -> nn.Module:
    """Return one convolution and a linear layer."""
    channels, height, width_ = input_shape
    return nn.Sequential(
        nn.Conv2d(channels, width, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(width * ((height + 1) // 2) * ((width_ + 1) // 2), classes),
    )
