"""What a network costs: parameters and multiply-accumulates."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode


def parameters(network: nn.Module) -> int:
    """Return the number of parameters; one that is shared counts once, running statistics do not count."""
    return sum(parameter.numel() for parameter in network.parameters())


def macs(network: nn.Module, input_shape: tuple[int, int, int]) -> int:
    """Return the multiply-accumulates of one image: those of convolutions, matrix products and attention.

    One image of zeros runs through the network in evaluation mode, on the network's device, which is left as found.
    """
    first = next((tensor for tensor in network.parameters() if tensor.is_floating_point()), torch.zeros(()))
    image = torch.zeros(1, *input_shape, dtype=first.dtype, device=first.device)
    shortcut = _SkipUncounted() if image.is_meta else nullcontext()
    counter = FlopCounterMode(display=False)
    # The products of attention are counted where they are computed one by one: of a CPU's fused kernel the counter
    # knows nothing (torch 2.11 to 2.15), and nothing of the fused encoder layer of evaluation mode.
    plain = sdpa_kernel(SDPBackend.MATH)
    with evaluating(network), _separate_layers(), plain, torch.no_grad(), counter, shortcut:
        network(image)
    return int(counter.get_total_flops()) // 2


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    training = [module for module in network.modules() if module.training]
    network.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


_UNCOUNTED = (F.batch_norm, F.layer_norm, F.relu, F.relu6, F.silu, F.gelu, F.hardswish, F.hardsigmoid)


class _SkipUncounted(TorchFunctionMode):
    """Leaves out what keeps the shape and is not counted: without memory nothing is computed, and each call is slow."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return args[0] if func in _UNCOUNTED else func(*args, **(kwargs or {}))


@contextmanager
def _separate_layers() -> Iterator[None]:
    """Keep evaluation mode from computing an encoder layer as one operation."""
    enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(enabled)
