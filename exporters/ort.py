"""ONNX files run by ONNX Runtime, on the provider that was asked for or not at all."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, TensorProto, helper

from exporters.errors import ArtifactRejected, RuntimeMissing
from exporters.precision import precision_of, weights_by_type

_PROVIDERS = {
    "cpu": ("CPUExecutionProvider", {}),
    # Without this, "fp32" on a GPU means TF32 with its 10 bits of mantissa.
    "cuda": ("CUDAExecutionProvider", {"use_tf32": "0"}),
}
_INPUT_TYPES: dict[int, type[np.float32] | type[np.float16]] = {
    TensorProto.FLOAT: np.float32,
    TensorProto.FLOAT16: np.float16,
}
_WARNING, _FATAL = 2, 4  # log severities of ONNX Runtime; what is an error is also raised, and said once is enough


@dataclass(kw_only=True, eq=False)
class OnnxRunner:
    """A `Runner` over an ONNX file. A file with a fixed batch size is fed in chunks, the last one padded."""

    path: Path | None
    format: str
    provider: str
    precision: str
    input_shape: tuple[int, int, int]
    classes: int
    metadata: Mapping[str, str]
    threads: int | None
    census: Mapping[str, int]  # weights by the type they are computed in
    batch: int | None  # None: any
    session: Any
    input_type: type[np.float32] | type[np.float16]

    def __call__(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        expect_images(images, self.input_shape)
        if len(images) == 0:
            return np.zeros((0, self.classes), np.float32)
        size = self.batch or len(images)
        chunks = [self._run(images[start : start + size], size) for start in range(0, len(images), size)]
        return np.concatenate(chunks)

    def _run(self, images: NDArray[np.float32], size: int) -> NDArray[np.float32]:
        padding = np.zeros((size - len(images), *self.input_shape), np.float32)
        batch = np.ascontiguousarray(np.concatenate([images, padding]), self.input_type)
        (logits,) = self.session.run(None, {self.session.get_inputs()[0].name: batch})
        if logits.shape != (size, self.classes):
            raise ArtifactRejected(
                f"{self.path} returned {list(logits.shape)} for {size} images, expected [{size}, {self.classes}]"
            )
        result: NDArray[np.float32] = logits[: len(images)].astype(np.float32, copy=False)
        return result

    def prepare(self, images: NDArray[np.float32]) -> Callable[[], object]:
        """See `Runner.prepare`. Images and logits stay in the provider's memory."""
        import onnxruntime as ort

        expect_images(images, self.input_shape)
        if self.batch not in (None, len(images)):
            raise ArtifactRejected(f"{self.path} takes batches of {self.batch} images only, not of {len(images)}")
        given, returned = self.session.get_inputs()[0], self.session.get_outputs()[0]
        batch = np.ascontiguousarray(images, self.input_type)
        output_type = np.float16 if returned.type == "tensor(float16)" else np.float32
        binding = self.session.io_binding()
        binding.bind_ortvalue_input(given.name, ort.OrtValue.ortvalue_from_numpy(batch, self.provider, 0))
        logits = ort.OrtValue.ortvalue_from_shape_and_type((len(images), self.classes), output_type, self.provider, 0)
        binding.bind_ortvalue_output(returned.name, logits)

        def infer() -> object:
            self.session.run_with_iobinding(binding)
            binding.synchronize_outputs()
            return logits

        return infer


def load(path: Path, *, provider: str = "cpu", threads: int | None = None) -> OnnxRunner:
    """Open an ONNX classifier; `threads` are those of one operator, by default as many as there are cores.

    Raises:
        ArtifactRejected: not an ONNX file, cut short, not an image classifier, weights outside its folder, metadata
            that contradicts the graph, or nodes that the provider cannot run.
        RuntimeMissing: onnxruntime or the provider is not here.
    """
    if provider not in _PROVIDERS:
        raise RuntimeMissing(
            f"ONNX Runtime is not offered with the provider {provider!r}", hint=f"known: {', '.join(_PROVIDERS)}"
        )
    model = read(path)
    batch, input_shape = _input(path, model)
    counts = weights_by_type(model)
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    precision = precision_of(counts)
    claimed = metadata.get("compress.precision", precision)
    if claimed != precision:
        raise ArtifactRejected(f"{path} says that it is {claimed}, but computes in {precision}", hint="export it again")
    input_type = _INPUT_TYPES[_inputs(model.graph)[0].type.tensor_type.elem_type]
    session = _open(path, provider, threads)
    classes = session.get_outputs()[0].shape[1:]
    if len(classes) != 1 or not isinstance(classes[0], int):
        name = _inputs(model.graph)[0].name
        logits = session.run(None, {name: np.zeros((batch or 1, *input_shape), input_type)})[0]
        if logits.ndim != 2:
            raise ArtifactRejected(f"{path} returns {list(logits.shape)} for one image, not logits [batch, classes]")
        classes = [logits.shape[1]]
    return OnnxRunner(
        path=path,
        format="onnx",
        provider=provider,
        precision=precision,
        input_shape=input_shape,
        classes=classes[0],
        metadata=metadata,
        threads=threads,
        census=counts,
        batch=batch,
        session=session,
        input_type=input_type,
    )


def expect_images(images: NDArray[np.float32], input_shape: tuple[int, int, int]) -> None:
    """Refuse an array that is not float32 images `[B, *input_shape]`: an artifact would answer with nonsense."""
    if images.dtype != np.float32 or images.shape[1:] != input_shape:
        raise ValueError(f"expected float32 images [B, {input_shape}], not {images.dtype} {images.shape}")


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


def _inputs(graph: GraphProto) -> list[onnx.ValueInfoProto]:
    weights = {tensor.name for tensor in graph.initializer}  # old files list these among the inputs
    return [value for value in graph.input if value.name not in weights]


def _input(path: Path, model: ModelProto) -> tuple[int | None, tuple[int, int, int]]:
    """Return the fixed batch size, if any, and the shape of an image."""
    inputs = _inputs(model.graph)
    if len(inputs) != 1 or len(model.graph.output) != 1:
        raise ArtifactRejected(
            f"{path} has {len(inputs)} inputs and {len(model.graph.output)} outputs, a classifier has one of each"
        )
    kind = inputs[0].type.tensor_type
    if kind.elem_type not in _INPUT_TYPES:
        raise ArtifactRejected(
            f"{path} takes {TensorProto.DataType.Name(kind.elem_type)} input, not images of floating-point pixels"
        )
    batch, *shape = [dim.dim_value for dim in kind.shape.dim] or [0]
    if len(shape) != 3:
        raise ArtifactRejected(f"{path} takes input of rank {len(kind.shape.dim)}, not images [batch, C, H, W]")
    stored = next((entry.value for entry in model.metadata_props if entry.key == "compress.input_shape"), None)
    if min(shape) <= 0 and stored is not None:
        known = _stored_shape(path, stored)
        shape = [size if size > 0 else known[index] for index, size in enumerate(shape)]
    if min(shape) <= 0:
        raise ArtifactRejected(
            f"{path} leaves the size of its images open", hint="export it with fixed channels, height and width"
        )
    return batch if batch > 0 else None, (shape[0], shape[1], shape[2])


def _stored_shape(path: Path, stored: str) -> list[int]:
    try:
        shape = json.loads(stored)
    except json.JSONDecodeError:
        shape = None
    if not (isinstance(shape, list) and len(shape) == 3 and all(isinstance(size, int) for size in shape)):
        raise ArtifactRejected(f"{path} has the metadata compress.input_shape {stored!r}, not [C, H, W]")
    return shape


def _open(path: Path, provider: str, threads: int | None) -> Any:
    ort = _runtime()
    if provider != "cpu":
        _require(ort, provider)
    try:
        return _session(ort, str(path), provider, threads)
    except _refusals() as error:
        if provider != "cpu" and "default CPU EP" in str(error):
            raise ArtifactRejected(
                f"{path} has nodes that the provider {provider!r} cannot run", hint="run it with provider cpu"
            ) from error
        reason = str(error).split(" : ", 3)[-1].strip().splitlines()[0]
        raise ArtifactRejected(f"ONNX Runtime refuses {path}: {reason.rstrip('.')}") from error


def _runtime() -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise RuntimeMissing("onnxruntime is not installed", hint="pip install onnxruntime") from error
    return onnxruntime


def _refusals() -> tuple[type[Exception], ...]:
    """The exceptions of ONNX Runtime, which share no base class."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    names = ("Fail", "InvalidArgument", "InvalidGraph", "InvalidProtobuf", "NoSuchFile", "NotImplemented", "NoModel")
    return (*(getattr(state, name) for name in names), state.RuntimeException)


def _session(ort: Any, model: str | bytes, provider: str, threads: int | None) -> Any:
    options = ort.SessionOptions()
    options.log_severity_level = _FATAL
    options.inter_op_num_threads = 1
    if threads is not None:
        options.intra_op_num_threads = threads
    name, settings = _PROVIDERS[provider]
    if provider != "cpu":
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    session = ort.InferenceSession(model, options, providers=[(name, settings)])
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
    value = helper.make_tensor_value_info
    relu = helper.make_node("Relu", ["x"], ["y"])
    graph = helper.make_graph([relu], "g", [value("x", 1, [1])], [value("y", 1, [1])])
    probe = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    ort.set_default_logger_severity(_FATAL)
    try:
        _session(ort, probe.SerializeToString(), provider, None)
    except _refusals() as error:
        lines = chatter.getvalue().splitlines()
        raise RuntimeMissing(
            f"ONNX Runtime cannot use {name} here", hint=lines[0] if lines else "is there a GPU, and its driver?"
        ) from error
    finally:
        ort.set_default_logger_severity(_WARNING)
