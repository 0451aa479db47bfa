"""A graph with the ranges of its activations: INT8 files are built of it, and the harm of its layers is measured."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto

from exporters import onnx
from exporters.errors import ArtifactRejected, ExportFailed
from exporters.onnx.graph import serialised
from exporters.precision import precision_of, weights_by_type
from exporters.quantize.graph import Quantized, describe, expect_symmetric, release_logits
from exporters.quantize.kernels import suit_cpu
from exporters.quantize.ranges import ranges
from exporters.quantize.scheme import (
    METHODS,
    RECIPES,
    SCHEMES,
    WEIGHTED,
    Method,
    Range,
    Recipe,
    computed_first,
    followers,
    layers,
)
from exporters.quantize.source import expect_fp32, expect_pixels, prepared
from exporters.quantize.tools import quantising

_CHUNK = 8  # images at once: the histograms of entropy and percentile hold every activation of a chunk
_PROBES = 64  # images on which the harm of a layer is measured


@dataclass(frozen=True)
class Calibrated:
    """A graph ready to be quantised, and the ranges of its activations."""

    source: Path
    model: ModelProto
    nodes: Sequence[NodeProto]  # its layers, in graph order
    always: frozenset[str]  # layers that stay in fp32 in any case
    ranges: Any  # onnxruntime's TensorsData
    images: NDArray[np.float32]
    runner: onnx.OnnxRunner  # the fp32 graph
    recipe: Recipe
    method: Method
    folder: Path
    pixels: Mapping[str, tuple[float, float]]  # the range of what the first convolution reads, see `suit_cpu`

    def build(self, kept: Sequence[str] = ()) -> tuple[bytes, Quantized]:
        """Quantise all layers but `always` and `kept`; return a finished file, and what is in it."""
        spared = self.always.union(kept)
        model = self.quantised([node for node in self.nodes if node.name not in spared])
        census = weights_by_type(model)
        if precision_of(census) != "int8":
            share = 100 * census.get("int8", 0) // sum(census.values())
            raise ExportFailed(
                f"only {share} % of the weights of {self.source} would be int8, with {len(spared)} of "
                f"{len(self.nodes)} layers kept in fp32",
                hint="keep fewer layers, or export with precision fp16",
            )
        if self.recipe == "trt":
            expect_symmetric(model)
        layers = tuple(node.name for node in self.nodes)
        result = Quantized(
            census=census,
            kept=tuple(name for name in layers if name in spared),
            layers=layers,
            samples=len(self.images),
            recipe=self.recipe,
            method=self.method,
        )
        describe(model, result)
        content = serialised(model)
        self._prove(content)
        return content, result

    def harms(self) -> dict[str, float]:
        """Return noise over signal of each layer that may be quantised, alone, the largest first."""
        steps = np.linspace(0, len(self.images) - 1, min(len(self.images), _PROBES)).round().astype(int)
        probes = self.images[steps]  # evenly spaced, since images often come class by class
        expected = self.runner(probes)
        signal = float(expected.var()) or 1.0
        harms = {}
        for node in self.nodes:
            if node.name not in self.always:
                model = self.quantised([node])
                del model.metadata_props[:]  # its precision is the source's, which one large layer may change
                runner = self._opened(serialised(model))
                harms[node.name] = float(np.mean((runner(probes) - expected) ** 2)) / signal
        return dict(sorted(harms.items(), key=lambda harm: -harm[1]))

    def quantised(self, chosen: Sequence[NodeProto]) -> ModelProto:
        """Return the graph with these layers in 8 bits."""
        from onnxruntime.quantization import QDQQuantizer, QuantType

        scheme = SCHEMES[self.recipe]
        # TensorRT wants one operand of a sum quantised, ONNX Runtime's quantiser offers both or none.
        sums = [node for node in chosen if scheme.symmetric and node.op_type == "Add"]
        names = [node.name for node in chosen if node not in sums] + followers(self.model, chosen, scheme)
        with quantising(self.source):
            quantiser = QDQQuantizer(
                copy.deepcopy(self.model),
                True,  # one scale per channel
                False,  # all 8 bits of the weights
                QuantType.QInt8,
                QuantType.QInt8 if scheme.symmetric else QuantType.QUInt8,
                copy.deepcopy(self.ranges),  # the quantiser narrows those in front of a Relu
                names or [""],  # none; an empty list would mean all
                [],
                sorted(scheme.layers | scheme.followers),
                dict(scheme.options),
            )
            for node in sums:
                quantiser.quantize_activation_tensor(computed_first(self.model, node.input))
            quantiser.quantize_model()
            quantiser.model.topological_sort()  # the new nodes stand at the end
            model: ModelProto = quantiser.model.model
        release_logits(model)
        return model

    def _prove(self, content: bytes) -> None:
        """Open a finished file as its user will, and run it once."""
        try:
            logits = self._opened(content)(self.images[:1])
        except ArtifactRejected as error:
            raise ExportFailed(f"the quantised graph of {self.source} does not run: {error.message}") from error
        if not np.isfinite(logits).all():
            raise ExportFailed(f"the quantised graph of {self.source} returns logits that are not finite")

    def _opened(self, content: bytes) -> onnx.OnnxRunner:
        candidate = self.folder / "quantised.onnx"
        candidate.write_bytes(content)
        return onnx.load(candidate)


def calibrate(
    source: Path,
    images: NDArray[np.float32],
    recipe: Recipe,
    method: Method,
    keep: Sequence[str],
    folder: Path,
    *,
    suited: bool = True,
    trained: Mapping[str, Range] | None = None,
) -> Calibrated:
    """Check the graph and the images, prepare the graph, and measure the ranges of its activations.

    Args:
        suited: rewrite it for integer kernels, where the recipe is for those.
        trained: ranges that the images do not decide, by the tensors of the prepared graph.
    """
    for kind, name, known in (("recipe", recipe, RECIPES), ("calibration method", method, METHODS)):
        if name not in known:
            raise ExportFailed(f"there is no {kind} {name!r} for INT8", hint=f"known: {', '.join(known)}")
    given = onnx.read(source)
    expect_fp32(source, given)
    runner = onnx.load(source)
    expect_pixels(source, images, runner.input_shape)
    model = prepared(source, given, folder)
    pixels = suit_cpu(model) if recipe == "cpu" and suited else {}
    nodes = layers(model, SCHEMES[recipe])
    names = [node.name for node in nodes]
    if not any(node.op_type in WEIGHTED for node in nodes):
        raise ArtifactRejected(f"{source} has no convolution or matrix product that could be quantised")
    unknown = next((name for name in keep if name not in names), None)
    if unknown is not None:
        raise ArtifactRejected(
            f"{source} has no layer {unknown!r} to keep in fp32", hint=f"its layers: {', '.join(names)}"
        )
    found = ranges(
        source,
        model,
        images,
        size=runner.batch or _CHUNK,
        recipe=recipe,
        method=method,
        known={**pixels, **{name: (each.low, each.high) for name, each in (trained or {}).items()}},
        folder=folder,
    )
    return Calibrated(source, model, nodes, frozenset(keep), found, images, runner, recipe, method, folder, pixels)
