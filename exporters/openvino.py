"""OpenVINO: an ONNX graph written as IR, `.xml` with `.bin` beside it, and run on the CPU in the precision it has.

Left alone, OpenVINO computes fp32 graphs in bf16 where the CPU can, and saves their weights as fp16. Here the precision
is stated, read back after compiling, and counted once more in the kernels that the CPU was really given.
"""

from __future__ import annotations

import hashlib
import json
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from math import prod
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from exporters import Built, Engine, Output, Pixels
from exporters.errors import ArtifactRejected, ExportFailed, RuntimeMissing
from exporters.feeding import FedRunner
from exporters.files import write_whole
from exporters.ort import read
from exporters.precision import precision_of

SUFFIX = ".xml"
QUANTIZATION: Literal["cpu", "trt"] = "cpu"

# By precision, the type that what is not quantised is computed in, as OpenVINO spells it.
_HINTS = {"fp32": "f32", "fp16": "f16", "bf16": "bf16", "int8": "f32"}
_NAMES = {"f32": "fp32", "f16": "fp16", "bf16": "bf16", "f64": "fp64", "i8": "int8", "u8": "int8"}
_PIXELS: dict[str, type[np.generic]] = {"f32": np.float32, "f16": np.float16, "u8": np.uint8}
_FLOATING = ("fp32", "fp16", "bf16")
_COLOURS = (1, 3)

# The operators that do nearly all of a classifier's arithmetic, in a graph and in a compiled one.
_WEIGHTED = {
    "Convolution",
    "GroupConvolution",
    "ConvolutionBackpropData",
    "GroupConvolutionBackpropData",
    "MatMul",
    "Deconvolution",
    "FullyConnected",
}
_SAME_VALUES = {"Reshape", "Transpose", "Squeeze", "Unsqueeze"}
_LEVELS = 256
# Where we keep what is ours in an IR.
_METADATA, _HASH = ["compress", "metadata"], ["compress", "weights_sha256"]


@dataclass(kw_only=True, eq=False)
class OpenVinoRunner(FedRunner):
    """A `Runner` over an IR or an ONNX file. Its census counts weights by the type of the kernels chosen for them."""

    model: Any
    compiled: Any

    def __post_init__(self) -> None:
        self._request = self.compiled.create_infer_request()
        self._by_batch: dict[int, Any] = {}

    def _answer(self, batch: NDArray[np.generic]) -> NDArray[np.generic]:
        answer: NDArray[np.generic] = self._request.infer({0: batch}, share_inputs=True)[0]
        return answer

    def prepare(self, images: NDArray[np.float32]) -> Callable[[], object]:
        """See `Runner.prepare`. The graph is compiled for this batch size, which is faster than for any."""
        self._expect_batch(images)
        request = self._for_batch(len(images)).create_infer_request()
        request.get_input_tensor().data[:] = self._fed(images)

        def infer() -> object:
            return request.infer(share_outputs=True)

        return infer

    def _for_batch(self, size: int) -> Any:
        if self.batch is not None:
            return self.compiled
        if size not in self._by_batch:
            model = self.model.clone()
            model.reshape([size, *list(model.input().get_partial_shape())[1:]])
            self._by_batch[size], _ = _compile(self.path, model, self.precision, self.threads)
        return self._by_batch[size]


def require() -> None:
    """See `Exporter.require`."""
    _runtime()


def build(source: Path, folder: Path, stem: str, *, precision: str, engine: Engine) -> Built:
    """Write an ONNX file as IR, `stem.precision.xml` and `.bin`; see `Exporter.build`. Nothing is compiled yet.

    The same graph and the same OpenVINO give the same bytes. Metadata are kept, and so is the hash of the weights, so
    that files that do not belong together are told apart.
    """
    del engine  # a CPU compiles when it loads
    graph = _open(source)
    _find_ends(source, graph.model)
    found = precision_of(_weights_by_type(graph.model))
    if found != precision:
        raise ExportFailed(f"{source} computes in {found}, not in {precision}", hint=f"give a graph in {precision}")
    path = folder / f"{stem}.{precision}{SUFFIX}"
    with tempfile.TemporaryDirectory(prefix="compress.") as place:
        draft = Path(place) / path.name
        _save(source, graph, draft)
        written = _open(draft).model
        if _constants_by_type(written) != _constants_by_type(graph.model):
            raise ExportFailed(f"OpenVINO stored the weights of {source} as other types than they have")
        _write_pair(path, draft)
    return Built(
        path=path,
        format="openvino",
        precision=precision,
        census=_weights_by_type(written),
        companions=(_weights_of(path),),
    )


def load(path: Path, *, provider: str = "cpu", threads: int | None = None, cuda_graph: bool = False) -> OpenVinoRunner:
    """Open an IR or an ONNX classifier on the CPU; `threads` are those of one inference, by default all cores.

    Raises:
        RuntimeMissing: OpenVINO is not here, `provider` is not the CPU, or this CPU has no kernels for the file's
            precision, so that OpenVINO would run it in another.
        ArtifactRejected: the file is not what it claims, or no image classifier.
    """
    if provider != "cpu":
        raise RuntimeMissing(f"OpenVINO is offered on the CPU only, not on {provider!r}", hint="use the device cpu")
    if cuda_graph:
        raise RuntimeMissing("CUDA graphs are for CUDA devices, and OpenVINO runs on the CPU")
    graph = _open(path)
    ends = _find_ends(path, graph.model)
    precision = precision_of(_weights_by_type(graph.model))
    for name, found in {"precision": precision, "pixels": ends.pixels, "output": ends.output}.items():
        claimed = graph.metadata.get(f"compress.{name}", found)
        if claimed != found:
            raise ArtifactRejected(
                f"{path} says that its {name} is {claimed}, but the graph's is {found}", hint="export it again"
            )
    compiled, census = _compile(path, graph.model, precision, threads)
    return OpenVinoRunner(
        path=path,
        format="openvino",
        provider="cpu",
        precision=precision,
        input_shape=ends.input_shape,
        classes=ends.classes or _count_classes(path, compiled, ends),
        pixels=ends.pixels,
        output=ends.output,
        metadata=graph.metadata,
        threads=threads,
        census=census,
        batch=ends.batch,
        feed=ends.feed,
        model=graph.model,
        compiled=compiled,
    )


# Reading and writing.


@dataclass(frozen=True)
class _Graph:
    model: Any  # openvino.Model
    metadata: Mapping[str, str]


def _open(path: Path) -> _Graph:
    """Read a graph by OpenVINO's own reader, after seeing that it names no files elsewhere."""
    if path.suffix != SUFFIX:
        metadata = {entry.key: entry.value for entry in read(path).metadata_props}
        return _Graph(_read(path), metadata)
    _expect_pair(path)
    model = _read(path)
    weights = _weights_of(path)
    if model.has_rt_info(_HASH) and _text(model, _HASH) != hashlib.sha256(weights.read_bytes()).hexdigest():
        raise ArtifactRejected(_not_its_weights(path), hint="copy both files again, or export again")
    try:
        stored = json.loads(_text(model, _METADATA)) if model.has_rt_info(_METADATA) else {}
    except json.JSONDecodeError:
        stored = None
    if not isinstance(stored, dict) or not all(isinstance(value, str) for value in stored.values()):
        raise ArtifactRejected(f"{path} has metadata that are not a JSON object of texts", hint="export it again")
    return _Graph(model, stored)


def _expect_pair(path: Path) -> None:
    """Refuse what is no IR before OpenVINO tries all its other formats on it, some of which print."""
    if not path.is_file():
        raise ArtifactRejected(f"cannot read {path}: no such file")
    if not _runtime().frontend.FrontEndManager().load_by_framework("ir").supported(str(path)):
        raise ArtifactRejected(
            f"{path} is not an OpenVINO IR, or is cut short", hint="give the .xml file that an export wrote"
        )
    if not _weights_of(path).is_file():
        raise ArtifactRejected(
            f"{path} needs the file {_weights_of(path).name!r} beside it", hint="an IR is two files: copy both"
        )


def _read(path: Path) -> Any:
    try:
        # Weights mapped into memory would change, or end the process, when the file is written anew.
        return _core().read_model(str(path), config={"ENABLE_MMAP": False})
    except RuntimeError as error:
        if "bin file" in str(error):
            raise ArtifactRejected(_not_its_weights(path), hint="copy both files again, or export again") from error
        raise ArtifactRejected(f"OpenVINO refuses {path}: {_reason(error)}") from error


def _not_its_weights(path: Path) -> str:
    return (
        f"{_weights_of(path)} does not hold the weights of {path.name}: it is cut short, damaged or of another export"
    )


def _weights_of(path: Path) -> Path:
    return path.with_suffix(".bin")


def _text(model: Any, place: list[str]) -> str:
    text: str = model.get_rt_info(place).astype(str)
    return text


def _reason(error: RuntimeError) -> str:
    """Return the last line of an error of OpenVINO; those before it are places in its source."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines or [type(error).__name__])[-1].rstrip(".!")


def _save(source: Path, graph: _Graph, draft: Path) -> None:
    runtime, model = _runtime(), graph.model
    _name_nodes(model)
    if model.has_rt_info(["framework"]):
        del model.rt_info["framework"]  # the metadata as the reader keeps them: not every text is XML
    model.set_rt_info(json.dumps(dict(graph.metadata), sort_keys=True), _METADATA)
    try:
        for _ in range(2):  # the second time with the hash of the weights
            runtime.save_model(model, str(draft), compress_to_fp16=False)
            model.set_rt_info(hashlib.sha256(_weights_of(draft).read_bytes()).hexdigest(), _HASH)
    except RuntimeError as error:
        raise ExportFailed(f"OpenVINO cannot write {source} as IR: {_reason(error)}") from error


def _name_nodes(model: Any) -> None:
    """Name by place the nodes that OpenVINO added: it counts through the process, so names would depend on its past."""
    nodes = model.get_ordered_ops()
    given = {node.get_friendly_name() for node in nodes if node.get_friendly_name() != node.get_name()}
    for number, node in enumerate(nodes):
        if node.get_friendly_name() == node.get_name():
            name = f"{node.get_type_name()}_{number}"
            node.set_friendly_name(f"{name}_added" if name in given else name)


def _write_pair(path: Path, draft: Path) -> None:
    """Write the weights, then the graph that names their hash: at no time do two files pass that do not belong."""
    weights = _weights_of(path)
    write_whole(weights, _weights_of(draft).read_bytes())
    try:
        write_whole(path, draft.read_bytes())
    except ExportFailed:
        weights.unlink()
        path.unlink(missing_ok=True)
        raise


# What a graph takes, returns and computes in.


@dataclass(frozen=True)
class _Ends:
    batch: int | None
    input_shape: tuple[int, int, int]
    feed: type[np.generic]
    pixels: Pixels
    output: Output
    classes: int | None  # None: the graph does not say


def _find_ends(path: Path, model: Any) -> _Ends:
    inputs, outputs = model.inputs, model.outputs
    if len(inputs) != 1 or len(outputs) != 1:
        raise ArtifactRejected(
            f"{path} has {len(inputs)} inputs and {len(outputs)} outputs, a classifier has one of each"
        )
    kind, shape = inputs[0].get_element_type().to_string(), inputs[0].get_partial_shape()
    if kind not in _PIXELS:
        raise ArtifactRejected(f"{path} takes {kind} input, not images of floating-point or uint8 pixels")
    if shape.rank.is_dynamic or len(shape) != 4:
        raise ArtifactRejected(f"{path} takes input of shape {shape.to_string()}, not images [batch, C, H, W]")
    batch, *sizes = (0 if size.is_dynamic else size.get_length() for size in shape)
    if 0 in sizes:
        raise ArtifactRejected(
            f"{path} leaves the size of its images open", hint="export it with fixed channels, height and width"
        )
    if kind == "u8" and sizes[2] not in _COLOURS:
        raise ArtifactRejected(
            f"{path} takes uint8 pixels {shape.to_string()}, not [batch, H, W, C] with 1 or 3 channels",
            hint="give a graph that takes uint8 NHWC or float NCHW",
        )
    if kind != "u8" and sizes[2] in _COLOURS and sizes[0] not in _COLOURS:
        raise ArtifactRejected(
            f"{path} takes floating-point pixels {shape.to_string()}, channels last, which are only taken as uint8",
            hint="give a graph that takes [batch, C, H, W]",
        )
    channels, height, width = (sizes[2], sizes[0], sizes[1]) if kind == "u8" else sizes
    answer = outputs[0].get_partial_shape()
    if answer.rank.is_static and len(answer) != 2:
        raise ArtifactRejected(f"{path} returns {answer.to_string()}, not logits [batch, classes]")
    known = answer.rank.is_static and answer[1].is_static
    return _Ends(
        batch=batch or None,
        input_shape=(channels, height, width),
        feed=_PIXELS[kind],
        pixels="uint8" if kind == "u8" else "float32",
        output="probabilities" if _ends_in_softmax(model) else "logits",
        classes=answer[1].get_length() if known else None,
    )


def _ends_in_softmax(model: Any) -> bool:
    node = model.get_results()[0].input_value(0).get_node()
    while node.get_type_name() in {*_SAME_VALUES, "Convert"}:
        node = node.input_value(0).get_node()
    return bool(node.get_type_name() == "Softmax")


def _count_classes(path: Path, compiled: Any, ends: _Ends) -> int:
    shape = [ends.batch or 1, *list(compiled.input().get_partial_shape())[1:]]
    answer = compiled(np.zeros([int(str(size)) for size in shape], ends.feed))[0]
    if answer.ndim != 2:
        raise ArtifactRejected(f"{path} returns {list(answer.shape)} for one image, not logits [batch, classes]")
    return int(answer.shape[1])


def _weights_by_type(model: Any) -> dict[str, int]:
    """Count the weights of convolutions and matrix products by the type they are computed in, as `precision` does."""
    counts: Counter[str] = Counter()
    constant = _constants(model)
    for data, weights in _products(model, constant):
        rounded = _is_quantised(data, constant) and _is_quantised(weights, constant)
        counts["int8" if rounded else _type(weights)] += prod(weights.get_shape())
    return dict(counts) or {kind: count for kind, count in _constants_by_type(model).items() if kind in _FLOATING}


def _weights_by_kernel(compiled: Any) -> dict[str, int]:
    """Count the same weights by the type of the data that come to them: in that, the CPU's kernels compute.

    What OpenVINO calls the precision of a node is the narrower of data and weights, though it may expand the weights.
    """
    counts: Counter[str] = Counter()
    model = compiled.get_runtime_model()
    for data, weights in _products(model, _constants(model)):
        counts[_type(data)] += prod(weights.get_shape())
    return dict(counts)


def _constants_by_type(model: Any) -> dict[str, int]:
    """Count the numbers that a graph stores by the type they are stored in."""
    counts: Counter[str] = Counter()
    for node in model.get_ordered_ops():
        if node.get_type_name() == "Constant":
            counts[_type(node.output(0))] += prod(node.get_output_shape(0))
    return dict(counts)


def _products(model: Any, constant: set[str]) -> Iterator[tuple[Any, Any]]:
    """Yield the data and the weights of each operator that has weights."""
    for node in model.get_ordered_ops():
        if _kind(node) in _WEIGHTED:
            first, second = node.input_value(0), node.input_value(1)
            fixed = [each.get_node().get_name() in constant for each in (first, second)]
            if fixed == [False, True]:
                yield first, second
            elif fixed == [True, False]:
                yield second, first


def _constants(model: Any) -> set[str]:
    """Return the names of all nodes that do not depend on the input."""
    found: set[str] = set()
    for node in model.get_ordered_ops():
        sources = [each.get_node().get_name() for each in node.input_values()]
        if _kind(node) in ("Constant", "Const") or (sources and found.issuperset(sources)):
            found.add(node.get_name())
    return found


def _kind(node: Any) -> str:
    """Return the operator of a node, be it of a graph or of what the CPU made of it."""
    facts = node.get_rt_info()
    name: str = facts["layerType"].astype(str) if "layerType" in facts else node.get_type_name()
    return name


def _is_quantised(value: Any, constant: set[str]) -> bool:
    """Whether a tensor was rounded to 8 bits just before it is used: an integer, less an offset, times a scale."""
    node = value.get_node()
    while True:
        kind = node.get_type_name()
        if kind == "FakeQuantize":
            return bool(node.get_attributes()["levels"] <= _LEVELS)
        if kind == "Convert" and _type(node.input_value(0)) == "int8":
            return True
        scaled = kind in ("Multiply", "Subtract") and node.input_value(1).get_node().get_name() in constant
        if not scaled and kind not in {*_SAME_VALUES, "Convert"}:
            return False
        node = node.input_value(0).get_node()


def _type(value: Any) -> str:
    kind: str = value.get_element_type().to_string()
    return _NAMES.get(kind, kind)


# The runtime.


def _compile(path: Path | None, model: Any, precision: str, threads: int | None) -> tuple[Any, dict[str, int]]:
    """Compile for the CPU, and see that what was asked for is what it does."""
    if precision not in _HINTS:
        raise RuntimeMissing(f"OpenVINO runs are not offered in {precision!r}", hint=f"known: {', '.join(_HINTS)}")
    settings: dict[str, Any] = {
        "INFERENCE_PRECISION_HINT": _HINTS[precision],
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0,  # else 8-bit weights alone make it round activations as well
    }
    if threads is not None:
        settings["INFERENCE_NUM_THREADS"] = threads
    try:
        compiled = _core().compile_model(model, "CPU", settings)
    except RuntimeError as error:
        raise ArtifactRejected(f"OpenVINO cannot compile {path}: {_reason(error)}") from error
    hint = compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
    census = _weights_by_kernel(compiled)
    if hint != _HINTS[precision] or (census and precision_of(census) != precision):
        wrong = precision_of(census) if census else _NAMES.get(hint, hint)
        raise RuntimeMissing(
            f"OpenVINO would run {path} in {wrong} on this CPU, not in {precision}",
            hint="run it where there are kernels for it, or export it with --precision fp32",
        )
    devices, available = compiled.get_property("EXECUTION_DEVICES"), compiled.get_property("INFERENCE_NUM_THREADS")
    if devices != ["CPU"]:
        raise RuntimeMissing(f"OpenVINO chose {devices} though the CPU was asked for")
    if threads not in (None, available):
        raise RuntimeMissing(
            f"OpenVINO runs on {available} threads here, not on {threads}", hint=f"ask for {available}"
        )
    return compiled, census


@cache
def _core() -> Any:
    return _runtime().Core()


def _runtime() -> Any:
    """Import OpenVINO, but for the part that tells its makers of each import and keeps a file in the home folder."""
    private = {"openvino", "openvino_telemetry"}.isdisjoint(sys.modules)
    if private:
        sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
    try:
        import openvino
    except ImportError as error:
        raise RuntimeMissing("OpenVINO is not installed", hint="pip install 'compressor[openvino]'") from error
    finally:
        if private:
            del sys.modules["openvino_telemetry"]
    return openvino
