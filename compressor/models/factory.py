"""`package.module:factory`: a user's own network, from a function that makes it."""

import inspect
from collections.abc import Callable
from typing import Any

from torch import nn

from compressor.errors import UsageError
from compressor.models.probe import check_logits
from compressor.plugins import current_folder_importable, load_plugin, told

Shape = tuple[int, int, int]
_RULE = "a factory takes classes (or num_classes) and input_shape, if it wants them, and returns an nn.Module"


def build(arch: str, classes: int, input_shape: Shape) -> nn.Module:
    """Import the module, from the current folder too, call the factory, and check that its network gives logits.

    The factory is given `classes` and `input_shape` if it names them, else `num_classes` if it takes that.

    Raises:
        UsageError: the module, the factory or the network is not what it should be.
    """
    function = find(arch)
    with current_folder_importable():
        arguments = _arguments(arch, function, classes, input_shape)
        try:
            network = function(**arguments)
        except Exception as error:
            raise UsageError(f"{arch} fails: {told(error)}", hint=_RULE) from error
        if not isinstance(network, nn.Module):
            raise UsageError(f"{arch} returns a {type(network).__name__}, not an nn.Module", hint=_RULE)
        check_logits(network, arch, classes, input_shape, hint="it must map images [B, C, H, W] to logits [B, classes]")
    return network


def find(arch: str) -> Callable[..., Any]:
    """Import the module, from the current folder too, and return what the name stands for.

    Raises:
        UsageError: there is no such module, or nothing in it that could make a network.
    """
    function: Any = load_plugin(arch, example="mynets:tiny, for tiny in mynets.py")
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
