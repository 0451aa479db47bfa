"""INT8 out of an fp32 ONNX graph by post-training quantisation on calibration images.

ONNX Runtime's quantiser does the arithmetic. Here is which nodes are quantised for which runtime, which are kept in
fp32, and what the finished graph must be. The result is a QDQ graph: floating point with pairs of QuantizeLinear and
DequantizeLinear, which a runtime fuses into integer arithmetic. The logits themselves are never rounded: 256 levels
would make ties between classes.
"""

from __future__ import annotations

import copy
import io
import itertools
import json
import logging
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import onnx
from google.protobuf.message import EncodeError
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, numpy_helper, version_converter

from exporters import ort
from exporters.errors import ArtifactRejected, ExporterError, ExportFailed
from exporters.files import write_whole
from exporters.onnx import EXPORTER_VERSION
from exporters.precision import precision_of, weights_by_type

Recipe = Literal["cpu", "trt"]
Method = Literal["minmax", "entropy", "percentile"]
RECIPES: tuple[str, ...] = get_args(Recipe)
METHODS: tuple[str, ...] = get_args(Method)

_OPSET, _IR_VERSION = 13, 7  # the first with one scale per channel
_CHUNK = 8  # images at once: the histograms of entropy and percentile hold every activation of a chunk
_PROBES = 64  # images on which the harm of a layer is measured
_SLACK = 1e-3  # of pixels beyond [0, 1], as resizing leaves them
_STANDARD = ("", "ai.onnx")  # names of the domain of ONNX's own operators
_WARNING, _FATAL = 2, 4  # log severities of ONNX Runtime


@dataclass(frozen=True)
class Quantized:
    """What a quantisation left. `census` and `layers` were found in the graph."""

    census: Mapping[str, int]  # weights by the type they are computed in, see `precision.weights_by_type`
    kept: tuple[str, ...]  # layers left in fp32, in graph order
    layers: tuple[str, ...]  # all layers that the recipe can quantise, in graph order
    samples: int  # calibration images
    recipe: str
    method: str
    drop: float | None = None  # points of accuracy lost, where a limit was set


@dataclass(frozen=True)
class _Scheme:
    """How a runtime wants its graph."""

    layers: frozenset[str]  # operators with ranges of their own
    followers: frozenset[str]  # operators that pass 8 bits on when they are given 8 bits
    symmetric: bool  # int8 around zero; else uint8 with a zero point
    options: Mapping[str, Any]


_SCHEMES: dict[str, _Scheme] = {
    # ONNX Runtime and OpenVINO on CPUs: unsigned activations, signed weights, everything in between in 8 bits too.
    "cpu": _Scheme(
        layers=frozenset(
            {"Conv", "Gemm", "MatMul", "Add", "Mul", "Concat", "GlobalAveragePool", "LeakyRelu", "Sigmoid"}
        ),
        followers=frozenset(
            {"Relu", "Clip", "MaxPool", "AveragePool", "Pad", "Slice", "Split"}
            | {"Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose"}
        ),
        symmetric=False,
        options={},
    ),
    # TensorRT: all symmetric, a bias in fp32, weights quantised in the graph. NVIDIA's rule for the places: the inputs
    # of layers with weights, not their outputs, and of a sum one operand, so that the other's layer absorbs the sum.
    "trt": _Scheme(
        layers=frozenset({"Conv", "Gemm", "MatMul", "Add"}),
        followers=frozenset(),
        symmetric=True,
        options={
            "ActivationSymmetric": True,
            "WeightSymmetric": True,
            "QuantizeBias": False,
            "AddQDQPairToWeight": True,
            "OpTypesToExcludeOutputQuantization": ["Conv", "Gemm", "MatMul"],
        },
    ),
}
_WEIGHTED = frozenset({"Conv", "Gemm", "MatMul"})
_QUANTISED = frozenset({"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "QLinearConv", "QLinearMatMul"})


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
        content, result = _calibrate(source, images, recipe, method, keep, Path(folder)).build()
    write_whole(path, content)
    return result


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
        return _calibrate(source, images, recipe, method, (), Path(folder)).harms()


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
        max_drop: points of accuracy that may be lost.
        keep: layers to leave in fp32 in any case.

    Layers are kept in the order of `sensitive_first`: 0, 1, 2, 4, ... until the drop is met, then halving between the
    last two. This takes for granted that keeping more layers never loses more; where it does, the file still meets
    `max_drop`, but fewer layers might have done.

    Raises:
        ArtifactRejected, RuntimeMissing: see `quantize`.
        ExportFailed: no number of layers meets `max_drop` while most weights are int8; names the best drop seen.
    """
    with tempfile.TemporaryDirectory(prefix="compress.") as folder:
        calibrated = _calibrate(source, images, recipe, method, keep, Path(folder))
        content, result = _Search(calibrated, drop, max_drop).run()
    write_whole(path, content)
    return result


@dataclass(frozen=True)
class _Calibrated:
    """A graph ready to be quantised, and the ranges of its activations."""

    source: Path
    model: ModelProto
    nodes: Sequence[NodeProto]  # its layers, in graph order
    always: frozenset[str]  # layers that stay in fp32 in any case
    ranges: Any  # onnxruntime's TensorsData
    images: NDArray[np.float32]
    runner: ort.OnnxRunner  # the fp32 graph
    recipe: Recipe
    method: Method
    folder: Path

    def build(self, kept: Sequence[str] = ()) -> tuple[bytes, Quantized]:
        """Quantise all layers but `always` and `kept`; return a finished file, and what is in it."""
        spared = self.always.union(kept)
        model = self._quantised([node for node in self.nodes if node.name not in spared])
        census = weights_by_type(model)
        if precision_of(census) != "int8":
            share = 100 * census.get("int8", 0) // sum(census.values())
            raise ExportFailed(
                f"only {share} % of the weights of {self.source} would be int8, with {len(spared)} of "
                f"{len(self.nodes)} layers kept in fp32",
                hint="keep fewer layers, or export with precision fp16",
            )
        if self.recipe == "trt":
            _expect_symmetric(model)
        layers = tuple(node.name for node in self.nodes)
        result = Quantized(
            census=census,
            kept=tuple(name for name in layers if name in spared),
            layers=layers,
            samples=len(self.images),
            recipe=self.recipe,
            method=self.method,
        )
        _describe(model, result)
        content = _serialised(model, self.source)
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
                runner = self._opened(_serialised(self._quantised([node]), self.source))
                harms[node.name] = float(np.mean((runner(probes) - expected) ** 2)) / signal
        return dict(sorted(harms.items(), key=lambda harm: -harm[1]))

    def _quantised(self, chosen: Sequence[NodeProto]) -> ModelProto:
        """Return the graph with these layers in 8 bits."""
        from onnxruntime.quantization import QDQQuantizer, QuantType

        scheme = _SCHEMES[self.recipe]
        # TensorRT wants one operand of a sum quantised, ONNX Runtime's quantiser offers both or none.
        sums = [node for node in chosen if scheme.symmetric and node.op_type == "Add"]
        names = [node.name for node in chosen if node not in sums] + _followers(self.model, chosen, scheme)
        with _quiet(), _refused(self.source):
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
                quantiser.quantize_activation_tensor(_computed_first(self.model, node.input))
            quantiser.quantize_model()
            quantiser.model.topological_sort()  # the new nodes stand at the end
            model: ModelProto = quantiser.model.model
        _release_logits(model)
        return model

    def _prove(self, content: bytes) -> None:
        """Open a finished file as its user will, and run it once."""
        try:
            logits = self._opened(content)(self.images[:1])
        except ArtifactRejected as error:
            raise ExportFailed(f"the quantised graph of {self.source} does not run: {error.message}") from error
        if not np.isfinite(logits).all():
            raise ExportFailed(f"the quantised graph of {self.source} returns logits that are not finite")

    def _opened(self, content: bytes) -> ort.OnnxRunner:
        candidate = self.folder / "quantised.onnx"
        candidate.write_bytes(content)
        return ort.load(candidate)


@dataclass
class _Search:
    """The fewest layers to keep in fp32, found by measuring candidates."""

    calibrated: _Calibrated
    drop: Callable[[Path], float]
    max_drop: float
    best: float = np.inf  # points lost by the best candidate so far

    def run(self) -> tuple[bytes, Quantized]:
        """Return the file and what is in it, with the fewest kept layers that meet the limit."""
        found = self._measured(())
        if found is not None:
            return found
        ranked = list(self.calibrated.harms())
        most = self._most(ranked)
        failed, count = 0, min(1, most)
        while found is None:
            if failed == most:
                raise self._missed(most, len(ranked))
            found = self._measured(ranked[:count])
            if found is None:
                failed, count = count, min(2 * count, most)
        while count - failed > 1:
            middle = (failed + count) // 2
            fewer = self._measured(ranked[:middle])
            if fewer is None:
                failed = middle
            else:
                found, count = fewer, middle
        return found

    def _measured(self, kept: Sequence[str]) -> tuple[bytes, Quantized] | None:
        """Return the candidate that keeps these layers if it meets the limit."""
        content, result = self.calibrated.build(kept)
        candidate = self.calibrated.folder / f"kept{len(kept)}.onnx"  # a name of its own: `drop` may hold it open
        candidate.write_bytes(content)
        drop = self.drop(candidate)
        self.best = min(self.best, drop)
        return (content, replace(result, drop=drop)) if drop <= self.max_drop else None

    def _most(self, ranked: Sequence[str]) -> int:
        """Return how many layers can be kept while most weights, and one layer at least, are in int8."""
        constants = _constants(self.calibrated.model)
        sizes = {
            node.name: int(np.prod(constants[node.input[1]].dims)) if node.op_type in _WEIGHTED else 0
            for node in self.calibrated.nodes
        }
        total = sum(weights_by_type(self.calibrated.model).values())
        int8 = sum(sizes[name] for name in ranked) - np.cumsum([sizes[name] for name in ranked[:-1]], dtype=int)
        return int((2 * int8 > total).sum())

    def _missed(self, most: int, layers: int) -> ExportFailed:
        reason = "" if most == layers - 1 else ", and keeping more would leave most weights in fp32"
        return ExportFailed(
            f"INT8 loses {self.best:.2f} points at best, more than {self.max_drop:g}, with up to {most} of {layers} "
            f"layers kept in fp32{reason}",
            hint="allow a larger drop, calibrate on other images, or export with precision fp16",
        )


def _calibrate(
    source: Path, images: NDArray[np.float32], recipe: Recipe, method: Method, keep: Sequence[str], folder: Path
) -> _Calibrated:
    """Check the graph and the images, prepare the graph, and measure the ranges of its activations."""
    for kind, name, known in (("recipe", recipe, RECIPES), ("calibration method", method, METHODS)):
        if name not in known:
            raise ExportFailed(f"there is no {kind} {name!r} for INT8", hint=f"known: {', '.join(known)}")
    given = ort.read(source)
    _expect_fp32(source, given)
    runner = ort.load(source)
    _expect_pixels(source, images, runner.input_shape)
    model = _prepared(source, given, folder)
    nodes = _layers(model, _SCHEMES[recipe])
    names = [node.name for node in nodes]
    if not any(node.op_type in _WEIGHTED for node in nodes):
        raise ArtifactRejected(f"{source} has no convolution or matrix product that could be quantised")
    unknown = next((name for name in keep if name not in names), None)
    if unknown is not None:
        raise ArtifactRejected(
            f"{source} has no layer {unknown!r} to keep in fp32", hint=f"its layers: {', '.join(names)}"
        )
    ranges = _ranges(source, images, runner.batch or _CHUNK, recipe, method, folder)
    return _Calibrated(source, model, nodes, frozenset(keep), ranges, images, runner, recipe, method, folder)


def _expect_fp32(source: Path, model: ModelProto) -> None:
    if any(node.op_type in _QUANTISED for node in model.graph.node):
        raise ArtifactRejected(f"{source} is quantised already", hint="quantise the fp32 graph that it was made of")
    constants = _constants(model)
    types = {value.type.tensor_type.elem_type for value in model.graph.input if value.name not in constants}
    if TensorProto.UINT8 in types:
        raise ArtifactRejected(
            f"{source} takes uint8 pixels, INT8 is made of a graph that takes float32",
            hint="quantise first, then convert the input to uint8",
        )
    lower = sorted(set(weights_by_type(model)) - {"fp32"})
    if lower or TensorProto.FLOAT16 in types:
        raise ArtifactRejected(
            f"{source} computes in {(lower or ['fp16'])[0]}, INT8 is made of an fp32 graph",
            hint="export it with precision fp32",
        )


def _expect_pixels(source: Path, images: NDArray[np.float32], input_shape: tuple[int, int, int]) -> None:
    if images.dtype != np.float32 or images.ndim != 4:
        raise ValueError(f"calibration images are float32 [N, C, H, W], not {images.dtype} {images.shape}")
    if len(images) == 0:
        raise ArtifactRejected(
            "there are no calibration images", hint="INT8 needs images like those of later use, 128 to 512 are usual"
        )
    if images.shape[1:] != input_shape:
        given, wanted = ("x".join(map(str, shape)) for shape in (images.shape[1:], input_shape))
        raise ArtifactRejected(f"the calibration images are {given}, {source} takes {wanted}")
    low, high = float(images.min()), float(images.max())
    if not (low >= -_SLACK and high <= 1 + _SLACK):
        raise ArtifactRejected(
            f"the calibration images have pixels from {low:.4g} to {high:.4g}, not in [0, 1]",
            hint="give the pixels themselves: mean and standard deviation belong inside the graph",
        )


def _prepared(source: Path, model: ModelProto, folder: Path) -> ModelProto:
    """Return the graph with its shapes inferred, its constants folded, and a name for each node.

    Left in `folder` as `prepared.onnx`, with the same tensors.
    """
    from onnxruntime.quantization import quant_pre_process
    from onnxruntime.quantization.quant_utils import load_model_with_shape_infer

    onnx.load_external_data_for_model(model, str(source.parent))
    model = _raised(source, model)
    weights = _constants(model)
    for value in [value for value in model.graph.input if value.name in weights]:  # else they may be overridden
        model.graph.input.remove(value)
    plain, prepared = folder / "plain.onnx", folder / "prepared.onnx"
    plain.write_bytes(_serialised(model, source))
    with _quiet(), _refused(source):
        quant_pre_process(plain, prepared, skip_symbolic_shape=True)
        ready: ModelProto = load_model_with_shape_infer(prepared)
    _name(ready)
    _flatten_biases(ready)
    return ready


def _raised(source: Path, model: ModelProto) -> ModelProto:
    """Return the graph in an opset that has one scale per channel."""
    opset = next(entry.version for entry in model.opset_import if entry.domain in _STANDARD)
    if opset < _OPSET:
        try:
            model = version_converter.convert_version(model, _OPSET)
        except RuntimeError as error:
            raise ExportFailed(
                f"{source} is written in opset {opset}, INT8 needs {_OPSET}, and it cannot be raised: "
                f"{_first_line(error)}",
                hint=f"export it with opset {_OPSET} or later",
            ) from error
    model.ir_version = max(model.ir_version, _IR_VERSION)
    return model


def _name(model: ModelProto) -> None:
    """Give each node a name: layers are chosen, kept and reported by name."""
    taken = {node.name for node in model.graph.node}
    for index, node in enumerate(model.graph.node):
        if not node.name:
            node.name = next(name for step in itertools.count(index) if (name := f"{node.op_type}_{step}") not in taken)
            taken.add(node.name)


def _flatten_biases(model: ModelProto) -> None:
    """Store `[1, N]` biases of matrix products as `[N]`: they get one scale per channel along their only axis."""
    constants = _constants(model)
    for node in model.graph.node:
        if node.op_type == "Gemm" and len(node.input) > 2 and node.input[2] in constants:
            bias = constants[node.input[2]]
            if list(bias.dims[:-1]) == [1]:
                del bias.dims[0]


def _layers(model: ModelProto, scheme: _Scheme) -> list[NodeProto]:
    """Return the nodes that the scheme can quantise.

    Sums and products with a constant are left alone: in one scale for a whole tensor, a mean or a bias is ruined.
    """
    constants = _constants(model)
    values = [*model.graph.value_info, *model.graph.output]
    floats = {value.name for value in values if value.type.tensor_type.elem_type == TensorProto.FLOAT}

    def fits(node: NodeProto) -> bool:
        if node.op_type not in scheme.layers or node.output[0] not in floats:
            return False
        if node.op_type not in _WEIGHTED:
            return not constants.keys() & set(node.input)
        data, *given = filter(None, node.input)
        weights = [list(constants[name].dims) for name in given if name in constants]
        if data in constants or len(weights) < len(given):
            return False
        if node.op_type == "Conv":
            return True
        transposed = any(attribute.name == "transB" and attribute.i for attribute in node.attribute)
        return len(weights[0]) == 2 and weights[1:] in ([], [weights[0][:1] if transposed else weights[0][1:]])

    return [node for node in model.graph.node if fits(node)]


def _followers(model: ModelProto, chosen: Sequence[NodeProto], scheme: _Scheme) -> list[str]:
    """Return the names of the nodes that pass on what the chosen layers have quantised."""
    names = {node.name for node in chosen}
    quantised = {name for node in chosen for name in (node.input[0], *node.output)}
    quantised |= {name for node in chosen if node.op_type not in _WEIGHTED for name in node.input}
    followers = []
    for node in model.graph.node:
        if node.op_type in scheme.followers and node.name not in names and node.input[0] in quantised:
            followers.append(node.name)
            quantised.update(node.output)
    return followers


def _computed_first(model: ModelProto, names: Iterable[str]) -> str:
    order = {output: index for index, node in enumerate(model.graph.node) for output in node.output}
    return min(names, key=lambda name: order.get(name, -1))


def _ranges(source: Path, images: NDArray[np.float32], size: int, recipe: Recipe, method: Method, folder: Path) -> Any:
    """Return ONNX Runtime's record of the range of each activation of `prepared.onnx`.

    A last chunk that is too small is filled up with the first images: all are used, and none that are not there.
    """
    from onnxruntime.quantization import CalibrationMethod, create_calibrator

    scheme = _SCHEMES[recipe]
    methods = {
        "minmax": CalibrationMethod.MinMax,
        "entropy": CalibrationMethod.Entropy,
        "percentile": CalibrationMethod.Percentile,
    }
    with _quiet(), _refused(source):
        calibrator = create_calibrator(
            folder / "prepared.onnx",
            sorted(scheme.layers | scheme.followers),
            augmented_model_path=str(folder / "augmented.onnx"),
            calibrate_method=methods[method],
            extra_options={"symmetric": scheme.symmetric},
        )
        calibrator.infer_session = _Watched(calibrator.infer_session, source)
        for start in range(0, len(images), size):
            chunk = images.take(range(start, start + size), axis=0, mode="wrap")
            calibrator.collect_data(_Feed(calibrator.infer_session.get_inputs()[0].name, chunk))
        return calibrator.compute_data()


class _Feed:
    """One batch, as ONNX Runtime's calibrators take data. All at once, they would keep all activations in memory."""

    def __init__(self, name: str, images: NDArray[np.float32]) -> None:
        self.batches = iter([{name: np.ascontiguousarray(images)}])

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        return next(self.batches, None)


class _Watched:
    """A calibrator's session that refuses activations that are not finite. The calibrators skip them unseen."""

    def __init__(self, session: Any, source: Path) -> None:
        self.session, self.source = session, source
        self.get_inputs, self.get_outputs = session.get_inputs, session.get_outputs

    def run(self, names: Sequence[str] | None, feed: Mapping[str, NDArray[np.float32]]) -> list[NDArray[np.float32]]:
        activations: list[NDArray[np.float32]] = self.session.run(names, feed)
        for output, values in zip(self.get_outputs(), activations, strict=True):
            if not np.isfinite(values).all():
                tensor = output.name.removesuffix("_ReduceMin").removesuffix("_ReduceMax")
                raise ArtifactRejected(
                    f"{self.source} computes values that are not finite on the calibration images, in {tensor!r}",
                    hint="validate the fp32 graph first",
                )
        return activations


def _release_logits(model: ModelProto) -> None:
    """Take away the rounding of the logits, in front of a softmax too."""
    graph = model.graph
    producers = {output: node for node in graph.node for output in node.output}
    name = graph.output[0].name
    while name in producers and producers[name].op_type in ("Softmax", "LogSoftmax"):
        name = producers[name].input[0]
    second = producers.get(name)
    first = producers.get(second.input[0]) if second is not None and second.op_type == "DequantizeLinear" else None
    if second is None or first is None or first.op_type != "QuantizeLinear" or first.input[0] not in producers:
        return
    rounded = first.input[0]
    for names in (producers[rounded].output, *(node.input for node in graph.node)):
        for index, each in enumerate(names):
            if each == rounded:
                names[index] = name
    graph.node.remove(first)
    graph.node.remove(second)


def _expect_symmetric(model: ModelProto) -> None:
    """Refuse what TensorRT would refuse: zero points other than zero, and biases in int32."""
    constants = _constants(model)
    for node in model.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            zero_point = constants.get(node.input[2]) if len(node.input) > 2 else None
            if zero_point is None or zero_point.data_type != TensorProto.INT8:
                raise ExportFailed(f"{node.name!r} is not in int8, which is all that TensorRT takes")
            if numpy_helper.to_array(zero_point).any():
                raise ExportFailed(f"{node.name!r} has a zero point other than 0, which TensorRT does not take")


def _describe(model: ModelProto, result: Quantized) -> None:
    """Write what the file is into its metadata, and take out the tools' own marks and what nothing uses."""
    graph = model.graph
    used = {name for node in graph.node for name in node.input}
    made = {name for node in graph.node for name in node.output}
    for unused in [tensor for tensor in graph.initializer if tensor.name not in used]:
        graph.initializer.remove(unused)
    for stale in [value for value in graph.value_info if value.name not in made]:
        graph.value_info.remove(stale)
    domains = {node.domain for node in graph.node} | set(_STANDARD)
    for unneeded in [entry for entry in model.opset_import if entry.domain not in domains]:
        model.opset_import.remove(unneeded)
    model.producer_name, model.producer_version, model.doc_string = "compress", EXPORTER_VERSION, ""
    for part in (graph, *graph.node, *graph.initializer, *graph.input, *graph.output, *graph.value_info):
        part.doc_string = ""
        part.ClearField("metadata_props")
    own = {
        "compress.precision": "int8",
        "compress.quantization": result.recipe,
        "compress.calibration": json.dumps({"samples": result.samples, "method": result.method}),
        "compress.kept_fp32": json.dumps(result.kept),
    }
    given = {entry.key: entry.value for entry in model.metadata_props if entry.value != "onnxruntime.quant"}
    onnx.helper.set_model_props(model, dict(sorted({**given, **own}.items())))


def _constants(model: ModelProto) -> dict[str, TensorProto]:
    return {tensor.name: tensor for tensor in model.graph.initializer}


def _serialised(model: ModelProto, source: Path) -> bytes:
    try:
        content: bytes = model.SerializeToString(deterministic=True)
    except (EncodeError, ValueError) as error:
        raise ExportFailed(f"{source} is larger than 2 GB, the most that one ONNX file can hold") from error
    return content


def _first_line(error: BaseException) -> str:
    text = str(error).split(" : ", 3)[-1].strip()  # ONNX Runtime begins with its name, a number and a kind
    return (text.splitlines() or [type(error).__name__])[0].rstrip(".")


@contextmanager
def _refused(source: Path) -> Iterator[None]:
    """Turn what ONNX Runtime's tools raise, which is of any type, into one sentence."""
    try:
        yield
    except ExporterError:
        raise
    except Exception as error:
        raise ExportFailed(f"ONNX Runtime cannot quantise {source}: {_first_line(error)}") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep progress, advice and warnings off the user's terminal. What goes wrong is raised."""
    import onnxruntime

    disabled, handlers = logging.root.manager.disable, logging.root.handlers[:]
    logging.disable(logging.CRITICAL)
    onnxruntime.set_default_logger_severity(_FATAL)
    try:
        with redirect_stdout(io.StringIO()), np.errstate(all="ignore"):
            yield
    finally:
        onnxruntime.set_default_logger_severity(_WARNING)
        logging.root.handlers[:] = handlers  # `logging.warning` installs one where there is none
        logging.disable(disabled)
