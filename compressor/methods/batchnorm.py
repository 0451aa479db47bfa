"""What a pass of images that are no training images does to the BatchNorm layers of the student."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


@contextmanager
def normalising(student: nn.Module, *, alone: bool = False, update: bool = False) -> Iterator[None]:
    """Decide what a pass does to the BatchNorm layers that are training.

    They normalise by the batch, and move their running statistics only with `update`. One image `alone` has no batch
    to be normalised by (PyTorch refuses it where only one pixel is left): it uses the running statistics as they are.
    """
    layers = [layer for layer in student.modules() if isinstance(layer, _BatchNorm) and layer.training]
    tracking = [layer for layer in layers if layer.track_running_stats]
    try:
        for layer in tracking:
            if alone:
                layer.training = False
            elif not update:
                layer.track_running_stats = False  # a training layer then neither reads nor writes them
        yield
    finally:
        for layer in tracking:
            layer.training = layer.track_running_stats = True
