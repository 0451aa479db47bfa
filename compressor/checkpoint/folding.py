"""Tensors that are not yet a layer's weights: pruned, normalised or observed ones are made so; others are named.

A layer that torch prunes keeps `weight_orig` and `weight_mask`; one under weight normalisation keeps a length and a
direction (Salimans and Kingma, NeurIPS 2016, arXiv:1602.07868). Both give the weight by one product.
"""

from collections.abc import Mapping

import torch
from torch import Tensor


class NoWeights(Exception):
    """There is no single set of usable tensors; the message says what there is, to follow the file's name."""

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


_OVERLAP = 2**28  # bytes that tensors may take beyond their memory, as expanded ones do
_DTYPES = {
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.int8,
    torch.uint8, torch.bool, torch.uint16, torch.uint32, torch.uint64,
}  # fmt: skip
# Endings of the two parts of a normalised weight (length, direction) and what the whole is called.
_NORMALISED = {
    (".parametrizations.weight.original0", ".parametrizations.weight.original1"): ".weight",
    (".weight_g", ".weight_v"): ".weight",
}
_OBSERVERS = ("activation_post_process", "fake_quant", "fake_quantize", "_observer", "observer_enabled")
_PACKED = ("_packed_params", "zero_point")
_FLOATS = "give the network in floating point that it was made from"


def refuse_odd(tensors: Mapping[str, Tensor]) -> None:
    """Refuse tensors that are no plain arrays of numbers in memory.

    Raises:
        NoWeights: one is sparse, without values, quantised, of another kind of numbers, or larger than its memory.
    """
    overlap = 0
    for name, tensor in tensors.items():
        if tensor.is_quantized:
            raise NoWeights(f"holds an INT8 network: {name} is quantised", hint=_FLOATS)
        if tensor.is_meta:
            raise NoWeights(f"holds names without values: {name} is on the meta device", hint="save a loaded network")
        if type(tensor) not in (Tensor, torch.nn.Parameter) or tensor.is_nested or tensor.layout is not torch.strided:
            layout = str(tensor.layout).removeprefix("torch.")
            raise NoWeights(f"holds {name} as a {layout} tensor", hint="save it dense: tensor.to_dense()")
        if tensor.dtype not in _DTYPES:
            kind = str(tensor.dtype).removeprefix("torch.")
            raise NoWeights(f"holds {name} as {kind}, which is not computed with", hint="save it as float32 or float16")
        size = tensor.numel() * tensor.element_size()
        overlap += max(0, size - tensor.untyped_storage().nbytes())
        if overlap > _OVERLAP:
            shape = "x".join(map(str, tensor.shape))
            raise NoWeights(
                f"holds {name} expanded to {shape}, far more than its numbers in the file",
                hint="save the network's state_dict(), whose tensors are whole",
            )


def folded(tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Return the tensors with pruned and normalised weights multiplied out, and notes of what was done.

    Raises:
        NoWeights: they belong to a network that is prepared for INT8 or already in it.
    """
    _refuse_quantised(tensors)
    found: dict[str, Tensor] = {}
    masked = normalised = 0
    for name, tensor in tensors.items():
        mask = tensors.get(name.removesuffix("_orig") + "_mask") if name.endswith("_orig") else None
        if mask is not None and mask.shape == tensor.shape:
            found[name.removesuffix("_orig")] = tensor * mask.to(tensor.dtype)
            masked += 1
        elif name.endswith("_mask") and name.removesuffix("_mask") + "_orig" in tensors:
            continue
        elif (whole := _direction(name, tensors)) is not None:
            target, length = whole
            found[target] = torch._weight_norm(tensor, length, 0)
            normalised += 1
        elif not _is_length(name, tensors):
            found[name] = tensor
    notes = [f"{masked} pruned tensors, their masks multiplied in"] if masked else []
    notes += [f"{normalised} normalised weights multiplied out"] if normalised else []
    return found, tuple(notes)


def _direction(name: str, tensors: Mapping[str, Tensor]) -> tuple[str, Tensor] | None:
    """Return the name of the whole weight and its length, where `name` is the direction of one."""
    for (length, direction), whole in _NORMALISED.items():
        other = tensors.get(name.removesuffix(direction) + length) if name.endswith(direction) else None
        expected = (len(tensors[name]), *[1] * (tensors[name].ndim - 1)) if tensors[name].ndim else ()
        if other is not None and tuple(other.shape) == expected:
            return name.removesuffix(direction) + whole, other
    return None


def _is_length(name: str, tensors: Mapping[str, Tensor]) -> bool:
    for length, direction in _NORMALISED:
        other = name.removesuffix(length) + direction
        if name.endswith(length) and other in tensors and _direction(other, tensors) is not None:
            return True
    return False


def _refuse_quantised(tensors: Mapping[str, Tensor]) -> None:
    observers = [name for name in tensors if any(word in name for word in _OBSERVERS)]
    if observers:
        raise NoWeights(
            f"holds a network prepared for quantisation-aware training: {len(observers)} tensors of observers, "
            f"such as {observers[0]}",
            hint=f"{_FLOATS}, or export it with TorchScript or torch.export",
        )
    packed = [name for name in tensors if name.rpartition(".")[2] in _PACKED or "_packed_params" in name]
    if packed:
        raise NoWeights(f"holds an INT8 network, with {packed[0]}", hint=_FLOATS)
