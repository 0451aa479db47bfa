"""Boundary supporting samples: images walked just past a network's decision boundary.

Source: Heo, Lee, Yun, Choi, "Knowledge Distillation with Adversarial Samples Supporting Decision Boundary", AAAI 2019
(arXiv:1805.05532), and the authors' code. Where the two differ, it is said here what was chosen.
"""

from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from compressor.attack.slope import as_found, gap, slope

# How a walk ended, the values of `BoundarySamples.crossed`: still in the base class, in the target class, in another.
NOT_CROSSED, CROSSED, THIRD = 0, 1, 2

Walk = Literal["published", "tight", "newton"]


class BoundarySamples(NamedTuple):
    """Where each of `B` walks ended. `crossed` says how; an image that did not cross is returned all the same."""

    images: Tensor  # [B, C, H, W] in [0, 1], channels last in memory
    logits: Tensor  # [B, K] the network's, at `images`
    crossed: Tensor  # [B] int8: NOT_CROSSED, CROSSED or THIRD
    steps: Tensor  # [B] int64, how often the image was moved; bisections are not counted


@dataclass(frozen=True, kw_only=True)
class BoundaryAttack:
    """Walk each image from its base class towards a target class until the network's answer first leaves the base.

    Every step goes against the gradient `g` of the gap `L = logit[base] - logit[target]`. Lengths and gradients are in
    normalised units, `z = pixels / scale`, so that the published step size means what it meant; the box is `[0, 1]` in
    pixels (the authors clamp the normalised value to ±2.5, which no image needs). How long a step is, and where the
    walk ends, is up to `walk`:

    `published`: `z <- z - step_size * (L + margin) * g / ||g||`. The length does not depend on how steep the gap is, so
        with a steep network the step that crosses lands far beyond the boundary.
    `tight`: the same, then `bisections` halvings of the last step, between its start in the base class and its end. The
        sample lies past the boundary by at most `1 / 2**bisections` of that step.
    `newton`: `z <- z - (L + margin) * g / ||g||²`, the step after which a linear gap would be `-margin`. As DeepFool
        (Moosavi-Dezfooli et al., CVPR 2016), but towards the target alone, and with an overshoot in logits.

    On a boundary half precision decides by its rounding. Under autocast a tight or a newton walk is therefore looked at
    again in single precision, walked on where it has not crossed, and bisected so.
    """

    steps: int = 10
    step_size: float = 0.3  # not of newton
    margin: float = 1e-4  # in logits; keeps the step above zero on the boundary itself
    walk: Walk = "published"
    bisections: int = 6  # of tight

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
        start = images.detach().clone(memory_format=torch.channels_last)
        inside = start.clone() if self.walk == "tight" else None
        walks = _Walks(network, start, base, target, scale.to(images).view(1, -1, 1, 1), inside)
        kind = images.device.type
        with as_found(network):
            self._advance(walks, crossing=len(images) == 0)
            if self.walk != "published":
                reduced = torch.is_autocast_enabled(kind)
                with torch.autocast(kind, enabled=False):
                    if reduced:
                        self._advance(walks, crossing=True)
                    if walks.inside is not None:
                        self._tighten(walks, walks.inside)
        found = walks.logits.argmax(dim=1)
        crossed = torch.where(found == target, CROSSED, THIRD).masked_fill(found == base, NOT_CROSSED)
        return BoundarySamples(walks.images, walks.logits, crossed.to(torch.int8), walks.taken)

    def _advance(self, walks: "_Walks", *, crossing: bool) -> None:
        """Walk all images that are in their base class and have steps left.

        Args:
            crossing: whether most images are expected to be across already.
        """
        walking = torch.arange(len(walks.images), device=walks.images.device)
        for step in range(self.steps + 1):
            if step == self.steps or crossing:
                # Look first, so that a graph is built for the few that are not across.
                walking = walking[walks.look(walking) == walks.base[walking]]
            if step == self.steps or len(walking) == 0:
                break
            here, base = walks.images[walking], walks.base[walking]
            logits, above, gradient = slope(walks.network, here, gap(base, walks.target[walking]))
            walks.place(walking, logits)
            gradient = gradient * walks.unit  # [A, C, H, W] by the normalised image
            norm = gradient.flatten(1).norm(dim=1)  # [A]
            rate = 1 / norm if self.walk == "newton" else self.step_size
            length = rate * (above + self.margin) / norm  # [A] of the gradient
            moved = (here - length.view(-1, 1, 1, 1) * gradient * walks.unit).clamp(0, 1)
            can = (norm > 0) & norm.isfinite() & length.isfinite() & (walks.taken[walking] < self.steps)
            moving = ((logits.argmax(dim=1) == base) & can).nonzero().squeeze(1)
            if len(moving) == 0:
                break
            walking = walking[moving]
            if walks.inside is not None:
                walks.inside[walking] = here[moving]
            walks.images[walking] = moved[moving]
            walks.taken[walking] += 1
            # Were the gap linear, a step would leave `1 - rate * norm` of it.
            crossing = self.walk == "newton" or bool((self.step_size * norm[moving]).median() >= 1)

    def _tighten(self, walks: "_Walks", before: Tensor) -> None:
        """Halve the last step, from `before`, of each walk that left its base class; the end stays outside of it."""
        rows = ((walks.logits.argmax(dim=1) != walks.base) & (walks.taken > 0)).nonzero().squeeze(1)
        if len(rows) == 0:
            return
        inside, end = before[rows], walks.images[rows]
        for _ in range(self.bisections):
            middle = (inside + end) / 2
            beyond = walks.answer(middle)
            out = beyond.argmax(dim=1) != walks.base[rows]
            walks.place(rows[out], beyond[out])
            wide = out.view(-1, 1, 1, 1)
            inside, end = torch.where(wide, inside, middle), torch.where(wide, middle, end)
        walks.images[rows] = end


@dataclass(eq=False)
class _Walks:
    """`B` walks under way, changed in place.

    `images` is where each is, `inside` where it was before its last step (None where nobody asks), `logits` `[B, K]`
    what was last said of it.
    """

    network: nn.Module
    images: Tensor
    base: Tensor
    target: Tensor
    unit: Tensor  # [1, C, 1, 1]
    inside: Tensor | None
    logits: Tensor = field(init=False)
    taken: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.logits = self.images.new_empty(0)
        self.taken = torch.zeros_like(self.base)

    def answer(self, images: Tensor) -> Tensor:
        """Return the logits `[A, K]` of images, without a graph."""
        with torch.no_grad():
            logits: Tensor = self.network(images)
        return logits.to(self.images.dtype)

    def look(self, rows: Tensor) -> Tensor:
        """Ask about some of the images where they are now, and return their classes `[A]`."""
        logits = self.answer(self.images[rows])
        self.place(rows, logits)
        return logits.argmax(dim=1)

    def place(self, rows: Tensor, logits: Tensor) -> None:
        """Note what was said of some of the images; the first call says how many classes there are."""
        if self.logits.dim() == 1:
            self.logits = logits.new_empty(len(self.images), logits.shape[1])
        self.logits[rows] = logits
