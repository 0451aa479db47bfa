"""FGSM and PGD: images moved within a small distance to be decided wrongly, or as far as can be from a teacher."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from compressor.attack.slope import Value, as_found, ball, climb, loss, slope

Start = Literal["uniform", "normal"]
NORMAL = 1e-3  # standard deviation of a normal start, in pixels: off the image, where a divergence has no slope


@dataclass(frozen=True, kw_only=True)
class PGD:
    """Climb a value of a network's logits by signed steps, within `epsilon` of each pixel and within `[0, 1]`.

    Lengths are in pixels. A `uniform` start is anywhere in the ball (Madry et al., ICLR 2018), a `normal` one hardly
    off the image, as the authors of RSLAD and AdaAD begin.
    """

    epsilon: float = 8 / 255
    steps: int = 10
    step_size: float = 2 / 255
    start: Start = "uniform"

    def __call__(self, network: nn.Module, images: Tensor, value: Value, *, generator: torch.Generator) -> Tensor:
        """Return the moved images; none of the arguments is changed, and `network` is left exactly as found.

        It answers in eval mode, and under autocast in its precision. An image where the value is flat stays at its
        start.

        Args:
            value: what to climb, such as `slope.loss(labels)`: the cross entropy with the labels.
        """
        bounds = ball(images, self.epsilon)
        shape, place = images.shape, generator.device
        if self.start == "uniform":
            noise = self.epsilon * (2 * torch.rand(shape, generator=generator, device=place) - 1)
        else:
            noise = NORMAL * torch.randn(shape, generator=generator, device=place)
        start = (images.detach() + noise.to(images)).clamp(*bounds)
        return _raised(network, start, value, [self.step_size] * self.steps, bounds)


def fgsm(network: nn.Module, images: Tensor, labels: Tensor, epsilon: float) -> Tensor:
    """Move every pixel by `epsilon` along the sign of the gradient of the cross entropy, within `[0, 1]`.

    The network is left as found. Source: Goodfellow et al., ICLR 2015.
    """
    return _raised(network, images, loss(labels), [epsilon], ball(images, epsilon))


def pgd(
    network: nn.Module,
    images: Tensor,
    labels: Tensor,
    epsilon: float,
    *,
    generator: torch.Generator,
    steps: int = 20,
    step: float | None = None,
) -> Tensor:
    """Climb the cross entropy from a random start, within `epsilon` of each pixel and within `[0, 1]`.

    The network is left as found. `step` is `epsilon / 4` by default, so 20 steps of 8/255 are what is published as
    PGD-20. Source: Madry et al., ICLR 2018.
    """
    attack = PGD(epsilon=epsilon, steps=steps, step_size=epsilon / 4 if step is None else step)
    return attack(network, images, loss(labels), generator=generator)


def _raised(
    network: nn.Module, images: Tensor, value: Value, lengths: list[float], bounds: tuple[Tensor, Tensor]
) -> Tensor:
    """Return the images after signed steps up a value."""
    with as_found(network):
        for moved in climb(images, lambda here: slope(network, here, value).gradient, lengths, bounds):
            images = moved
    return images
