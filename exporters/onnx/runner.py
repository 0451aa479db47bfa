"""ONNX files run by ONNX Runtime, on the provider that was asked for or not at all."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout, suppress
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper

from exporters.borders import find
from exporters.errors import ArtifactRejected, RuntimeMissing
from exporters.feeding import FedRunner, expect_claims
from exporters.precision import precision_of, weights_by_type

_PROVIDERS: dict[str, tuple[str, dict[str, str]]] = {
    "cpu": ("CPUExecutionProvider", {}),
    # Without this, "fp32" on a GPU means TF32 with its 10 bits of mantissa.
    "cuda": ("CUDAExecutionProvider", {"use_tf32": "0"}),
    # The precision is that of the graph, and no engine is taken from, or left in, the working directory.
    "tensorrt": (
        "TensorrtExecutionProvider",
        {
            "trt_fp16_enable": "0",
            "trt_bf16_enable": "0",
            "trt_int8_enable": "0",
            "trt_engine_cache_enable": "0",
            "trt_timing_cache_enable": "0",
        },
    ),
}
_FEEDS: dict[int, type[np.generic]] = {
    TensorProto.FLOAT: np.float32,
    TensorProto.FLOAT16: np.float16,
    TensorProto.UINT8: np.uint8,
}
_WARNING, _FATAL = 2, 4  # log severities of ONNX Runtime; what is an error is also raised, and said once is enough


@dataclass(kw_only=True, eq=False)
class OnnxRunner(FedRunner):
    """A `Runner` over an ONNX file."""

    cuda_graph: bool
    session: Any
    _recorded: int = field(default=0, init=False)  # CUDA graphs so far

    def _answer(self, batch: NDArray[np.generic]) -> NDArray[np.generic]:
        # -1: none. A recorded graph holds for one batch size and one place in memory.
        once = self._replay(-1) if self.cuda_graph else None
        (answer,) = self.session.run(None, {self.session.get_inputs()[0].name: batch}, once)
        found: NDArray[np.generic] = answer
        return found

    def prepare(self, images: NDArray[np.float32]) -> Callable[[], object]:
        """See `Runner.prepare`. Images and what is returned for them stay in the provider's memory.

        With `cuda_graph`, the first call records the graph that later ones replay.
        """
        import onnxruntime as ort

        self._expect_batch(images)
        given, returned = self.session.get_inputs()[0], self.session.get_outputs()[0]
        output_type = np.float16 if returned.type == "tensor(float16)" else np.float32
        memory = "cpu" if self.provider == "cpu" else "cuda"
        binding = self.session.io_binding()
        binding.bind_ortvalue_input(given.name, ort.OrtValue.ortvalue_from_numpy(self._fed(images), memory, 0))
        answer = ort.OrtValue.ortvalue_from_shape_and_type((len(images), self.classes), output_type, memory, 0)
        binding.bind_ortvalue_output(returned.name, answer)
        options = None
        if self.cuda_graph:
            self._recorded += 1
            options = self._replay(self._recorded)

        def infer() -> object:
            self.session.run_with_iobinding(binding, options)
            binding.synchronize_outputs()
            return answer

        return infer

    def _replay(self, graph: int) -> Any:
        """Return what tells a run which CUDA graph to record or replay."""
        import onnxruntime as ort

        options = ort.RunOptions()
        options.add_run_config_entry("gpu_graph_id", str(graph))
        return options


def load(path: Path, *, provider: str = "cpu", threads: int | None = None, cuda_graph: bool = False) -> OnnxRunner:
    """Open an ONNX classifier; `threads` are those of one operator, by default as many as there are cores.

    The providers are `cpu`, `cuda`, and `tensorrt`, which leaves to CUDA what it cannot run. With `cuda_graph`, what
    `prepare` returns replays a recorded graph; that needs the provider `cuda`.

    Raises:
        ArtifactRejected: not an ONNX file, cut short, not an image classifier, weights outside its folder, metadata
            that contradicts the graph, or nodes that the provider cannot run.
        RuntimeMissing: onnxruntime or the provider is not here, or the provider cannot do what is asked.
    """
    if provider not in _PROVIDERS:
        raise RuntimeMissing(
            f"ONNX Runtime is not offered with the provider {provider!r}", hint=f"known: {', '.join(_PROVIDERS)}"
        )
    if cuda_graph and provider != "cuda":
        raise RuntimeMissing(
            f"ONNX Runtime records CUDA graphs with the provider cuda, not with {provider}",
            hint="run it with provider cuda, or without a CUDA graph",
        )
    model = read(path)
    borders = find(path, model)
    counts = weights_by_type(model)
    precision = precision_of(counts)
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    expect_claims(path, metadata, precision=precision, pixels=borders.pixels, output=borders.returns)
    if provider == "cpu" and "bf16" in counts:
        raise RuntimeMissing(
            "ONNX Runtime has no bf16 convolution on the CPU; TensorRT runs it",
            hint="build it with --format trt, or export fp16",
        )
    if borders.element not in _FEEDS:
        raise ArtifactRejected(
            f"{path} takes bf16 input, which NumPy does not have", hint="convert it: inputs become fp32"
        )
    feed = _FEEDS[borders.element]
    session = _open(path, model, provider, threads, cuda_graph)
    classes = session.get_outputs()[0].shape[1:]
    if len(classes) != 1 or not isinstance(classes[0], int):
        channels, height, width = borders.input_shape
        image = (height, width, channels) if borders.pixels == "uint8" else borders.input_shape
        answer = session.run(None, {borders.input: np.zeros((borders.batch or 1, *image), feed)})[0]
        if answer.ndim != 2:
            raise ArtifactRejected(f"{path} returns {list(answer.shape)} for one image, not logits [batch, classes]")
        classes = [answer.shape[1]]
    return OnnxRunner(
        path=path,
        format="onnx",
        provider=provider,
        precision=precision,
        input_shape=borders.input_shape,
        classes=classes[0],
        pixels=borders.pixels,
        output=borders.returns,
        metadata=metadata,
        threads=threads,
        cuda_graph=cuda_graph,
        census=counts,
        batch=borders.batch,
        session=session,
        feed=feed,
    )


def read(path: Path) -> ModelProto:
    """Return the graph of an ONNX file, without weights stored elsewhere, after checking where those would be read.

    Raises:
        ArtifactRejected: the file is absent, no ONNX file, or names weights outside its own folder.
    """
    hint = "give the .onnx file that an export wrote"
    try:
        model = onnx.load(path, load_external_data=False)
    except DecodeError as error:
        raise ArtifactRejected(f"{path} is not an ONNX file, or is cut short", hint=hint) from error
    except OSError as error:
        raise ArtifactRejected(f"cannot read {path}: {(error.strerror or str(error)).lower()}") from error
    if not model.graph.node or not model.opset_import:
        raise ArtifactRejected(f"{path} is not an ONNX file, or is cut short", hint=hint)
    folder = path.parent.resolve()
    for tensor in _tensors(model.graph):
        if tensor.data_location == TensorProto.EXTERNAL:
            location = next((entry.value for entry in tensor.external_data if entry.key == "location"), "")
            if not (folder / location).resolve().is_relative_to(folder):  # also where it is absolute
                raise ArtifactRejected(
                    f"{path} takes the weights of {tensor.name!r} from {location!r}, outside its own folder",
                    hint="save the model as one file, or its data beside it",
                )
            if not (folder / location).is_file():
                raise ArtifactRejected(f"{path} needs the file {location!r} beside it")
    return model


def _tensors(graph: GraphProto) -> Iterator[TensorProto]:
    """All stored tensors, those inside nodes and their subgraphs included."""
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    for node in graph.node:
        for attribute in node.attribute:
            yield from (attribute.t, *attribute.tensors)
            for subgraph in (attribute.g, *attribute.graphs):
                yield from _tensors(subgraph)


def _open(path: Path, model: ModelProto, provider: str, threads: int | None, cuda_graph: bool) -> Any:
    ort = _runtime()
    if provider != "cpu":
        _require(ort, provider)
    try:
        return _session(ort, str(path), provider, threads, cuda_graph)
    except _refusals() as error:
        if provider != "cpu" and "default CPU EP" in str(error):
            raise ArtifactRejected(
                f"{path} has nodes that the provider {provider!r} cannot run", hint="run it with provider cpu"
            ) from error
        raise _refusal(path, model, str(error)) from error


# How ONNX Runtime says that it has no such operator: not in its domain, no such domain, not for these types.
_MISSING = re.compile(
    r"No Op registered for (?P<known>\w+) with|No opset import for domain '(?P<domain>[\w.]+)'"
    r"|error: [\w.]+:(?P<custom>\w+)\(-?\d+\) is not a registered"
    r"|implementation for (?P<typed>\w+)\(\d+\) node with name '(?P<node>[^']*)'"
)


def _refusal(path: Path, model: ModelProto, message: str) -> ArtifactRejected:
    found = _MISSING.search(message)
    nodes = [node for node in model.graph.node if found and _is_meant(node, found)]
    if not nodes:
        reason = message.split(" : ", 3)[-1].strip().splitlines()[0]
        # Without the path once more, and without the place in the source of ONNX Runtime.
        reason = re.sub(r"^(?:Load model from .* failed:)?(?:/\S+:\d+ .*?\) (?=[A-Z]))?", "", reason)
        return ArtifactRejected(f"ONNX Runtime refuses {path}: {reason.rstrip('.')}")
    operator = ".".join(filter(None, [nodes[0].domain, nodes[0].op_type]))
    return ArtifactRejected(
        f"ONNX Runtime cannot run the operator {operator!r} of {path} (node {nodes[0].name or nodes[0].output[0]!r})",
        hint="replace it in the network, or export to another format",
    )


def _is_meant(node: NodeProto, found: re.Match[str]) -> bool:
    if found["node"]:
        return bool(node.name == found["node"])
    return bool(node.domain == found["domain"]) if found["domain"] else node.op_type in found.groups()


def _runtime() -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise RuntimeMissing("onnxruntime is not installed", hint="pip install onnxruntime") from error
    return onnxruntime


def _refusals() -> tuple[type[Exception], ...]:
    """The exceptions of ONNX Runtime, which share no base class."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    names = (
        "Fail",
        "InvalidArgument",
        "InvalidGraph",
        "InvalidProtobuf",
        "NoSuchFile",
        "NotImplemented",
        "NoModel",
        "EPFail",
    )
    return (*(getattr(state, name) for name in names), state.RuntimeException, RuntimeError)


def _session(ort: Any, model: str | bytes, provider: str, threads: int | None = None, cuda_graph: bool = False) -> Any:
    options = ort.SessionOptions()
    options.log_severity_level = _FATAL
    options.inter_op_num_threads = 1
    if threads is not None:
        options.intra_op_num_threads = threads
    name, settings = _PROVIDERS[provider]
    providers = [(name, settings | {"enable_cuda_graph": "1"} if cuda_graph else settings)]
    if provider == "tensorrt":
        providers.append(_PROVIDERS["cuda"])  # for what TensorRT leaves over
    if provider != "cpu":
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    session = ort.InferenceSession(model, options, providers=providers, enable_fallback=False)
    if session.get_providers()[0] != name:
        raise RuntimeMissing(f"ONNX Runtime chose {session.get_providers()[0]} though {name} was asked for")
    return session


def _require(ort: Any, provider: str) -> None:
    """Refuse a provider that cannot run a graph of one node: its library, driver or device is missing.

    That it is listed as available says only that the package was built with it.
    """
    name, _ = _PROVIDERS[provider]
    if name not in ort.get_available_providers():
        raise RuntimeMissing(
            f"this onnxruntime was built without {name}",
            hint="pip uninstall onnxruntime, then pip install onnxruntime-gpu",
        )
    chatter = io.StringIO()
    with redirect_stdout(chatter):
        ort.preload_dlls()  # the CUDA libraries that came with torch
        if provider == "tensorrt":
            with suppress(ImportError, OSError):
                import_module("tensorrt")  # loads libnvinfer, where that came as a package
    value = helper.make_tensor_value_info
    relu = helper.make_node("Relu", ["x"], ["y"])
    graph = helper.make_graph([relu], "g", [value("x", 1, [1])], [value("y", 1, [1])])
    probe = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    ort.set_default_logger_severity(_FATAL)
    try:
        _session(ort, probe.SerializeToString(), provider)
    except _refusals() as error:
        if provider == "tensorrt":
            hint = "it needs a GPU and TensorRT 10 (libnvinfer.so.10): pip install 'tensorrt-cu13>=10.13,<11'"
        else:
            hint = next(iter(chatter.getvalue().splitlines()), "is there a GPU, and its driver?")
        raise RuntimeMissing(f"ONNX Runtime cannot use {name} here", hint=hint) from error
    finally:
        ort.set_default_logger_severity(_WARNING)
