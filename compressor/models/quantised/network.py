"""A network that computes through the rounding its export will have."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from compressor.errors import InputRejected
from compressor.models.normalized import Normalized
from compressor.models.quantised.calls import Calls
from compressor.models.quantised.plan import Plan
from exporters.rounding import grid, rounded, weight_grid

MOMENTUM = 0.05  # of the running ranges
NORMALISED = "/div.1"  # the call that makes what the bare network is given


class Quantised(Normalized):
    """`Normalized`, with the weights and activations of a plan rounded to their levels on the way.

    The weights stay in floating point and take the gradients of the levels (straight through). Ranges are the running
    means of each batch's smallest and largest value; they move in training mode alone. What BatchNorm is folded into in
    an export rounds as its convolution does here: a channel's levels are as many times as large as its weights are.

    `low` and `high` `[R]` are the ranges by their number in the plan, and part of the state.
    """

    low: Tensor
    high: Tensor

    def __init__(self, network: nn.Module, mean: Sequence[float], std: Sequence[float], plan: Plan) -> None:
        super().__init__(network, mean, std)
        self.plan = plan
        self.register_buffer("low", torch.tensor(plan.low, dtype=torch.float32))
        self.register_buffer("high", torch.tensor(plan.high, dtype=torch.float32))

    def forward(self, images: Tensor) -> Tensor:
        calls = _Rounding(self, images, MOMENTUM if self.training else None)
        with calls.watching():
            logits: Tensor = self.network((images - self.mean) / self.std)
        calls.expect_all()
        return logits

    def observe(self, images: Tensor) -> None:
        """Set the ranges to the extremes of images `[N, C, H, W]`, in evaluation mode, in which the network is left."""
        self.eval()
        calls = _Observing(self)
        with torch.no_grad(), calls.watching():
            self.network((images - self.mean) / self.std)
        for number, (low, high) in calls.found.items():
            self.low[number], self.high[number] = low, high

    def plain(self) -> Normalized:
        """Return the network without rounding, sharing its weights."""
        mean, std = (each.flatten().tolist() for each in (self.mean, self.std))
        plain = Normalized(self.network, mean, std).to(self.mean.device)
        return plain.train(self.training)

    def described(self) -> Plan:
        """Return the plan with the ranges as they are now."""
        return self.plan.model_copy(update={"low": tuple(self.low.tolist()), "high": tuple(self.high.tolist())})


class _Rounding(Calls):
    """Rounds what the plan names; with a momentum, the ranges follow the values first."""

    def __init__(self, network: Quantised, images: Tensor, momentum: float | None) -> None:
        super().__init__(network)
        self.network, self.images, self.momentum = network, images, momentum
        self.points = {point.call: point for point in network.plan.points}
        self.layers = set(network.plan.layers)
        self.symmetric = network.plan.recipe == "trt"
        self.owners: set[int] = set()  # ranges that moved in this pass: the first point of a range moves it
        self.seen = 0
        self.reading: Tensor | None = None  # the normalised image, also with a border
        self.pixels: Tensor | None = None  # what the first convolution of the export reads in its place

    def made(self, call: str, result: Tensor, given: Sequence[Any]) -> Tensor:
        if self.network.plan.pixels is not None:
            self._follow_image(call, result, given)
        point = self.points.get(call)
        if point is None:
            return result
        self.seen += 1
        low, high = self.network.low, self.network.high
        if self.momentum is not None and point.range not in self.owners:
            self.owners.add(point.range)
            least, most = result.detach().float().aminmax()
            low[point.range].lerp_(least, self.momentum)
            high[point.range].lerp_(most, self.momentum)
        levels = grid(low[point.range], high[point.range], point.bits, symmetric=self.symmetric)
        return rounded(result, levels)

    def weighed(self, call: str, given: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        if call not in self.layers:
            return given, weight
        self.seen += 1
        pixels = self.network.plan.pixels
        if pixels is not None and pixels.call == call and self.pixels is not None:
            given, weight = self.pixels, self._for_pixels(weight)
        return given, rounded(weight, weight_grid(weight, self.network.plan.weights))

    def _follow_image(self, call: str, result: Tensor, given: Sequence[Any]) -> None:
        """Give the image, less its centre and with a channel of ones, the border that the normalised one is given."""
        if call == NORMALISED:
            self.reading, self.pixels = result, self._pixels()
        elif self.pixels is not None and given and given[0] is self.reading and "/pad." in call:
            self.reading, self.pixels = result, F.pad(self.pixels, given[1])

    def _pixels(self) -> Tensor:
        pixels = self.network.plan.pixels
        assert pixels is not None
        one = 1 - pixels.centre
        low, high = (self.images.new_tensor(end) for end in (-pixels.centre, one))
        image = rounded(self.images - pixels.centre, grid(low, high, 8, symmetric=False))
        return torch.cat([image, torch.full_like(image[:, :1], one)], dim=1)

    def _for_pixels(self, weight: Tensor) -> Tensor:
        """Return the weight `[O, C + 1, kh, kw]` that reads them, as `exporters.quantize.kernels` makes it."""
        pixels, mean, std = self.network.plan.pixels, self.network.mean[0], self.network.std[0]  # [C, 1, 1]
        assert pixels is not None
        ones = (weight * ((pixels.centre - mean) / std)).sum(dim=1, keepdim=True) / (1 - pixels.centre)
        return torch.cat([weight / std, ones], dim=1)

    def expect_all(self) -> None:
        """Refuse a pass that lacked some of the plan's calls.

        Raises:
            InputRejected: the network's code is not what it was when the plan was made.
        """
        planned = len(self.points) + len(self.layers)
        if self.seen != planned:
            raise InputRejected(
                f"the quantised network rounds {planned} results, and its code makes {self.seen} of them",
                hint="its code or torch has changed since it was written: use the versions of then",
            )


class _Observing(Calls):
    """Takes the extremes of the results that a plan rounds, in floating point."""

    def __init__(self, network: Quantised) -> None:
        super().__init__(network)
        self.points = {point.call: point for point in network.plan.points}
        self.found: dict[int, tuple[Tensor, Tensor]] = {}

    def made(self, call: str, result: Tensor, given: Sequence[Any]) -> Tensor:  # noqa: ARG002
        point = self.points.get(call)
        if point is not None and point.range not in self.found:
            self.found[point.range] = result.aminmax()
        return result
