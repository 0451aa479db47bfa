"""What the families share: a 3x3 convolution, He's initialisation, and networks without memory."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode


def conv3x3(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    """A 3x3 convolution that keeps the size at stride 1, without bias: BatchNorm follows it."""
    return nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)


def he_normal(network: nn.Module) -> None:
    """Draw convolution weights from `N(0, 2 / (kernel area x output channels))`, biases zero; the rest stays as it is.

    Source: He et al., ICCV 2015 (arXiv:1502.01852), section 2.2, in its fan-out form.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)


_MAKERS = (torch.empty, torch.zeros, torch.ones)
_FILLERS = (
    torch.Tensor.normal_,
    torch.Tensor.uniform_,
    torch.Tensor.fill_,
    torch.Tensor.zero_,
    torch.Tensor.erfinv_,
    torch.Tensor.mul_,
    torch.Tensor.add_,
    torch.Tensor.clamp_,
)


class _WeightsOnMeta(TorchFunctionMode):
    """Makes what weights are made with allocate nothing. All else stays real: some networks compute their plan."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        options = dict(kwargs or {})
        if func in _MAKERS and options.get("device") is None:
            options["device"] = "meta"
        if func in _FILLERS and args[0].is_meta:
            return args[0]  # nothing to fill, and a call on meta is slow
        return func(*args, **options)


def on_meta(make: Callable[[], nn.Module]) -> nn.Module:
    """Return the network that `make` builds, all of it on the meta device: shapes without memory."""
    with _WeightsOnMeta():
        network = make()
    return network.to("meta")
