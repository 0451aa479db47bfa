"""The calls of a network's forward pass, each with a name: seen by its module's path, the function and its number.

The network's own code runs, with its hooks and in its own mode. What it calls of torch is seen one level below Python,
except where one call of torch is several operators of an exported graph: those are called one by one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules import module as hooks
from torch.overrides import TorchFunctionMode

PRODUCT = ":product"  # of a linear call, before its bias is added


class Calls(TorchFunctionMode):
    """Names the calls of `network` while it is entered. Subclasses see results, and may change them."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self._paths = {module: path for path, module in network.named_modules()}
        self._stack = [""]
        self._counts: Counter[str] = Counter()
        self._separate: dict[str, Callable[..., Any]] = {
            "conv2d": self._conv2d,
            "linear": self._linear,
            "silu": self._gated("silu", torch.sigmoid),
            "hardswish": self._gated("hardswish", F.hardsigmoid),
            "multi_head_attention_forward": self._attention,
        }

    def made(self, call: str, result: Tensor, given: Sequence[Any]) -> Tensor:  # noqa: ARG002 for subclasses
        """Return what takes the place of the result of a call, which `given` were its arguments."""
        return result

    def weighed(self, call: str, given: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:  # noqa: ARG002
        """Return what takes the place of the input and the weight of a convolution or a linear call."""
        return given, weight

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Enter it, and know which module is at work."""
        enter = hooks.register_module_forward_pre_hook(self._enter)
        leave = hooks.register_module_forward_hook(self._leave)
        try:
            with self:
                yield
        finally:
            enter.remove()
            leave.remove()

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        name = getattr(func, "__name__", "")
        apart = self._separate.get(name)
        if apart is not None:
            return apart(func, *args, **(kwargs or {}))
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor) and result.is_floating_point() and result.ndim > 1 and name != "__get__":
            return self.made(self._named(name), result, args)
        return result

    def _named(self, function: str) -> str:
        place = f"{self._stack[-1]}/{function}"
        self._counts[place] += 1
        return f"{place}.{self._counts[place]}"

    def _enter(self, module: nn.Module, _: Any) -> None:
        self._stack.append(self._paths.get(module, self._stack[-1]))

    def _leave(self, _module: nn.Module, _given: Any, _result: Any) -> None:
        self._stack.pop()

    def _conv2d(self, func: Any, given: Tensor, weight: Tensor, bias: Tensor | None = None, *more: Any, **named: Any):  # type: ignore[no-untyped-def]
        call = self._named("conv2d")
        read, levels = self.weighed(call, given, weight)
        return self.made(call, func(read, levels, bias, *more, **named), (given,))

    def _linear(self, _: Any, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        call = self._named("linear")
        read, levels = self.weighed(call, input, weight)
        product = self.made(call + PRODUCT, F.linear(read, levels), (input,))
        return product if bias is None else self.made(call, product + bias, (input,))

    def _gated(self, name: str, gate: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
        """Return an activation that multiplies its input by a gate of it."""

        def call(_: Any, input: Tensor, inplace: bool = False) -> Tensor:  # noqa: ARG001
            factor = self.made(self._named(f"{name}_gate"), gate(input), (input,))
            return self.made(self._named(name), input * factor, (input, factor))

        return call

    def _attention(self, func: Any, query: Tensor, key: Tensor, value: Tensor, *more: Any, **named: Any) -> Any:
        """Attention of a sequence `[L, N, E]` to itself, as torch computes it; any other kind stays one call."""
        heads, weight, bias, *unusual = more[1:7]
        plain = query is key is value and weight is not None and not any(each is not None for each in unusual[:2])
        if not plain or unusual[2] or named.get("attn_mask") is not None or named.get("key_padding_mask") is not None:
            return func(query, key, value, *more, **named)
        dropout, out_weight, out_bias = more[7:10]
        length, batch, width = query.shape
        parts = self._linear(None, query, weight, bias).unflatten(-1, (3, heads, width // heads))
        q, k, v = (part.permute(1, 2, 0, 3) for part in parts.unbind(2))  # [N, H, L, d]
        attended = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout if named.get("training") else 0.0)
        joined = self.made(self._named("attended"), attended.permute(2, 0, 1, 3).flatten(2).flatten(0, 1), (parts,))
        return self._linear(None, joined, out_weight, out_bias).view(length, batch, width), None
