"""Where the walks of boundary supporting samples end: the gap that is left, how far they went, what each kind costs.

    python benchmarks/walks.py --teacher resnet26_cifar10.pt --data folder:cifar10 \
        --mean 0.4914,0.4822,0.4465 --std 0.2023,0.1994,0.2010

Walks training images that the teacher is right about, each to a target that is drawn as in training. A sample lies on
the boundary where the gap between its class and the best other one is 0. Costs are network calls an image, which do not
depend on the machine: a forward pass counts one, forward and backward two. Prints a table, asserts nothing.
"""

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import get_args

import torch
from torch import Tensor, nn

from compressor import checkpoint
from compressor.attack import BoundaryAttack, sample_targets, summarise
from compressor.attack.boundary import Walk
from compressor.batch import Batch
from compressor.data import open_data
from compressor.progress import Tell
from compressor.recipe import Data, Teacher

TEMPERATURE = 3.0
SHARES = (0.05, 0.5, 0.95)


class Counted(nn.Module):
    """A network that counts what it is asked: images forward, and images whose gradient was taken."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.cost = 0

    def forward(self, images: Tensor) -> Tensor:
        self.cost += len(images) * (2 if images.requires_grad else 1)
        logits: Tensor = self.network(images)
        return logits


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", type=Path, required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--mean", type=numbers)
    parser.add_argument("--std", type=numbers)
    parser.add_argument("--images", type=int, default=512)
    options = parser.parse_args()
    tell = Tell()
    network = checkpoint.load_teacher(Teacher(checkpoint=options.teacher, mean=options.mean, std=options.std))
    data = open_data(Data(name=options.data), device=torch.device("cpu"))
    tell(network.summary)
    images, base = right(network.module.eval(), data.train.batches(256, seed=0), options.images)
    with torch.no_grad():
        target = sample_targets(network.module(images), base, torch.Generator().manual_seed(0))
    scale = torch.tensor(network.std)
    print(f"{len(images)} training images that the teacher is right about, temperature {TEMPERATURE:g}\n")
    print("| walk | crossed | third class | gap 5 % | median | 95 % | length | largest pixel change | entropy | cost |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|")
    for walk in get_args(Walk):
        counted = Counted(network.module)
        samples = BoundaryAttack(walk=walk)(counted, images, base, target, scale=scale)
        found = summarise(images, samples, base, scale=scale)
        others = samples.logits.scatter(1, base.unsqueeze(1), -torch.inf).amax(dim=1)
        gaps = samples.logits.gather(1, base.unsqueeze(1)).squeeze(1) - others
        low, middle, high = gaps.quantile(torch.tensor(SHARES)).tolist()
        soft = (samples.logits / TEMPERATURE).log_softmax(dim=1)
        entropy = -(soft.exp() * soft).sum(dim=1).median()
        print(
            f"| {walk} | {100 * found.crossed:.1f} % | {100 * found.third:.1f} % "
            f"| {low:.2f} | {middle:.2f} | {high:.2f} "
            f"| {found.length:.2f} | {255 * found.change:.1f}/255 | {entropy:.2f} | {counted.cost / len(images):.1f} |"
        )


def right(network: nn.Module, batches: Iterable[Batch], count: int) -> tuple[Tensor, Tensor]:
    """Return the first `count` images that the network is right about, and their classes."""
    images, labels, found = [], [], 0
    for batch in batches:
        with torch.no_grad():
            inside = network(batch.images).argmax(dim=1) == batch.labels
        images.append(batch.images[inside])
        labels.append(batch.labels[inside])
        found += int(inside.sum())
        if found >= count:
            break
    return torch.cat(images)[:count], torch.cat(labels)[:count]


def numbers(text: str) -> tuple[float, ...]:
    return tuple(float(part) for part in text.split(","))


if __name__ == "__main__":
    main()
