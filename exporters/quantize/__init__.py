"""INT8 out of an fp32 ONNX graph by post-training quantisation on calibration images.

ONNX Runtime's quantiser does the arithmetic. Here is which nodes are quantised for which runtime, which are kept in
fp32, and what the finished graph must be. The result is a QDQ graph: floating point with pairs of QuantizeLinear and
DequantizeLinear, which a runtime fuses into integer arithmetic. The logits themselves are never rounded: 256 levels
would make ties between classes.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from exporters import onnx
from exporters.files import write_whole
from exporters.onnx.graph import sign, write
from exporters.quantize.calibrated import Calibrated, calibrate
from exporters.quantize.graph import Quantized, expect_symmetric
from exporters.quantize.places import Place, Places, places_of
from exporters.quantize.scheme import METHODS, RECIPES, SCHEMES, Method, Range, Recipe
from exporters.quantize.search import LosesTooMuch, Search
from exporters.quantize.simulated import simulated
from exporters.quantize.source import store_constants

__all__ = [
    "METHODS",
    "RECIPES",
    "SCHEMES",
    "LosesTooMuch",
    "Method",
    "Place",
    "Places",
    "Quantized",
    "Range",
    "Recipe",
    "expect_scheme",
    "places",
    "quantize",
    "quantize_trained",
    "quantize_within",
    "sensitive_first",
    "simulate",
]


def quantize(
    source: Path,
    path: Path,
    images: NDArray[np.float32],
    *,
    recipe: Recipe,
    method: Method = "minmax",
    keep: Sequence[str] = (),
) -> Quantized:
    """Write the INT8 form of an fp32 classifier to `path`; the same graph and images give the same bytes.

    Args:
        source: float32 NCHW pixels to logits or probabilities, on pixels in `[0, 1]`. Softmax is never quantised.
        images: calibration images `[N, C, H, W]` in `[0, 1]`; the ranges of all activations are taken from these, so
            they should be like those of later use. 128 to 512 are usual.
        recipe: `cpu` for ONNX Runtime and OpenVINO on CPUs, `trt` for TensorRT. CPUs without VNNI instructions may
            saturate in the integer kernels of `cpu`: check the file where it will run.
        method: how the range of an activation follows from the calibration images: its extremes, the range that loses
            least information, or all but the outermost thousandth of a per cent.
        keep: names of layers to leave in fp32, from `Quantized.layers`. Their inputs are still in 8 bits where another
            layer quantises the same tensor.

    The metadata of `source` is kept, `compress.precision` becomes int8, and `compress.quantization` (the recipe),
    `compress.calibration` (JSON: samples, method) and `compress.kept_fp32` (JSON list) are added.

    Raises:
        ArtifactRejected: `source` is no fp32 classifier, has no such layers, or the images do not fit it.
        ExportFailed: the graph cannot be quantised, or most of its weights would stay in fp32.
        RuntimeMissing: onnxruntime is not installed.
    """
    with tempfile.TemporaryDirectory(prefix="compress.") as folder:
        content, result = calibrate(source, images, recipe, method, keep, Path(folder)).build()
    write_whole(path, content)
    return result


def expect_scheme(source: Path, recipe: Recipe) -> None:
    """See that a graph which was quantised elsewhere is one that the runtimes of a recipe take.

    Raises:
        ExportFailed: it is not; the sentence names the first node that is at fault.
    """
    if recipe == "trt":
        model = onnx.read(source)
        store_constants(model)
        expect_symmetric(model)


def sensitive_first(
    source: Path, images: NDArray[np.float32], *, recipe: Recipe, method: Method = "minmax"
) -> dict[str, float]:
    """Return the harm that each layer does when it alone is quantised, the most harmful first.

    Harm is noise over signal: the mean squared error of the logits against the fp32 graph, divided by the variance of
    its logits, on up to 64 calibration images. 0.01 is a signal-to-noise ratio of 20 dB. Ranges are calibrated once.

    Raises:
        ArtifactRejected, ExportFailed, RuntimeMissing: see `quantize`.
    """
    with tempfile.TemporaryDirectory(prefix="compress.") as folder:
        return calibrate(source, images, recipe, method, (), Path(folder)).harms()


def quantize_within(
    source: Path,
    path: Path,
    images: NDArray[np.float32],
    *,
    recipe: Recipe,
    drop: Callable[[Path], float],
    max_drop: float,
    method: Method = "minmax",
    keep: Sequence[str] = (),
) -> Quantized:
    """Quantise as `quantize` does, leaving as many of the most sensitive layers in fp32 as `max_drop` asks for.

    Args:
        drop: measures a candidate file, on labelled images that were not used to calibrate: points of top-1 accuracy
            below the fp32 graph's. Called once with no layer kept, then about `2 log2` of the number of layers times.
            It may raise ExportFailed for a candidate that is of no use at any accuracy: then more layers are kept.
        max_drop: points of accuracy that may be lost.
        keep: layers to leave in fp32 in any case.

    Layers are kept in the order of `sensitive_first`: 0, 1, 2, 4, ... until the drop is met, then halving between the
    last two. This takes for granted that keeping more layers never loses more; where it does, the file still meets
    `max_drop`, but fewer layers might have done.

    Raises:
        ArtifactRejected, RuntimeMissing: see `quantize`.
        LosesTooMuch: no number of layers meets `max_drop` while most weights are int8; names the best drop seen, or why
            the last candidate was refused where all were.
    """
    with tempfile.TemporaryDirectory(prefix="compress.") as folder:
        calibrated = calibrate(source, images, recipe, method, keep, Path(folder))
        content, result = Search(calibrated, drop, max_drop).run()
    write_whole(path, content)
    return result


def places(source: Path, *, recipe: Recipe, suited: bool = True) -> Places:
    """Return where the INT8 form of an fp32 classifier rounds, and what all of it is on two images of noise.

    Args:
        suited: the `cpu` form, rewritten for integer kernels, see `kernels.suit_cpu`.

    Raises:
        ArtifactRejected, ExportFailed, RuntimeMissing: see `quantize`.
    """
    with tempfile.TemporaryDirectory(prefix="compress.") as folder:
        return places_of(_calibrated(source, recipe, Path(folder), {}, suited=suited))


def quantize_trained(source: Path, path: Path, *, recipe: Recipe, ranges: Mapping[str, Range]) -> Quantized:
    """Write the INT8 form of a classifier that was trained to be rounded, with the ranges that it was trained with.

    Args:
        ranges: by the names of `places`.

    Raises:
        ArtifactRejected, ExportFailed, RuntimeMissing: see `quantize`.
    """
    with tempfile.TemporaryDirectory(prefix="compress.") as folder:
        content, result = _calibrated(source, recipe, Path(folder), ranges, suited=True).build()
    write_whole(path, content)
    return replace(result, samples=0)


def simulate(source: Path, path: Path, *, recipe: Recipe, ranges: Mapping[str, Range], weights: int) -> None:
    """Write a classifier that was trained to be rounded as an fp32 graph, which holds that rounding.

    Its weights are at their levels, and operators between the others round as `ranges` say.

    Args:
        ranges: by the names of `places`, not suited.
        weights: bits of a weight.

    Raises:
        ArtifactRejected, ExportFailed, RuntimeMissing: see `quantize`.
    """
    with tempfile.TemporaryDirectory(prefix="compress.") as folder:
        model = simulated(_calibrated(source, recipe, Path(folder), ranges, suited=False), ranges, weights)
    sign(model)
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    model.ClearField("metadata_props")
    write(model, path, metadata)


def _calibrated(source: Path, recipe: Recipe, folder: Path, ranges: Mapping[str, Range], *, suited: bool) -> Calibrated:
    """Prepare a graph on noise: its own ranges do not count."""
    shape = onnx.load(source).input_shape
    noise = np.random.default_rng(0).random((2, *shape), dtype=np.float32)
    return calibrate(source, noise, recipe, "minmax", (), folder, suited=suited, trained=ranges)
