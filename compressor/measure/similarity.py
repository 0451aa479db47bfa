"""How alike the decision boundaries of two networks are, by the ways that lead to them: MagSim and AngSim."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from compressor.attack import CROSSED, BoundaryAttack, as_found
from compressor.measure.scores import Split, first

# Where a walk ends decides its length. A published walk that crosses in one step is `step_size` times the gap of the
# logits long, wherever the boundary is: a student with half the logits and the same boundary would have MagSim 0.5.
WALK = BoundaryAttack(walk="tight")
TARGETS = 9  # classes that an image is walked to, at most: all others of ten, and a bound on what a thousand cost
CHUNK = 64  # walks side by side


class BoundarySimilarity(NamedTuple):
    """How alike two networks' boundaries are around some images: 1 is the same.

    `magnitude` is MagSim in `[0, 1]`, `angle` is AngSim in `[-1, 1]`, both means over the `counted` walks; NaN when
    there is none. `walks` is how many there could be: images times targets.
    """

    magnitude: float
    angle: float
    counted: int
    walks: int


@dataclass(frozen=True, eq=False, kw_only=True)
class SimilaritySet:
    """The teacher, and the images `[N, C, H, W]` of classes `labels` `[N]` around which boundaries are compared.

    `scale` `[C]` is the unit of the walks, the standard deviation of the data.
    """

    teacher: nn.Module
    images: Tensor
    labels: Tensor
    scale: Tensor

    def similarity(self, network: nn.Module) -> BoundarySimilarity:
        """Return how alike the boundaries of the teacher and of another network are."""
        return boundary_similarity(
            self.teacher, network, self.images, self.labels, attack=WALK, scale=self.scale, targets=TARGETS
        )


def similarity_set(
    teacher: nn.Module, split: Split, *, count: int, std: Tensor, seed: int, device: torch.device | str
) -> SimilaritySet:
    """Return up to `count` images of a split, at least one, which `seed` decides."""
    parts = list(first(split, min(count, len(split)), CHUNK, seed=seed))
    images, labels = (torch.cat(column).to(device) for column in zip(*parts, strict=True))
    return SimilaritySet(teacher=teacher, images=images, labels=labels, scale=std.to(device))


def boundary_similarity(
    teacher: nn.Module,
    student: nn.Module,
    images: Tensor,
    base: Tensor,
    *,
    attack: BoundaryAttack,
    scale: Tensor,
    targets: int | None = None,
    chunk: int = CHUNK,
) -> BoundarySimilarity:
    """Walk images to other classes in both networks and compare the two ways, in normalised units.

    With the ways `t` and `s` from an image to where it crossed, MagSim is the mean of `min(|t|, |s|) / max(|t|, |s|)`
    and AngSim of the cosine between them. The paper averages over all images and classes and does not say what a walk
    that ends elsewhere counts: here only pairs where both walks crossed into the class asked for are counted, and
    reported how many. Images that either network puts in another class than `base` have no such walk.

    Args:
        images: `[B, C, H, W]` in `[0, 1]`, at least one.
        base: their classes, `[B]` int64.
        scale: `[C]`, see `BoundaryAttack`.
        targets: how many classes each image is walked to, the teacher's likeliest; None for all others.

    Source: Heo et al., AAAI 2019, "similarity of decision boundaries".
    """
    with as_found(teacher), as_found(student), torch.no_grad():
        ours, theirs = (
            torch.cat([network(part) for part in images.split(chunk)]).float() for network in (teacher, student)
        )
    inside = (ours.argmax(dim=1) == base) & (theirs.argmax(dim=1) == base)
    others = ours.shape[1] - 1
    wanted = others if targets is None else min(targets, others)
    likely = ours.scatter(1, base.unsqueeze(1), -torch.inf).topk(wanted, dim=1).indices  # [B, W]
    image = inside.nonzero().repeat_interleave(wanted, dim=0).squeeze(1)  # [P]
    ratios, cosines = [images.new_empty(0)], [images.new_empty(0)]
    for places, goals in zip(image.split(chunk), likely[inside].flatten().split(chunk), strict=True):
        start, unit = images[places], scale.to(images).view(1, -1, 1, 1)
        ends = [attack(network, start, base[places], goals, scale=scale) for network in (teacher, student)]
        both = (ends[0].crossed == CROSSED) & (ends[1].crossed == CROSSED)
        ways = [((end.images - start) / unit)[both].flatten(1) for end in ends]
        lengths = torch.stack([way.norm(dim=1) for way in ways])  # [2, P']
        ratios.append(lengths.amin(dim=0) / lengths.amax(dim=0))
        cosines.append(((ways[0] * ways[1]).sum(dim=1) / lengths.prod(dim=0)).clamp(-1, 1))
    ratio, cosine = torch.cat(ratios), torch.cat(cosines)
    return BoundarySimilarity(ratio.mean().item(), cosine.mean().item(), len(ratio), len(images) * wanted)
