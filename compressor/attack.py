"""Boundary supporting samples: images walked just past a network's decision boundary, and what they tell.

Source: Heo, Lee, Yun, Choi, "Knowledge Distillation with Adversarial Samples Supporting Decision Boundary", AAAI 2019
(arXiv:1805.05532), and the authors' code. Where the two differ, it is said here what was chosen.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

# How a walk ended, the values of `BoundarySamples.crossed`: still in the base class, in the target class, in another.
NOT_CROSSED, CROSSED, THIRD = 0, 1, 2


class BoundarySamples(NamedTuple):
    """Where each of `B` walks ended. `crossed` says how; an image that did not cross is returned all the same."""

    images: Tensor  # [B, C, H, W] in [0, 1], channels last in memory
    logits: Tensor  # [B, K] the network's, at `images`
    crossed: Tensor  # [B] int8: NOT_CROSSED, CROSSED or THIRD
    steps: Tensor  # [B] int64, how often the image was moved


@dataclass(frozen=True, kw_only=True)
class BoundaryAttack:
    """Walk each image from its base class towards a target class until the network's answer first leaves the base.

    Every step goes against the unit gradient of the gap `L = logit[base] - logit[target]` and is `step_size * (L +
    margin)` long: `z <- z - step_size * (L + margin) * dL/dz / ||dL/dz||`. Lengths and gradients are in normalised
    units, `z = pixels / scale`, so the published step size means what it meant; the box is `[0, 1]` in pixels (the
    authors clamp the normalised value to ±2.5, which no image needs).
    """

    steps: int = 10
    step_size: float = 0.3
    margin: float = 1e-4  # keeps the step above zero on the boundary itself

    def __call__(
        self, network: nn.Module, images: Tensor, base: Tensor, target: Tensor, *, scale: Tensor
    ) -> BoundarySamples:
        """Return the walked images; none of the arguments is changed, and `network` is left exactly as found.

        An image stops on its own, whatever class it ended in; one whose gradient is zero, or that starts outside its
        base class, stays where it is. Precision is the caller's: under autocast the network runs in it, the gap and
        the images stay in the dtype of `images`.

        Args:
            images: `[B, C, H, W]` in `[0, 1]`.
            base, target: classes, `[B]` int64.
            scale: `[C]`, how many pixel units one normalised unit is: the standard deviation of the data.

        Raises:
            RuntimeError: called under `torch.inference_mode`, where there are no gradients.
        """
        if torch.is_inference_mode_enabled():
            raise RuntimeError("the boundary attack needs gradients: call it under no_grad, not inference_mode")
        # Channels last is a tenth faster on CPUs and the layout of tensor cores.
        walked = images.detach().clone(memory_format=torch.channels_last)
        unit = scale.to(images).view(1, -1, 1, 1)
        taken = torch.zeros_like(base)
        walking = torch.arange(len(images), device=images.device)
        logits = images.new_empty(0)
        stay = len(images) > 0  # whether most of the walking images are expected to need another step
        with as_found(network):
            for step in range(self.steps + 1):
                if step == self.steps or not stay:
                    # Most are expected across: look first, so that a graph is built for the few that are not.
                    with torch.no_grad():
                        answer = network(walked[walking]).to(images.dtype)
                    logits = _placed(logits, walking, answer, len(images))
                    walking = walking[answer.argmax(dim=1) == base[walking]]
                if step == self.steps or len(walking) == 0:
                    break
                here, start = walked[walking], base[walking]
                answer, gap, gradient = _slope(network, here, start, target[walking])
                logits = _placed(logits, walking, answer, len(images))
                gradient = gradient * unit  # [A, C, H, W] by the normalised image
                norm = gradient.flatten(1).norm(dim=1)  # [A]
                length = self.step_size * (gap + self.margin) / norm  # [A]
                moved = (here - length.view(-1, 1, 1, 1) * gradient * unit).clamp(0, 1)
                moving = ((answer.argmax(dim=1) == start) & (norm > 0) & norm.isfinite()).nonzero().squeeze(1)
                if len(moving) == 0:
                    break
                walking = walking[moving]
                walked[walking] = moved[moving]
                taken[walking] += 1
                # Were the gap linear, a step would leave `1 - step_size * norm` of it.
                stay = bool((self.step_size * norm[moving]).median() < 1)
        found = logits.argmax(dim=1)
        crossed = torch.where(found == target, CROSSED, THIRD).masked_fill(found == base, NOT_CROSSED)
        return BoundarySamples(walked, logits, crossed.to(torch.int8), taken)


@contextmanager
def as_found(network: nn.Module) -> Iterator[None]:
    """Ask `network` as it will be used, in eval mode and with fixed parameters, and restore every flag afterwards."""
    training = [module for module in network.modules() if module.training]
    trainable = [parameter for parameter in network.parameters() if parameter.requires_grad]
    try:
        for module in training:
            module.training = False  # not eval(), which networks override
        for parameter in trainable:
            parameter.requires_grad_(False)  # saves the weights' half of each backward pass
        yield
    finally:
        for module in training:
            module.training = True
        for parameter in trainable:
            parameter.requires_grad_(True)


def _slope(network: nn.Module, images: Tensor, base: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the logits `[A, K]`, the gap `[A]` and its gradient by the pixels `[A, C, H, W]`."""
    with torch.enable_grad():
        images = images.detach().requires_grad_()
        logits = network(images).to(images.dtype)
        ends = logits.gather(1, torch.stack((base, target), dim=1))  # [A, 2]
        gap = ends[:, 0] - ends[:, 1]
        (gradient,) = torch.autograd.grad(gap.sum(), images)
    return logits.detach(), gap.detach(), gradient


def _placed(logits: Tensor, rows: Tensor, values: Tensor, count: int) -> Tensor:
    """Return `logits` with `values` in `rows`; made `[count, K]` when it has no classes yet."""
    if logits.dim() == 1:
        logits = values.new_empty(count, values.shape[1])
    logits[rows] = values
    return logits


def select_bases(teacher_logits: Tensor, student_logits: Tensor, labels: Tensor, size: int) -> Tensor:
    """Return indices `[N <= size]` of the images worth attacking, the most telling first.

    Both networks are right about them, and their predictions over the other classes differ most: the score is
    `sum_{k != label} (q_teacher[k] - q_student[k])²` at temperature 1, as in the authors' code. Equal scores keep the
    order of the batch.
    """
    right = (teacher_logits.argmax(dim=1) == labels) & (student_logits.argmax(dim=1) == labels)
    difference = teacher_logits.detach().float().softmax(dim=1) - student_logits.detach().float().softmax(
        dim=1
    )  # [B, K]
    score = difference.scatter(1, labels.unsqueeze(1), 0.0).square().sum(dim=1)
    order = score.masked_fill(~right, -1.0).argsort(descending=True, stable=True)[:size]
    return order[right[order]]


def sample_targets(teacher_logits: Tensor, base: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Draw one target class an image, `[B]`, with probability `q[k] / (1 - q[base])` of the teacher's prediction `q`.

    The base class is masked before the softmax, so a teacher that is sure to the last bit still has other classes.
    """
    others = teacher_logits.detach().float().scatter(1, base.unsqueeze(1), -torch.inf)
    return torch.multinomial(others.softmax(dim=1), 1, generator=generator).squeeze(1)


class BoundarySimilarity(NamedTuple):
    """How alike two networks' boundaries are around some images: 1 is the same.

    `magnitude` is MagSim in `[0, 1]`, `angle` is AngSim in `[-1, 1]`, both means over the `counted` walks; NaN when
    there is none. `walks` is how many there could be: images times other classes.
    """

    magnitude: float
    angle: float
    counted: int
    walks: int


def boundary_similarity(
    teacher: nn.Module,
    student: nn.Module,
    images: Tensor,
    base: Tensor,
    *,
    attack: BoundaryAttack,
    scale: Tensor,
    chunk: int = 256,
) -> BoundarySimilarity:
    """Walk every image to every other class in both networks and compare the two ways, in normalised units.

    With the ways `t` and `s` from an image to where it crossed, MagSim is the mean of `min(|t|, |s|) / max(|t|, |s|)`
    and AngSim of the cosine between them. The paper averages over all images and classes and does not say what a walk
    that ends elsewhere counts: here only pairs where both walks crossed into the class asked for are counted, and
    reported how many. Images that either network puts in another class than `base` have no such walk.

    Source: Heo et al., AAAI 2019, "similarity of decision boundaries".
    """
    with as_found(teacher), as_found(student), torch.no_grad():
        answers = [
            torch.cat([network(part).argmax(dim=1) for part in images.split(chunk)]) for network in (teacher, student)
        ]
        classes = teacher(images[:1]).shape[1]
    inside = (answers[0] == base) & (answers[1] == base)
    pairs = inside.unsqueeze(1).repeat(1, classes).scatter(1, base.unsqueeze(1), False).nonzero()  # [P, 2]
    ratios, cosines = [images.new_empty(0)], [images.new_empty(0)]
    for image, target in (part.unbind(dim=1) for part in pairs.split(chunk)):
        start, unit = images[image], scale.to(images).view(1, -1, 1, 1)
        ends = [attack(network, start, base[image], target, scale=scale) for network in (teacher, student)]
        both = (ends[0].crossed == CROSSED) & (ends[1].crossed == CROSSED)
        ways = [((end.images - start) / unit)[both].flatten(1) for end in ends]
        lengths = torch.stack([way.norm(dim=1) for way in ways])  # [2, P']
        ratios.append(lengths.amin(dim=0) / lengths.amax(dim=0))
        cosines.append(((ways[0] * ways[1]).sum(dim=1) / lengths.prod(dim=0)).clamp(-1, 1))
    ratio, cosine = torch.cat(ratios), torch.cat(cosines)
    return BoundarySimilarity(ratio.mean().item(), cosine.mean().item(), len(ratio), len(images) * (classes - 1))
