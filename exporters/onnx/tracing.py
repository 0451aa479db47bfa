"""A network traced by PyTorch's exporter into an ONNX graph, which is then seen to be what it should be."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from onnx import ModelProto, ValueInfoProto

from exporters.borders import softmax
from exporters.errors import ExportFailed, RuntimeMissing
from exporters.onnx.graph import clean, opset_of
from exporters.precision import precision_of, weights_by_type
from exporters.quiet import first_line, quiet

if TYPE_CHECKING:
    from torch import nn

_EXAMPLE_BATCH = 2  # with 1, tracing may take the batch size for a constant
_LARGEST_FILE = 2**31 - 1  # protobuf's limit


def trace(network: nn.Module, input_shape: tuple[int, int, int], opset: int) -> ModelProto:
    """Return the fp32 graph of a network in inference mode, from `input` `[batch, C, H, W]` to `logits` `[batch, K]`.

    The network itself is not touched, and the graph is clean, see `graph.clean`.

    Raises:
        ExportFailed: an operator has no ONNX form, the opset is not offered, the file would exceed 2 GB, or the graph
            is not what it should be.
        RuntimeMissing: onnxscript is not installed.
    """
    import torch

    private = copy.deepcopy(network).to("cpu", torch.float32).eval().requires_grad_(False)
    size = sum(4 * tensor.numel() for tensor in private.state_dict().values())
    if size > _LARGEST_FILE:
        raise ExportFailed(f"the network has {size / 2**30:.1f} GiB of weights, and one ONNX file holds at most 2")
    example = torch.zeros(_EXAMPLE_BATCH, *input_shape)
    shape = "x".join(map(str, input_shape))
    try:
        with torch.no_grad():
            logits = private(example)
    except (RuntimeError, ValueError, IndexError, AssertionError) as error:
        raise ExportFailed(f"the network does not take images of {shape}: {first_line(error)}") from error
    if not isinstance(logits, torch.Tensor) or logits.ndim != 2:
        found = list(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
        raise ExportFailed(f"a classifier returns logits [batch, classes], this network returns {found}")
    try:
        with quiet():
            program = torch.onnx.export(
                private,
                (example,),
                dynamo=True,
                input_names=["input"],
                output_names=["logits"],
                opset_version=opset,
                dynamic_shapes=({0: "batch"},),
                external_data=False,
                verbose=False,
            )
    except ImportError as error:
        raise RuntimeMissing(
            f"the ONNX export needs the package {error.name}", hint="pip install onnx onnxscript"
        ) from error
    except torch.onnx.OnnxExporterError as error:
        causes = list(_causes(error))
        if isinstance(causes[-1], KeyboardInterrupt):  # Ctrl-C, which the exporter takes for a fault of the network
            raise KeyboardInterrupt from error
        raise _refusal(causes) from error
    assert program is not None
    model = program.model_proto
    clean(model)
    _expect(model, opset=opset, output=logits.shape[1], input_shape=input_shape)
    return model


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error, then what it came from."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _refusal(causes: Sequence[BaseException]) -> ExportFailed:
    text = "\n".join(map(str, causes))
    operator = re.search(r"OpOverload\(op='([^']+)'", text)
    node = re.search(r"translating node %(\w+)", text)
    if operator:
        where = f" (node {node[1]!r})" if node else ""
        return ExportFailed(
            f"the operator {operator[1]!r}{where} has no ONNX form", hint="replace it in the network's forward"
        )
    return ExportFailed(
        f"the network cannot be traced for ONNX: {first_line(causes[-1])}",
        hint="its forward must not branch on pixel values or fix the batch size",
    )


def _expect(model: ModelProto, *, opset: int, output: int, input_shape: tuple[int, int, int]) -> None:
    written = opset_of(model)
    if written != opset:  # the converter gives up without an exception
        raise ExportFailed(
            f"opset {opset} was asked for, but the graph could only be written in opset {written}",
            hint="use an opset from 18 to 23",
        )
    shapes = [_dims(value) for value in (*model.graph.input, *model.graph.output)]
    expected: list[list[int | str]] = [["batch", *input_shape], ["batch", output]]
    if shapes != expected:
        raise ExportFailed(
            f"the exported graph maps {shapes[0]} to {shapes[-1]}, expected {expected[0]} to {expected[1]}",
            hint="the network's forward must not fix the batch size",
        )
    computed = precision_of(weights_by_type(model))
    if computed != "fp32":
        raise ExportFailed(f"the exported graph computes in {computed}, not in fp32")
    if softmax(model.graph) is not None:
        raise ExportFailed(
            "the network ends with a softmax, and a classifier returns logits", hint="take it off the network's forward"
        )


def _dims(value: ValueInfoProto) -> list[int | str]:
    return [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
