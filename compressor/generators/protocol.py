"""The contract of a generator: noise, and classes where it is made for them, to images as every network takes them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, assert_never

import torch
from torch import Tensor, nn

End = Literal["batchnorm", "tanh", "sigmoid"]


@dataclass(frozen=True)
class ImageKind:
    """What images a generator is to make.

    `mean` and `std` are those of the networks that will see them, a value a channel, in pixels of `[0, 1]`. With
    `classes` above 0 the generator is told of each image what it is to be of.
    """

    shape: tuple[int, int, int]
    mean: Sequence[float]
    std: Sequence[float]
    classes: int = 0


class Generator(Protocol):
    """Frozen hyper-parameters: a `Config`, one of `GENERATORS` or a plug-in; `kind` is the name in the recipe.

    `noise` is the length of the vectors that it starts from. `build` returns a module that maps noise `[B, noise]`,
    drawn from `N(0, I)`, to images `[B, C, H, W]`. One that was built for classes is called with a second tensor,
    `[B, classes]`: the share of each class in each image, such as a one-hot row. In eval mode images lie in `[0, 1]`;
    in training those of a generator that ends in BatchNorm may lie outside (see `Border`).
    """

    @property
    def kind(self) -> str: ...
    @property
    def noise(self) -> int: ...

    def build(self, images: ImageKind) -> nn.Module: ...


class Border(nn.Module):
    """What maps a generator's last channels to pixels; the published forms live in other spaces.

    - `sigmoid`: pixels as they come.
    - `tanh`: from `(-1, 1)` to `(0, 1)`.
    - `batchnorm`: tanh, then BatchNorm without scale and shift, as DFAD has it: images have mean 0 and variance 1 over
      each batch, in the space that the networks see after their normalisation. They become pixels by `x * std + mean`.
      In training they are not clamped, since no gradient passes where a pixel is clamped; in eval mode they are.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, end: End, images: ImageKind) -> None:
        super().__init__()
        channels = images.shape[0]
        self.end: End = end
        self.norm = nn.BatchNorm2d(channels, affine=False) if end == "batchnorm" else nn.Identity()
        for name, values in (("mean", images.mean), ("std", images.std)):
            column = torch.tensor(values, dtype=torch.float32).view(1, -1, 1, 1)
            self.register_buffer(name, column, persistent=False)

    def forward(self, raw: Tensor) -> Tensor:
        if self.end == "sigmoid":
            return raw.sigmoid()
        if self.end == "tanh":
            return (raw.tanh() + 1) / 2
        if self.end == "batchnorm":
            pixels: Tensor = self.norm(raw.tanh()) * self.std + self.mean
            return pixels if self.training else pixels.clamp(0, 1)
        assert_never(self.end)


def code(noise: Tensor, classes: Tensor | None, expected: int) -> Tensor:
    """Return what a generator starts from, `[B, noise + classes]`.

    Raises:
        ValueError: classes are given to a generator that was built for `expected` others, or are missing.
    """
    given = 0 if classes is None else classes.shape[1]
    if given != expected:
        raise ValueError(f"the generator was built for {expected} classes and is given {given}")
    return noise if classes is None else torch.cat([noise, classes.to(noise.dtype)], dim=1)
