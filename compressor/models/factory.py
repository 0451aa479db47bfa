"""`package.module:factory`: a user's own network, from a function that makes it."""

import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from torch import nn

from compressor.errors import UsageError, did_you_mean
from compressor.models.probe import check_logits, told

Shape = tuple[int, int, int]
_RULE = "a factory takes classes (or num_classes) and input_shape, if it wants them, and returns an nn.Module"


def build(arch: str, classes: int, input_shape: Shape) -> nn.Module:
    """Import the module, from the current folder too, call the factory, and check that its network gives logits.

    The factory is given `classes` and `input_shape` if it names them, else `num_classes` if it takes that.

    Raises:
        UsageError: the module, the factory or the network is not what it should be.
    """
    module, _, name = arch.partition(":")
    with _current_folder_importable():
        function = _attribute(arch, module, name)
        arguments = _arguments(arch, function, classes, input_shape)
        try:
            network = function(**arguments)
        except Exception as error:
            raise UsageError(f"{arch} fails: {told(error)}", hint=_RULE) from error
        if not isinstance(network, nn.Module):
            raise UsageError(f"{arch} returns a {type(network).__name__}, not an nn.Module", hint=_RULE)
        check_logits(network, arch, classes, input_shape, hint="it must map images [B, C, H, W] to logits [B, classes]")
    return network


def _attribute(arch: str, module: str, name: str) -> Callable[..., Any]:
    if not module or not name:
        raise UsageError(
            f"{arch!r} is not package.module:factory", hint="for example mynets:tiny, for tiny in mynets.py"
        )
    try:
        found = import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise UsageError(f"importing {module} fails: {told(error)}", hint="install what it imports") from error
        raise UsageError(
            f"there is no module {error.name!r}", hint="run from the folder that holds it, or set PYTHONPATH"
        ) from error
    except Exception as error:
        raise UsageError(f"importing {module} fails: {told(error)}", hint=f"python -c 'import {module}'") from error
    if not hasattr(found, name):
        raise UsageError(f"{module} has no {name!r}", hint=did_you_mean(name, (n for n in vars(found) if n[:1] != "_")))
    function: Any = getattr(found, name)
    if not callable(function) or isinstance(function, nn.Module):
        raise UsageError(f"{arch} is a {type(function).__name__}, not a function that makes a network", hint=_RULE)
    return function  # type: ignore[no-any-return]  # callable narrows Any to nothing better


def _arguments(arch: str, function: Callable[..., Any], classes: int, input_shape: Shape) -> dict[str, Any]:
    try:
        parameters = inspect.signature(function).parameters
    except ValueError:  # written in C, says nothing about its arguments
        return {}
    given: dict[str, Any] = {}
    if "classes" in parameters:
        given["classes"] = classes
    elif "num_classes" in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        given["num_classes"] = classes
    if "input_shape" in parameters:
        given["input_shape"] = input_shape
    for name, parameter in parameters.items():
        open_ended = parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
        if parameter.default is parameter.empty and name not in given and not open_ended:
            raise UsageError(f"{arch} needs an argument {name!r} that it is not given", hint=_RULE)
    return given


@contextmanager
def _current_folder_importable() -> Iterator[None]:
    folder = str(Path.cwd())
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        sys.path.remove(folder)
