"""Images made hard on purpose: walked to the teacher's boundary, or attacked, then replayed anywhere.

An artifact has no gradients, so such images are made once on a PyTorch network; every artifact then answers the same
ones. The network they are made on is left exactly as found: no mode, buffer or `.grad` changes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from compressor.attack import NOT_CROSSED, BoundaryAttack, as_found, autoattack, fgsm, pgd, sample_targets
from compressor.errors import InputRejected
from compressor.measure.scores import Floats, Labels, Split, agreement, first, infer
from exporters import Runner


@dataclass(frozen=True, kw_only=True)
class BoundarySet:
    """Test images walked just past the teacher's decision boundary.

    `images` `[M, C, H, W]` in `[0, 1]`, `labels` the class each was walked away from, `targets` the class it was walked
    towards, `crossed` whether it came out there or in a third class (as `compressor.attack` says it), `teacher_logits`
    `[M, K]` what the teacher says of it now. `walked` were tried; those that stayed in their class are left out.
    """

    images: Floats
    labels: Labels
    targets: Labels
    crossed: NDArray[np.int8]
    teacher_logits: Floats
    walked: int


@dataclass(frozen=True, kw_only=True)
class AdversarialSet:
    """The same images attacked twice, `fgsm` and `pgd` `[M, C, H, W]` in `[0, 1]`, no pixel moved beyond `epsilon`."""

    fgsm: Floats
    pgd: Floats
    labels: Labels
    epsilon: float


@dataclass(frozen=True, kw_only=True)
class AutoAttackSet:
    """Images after AutoAttack, as `AdversarialSet`, by `attacks`; `doubts` are what the package warns of."""

    images: Floats
    labels: Labels
    epsilon: float
    attacks: tuple[str, ...]
    doubts: tuple[str, ...]

    @property
    def sentence(self) -> str:
        """How many images there are, what they went through, and how far that is to be trusted."""
        doubts = f" (it warns: {'; '.join(self.doubts)})" if self.doubts else ""
        return f"{len(self.labels)} by AutoAttack ({', '.join(self.attacks)}){doubts}"


@dataclass(frozen=True, kw_only=True)
class Robustness:
    """Top-1 in percent on adversarial images."""

    fgsm_top1: float
    pgd_top1: float
    samples: int


def boundary_set(
    teacher: nn.Module,
    split: Split,
    *,
    count: int,
    std: Tensor,
    seed: int,
    device: torch.device | str,
    attack: BoundaryAttack | None = None,
    batch_size: int = 64,
) -> BoundarySet:
    """Walk up to `count` images that the teacher gets right to its boundary and keep those that crossed it.

    `seed` alone decides which images, and towards which class: it is drawn from the teacher's other probabilities.

    Args:
        count: images to walk, at least one; fewer where the teacher gets fewer right.
        std: per-channel standard deviation `[C]`, the unit of the attack's steps.

    Raises:
        InputRejected: the teacher gets no image right.
    """
    attack = attack or BoundaryAttack()
    generator = torch.Generator().manual_seed(seed)
    kept: list[tuple[Tensor, ...]] = []
    walked = 0
    for images, labels in first(split, len(split), batch_size, seed=seed):
        images, labels = images.to(device), labels.to(device)
        with as_found(teacher), torch.no_grad():
            logits = teacher(images)
        chosen = (logits.argmax(dim=1) == labels).nonzero().flatten()[: count - walked]
        if not len(chosen):
            continue
        base = labels[chosen]
        # Drawn on the host, so that every device walks towards the same classes.
        target = sample_targets(logits[chosen].cpu(), base.cpu(), generator).to(device)
        samples = attack(teacher, images[chosen], base, target, scale=std.to(device))
        out = samples.crossed != NOT_CROSSED
        columns = (samples.images, base, target, samples.crossed, samples.logits)
        kept.append(tuple(column[out] for column in columns))
        walked += len(chosen)
        if walked == count:
            break
    return _boundary_set(kept, walked)


def boundary_between(runner: Runner, images: Floats, *, count: int, seed: int, steps: int = 12) -> Floats:
    """Bisect between pairs of images `[N, C, H, W]` that the runner decides differently; needs answers alone.

    For artifacts without gradients. Each pair's line crosses the boundary at least once; `steps` halvings leave a point
    within `2**-steps` of the way behind one crossing.

    Returns:
        At most `count` images `[M, C, H, W]`, decided as the second image of their pair; none where all are decided
        alike.
    """
    decided = infer(runner, images).argmax(axis=1)
    order = np.random.default_rng(seed).permutation(len(images))
    pairs = [(a, b) for a, b in zip(order, np.roll(order, 1), strict=True) if decided[a] != decided[b]][:count]
    if not pairs:
        return np.zeros((0, *images.shape[1:]), np.float32)
    start, end = (images[list(side)] for side in zip(*pairs, strict=True))
    goal = decided[[b for _, b in pairs]]
    low, high = np.zeros(len(pairs)), np.ones(len(pairs))

    def between(share: NDArray[np.float64]) -> Floats:
        weight = share.astype(np.float32)[:, None, None, None]
        return (1 - weight) * start + weight * end

    for _ in range(steps):
        middle = (low + high) / 2
        beyond = infer(runner, between(middle)).argmax(axis=1) == goal
        low, high = np.where(beyond, low, middle), np.where(beyond, middle, high)
    return between(high)


def boundary_agreement(logits: Floats, teacher_logits: Floats) -> float | None:
    """Return the fraction of boundary samples on which artifact and teacher decide for the same class.

    This is a hard measure: the samples lie just past the teacher's boundary, where its two best logits are nearly
    equal, so that a coin between these two classes scores one half, and even a faithful student scores well below its
    ordinary agreement. Compare it between artifacts on the same samples. None when there are no samples.
    """
    return agreement(logits, teacher_logits) if len(logits) else None


def adversarial_set(
    network: nn.Module,
    split: Split,
    *,
    count: int,
    epsilon: float,
    seed: int,
    device: torch.device | str,
    batch_size: int = 64,
) -> AdversarialSet:
    """Attack `count` images of a split, at least one, chosen by `seed`, on a network that has gradients.

    An artifact has none, so the images are made on the PyTorch student and replayed through every artifact. For these
    they are transferred attacks: the accuracy is an upper bound of what an attacker of the artifact itself would leave.
    """
    _require_images(split)
    generator = torch.Generator().manual_seed(seed)
    made: list[tuple[Tensor, ...]] = []
    for images, labels in first(split, min(count, len(split)), batch_size, seed=seed):
        images, labels = images.to(device), labels.to(device)
        moved = pgd(network, images, labels, epsilon, generator=generator)
        made.append((fgsm(network, images, labels, epsilon), moved, labels))
    single, several, true = _joined(made)
    return AdversarialSet(fgsm=single, pgd=several, labels=true, epsilon=epsilon)


def autoattack_set(
    network: nn.Module,
    split: Split,
    *,
    count: int,
    epsilon: float,
    seed: int,
    device: torch.device | str,
    batch_size: int = 64,
) -> AutoAttackSet:
    """Attack images as `adversarial_set`, by AutoAttack; of the same seed, those are the same images.

    Raises:
        EnvironmentMissing: the package is not installed.
    """
    _require_images(split)
    batches = list(first(split, min(count, len(split)), batch_size, seed=seed))
    images, labels = (torch.cat(column).to(device) for column in zip(*batches, strict=True))
    found = autoattack.attack(network, images, labels, epsilon, seed=seed, batch_size=batch_size)
    moved, true = _joined([(found.images, labels)])
    return AutoAttackSet(images=moved, labels=true, epsilon=epsilon, attacks=found.attacks, doubts=found.doubts)


def robust_accuracy(runner: Runner, attacked: AdversarialSet, batch_size: int = 256) -> Robustness:
    """Return the accuracies of an artifact on adversarial images."""
    right = [
        int((infer(runner, images, batch_size).argmax(axis=1) == attacked.labels).sum())
        for images in (attacked.fgsm, attacked.pgd)
    ]
    samples = len(attacked.labels)
    return Robustness(fgsm_top1=100 * right[0] / samples, pgd_top1=100 * right[1] / samples, samples=samples)


def autoattack_accuracy(runner: Runner, attacked: AutoAttackSet, batch_size: int = 256) -> float:
    """Return the top-1 of an artifact in percent on what AutoAttack left of the images."""
    right = infer(runner, attacked.images, batch_size).argmax(axis=1) == attacked.labels
    return 100 * int(right.sum()) / len(right)


def _require_images(split: Split) -> None:
    if not len(split):
        raise InputRejected("there are no images to attack", hint="give a split that has images")


def _boundary_set(kept: Sequence[tuple[Tensor, ...]], walked: int) -> BoundarySet:
    if not kept:
        raise InputRejected(
            "the teacher gets no image right, so none can be walked to its boundary",
            hint="check the teacher's normalisation and class order, or set validate.boundary_samples to 0",
        )
    images, labels, targets, crossed, logits = _joined(kept)
    return BoundarySet(
        images=images, labels=labels, targets=targets, crossed=crossed, teacher_logits=logits, walked=walked
    )


def _joined(parts: Sequence[tuple[Tensor, ...]]) -> tuple[NDArray[Any], ...]:
    return tuple(torch.cat(column).cpu().contiguous().numpy() for column in zip(*parts, strict=True))
