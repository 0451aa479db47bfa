"""Which calls of a network its quantised export rounds: tensors of the graph and results of calls that are equal."""

from __future__ import annotations

import copy
import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from compressor.errors import UsageError
from compressor.models.normalized import Normalized
from compressor.models.quantised.calls import PRODUCT, Calls
from compressor.models.quantised.network import NORMALISED
from compressor.models.quantised.plan import Pixels, Plan, Point
from exporters import Quantization, onnx, quantize

_CLOSE = 1e-4  # of a tensor's largest value: what PyTorch and ONNX Runtime differ by at most


@dataclass(frozen=True)
class Placed:
    """A plan without ranges yet, and the tensor of the exported graph that each of its points is."""

    plan: Plan
    tensors: tuple[str, ...]


def placed(
    network: Normalized,
    input_shape: tuple[int, int, int],
    *,
    weights: int,
    activations: int,
    recipe: Quantization,
    opset: int = 20,
) -> Placed:
    """Find what the quantised export of a network rounds. Only its code counts, its weights do not.

    Fewer than 8 bits are for what a layer with weights reads; sums and the image keep 8.

    Raises:
        UsageError: the export rounds what is no result of a call.
        ExportFailed, RuntimeMissing: as `onnx.export` and `quantize.places`.
    """
    probe = _randomised(network)
    suited = weights == activations == 8
    with tempfile.TemporaryDirectory(prefix="compress.") as folder:
        graph = Path(folder) / "network.onnx"
        onnx.export(probe, graph, input_shape=input_shape, opset=opset)
        found = quantize.places(graph, recipe=recipe, suited=suited)
    results = _results(probe, input_shape)
    rounding = [each for each in found.activations if not each.moved]
    owners = list(dict.fromkeys(each.owner for each in rounding))
    points, tensors, taken = [], [], set()
    for place in rounding:
        call = _equal(found.values[place.tensor], [each for each in results if each.call not in taken])
        if call is None:
            raise UsageError(
                f"the INT8 export of this network rounds {place.tensor!r}, which is no result of a call of its own, "
                "and so its training cannot follow",
                hint="train it without quantize, and export it with --precision int8 --max-drop",
            )
        image = call == NORMALISED  # what the network is given
        bits = activations if place.read and not image else 8
        points.append(Point(call=call, range=owners.index(place.owner), bits=bits))
        tensors.append(place.tensor)
        taken.add(call)  # a mean over one pixel is that pixel
    layers = [_layer(name, found.values[name], results) for name in found.layers]
    plan = Plan(
        weights=weights,
        activations=activations,
        recipe=recipe,
        points=tuple(points),
        layers=tuple(dict.fromkeys(each for each in layers if each is not None)),
        pixels=_pixels(found.pixels, results),
        low=(0.0,) * len(owners),
        high=(0.0,) * len(owners),
    )
    return Placed(plan, tuple(tensors))


@dataclass(frozen=True)
class _Result:
    call: str
    value: Tensor  # kept, so that no other tensor is taken for it
    copy: NDArray[np.float32]
    given: Sequence[Any]


class _Recording(Calls):
    def __init__(self, network: nn.Module) -> None:
        super().__init__(network)
        self.results: list[_Result] = []

    def made(self, call: str, result: Tensor, given: Sequence[Any]) -> Tensor:
        self.results.append(_Result(call, result, result.numpy().copy(), given))
        return result


def _results(network: Normalized, input_shape: tuple[int, int, int]) -> list[_Result]:
    noise = np.random.default_rng(0).random((2, *input_shape), dtype=np.float32)  # as `quantize.places` is asked
    recording = _Recording(network)
    images = torch.from_numpy(noise)
    with torch.no_grad(), recording.watching():
        network.network((images - network.mean) / network.std)
    return recording.results


def _randomised(network: Normalized) -> Normalized:
    """Return a copy with weights of which no two results are equal by chance, as zeros would be."""
    generator = torch.Generator().manual_seed(0)
    probe = copy.deepcopy(network).cpu().eval().requires_grad_(False)
    for name, tensor in (*probe.network.named_parameters(), *probe.network.named_buffers()):
        if not tensor.is_floating_point():
            continue
        fresh = torch.rand(tensor.shape, generator=generator)
        if name.endswith("running_mean") or (tensor.ndim == 1 and name.endswith("bias")):
            tensor.copy_(0.2 * fresh - 0.1)
        elif tensor.ndim > 1:
            spread = math.sqrt(6 / max(1, tensor[0].numel()))
            tensor.copy_(spread * (2 * fresh - 1))
        else:
            tensor.copy_(0.5 + fresh)
    return probe


def _equal(value: NDArray[np.float32], results: Sequence[_Result]) -> str | None:
    """Return the first call that returned these numbers, in this order."""
    found = _matching(value, results)
    return None if found is None else found.call


def _matching(value: NDArray[np.float32], results: Sequence[_Result]) -> _Result | None:
    tolerance = _CLOSE * float(np.abs(value).max(initial=0))
    for result in results:
        if result.copy.size == value.size and np.allclose(result.copy.ravel(), value.ravel(), rtol=0, atol=tolerance):
            return result
    return None


def _layer(name: str, value: NDArray[np.float32], results: Sequence[_Result]) -> str | None:
    """Return the call whose weight a layer of the graph holds, BatchNorm folded in; None for a shortcut of ones."""
    found = _matching(value, results)
    if found is not None and _function(found) == "batch_norm":
        found = next((each for each in results if each.value is found.given[0]), None)
    function = None if found is None else _function(found)
    if found is not None and function in ("conv2d", "linear"):
        return found.call.removesuffix(PRODUCT)
    if function in ("pad", "cat"):  # weights of 0 and 1, which rounding does not change
        return None
    raise UsageError(
        f"the INT8 export of this network has a layer {name!r}, which is no convolution or linear layer of its own, "
        "and so its training cannot follow",
        hint="train it without quantize, and export it with --precision int8 --max-drop",
    )


def _function(result: _Result) -> str:
    return result.call.rpartition("/")[2].partition(".")[0]


def _pixels(found: tuple[str, float, float] | None, results: Sequence[_Result]) -> Pixels | None:
    if found is None:
        return None
    first = next(each for each in results if _function(each) == "conv2d")
    return Pixels(call=first.call, centre=-found[1])


def tensor_ranges(where: Placed, plan: Plan) -> Mapping[str, quantize.Range]:
    """Return the ranges of a trained plan by the tensors of its graph.

    Raises:
        UsageError: the network does not round what it did when it was trained.
    """
    if not where.plan.same_places(plan):
        raise UsageError(
            "the export of this network rounds other tensors than those that it was trained with",
            hint="export it with the versions of torch and onnxruntime that it was trained with",
        )
    return {
        tensor: quantize.Range(plan.low[point.range], plan.high[point.range], point.bits)
        for tensor, point in zip(where.tensors, plan.points, strict=True)
    }
