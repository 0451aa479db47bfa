"""TorchScript archives: every operator in them is judged before any of them runs.

The code of an archive is a small language that torch compiles to graphs; no Python runs. Torch itself would call one
method while it loads, `__setstate__`, so an archive that has it is refused by its text. All else is judged as torch
parsed it: each operator of every function, method and hook, in branches and loops too, must be arithmetic on tensors.
Printing and warning are cut out.

What this does not promise: an operator of torch may have a flaw of its own, and a network may behave differently on
later images than on the first ones, which alone are tried within limits (`trial`).
"""

import io
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from compressor.checkpoint.formats import contents, guarded
from compressor.checkpoint.pickles import global_names
from compressor.errors import InputRejected

# Operators of aten that do more than compute: files, threads, terminals, torch's own state and memory.
_NOT_PURE = {
    "save", "load", "from_file", "wait", "_print", "manual_seed", "seed", "set_", "set_data", "backward", "pin_memory",
    "_pin_memory", "record_stream", "_cufft_set_plan_cache_max_size", "_cufft_clear_plan_cache",
}  # fmt: skip
_SILENCED = {"prim::Print", "aten::warn"}
# Control flow, constants, containers, attributes, and questions about a tensor (those of `is_...` too).
_PRIM = {
    "Constant", "GetAttr", "SetAttr", "CallMethod", "CallFunction", "CreateObject", "If", "Loop", "Return", "Param",
    "Enter", "Exit", "ListConstruct", "ListUnpack", "TupleConstruct", "TupleUnpack", "TupleIndex", "TupleSlice",
    "DictConstruct", "NumToTensor", "RaiseException", "Uninitialized", "unchecked_cast", "unchecked_unwrap_optional",
    "isinstance", "dtype", "device", "layout", "type", "name", "data", "requires_grad", "itemsize", "nbytes", "min",
    "max", "abs", "rangelist", "tolist", "index", "StringIndex", "ModuleContainerIndex", "EnumName", "EnumValue",
    "ConstantChunk", "BroadcastSizes", "IfThenElse",
}  # fmt: skip
_TORCHVISION = {"nms", "roi_align", "roi_pool", "ps_roi_align", "ps_roi_pool", "deform_conv2d"}
_QUANTISED = "quantised"  # how the sentences call what INT8 files are made of


def load_torchscript(path: Path) -> nn.Module:
    """Return the network of an archive, on the CPU; nothing of it has run.

    Raises:
        InputRejected: it is damaged, or holds anything but arithmetic on tensors; the sentence names it.
    """
    members = contents(path)
    _refuse_by_text(path, members)
    unit = torch._C.CompilationUnit()  # type: ignore[no-untyped-call,unused-ignore]
    with guarded(path):
        # The archive is written anew: torch must see no member that was not looked at.
        read: Any = torch._C.import_ir_module_from_buffer  # whose stub knows fewer arguments
        module = read(unit, _packed(members), torch.device("cpu"), {}, False)
        refused = next(_foreign_operators(unit), None)
        if refused is not None:
            raise _refused(path, refused)
        network: nn.Module = torch.jit._recursive.wrap_cpp_module(module)
        network.eval()
        for parameter in network.parameters():
            parameter.requires_grad_(False)
        return network


def pure(kind: str) -> bool:
    """Whether an operator, `namespace::name`, only computes."""
    namespace, _, name = kind.partition("::")
    if namespace == "aten":
        return name not in _NOT_PURE and not name.startswith("_test_")
    if namespace == "prim":
        return name in _PRIM or name.startswith("is_")
    return namespace == "torchvision" and name in _TORCHVISION


def _refuse_by_text(path: Path, members: dict[str, bytes]) -> None:
    for name, content in members.items():
        if name.lower().endswith(".py") and re.search(rb"\b__setstate__\b", content):
            quantised = b"quantized" in content
            raise _refused(path, _QUANTISED if quantised else "__setstate__, which would run while it loads")
        if name.lower().endswith(".pkl"):
            native = next((found for found in global_names(content) if "torch.classes." in found), None)
            if native is not None:
                raise _refused(path, _QUANTISED if "quantized" in native else native)


def _packed(members: dict[str, bytes]) -> bytes:
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return written.getvalue()


def _foreign_operators(unit: Any) -> Iterator[str]:
    """Yield the operators that are not pure, and cut out those that only print. Compiling a function may add others."""
    judged = 0
    while len(functions := unit.get_functions()) > judged:
        for function in functions[judged:]:
            yield from _judged(function.graph)
        judged = len(functions)


def _judged(block: Any) -> Iterator[str]:
    for node in list(block.nodes()):
        kind = node.kind()
        if kind in _SILENCED:
            node.destroy()
            continue
        if "quantize" in kind or "quantized::" in kind:
            yield _QUANTISED
        elif not pure(kind):
            yield f"the operator {kind}"
        if any("torch.classes." in str(output.type()) for output in node.outputs()):
            yield "a class of C++"
        for inner in node.blocks():
            yield from _judged(inner)


def _refused(path: Path, what: str) -> InputRejected:
    if what == _QUANTISED:
        return InputRejected(
            f"{path} is a quantised TorchScript network: no gradient passes through its integers",
            hint="give the network in floating point that it was made from",
        )
    return InputRejected(
        f"{path} was not loaded: its TorchScript uses {what}, and only arithmetic on tensors is run",
        hint="export the network without it, or give its weights",
    )
