"""In which precision an engine computes, read from the listing of its layers.

The layers are those of the finished engine, after fusion: as JSON from the engine inspector where there is a GPU to
load the engine on, else as the builder prints them. Key names differ between versions of TensorRT.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

_QUANTISED = ("int8", "fp8", "int4", "fp4")
# As they stand in "Datatype": "Half" and in "Format/Datatype": "Channel major FP16 format where channel % 8 == 0".
_KINDS = (
    (re.compile(r"\bu?int8\b", re.I), "int8"),
    (re.compile(r"\bu?int4\b", re.I), "int4"),
    (re.compile(r"\bfp8|float8|e4m3|e5m2", re.I), "fp8"),
    (re.compile(r"\bfp4|float4|e2m1", re.I), "fp4"),
    (re.compile(r"\bbf16\b|\bbfloat16\b", re.I), "bf16"),
    (re.compile(r"\bhalf\b|\bfp16\b|\bfloat16\b", re.I), "fp16"),
    (re.compile(r"\bfloat\b|\bfp32\b|\bfloat32\b", re.I), "fp32"),
)


@dataclass(frozen=True)
class Layer:
    """A fused layer: the precisions of the tensors that enter it, and its weights' counts by precision."""

    name: str
    inputs: tuple[str, ...]
    weights: Mapping[str, int]

    def computed(self) -> dict[str, int]:
        """Return the weights by the precision they are computed in.

        Weights that are stored in eight bits and meet data that are not count as the data: they are expanded first.
        """
        data = next((kind for kind in self.inputs if kind not in _QUANTISED), "fp32")
        counts: Counter[str] = Counter()
        for kind, count in self.weights.items():
            counts[kind if kind not in _QUANTISED or kind in self.inputs else data] += count
        return dict(counts)


def weights_by_type(layers: list[Layer]) -> dict[str, int]:
    """Count the weights of an engine by the precision they are computed in, e.g. `{"int8": 270896, "fp32": 640}`."""
    counts: Counter[str] = Counter()
    for layer in layers:
        counts.update(layer.computed())
    return dict(counts)


def inspected(text: str) -> list[Layer]:
    """Read the JSON of the engine inspector. Layers without details, as in an engine built without them, are left out.

    What is no such JSON gives no layers.
    """
    try:
        found = json.loads(text)
    except json.JSONDecodeError:
        return []
    entries = found.get("Layers", []) if isinstance(found, dict) else []
    return [_inspected(entry) for entry in entries if isinstance(entry, dict)]


def _inspected(entry: dict[str, Any]) -> Layer:
    weights: Counter[str] = Counter()
    stored = entry.get("Weights")
    if isinstance(stored, dict) and (kind := precision(str(stored.get("Type", "")))):
        weights[kind] += int(stored.get("Count", 0))
    for constant in _tensors(entry, "Constants"):
        weights.update(_weight(_kind(constant), constant.get("Dimensions", [])))
    inputs = (_kind(tensor) for tensor in _tensors(entry, "Inputs"))
    return Layer(str(entry.get("Name", "")), tuple(kind for kind in inputs if kind), dict(weights))


def _tensors(entry: dict[str, Any], key: str) -> Iterator[dict[str, Any]]:
    tensors = entry.get(key)
    yield from (tensor for tensor in (tensors if isinstance(tensors, list) else []) if isinstance(tensor, dict))


def _kind(tensor: dict[str, Any]) -> str | None:
    return precision(str(tensor.get("Datatype") or tensor.get("Format/Datatype") or ""))


_TENSOR = re.compile(r"\{ Name: .*?, Dimensions: \[(?P<dims>[-\d,]*)\].*?Datatype: (?P<kind>\w+)")


def printed(text: str) -> list[Layer]:
    """Read the listing that the builder prints once an engine is finished, one layer a line."""
    layers = []
    for line in text.splitlines():
        name, found, rest = line.partition(", LayerType: ")
        if not found or not name.startswith("Name: "):
            continue
        given, _, rest = rest.partition(", Outputs: [")[0].partition("Constants: [")
        weights: Counter[str] = Counter()
        for tensor in _TENSOR.finditer(rest):
            dims = [int(size) for size in tensor["dims"].split(",") if size]
            weights.update(_weight(precision(tensor["kind"]), dims))
        inputs = (precision(tensor["kind"]) for tensor in _TENSOR.finditer(given))
        layers.append(Layer(name.removeprefix("Name: "), tuple(kind for kind in inputs if kind), dict(weights)))
    return layers


def _weight(kind: str | None, dims: list[int]) -> dict[str, int]:
    """Count a constant with at least two dimensions: kernels and matrices, not biases and scales."""
    matrix = sum(size > 1 for size in dims) > 1
    return {kind: prod(dims)} if kind and matrix else {}


def precision(text: str) -> str | None:
    """Return our name of a data type in TensorRT's words, None for those nothing is computed in."""
    return next((name for pattern, name in _KINDS if pattern.search(text)), None)
