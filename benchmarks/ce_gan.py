"""CE-GAN by itself: each single loss, evolution without crossover, and with it, at equal generator steps.

    python benchmarks/ce_gan.py gaussians --seeds 5 --steps 10000 --out gaussians.json
    python benchmarks/ce_gan.py images --data folder:MNIST --classifier runs/lenet5 --steps 5000 --out images.json

Source: Li et al., IJCNN 2021 (arXiv:2101.11186). A generation of three mutants and an offspring takes four generator
steps, so it gets a quarter of the generations that a single loss gets. Each generation is followed by discriminator
steps, as many as it took generator steps.

`gaussians` are 25 modes on a 5 x 5 grid, 2 apart, of standard deviation 0.05: a mode is covered where at least 20 of
10,000 samples lie within 3 standard deviations of it, `good` is the share of samples that lie so near to any. `images`
are scored by a classifier: `modes`, the classes that have at least 1 % of its predictions, and `score`, the exponential
of the mutual information of image and prediction (Salimans et al., NeurIPS 2016, with this classifier in Inception's
place: at most the number of classes). Writes small JSON and prints a Markdown table.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator
from itertools import cycle
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from compressor import checkpoint
from compressor.data import open_data
from compressor.generators import DCGAN, Evolution, ImageKind, Score
from compressor.recipe import Data

SPREAD, SPACING, SIDE = 0.05, 2.0, 5
PENALTY = 10.0
FIT = 256  # noises that a generation is scored on

# What a mutant minimises, given the discriminator's logits of its images.
LOSSES: dict[str, Callable[[Tensor], Tensor]] = {
    "nsgan": lambda made: F.softplus(-made).mean(),
    "vanilla": lambda made: -F.softplus(made).mean(),
    "lsgan": lambda made: (made - 1).square().mean(),
}
VARIANTS: dict[str, tuple[tuple[str, ...], bool]] = {
    **{name: ((name,), False) for name in LOSSES},
    "evolution": (tuple(LOSSES), False),
    "ce-gan": (tuple(LOSSES), True),
}


def modes() -> Tensor:
    """Return the centres, `[25, 2]`."""
    line = (torch.arange(SIDE) - SIDE // 2) * SPACING
    return torch.cartesian_prod(line, line)


def gaussians(batch: int, generator: torch.Generator) -> Iterator[Tensor]:
    centres = modes()
    while True:
        chosen = torch.randint(len(centres), (batch,), generator=generator)
        yield centres[chosen] + SPREAD * torch.randn(batch, 2, generator=generator)


def dense(inputs: int, outputs: int, width: int = 512) -> nn.Module:
    """Return the network of the toy problems: three hidden layers."""
    layers: list[nn.Module] = []
    for _ in range(3):
        layers += [nn.Linear(inputs, width), nn.ReLU()]
        inputs = width
    return nn.Sequential(*layers, nn.Linear(inputs, outputs))


def convolutional(channels: int, width: int) -> nn.Module:
    """Return a discriminator of 28x28 or 32x32 images, without BatchNorm: the penalty is one of single images."""
    return nn.Sequential(
        nn.Conv2d(channels, width, 4, stride=2, padding=1),
        nn.LeakyReLU(0.2),
        nn.Conv2d(width, 2 * width, 4, stride=2, padding=1),
        nn.LeakyReLU(0.2),
        nn.Conv2d(2 * width, 4 * width, 4, stride=2, padding=1),
        nn.LeakyReLU(0.2),
        nn.Flatten(),
        nn.LazyLinear(1),
    )


def train(
    generator: nn.Module,
    discriminator: nn.Module,
    real: Iterator[Tensor],
    variant: str,
    *,
    noise: int,
    steps: int,
    lr: float,
    drawing: torch.Generator,
) -> tuple[nn.Module, int]:
    """Train for `steps` generator steps, and return the generator and how many generations that were."""
    mutations, crossover = VARIANTS[variant]
    evolution = Evolution(generator, mutations, crossover=crossover)
    adam = {
        name: evolution.optimizer(name, lambda given: torch.optim.Adam(given, lr=lr, betas=(0.5, 0.999)))(
            copy.parameters()
        )
        for name, copy in evolution.copies.items()
    }
    judging = torch.optim.Adam(discriminator.parameters(), lr=lr, betas=(0.5, 0.999))
    taken = generations = 0
    while taken < steps:
        batch = len(next(real))
        first, second = (torch.randn(count, noise, generator=drawing) for count in (batch, FIT))

        def score(images: Tensor) -> Score:
            logits = discriminator(images).flatten()
            return Score(logits, logits.mean())

        turns = evolution.generation(
            lambda network, draw=first: network(draw),
            lambda network, draw=second: network(draw),
            {name: lambda images, loss=LOSSES[name]: loss(discriminator(images)) for name in mutations},
            score,
        )
        stepped = 0
        for name, loss in turns:
            adam[name].zero_grad()
            loss.backward()
            adam[name].step()
            stepped += 1
        for _ in range(stepped):
            with torch.no_grad():
                made = evolution.survivor(torch.randn(batch, noise, generator=drawing))
            judging.zero_grad()
            judged(discriminator, next(real), made, drawing).backward()
            judging.step()
        taken, generations = taken + stepped, generations + 1
    return evolution.survivor, generations


def judged(discriminator: nn.Module, real: Tensor, made: Tensor, drawing: torch.Generator) -> Tensor:
    """Return the discriminator's cross-entropy, with a penalty on the norm of its gradient between both."""
    share = torch.rand(len(real), *[1] * (real.ndim - 1), generator=drawing)
    between = (share * real + (1 - share) * made).requires_grad_()
    (slope,) = torch.autograd.grad(discriminator(between).sum(), between, create_graph=True)
    penalty = (slope.flatten(1).norm(dim=1) - 1).square().mean()
    right = F.softplus(-discriminator(real)).mean() + F.softplus(discriminator(made)).mean()
    return right + PENALTY * penalty


def covered(samples: Tensor) -> dict[str, float]:
    """Return how many of the 25 modes samples `[10000, 2]` cover, and the share of good ones."""
    distance, nearest = torch.cdist(samples, modes()).min(dim=1)
    near = distance < 3 * SPREAD
    return {
        "modes": int((nearest[near].bincount(minlength=SIDE**2) >= 20).sum()),
        "good": near.float().mean().item(),
    }


def classified(images: Tensor, classifier: nn.Module) -> dict[str, float]:
    """Return the classes among images, and the score of their predictions."""
    with torch.no_grad():
        share = torch.cat([classifier(part) for part in images.split(256)]).softmax(dim=1)
    mean = share.mean(dim=0)
    information = (torch.special.xlogy(share, share) - torch.special.xlogy(share, mean)).sum(dim=1).mean()
    counts = share.argmax(dim=1).bincount(minlength=share.shape[1])
    return {"modes": int((counts >= 0.01 * len(images)).sum()), "score": information.exp().item()}


def toy(variant: str, seed: int, steps: int) -> tuple[dict[str, float], int]:
    torch.manual_seed(seed)
    drawing = torch.Generator().manual_seed(seed)
    real = gaussians(64, drawing)
    made, generations = train(dense(2, 2), dense(2, 1), real, variant, noise=2, steps=steps, lr=1e-4, drawing=drawing)
    with torch.no_grad():
        return covered(made(torch.randn(10_000, 2, generator=drawing))), generations


def pictures(
    variant: str, seed: int, steps: int, data: str, classifier: nn.Module, width: int
) -> tuple[dict[str, float], int]:
    torch.manual_seed(seed)
    drawing = torch.Generator().manual_seed(seed)
    opened = open_data(Data(name=data, channels=1 if data.startswith("folder:") else None), device=torch.device("cpu"))
    epochs = cycle(range(2**30))
    real = (
        batch.images for epoch in epochs for batch in opened.train.batches(32, epoch=epoch, seed=seed, drop_last=True)
    )
    channels = opened.input_shape[0]
    generator = DCGAN(width=width).build(ImageKind(opened.input_shape, (0.5,) * channels, (0.5,) * channels))
    discriminator = convolutional(channels, width)
    discriminator(next(real))  # tells its last layer the size of the images
    made, generations = train(generator, discriminator, real, variant, noise=100, steps=steps, lr=2e-4, drawing=drawing)
    made.eval()
    with torch.no_grad():
        images = torch.cat([made(torch.randn(100, 100, generator=drawing)) for _ in range(20)])
    return classified(images, classifier), generations


def table(rows: list[dict[str, float | str | int]]) -> str:
    """Return a Markdown table: mean and standard deviation over the seeds of each variant."""
    names = [key for key in rows[0] if key not in ("variant", "seed", "seconds")]
    lines = [f"| variant | {' | '.join(names)} | seeds |", f"|---|{'---:|' * (len(names) + 1)}"]
    for variant in dict.fromkeys(str(row["variant"]) for row in rows):
        own = [row for row in rows if row["variant"] == variant]
        cells = []
        for name in names:
            values = [float(row[name]) for row in own]
            spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
            cells.append(f"{statistics.mean(values):.2f}{spread}")
        lines.append(f"| {variant} | {' | '.join(cells)} | {len(own)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["gaussians", "images"])
    parser.add_argument("--steps", type=int, default=10_000, help="of the generator, mutants and offspring counted")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=list(VARIANTS))
    parser.add_argument("--data", default="mnist")
    parser.add_argument("--classifier", type=Path, help="of images: a checkpoint, or the folder of a run")
    parser.add_argument("--width", type=int, default=32, help="of the networks of images")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    if given.what == "images" and given.classifier is None:
        parser.error("images are scored by --classifier")
    classifier = None if given.classifier is None else checkpoint.load_network(given.classifier).module
    rows: list[dict[str, float | str | int]] = []
    for seed in range(given.seeds):
        for variant in given.variants:
            begun = time.perf_counter()
            if classifier is None or given.what == "gaussians":
                found, generations = toy(variant, seed, given.steps)
            else:
                found, generations = pictures(variant, seed, given.steps, given.data, classifier, given.width)
            seconds = round(time.perf_counter() - begun, 1)
            rows.append({"variant": variant, "seed": seed, **found, "generations": generations, "seconds": seconds})
            print(json.dumps(rows[-1]), flush=True)
    if given.out is not None:
        content = {"what": given.what, "steps": given.steps, "torch": torch.__version__, "rows": rows}
        given.out.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    print(table(rows))


if __name__ == "__main__":
    main()
