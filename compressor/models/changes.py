"""What was changed in a network after its architecture was built, as data: a file can tell it, to be done again.

To add a change: its class, then its name in `Change`. A change leaves its own data in a module of the network, which is
how `changes_of` finds it.
"""

from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from compressor.errors import UsageError

_MOST = 2**16  # channels


class ReusedClassifier(BaseModel):
    """A teacher's classifier behind a projector, in the place of the network's own (SimKD, Chen et al., CVPR 2022).

    `map` is the module whose output `[B, channels, H, W]` is projected to `features` channels, by way of `middle`;
    `classifier` the linear layer that is replaced by one of `features` inputs. In between the network may only average
    over places. Three convolutions, 1x1, 3x3 and 1x1, each with BatchNorm and ReLU, are the projector.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["reused-classifier"] = "reused-classifier"
    map: str = Field(min_length=1)
    classifier: str = Field(min_length=1)
    channels: int = Field(ge=1, le=_MOST)
    middle: int = Field(ge=1, le=_MOST)
    features: int = Field(ge=1, le=_MOST)
    classes: int = Field(ge=1, le=_MOST)
    bias: bool = True

    def apply(self, network: nn.Module) -> None:
        """Change a bare network in place; the new layers are on its device, with PyTorch's own initial weights.

        Raises:
            UsageError: it has no such modules.
        """
        modules = dict(network.named_modules())
        if missing := [path for path in (self.map, self.classifier) if path not in modules]:
            raise UsageError(f"the network has no module {missing[0]!r}")
        device = next(network.parameters()).device
        with torch.device("meta" if device.type == "meta" else "cpu"):
            projected = Projected(modules[self.map], self)
            classifier = nn.Linear(self.features, self.classes, bias=self.bias)
        for path, module in ((self.map, projected), (self.classifier, classifier)):
            parent, _, name = path.rpartition(".")
            setattr(network.get_submodule(parent), name, module.train(network.training).to(device))


Change = ReusedClassifier


class Projected(nn.Module):
    """A module and the projector of what it returns, `[B, change.features, H, W]`."""

    def __init__(self, inner: nn.Module, change: ReusedClassifier) -> None:
        super().__init__()
        self.change, self.inner = change, inner
        sizes = (
            (change.channels, change.middle, 1),
            (change.middle, change.middle, 3),
            (change.middle, change.features, 1),
        )
        self.projector = nn.Sequential(
            *(
                nn.Sequential(
                    nn.Conv2d(before, after, kernel, padding=kernel // 2, bias=False), nn.BatchNorm2d(after), nn.ReLU()
                )
                for before, after, kernel in sizes
            )
        )

    def forward(self, images: Tensor) -> Tensor:
        projected: Tensor = self.projector(self.inner(images))
        return projected


def changes_of(network: nn.Module) -> tuple[Change, ...]:
    """Return what was changed in a network, in the order in which it is done again."""
    return tuple(module.change for module in network.modules() if isinstance(module, Projected))
