"""BSS with one of its parts done otherwise, as a method of one's own: what the paper's ablations compare.

    cd benchmarks
    compress compare cifar10-resnet26-resnet8-bss --methods ... \
        --set method.kind=ablations:Ablated --set method.sample=noise

Not part of the package: nobody should train so. The paper (Heo et al., AAAI 2019) compares random noise, FGSM and
DeepFool with boundary supporting samples, base images chosen or not, and ways to choose a target class. We know of no
lengths that it gives; here noise and FGSM go as far, in normalised units, as the walk of that image would have gone.
"""

from typing import Literal

import torch
from torch import Tensor

from compressor.attack import CROSSED, NOT_CROSSED, THIRD, BoundarySamples, as_found
from compressor.attack.slope import gap, loss, slope
from compressor.methods import Objective, Setting
from compressor.methods.bss import BoundaryTargets, BoundaryTeaching

OVERSHOOT = 0.02  # of DeepFool, as published


class Ablated(BoundaryTeaching):
    """`bss` with other samples, bases or targets."""

    sample: Literal["boundary", "noise", "fgsm", "deepfool"] = "boundary"
    base: Literal["selected", "first"] = "selected"
    target: Literal["sampled", "second", "random"] = "sampled"

    def build(self, setting: Setting) -> Objective:
        return _Otherwise(self, setting)


class _Otherwise(BoundaryTargets):
    config: Ablated

    def bases(self, taught: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
        if self.config.base == "selected":
            return super().bases(taught, logits, labels)
        right = (taught.argmax(dim=1) == labels).nonzero().squeeze(1)  # a walk begins in its base class
        return right[: self.config.attack.size]

    def targets(self, taught: Tensor, base: Tensor, generator: torch.Generator) -> Tensor:
        if self.config.target == "sampled":
            return super().targets(taught, base, generator)
        if self.config.target == "second":
            return taught.scatter(1, base.unsqueeze(1), -torch.inf).argmax(dim=1)
        classes = taught.shape[1]
        ahead = torch.randint(1, classes, base.shape, generator=generator, device=base.device)
        return (base + ahead) % classes

    def walk(self, images: Tensor, base: Tensor, target: Tensor, generator: torch.Generator) -> BoundarySamples:
        walked = super().walk(images, base, target, generator)
        if self.config.sample == "boundary":
            return walked
        teacher, unit = self.setting.teachers[0], self.setting.std.view(1, -1, 1, 1)
        with as_found(teacher):
            if self.config.sample == "deepfool":
                moved = deepfool(teacher, images, base, unit, steps=self.config.attack.steps)
            else:
                length = ((walked.images - images) / unit).flatten(1).norm(dim=1).view(-1, 1, 1, 1)
                if self.config.sample == "noise":
                    way = torch.randn(images.shape, generator=generator, device=generator.device).to(images)
                else:
                    way = slope(teacher, images, loss(base)).gradient.sign()
                way = way / way.flatten(1).norm(dim=1).clamp_min(1e-12).view(-1, 1, 1, 1)
                moved = (images + length * way * unit).clamp(0, 1)
            with torch.no_grad():
                logits = teacher(moved).to(images.dtype)
        found = logits.argmax(dim=1)
        crossed = torch.where(found == target, CROSSED, THIRD).masked_fill(found == base, NOT_CROSSED)
        return BoundarySamples(moved, logits, crossed.to(torch.int8), walked.steps)


def deepfool(network: torch.nn.Module, images: Tensor, base: Tensor, unit: Tensor, *, steps: int) -> Tensor:
    """Return images just past the nearest boundary, by linear steps (Moosavi-Dezfooli et al., CVPR 2016).

    Args:
        unit: pixels of one normalised unit, `[1, C, 1, 1]`: what is nearest is judged in normalised units.
    """
    start, whole = images, torch.zeros_like(images)
    for _ in range(steps):
        here = (start + (1 + OVERSHOOT) * whole).clamp(0, 1)
        with torch.no_grad():
            logits = network(here)
        inside = logits.argmax(dim=1) == base
        if not inside.any():
            break
        shortest = torch.full(base.shape, torch.inf, device=base.device)
        step = torch.zeros_like(whole)
        for other in range(logits.shape[1]):
            found = slope(network, here, gap(base, torch.full_like(base, other)))
            gradient = found.gradient * unit
            norm = gradient.flatten(1).norm(dim=1)
            far = found.value / norm  # NaN towards the base class itself, which is never nearer
            nearer = (far < shortest) & (other != base) & inside
            shortest = torch.where(nearer, far, shortest)
            down = -(found.value / norm.square()).view(-1, 1, 1, 1) * gradient * unit
            step = torch.where(nearer.view(-1, 1, 1, 1), down, step)
        whole = whole + step
    return (start + (1 + OVERSHOOT) * whole).clamp(0, 1)
