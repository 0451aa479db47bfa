"""Sessions of ONNX Runtime: on the provider that was asked for or not at all, and its refusals in plain words."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from contextlib import redirect_stdout, suppress
from importlib import import_module
from pathlib import Path
from typing import Any

from onnx import ModelProto, NodeProto, helper

from exporters.errors import ArtifactRejected, RuntimeMissing

PROVIDERS: dict[str, tuple[str, dict[str, str]]] = {
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
_WARNING, _FATAL = 2, 4  # log severities of ONNX Runtime; what is an error is also raised, and said once is enough


# A fusion of a product with the transpose in front of it, of which ONNX Runtime 1.31 dies where its data are fp16.
_FATAL_IN_FP16 = "MatmulTransposeFusion"


def open_session(
    path: Path, model: ModelProto, provider: str, threads: int | None, *, cuda_graph: bool, fp16: bool
) -> Any:
    """Return an `InferenceSession` over a file, whose graph is `model`; `fp16` tells that it has weights of that type.

    Raises:
        ArtifactRejected: ONNX Runtime refuses the graph, or the provider cannot run some of its nodes.
        RuntimeMissing: onnxruntime or the provider is not here.
    """
    ort = package()
    if provider != "cpu":
        _require(ort, provider)
    try:
        return start(ort, str(path), provider, threads, cuda_graph, without=[_FATAL_IN_FP16] if fp16 else [])
    except _refusals() as error:
        if provider != "cpu" and "default CPU EP" in str(error):
            raise ArtifactRejected(
                f"{path} has nodes that the provider {provider!r} cannot run", hint="run it with provider cpu"
            ) from error
        raise _refusal(path, model, str(error)) from error


def package() -> Any:
    """Import ONNX Runtime.

    Raises:
        RuntimeMissing: it is not installed.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise RuntimeMissing("onnxruntime is not installed", hint="pip install onnxruntime") from error
    return onnxruntime


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


def start(
    ort: Any,
    model: str | bytes,
    provider: str,
    threads: int | None = None,
    cuda_graph: bool = False,
    without: Sequence[str] = (),
) -> Any:
    """Return a session that runs wholly on the provider, `without` some optimisations of the graph.

    ONNX Runtime's own errors pass.
    """
    options = ort.SessionOptions()
    options.log_severity_level = _FATAL
    options.inter_op_num_threads = 1
    if threads is not None:
        options.intra_op_num_threads = threads
    name, settings = PROVIDERS[provider]
    providers = [(name, settings | {"enable_cuda_graph": "1"} if cuda_graph else settings)]
    if provider == "tensorrt":
        providers.append(PROVIDERS["cuda"])  # for what TensorRT leaves over
    if provider != "cpu":
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    session = ort.InferenceSession(
        model, options, providers=providers, disabled_optimizers=without, enable_fallback=False
    )
    if session.get_providers()[0] != name:
        raise RuntimeMissing(f"ONNX Runtime chose {session.get_providers()[0]} though {name} was asked for")
    return session


def _require(ort: Any, provider: str) -> None:
    """Refuse a provider that cannot run a graph of one node: its library, driver or device is missing.

    That it is listed as available says only that the package was built with it.
    """
    name, _ = PROVIDERS[provider]
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
        start(ort, probe.SerializeToString(), provider)
    except _refusals() as error:
        if provider == "tensorrt":
            hint = "it needs a GPU and TensorRT 10 (libnvinfer.so.10): pip install 'tensorrt-cu13>=10.13,<11'"
        else:
            hint = next(iter(chatter.getvalue().splitlines()), "is there a GPU, and its driver?")
        raise RuntimeMissing(f"ONNX Runtime cannot use {name} here", hint=hint) from error
    finally:
        ort.set_default_logger_severity(_WARNING)
