"""What is done to photographs one by one, where they are read: random resized crops, colour jitter, RandAugment."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from compressor.data.images import Pixels
from compressor.recipe.schema.augment import Jitter, RandAugment

_SIDES = (3 / 4, 4 / 3)  # of a crop, width to height


@dataclass(frozen=True)
class Photo:
    """What an image becomes, `size` (height, width) large. With `scale`, a part of so much of its area at random.

    Source: random resized crops, Szegedy et al. (CVPR 2015, arXiv:1409.4842), section 6, as torchvision has them.
    """

    size: tuple[int, int]
    scale: tuple[float, float] | None = None
    jitter: Jitter | None = None
    rand_augment: RandAugment | None = None

    @property
    def changes(self) -> bool:
        """Whether anything is done."""
        return (self.scale, self.jitter, self.rand_augment) != (None, None, None)

    def __call__(self, pixels: Pixels, seed: int) -> Pixels:
        """Return an image `[H, W, C]` uint8 changed, by the seed alone, as `[height, width, C]`.

        Torch's generator is left as it was.
        """
        image = torch.tensor(pixels).permute(2, 0, 1)
        before = torch.get_rng_state()
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would change those of all devices
        try:
            changed = self._steps(image)
        finally:
            torch.set_rng_state(before)
        return changed.permute(1, 2, 0).contiguous().numpy()

    @cached_property
    def _steps(self) -> Callable[[Tensor], Tensor]:
        from torchvision.transforms import v2  # slow to import, and only photographs need it

        steps: list[Callable[[Tensor], Tensor]] = []
        if self.scale is not None:
            steps.append(v2.RandomResizedCrop(self.size, scale=self.scale, ratio=_SIDES))
        if self.rand_augment is not None:
            steps.append(v2.RandAugment(self.rand_augment.operations, self.rand_augment.magnitude))
        if self.jitter is not None:
            wanted = self.jitter
            steps.append(v2.ColorJitter(wanted.brightness, wanted.contrast, wanted.saturation, wanted.hue))
        chain: Callable[[Tensor], Tensor] = v2.Compose(steps)
        return chain
