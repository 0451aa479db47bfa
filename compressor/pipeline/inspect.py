"""`compress inspect`: all that can be known of a file without running what is in it, as JSON can hold it."""

from collections import Counter
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from compressor import models
from compressor.checkpoint.exported import refuse_code
from compressor.checkpoint.formats import Format, members, sniff
from compressor.checkpoint.own_files import KEY, read_card
from compressor.checkpoint.pickles import unsafe_globals, way_out
from compressor.checkpoint.reading import open_tensors
from compressor.errors import InputRejected
from compressor.files import sha256
from compressor.runs import record
from compressor.runs.folder import is_run, resume_command

_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
_SHOWN = 20
_TRITON_BATCH = 32


def inspect(path: Path) -> dict[str, Any]:
    """Return what is known of a checkpoint, an exported file or a run folder, by the names it is printed under.

    Raises:
        InputRejected: it is none of these, or damaged. A pickle with code is described, not refused.
    """
    if path.is_dir():
        return _run(path)
    if path.suffix == ".onnx" and path.is_file():
        return _onnx(path)
    if path.suffix in (".plan", ".xml") and path.is_file():
        return _plan(path) if path.suffix == ".plan" else _openvino(path)
    format_ = sniff(path)
    facts: dict[str, Any] = {"file": str(path), "format": format_.value} | _identity(path)
    if format_ is Format.TORCHSCRIPT:
        classes = [name for name in members(path) if name.startswith("code/") and name.endswith(".py")]
        return facts | {"holds": "a whole network; its code runs in torch's own interpreter", "code": classes}
    if format_ is Format.EXPORTED:
        return facts | {"holds": "a whole network, as a graph of operators", "loadable": _exported(path)}
    if format_ in {Format.TORCH, Format.PICKLE}:
        names = unsafe_globals(path, format_)
        if names:
            return facts | {"loadable": False, "would import": names, "hint": way_out(path, format_)}
    return facts | _checkpoint(path)


def _identity(path: Path) -> dict[str, Any]:
    return {"size_bytes": path.stat().st_size, "sha256": sha256(path)}


def _checkpoint(path: Path) -> dict[str, Any]:
    read = open_tensors(path)
    tensors = read.tensors
    card = read_card(read.metadata, path)
    numbers: Counter[str] = Counter()
    for tensor in tensors.values():
        numbers[str(tensor.dtype).removeprefix("torch.")] += tensor.numel()
    facts: dict[str, Any] = {
        "wrapper": read.wrapper or None,
        "prefix": "".join(read.prefixes) or None,
        "tensors": len(tensors),
        "parameters": sum(tensor.numel() for name, tensor in tensors.items() if not name.endswith(_STATISTICS)),
        "numbers by type": dict(numbers),
        "first": _described(*next(iter(tensors.items()))),
        "last": _described(*list(tensors.items())[-1]),
    }
    broken = [name for name, tensor in tensors.items() if not _finite(tensor)]
    if broken:
        facts["NaN or infinite"] = broken[:_SHOWN]
    if read.notes:
        facts["notes"] = list(read.notes)
    if card is not None:
        facts["student"] = card.model_dump(mode="json")
    else:
        facts |= _architectures(tensors)
    beside = {name: value for name, value in read.metadata.items() if name != KEY}
    return facts | ({"beside the weights": beside} if beside else {})


def _architectures(tensors: dict[str, Tensor]) -> dict[str, Any]:
    found = models.candidates(tensors)
    if not found:
        return {"architecture": None, "nearest": models.explain(tensors)}
    fits = [
        f"{models.title(one.arch)}, {one.classes} classes, {one.matched}/{one.total} tensors matched"
        + ("" if one.exact else ", keys renamed")
        for one in found
    ]
    return {"architecture": fits[0]} if len(fits) == 1 else {"architectures that fit": fits}


def _exported(path: Path) -> bool | str:
    try:
        refuse_code(path)
    except InputRejected as refusal:
        return f"no: {refusal.message}"
    return True


def _onnx(path: Path) -> dict[str, Any]:
    from exporters.onnx import read  # imports onnx
    from exporters.precision import precision_of, weights_by_type

    model = read(path)
    counts = weights_by_type(model)
    stored = {tensor.name for tensor in model.graph.initializer}
    return {
        "file": str(path),
        "format": "ONNX",
        **_identity(path),
        "ir version": model.ir_version,
        "opset": {entry.domain or "ai.onnx": entry.version for entry in model.opset_import},
        "producer": f"{model.producer_name} {model.producer_version}".strip() or None,
        "inputs": {value.name: _signature(value) for value in model.graph.input if value.name not in stored},
        "outputs": {value.name: _signature(value) for value in model.graph.output},
        "nodes": dict(Counter(node.op_type for node in model.graph.node).most_common()),
        "precision": precision_of(counts),
        "weights by type": counts,
        "metadata": {entry.key: entry.value for entry in model.metadata_props},
    }


def _plan(path: Path) -> dict[str, Any]:
    """Return what the sidecar says: a plan itself is input that a runtime trusts, and is not loaded."""
    from exporters.tensorrt import sidecar

    said = sidecar.read(path)
    return {"file": str(path), "format": said.format, **_identity(path), **{
        name: list(value) if isinstance(value, tuple) else value
        for name, value in vars(said).items()
        if name not in ("format", "stem")
    }, "is the file that the sidecar describes": said.plan_sha256 == sha256(path)}  # fmt: skip


def _openvino(path: Path) -> dict[str, Any]:
    from exporters.openvino.borders import find
    from exporters.openvino.census import weights_by_type
    from exporters.openvino.ir import read, weights_of
    from exporters.precision import precision_of

    graph = read(path)
    borders, counts = find(path, graph.model), weights_by_type(graph.model)
    return {
        "file": str(path),
        "format": "OpenVINO IR",
        **_identity(path),
        "weights beside it": weights_of(path).name,
        "input shape": list(borders.input_shape),
        "pixels": borders.pixels,
        "returns": borders.returns,
        "precision": precision_of(counts),
        "weights by type": counts,
        "metadata": dict(graph.metadata),
    }


def triton_config(path: Path) -> str:
    """Return the `config.pbtxt` with which Triton serves an ONNX file of ours.

    Raises:
        InputRejected: it is no ONNX file that this project wrote.
    """
    if path.suffix != ".onnx":
        raise InputRejected(f"{path} is no ONNX file", hint="a config for Triton is written of an exported .onnx file")
    from onnx import TensorProto

    from exporters.borders import find
    from exporters.onnx import read

    model = read(path)
    borders = find(path, model)
    if not any(entry.key == "compress.exporter_version" for entry in model.metadata_props):
        raise InputRejected(
            f"{path} was not exported by compress, so that its ends may be others",
            hint=f"compress export --from {path} makes a file whose are known",
        )
    given, returned = model.graph.input[0], model.graph.output[0]
    sides = []
    for word, value in (("input", given), ("output", returned)):
        tensor = value.type.tensor_type
        kind = "TYPE_UINT8" if tensor.elem_type == TensorProto.UINT8 else "TYPE_FP32"
        sizes = ", ".join(str(dim.dim_value) for dim in list(tensor.shape.dim)[1:])
        sides.append(f'{word} [ {{ name: "{value.name}" data_type: {kind} dims: [ {sizes} ] }} ]')
    largest = _TRITON_BATCH if borders.batch is None else borders.batch
    batching = [f"max_batch_size: {largest}", *(["dynamic_batching { }"] if borders.batch is None else [])]
    return "\n".join([f'name: "{path.stem}"', 'backend: "onnxruntime"', *batching, *sides, ""])


def _signature(value: Any) -> str:
    """Return the type and shape of a graph's input or output, such as `float32 [batch, 3, 32, 32]`."""
    from onnx import helper

    tensor = value.type.tensor_type
    sizes = [dim.dim_param or str(dim.dim_value) if dim.WhichOneof("value") else "?" for dim in tensor.shape.dim]
    return f"{helper.tensor_dtype_to_np_dtype(tensor.elem_type)} [{', '.join(sizes)}]"


def _run(folder: Path) -> dict[str, Any]:
    if not is_run(folder):
        raise InputRejected(f"{folder} is a folder, but not that of a run", hint="give a file, or runs/NAME-1")
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    facts: dict[str, Any] = {"run": str(folder)}
    if (folder / record.NAME).is_file():
        facts |= _result(record.read(folder))
    else:
        facts["result"] = f"none yet: {resume_command(folder)} goes on with it"
    return facts | {"files": {path.relative_to(folder).as_posix(): path.stat().st_size for path in files}}


def _result(result: record.Result) -> dict[str, Any]:
    networks = {"teacher": result.teacher, "student": result.student}
    return {
        "name": result.name,
        "created": result.created,
        "data": result.data.source,
        "method": result.training.method,
        "epochs": result.training.epochs,
        **{
            role: {"arch": one.arch, "classes": one.classes, "parameters": one.parameters, "top1": one.top1}
            for role, one in networks.items()
            if one is not None
        },
        "artifacts": {
            one.path: {"format": one.format, "precision": one.precision, "top1": one.top1, "size_bytes": one.size_bytes}
            for one in result.artifacts
        },
        "gates passed": result.passed,
    }


def _described(name: str, tensor: Tensor) -> str:
    return f"{name} {list(tensor.shape)}"


def _finite(tensor: Tensor) -> bool:
    return not tensor.is_floating_point() or bool(torch.isfinite(tensor).all())
