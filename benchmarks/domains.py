"""Make another domain of a data set: the same images under a fixed corruption, as a folder.

    python benchmarks/domains.py --data folder:cifar10 --kind contrast --out cifar10-contrast
    compress distill --teacher resnet20.pt --student resnet8 --method kd-uda --data folder:cifar10 \
        --target folder:cifar10-contrast

Writes `OUT/{train,test}/CLASS/NUMBER.png`, a folder that `--target` takes. What is done to an image follows from the
kind, its split and its number alone, so that everyone gets the same bytes. The kinds are those that CIFAR-10-C
(Hendrycks and Dietterich, ICLR 2019) calls so, in strengths of our own:

    contrast   0.3 of the distance from the image's mean
    noise      Gaussian, of standard deviation 0.1 in pixels of [0, 1]
    blur       Gaussian, of a standard deviation of 1 pixel
"""

import argparse
import hashlib
from collections.abc import Callable
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2.functional import gaussian_blur

from compressor.data import Dataset, Split, open_data
from compressor.recipe import Data

Corruption = Callable[[Tensor, torch.Generator], Tensor]


def contrast(images: Tensor, generator: torch.Generator) -> Tensor:  # noqa: ARG001 (as the others)
    mean = images.mean(dim=(1, 2, 3), keepdim=True)
    return mean + 0.3 * (images - mean)


def noise(images: Tensor, generator: torch.Generator) -> Tensor:
    return images + 0.1 * torch.randn(images.shape, generator=generator)


def blur(images: Tensor, generator: torch.Generator) -> Tensor:  # noqa: ARG001 (as the others)
    blurred: Tensor = gaussian_blur(images, [7, 7], [1.0, 1.0])
    return blurred


KINDS: dict[str, Corruption] = {"contrast": contrast, "noise": noise, "blur": blur}


def main() -> None:
    parser = argparse.ArgumentParser(description="Write a data set under a fixed corruption as a folder.")
    parser.add_argument("--data", required=True, help="a data set's name or folder:PATH")
    parser.add_argument("--kind", required=True, choices=sorted(KINDS))
    parser.add_argument("--out", required=True, type=Path, help="a folder that is not there yet")
    parser.add_argument("--limit", type=int, help="at most so many images of each split")
    options = parser.parse_args()
    options.out.mkdir(parents=True)
    data = open_data(Data(name=options.data, validation=0), device=torch.device("cpu"))
    for split in ("train", "test"):
        count = write(getattr(data, split), data, split, options.kind, options.out, options.limit)
        print(f"{options.out / split}: {count:,} images")


def write(images: Split, data: Dataset, split: str, kind: str, out: Path, limit: int | None = None) -> int:
    """Write the images of a split, and return how many they are."""
    for name in data.classes:
        (out / split / name).mkdir(parents=True, exist_ok=True)
    number = 0
    for batch in images.batches(256):
        for image, label in zip(batch.images.contiguous(), batch.labels.tolist(), strict=True):
            if number == limit:
                return number
            path = out / split / data.classes[label] / f"{number:05}.png"
            Image.fromarray(corrupted(image, kind, split, number).squeeze(-1).numpy()).save(path)
            number += 1
    return number


def corrupted(image: Tensor, kind: str, split: str, number: int) -> Tensor:
    """Return an image `[C, H, W]` in `[0, 1]` as bytes `[H, W, C]`, corrupted."""
    digest = hashlib.sha256(f"{kind}/{split}/{number}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:4], "big"))
    changed = KINDS[kind](image.unsqueeze(0), generator).squeeze(0).clamp(0, 1)
    return (changed * 255).round().to(torch.uint8).permute(1, 2, 0)


if __name__ == "__main__":
    main()
