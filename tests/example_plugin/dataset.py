"""A data set of one's own: `--data example_plugin.dataset:stripes`."""

import torch
from torch.utils.data import Dataset


class Stripes(Dataset):
    """Grey images of 16 x 16 pixels in noise: stripes that lie, stand, or cross. Label 0, 1 or 2."""

    classes = ("lying", "standing", "crossed")

    def __init__(self, count: int, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.targets = torch.arange(count) % 3
        self.noise = torch.rand(count, 1, 16, 16, generator=generator)

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        bright = (torch.arange(16) % 4 < 2).float()
        lying, standing = bright[:, None].expand(16, 16), bright[None, :].expand(16, 16)
        label = int(self.targets[index])
        pattern = (lying, standing, torch.maximum(lying, standing))[label]
        return (0.6 * pattern + 0.4 * self.noise[index]).mul(255).round().div(255), label


def stripes() -> dict[str, Dataset]:
    """Return 300 images to train on and 90 to test on."""
    return {"train": Stripes(300, seed=0), "test": Stripes(90, seed=1)}
