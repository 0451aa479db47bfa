"""A trained network as the fixed function that it is: BatchNorm folded away, compiled, or run by another runtime.

A teacher is asked millions of times and never changes. In evaluation mode BatchNorm is a scale and a shift, which go
into the convolution before it; the answers are the same to rounding, and so are their gradients by the images.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx.experimental.optimization import fuse
from torch.fx.proxy import TraceError
from torch.nn.modules.batchnorm import _BatchNorm

from compressor.models.normalized import Normalized

_NOT_FOLLOWED = (TraceError, TypeError, ValueError, RuntimeError, AttributeError, NotImplementedError)
_RELATIVE, _ABSOLUTE = 1e-3, 1e-4  # differences of logits; what folds worse than that is left as it is


class Frozen(Normalized):
    """The function that `network` is in evaluation mode.

    Where an inner module is watched by a hook, the network itself runs, module by module; so inner outputs are what
    they were. Weights that change later do not show; a copy is the network again, which may be trained.

    Args:
        clean: answers images `[B, C, H, W]` with logits where no gradient is asked for, in place of the network.
        compiled: let `torch.compile` make code of it.
    """

    def __init__(
        self, network: Normalized, *, clean: Callable[[Tensor], Tensor] | None = None, compiled: bool = False
    ) -> None:
        super().__init__(network.network, network.mean.flatten().tolist(), network.std.flatten().tolist())
        self.to(network.mean.device).train(network.training)
        self._clean, self._compiled = clean, compiled
        self._inside = tuple(self.network.modules())  # listed once, asked at every call
        self._fixed: tuple[Callable[[Tensor], Tensor]] | None = None  # in a tuple, where it is no module of this one

    def __deepcopy__(self, memo: dict[int, Any]) -> Normalized:
        network = copy.deepcopy(self.network, memo)
        plain = Normalized(network, self.mean.flatten().tolist(), self.std.flatten().tolist())
        return plain.to(self.mean.device).train(self.training)

    def forward(self, images: Tensor) -> Tensor:
        if any(module._forward_hooks or module._forward_pre_hooks for module in self._inside):
            return super().forward(images)
        if self._clean is not None and not (torch.is_grad_enabled() and images.requires_grad):
            return self._clean(images)
        pixels = (images - self.mean) / self.std
        if self._fixed is None:
            network = folded(self.network, pixels)
            self._fixed = (torch.compile(network) if self._compiled else network,)
        logits: Tensor = self._fixed[0](pixels)
        return logits


def folded(network: nn.Module, inputs: Tensor) -> nn.Module:
    """Return a copy in evaluation mode whose BatchNorm layers are in the convolutions before them, where one is.

    A network that cannot be followed (its path depends on values), that has no BatchNorm or that would answer `inputs`
    `[B, C, H, W]` otherwise is returned as it is.
    """
    if not any(isinstance(module, _BatchNorm) for module in network.modules()):
        return network
    plain = copy.deepcopy(network).eval().requires_grad_(False)
    try:
        fixed = fuse(plain)
    except _NOT_FOLLOWED:
        return network
    fixed.requires_grad_(False)
    first = next(plain.parameters())
    if first.ndim == 4 and first.is_contiguous(memory_format=torch.channels_last):
        fixed.to(memory_format=torch.channels_last)
    with torch.no_grad(), torch.autocast(inputs.device.type, enabled=False):
        few = inputs.detach()[:4].float()
        same = torch.allclose(fixed(few), plain(few), rtol=_RELATIVE, atol=_ABSOLUTE)
    return fixed if same else network
