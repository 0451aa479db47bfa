"""Inner outputs of a network by module path, as its author wrote the path: wrappers around the network do not show."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any
from weakref import finalize

import torch
from torch import Tensor, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.utils.hooks import RemovableHandle

from compressor.attack import as_found
from compressor.errors import UsageError, did_you_mean
from compressor.models import Normalized, Selected

_COMPILED = "_orig_mod"  # what torch.compile(network) calls the network inside


def unwrap(network: nn.Module) -> nn.Module:
    """Return the network itself, without normalisation, `torch.compile` and distributed wrappers around it."""
    while True:
        if isinstance(network, Normalized | Selected):
            network = network.network
        elif isinstance(network, DataParallel | DistributedDataParallel):
            network = network.module
        elif isinstance(inside := network._modules.get(_COMPILED), nn.Module):
            network = inside
        else:
            return network


def undistributed(network: nn.Module) -> nn.Module:
    """Return the network without distributed wrappers, which are to be called for a training step and nothing else."""
    while isinstance(network, DataParallel | DistributedDataParallel):
        network = network.module
    return network


@dataclass
class Taps:
    """The outputs of inner modules, by module path, of the latest forward pass.

    `Taps(student, ["layer3"])` then `student(images)` then `taps["layer3"]`. Paths are those of the network inside its
    wrappers. With `inputs` it is what the modules are given that is kept, their first argument. Call `close` (or leave
    the `with` block) to remove the hooks; else they go when nobody holds the taps any more.

    Raises:
        UsageError: the network has no such module; the hint names the nearest.
    """

    network: nn.Module
    paths: Sequence[str]
    inputs: bool = False
    outputs: dict[str, Any] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        modules = {path: inner(self.network, path) for path in self.paths}
        self._hooks = [
            module.register_forward_pre_hook(_keep_given(self.outputs, path))
            if self.inputs
            else module.register_forward_hook(_keep(self.outputs, path))
            for path, module in modules.items()
        ]
        finalize(self, _remove, self._hooks).atexit = False
        _compile_again(self.network)

    def __getitem__(self, path: str) -> Tensor:
        """Return the output of a module in the latest pass.

        Raises:
            UsageError: the pass did not call the module, or it returned more than a tensor.
        """
        if path not in self.outputs:
            raise UsageError(f"the module {path!r} is not called when the network is", hint="name a module around it")
        output = self.outputs[path]
        if not isinstance(output, Tensor):
            raise UsageError(
                f"the module {path!r} returns {type(output).__name__}, not one tensor", hint="name a module inside it"
            )
        return output

    def close(self) -> None:
        _remove(self._hooks)
        self.outputs.clear()
        _compile_again(self.network)

    def __enter__(self) -> "Taps":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def inner(network: nn.Module, path: str) -> nn.Module:
    """Return the module of a path.

    Raises:
        UsageError: the network has no such module; the hint names the nearest.
    """
    modules = _modules(network)
    if path not in modules:
        raise UsageError(f"the network has no module {path!r}", hint=_near(path, list(modules)))
    return modules[path]


def shapes(
    network: nn.Module, paths: Sequence[str], *, input_shape: tuple[int, int, int], device: torch.device
) -> dict[str, tuple[int, ...]]:
    """Return the shape of each module's output for one image, without the batch, from one pass over a black image.

    The pass is in eval mode and without gradients, and leaves the network as it was.

    Raises:
        UsageError: there is no such module, or its output is not one tensor.
    """
    with Taps(network, paths) as taps, as_found(network), torch.no_grad():
        unwrap(network).forward(torch.zeros(1, *input_shape, device=device))  # never a compiled call
        return {path: tuple(taps[path].shape[1:]) for path in paths}


def linear_head(network: nn.Module, classes: int) -> tuple[str, nn.Linear] | None:
    """Return the path and the module of the last linear layer with one output a class, None where there is none.

    The path is empty where the network is nothing but that layer. Of a network whose classes are `models.Selected`
    there is none: its rows are in another order than its logits.
    """
    if any(isinstance(module, Selected) for module in network.modules()):
        return None
    layers = [(path, module) for path, module in _modules(network).items() if isinstance(module, nn.Linear)]
    layers += [("", bare)] if isinstance(bare := unwrap(network), nn.Linear) else []
    fitting = [(path, layer) for path, layer in layers if layer.out_features == classes]
    return fitting[-1] if fitting else None


def _remove(hooks: Sequence[RemovableHandle]) -> None:
    for hook in hooks:
        hook.remove()


def _modules(network: nn.Module) -> dict[str, nn.Module]:
    """Return the inner modules by path; one that was compiled by itself stands where it was."""
    found: dict[str, nn.Module] = {}
    for name, module in unwrap(network).named_modules():
        if name:
            found.setdefault(".".join(part for part in name.split(".") if part != _COMPILED), module)
    return found


def _keep(outputs: dict[str, Any], path: str) -> Callable[..., None]:
    """Return a hook. A plain function: copies of the network, such as an average, must not copy what was kept."""

    def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
        outputs[path] = output

    return hook


def _keep_given(outputs: dict[str, Any], path: str) -> Callable[..., None]:
    """Return a hook like that of `_keep` for a module's first argument."""

    def hook(_module: nn.Module, inputs: Any) -> None:
        outputs[path] = inputs[0]

    return hook


def _compile_again(network: nn.Module) -> None:
    """Forget code that was compiled with other hooks: torch.compile does not look whether they are still the same."""
    inside = list(network.modules())
    if any(module._compiled_call_impl is not None or _COMPILED in module._modules for module in inside):
        torch.compiler.reset()


def _near(path: str, modules: Sequence[str]) -> str:
    if not modules:
        return "it has none inside that can be named, as an ONNX file has not"
    close = did_you_mean(path, modules)
    top = [name for name in modules if "." not in name]
    return close or "the outermost are " + ", ".join(top[:12])
