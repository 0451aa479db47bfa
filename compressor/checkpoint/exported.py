"""Whether a torch.export archive is only data. `torch.export.load` unpickles, evaluates and generates code from it.

Such an archive is loaded only when each string in it that becomes code is harmless: pickled parts load under
`weights_only`, names are plain identifiers, operators are torch's own, and sizes are arithmetic.
"""

import ast
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

from compressor.checkpoint.formats import contents, guarded
from compressor.errors import InputRejected

_MEMBERS = re.compile(
    r"models/model\.json|data/sample_inputs/model\.pt|extra/.+|archive_(format|version)|byteorder|version"
    r"|data/(weights/weight|constants/tensor)_\d+|data/(weights|constants)/model_\w+_config\.json|\.(data/)?\w+"
)
_NAME = re.compile(r"[\w.]*")
_OPERATOR = re.compile(
    r"torch\.ops\.(aten|prims|higher_order|torchvision)\.\w+(\.\w+)?|torch\.sym_\w+|_operator\.\w+|math\.\w+"
)
_FILES = re.compile(r"torch\.ops\.aten\.(from_file|save|load)\b.*")  # the operators that open files
# Texts that stay texts. Guards would be compiled, but the network is made without them.
_TEXTS = {"as_string", "as_strings", "torch_version", "guards_code"}
_FUNCTIONS = {
    "Symbol", "Integer", "Rational", "Float", "Mul", "Add", "Pow", "Max", "Min", "Mod", "PythonMod", "FloorDiv",
    "CleanDiv", "CeilDiv", "positive", "nonnegative", "integer", "real",
}  # fmt: skip
_SYMBOL = re.compile(r"[suz]\d+")
_NODES = (
    ast.Expression, ast.Call, ast.keyword, ast.Name, ast.Load, ast.Constant, ast.BinOp, ast.UnaryOp, ast.operator,
    ast.unaryop,
)  # fmt: skip


def refuse_code(path: Path) -> None:
    """Raise where loading the archive could run code that is not torch's.

    Raises:
        InputRejected: the archive is damaged, old, or holds something that would be executed; the sentence names it.
    """
    parts = {name.partition("/")[2] or name: content for name, content in contents(path).items()}
    if "serialized_exported_program.json" in parts:
        raise InputRejected(f"{path} is a torch.export archive of an old version", hint="save it again")
    strange = next((name for name in parts if not _MEMBERS.fullmatch(name)), None)
    if strange is not None:
        raise _refused(path, f"the part {strange}")
    for name, content in parts.items():
        if name.endswith(".json"):
            with guarded(path):
                found = next(_code(json.loads(content)), None)
            if found is not None:
                raise _refused(path, found)
    with guarded(path):
        try:
            torch.load(io.BytesIO(parts["data/sample_inputs/model.pt"]), weights_only=True)
        except UnpicklingError:
            raise _refused(path, "its pickled example inputs") from None


def _code(value: Any, key: str = "") -> Iterator[str]:
    """Yield what in a JSON value could become code. `key` is the nearest key above the value."""
    if isinstance(value, dict):
        node = isinstance(value.get("target"), str)  # elsewhere, "metadata" may be a name that the file has chosen
        for name, inner in value.items():
            if not _NAME.fullmatch(name):
                yield f"the name {name!r}"
            if name == "use_pickle" and inner:
                yield "pickled weights"
            if not (node and name == "metadata"):
                yield from _code(inner, name)
    elif isinstance(value, list):
        for inner in value:
            yield from _code(inner, key)
    elif isinstance(value, str) and key not in _TEXTS and not _harmless(value, key):
        yield f"the {'name' if key.endswith('name') else key} {value[:80]!r}"


def _harmless(text: str, key: str) -> bool:
    if key in {"target", "as_operator"}:
        return bool(_OPERATOR.fullmatch(text)) and not _FILES.fullmatch(text)
    if key == "expr_str":
        return _arithmetic(text)
    if key in {"in_spec", "out_spec"}:
        return not text or "__enum__" not in text  # plain containers; an enum would name a module to import
    return bool(_NAME.fullmatch(text))


def _arithmetic(text: str) -> bool:
    try:
        nodes = list(ast.walk(ast.parse(text, mode="eval")))
    except SyntaxError:
        return False
    return all(isinstance(node, _NODES) and _known(node) for node in nodes)


def _known(node: ast.AST) -> bool:
    if isinstance(node, ast.Name):
        return node.id in _FUNCTIONS or bool(_SYMBOL.fullmatch(node.id))
    if isinstance(node, ast.Constant):  # the name of a symbol is the only text
        return not isinstance(node.value, str | bytes) or bool(_SYMBOL.fullmatch(str(node.value)))
    return True


def _refused(path: Path, what: str) -> InputRejected:
    return InputRejected(
        f"{path} was not loaded: torch.export would run code from {what}",
        hint="where you trust the code that made it, save the weights: torch.save(model.state_dict(), 'weights.pt')",
    )
