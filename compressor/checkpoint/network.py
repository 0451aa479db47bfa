"""A trained classifier, opened: the module and all that is known of it."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from compressor.models import Normalized

Shape = tuple[int, int, int]

# The families for small images, by what they are known from. More classes or other names: no guess.
_CIFAR = re.compile(r"(preact)?resnet\d+.*|wrn.*|vgg.*|mobilenet.*|shufflenet.*")


@dataclass(frozen=True, kw_only=True)
class Network:
    """`module` takes pixels `[B, C, H, W]` in `[0, 1]` and answers logits `[B, classes]`, in evaluation mode.

    `arch` is None for a network that brought its own code (TorchScript, torch.export). `input_shape` is what it was
    made for, or is usual. Where `stated` is False, neither the file nor the user said how to normalise, and `mean` and
    `std` are 0 and 1 until the teacher check has chosen. `data` names the data set in the file's metadata. `path`
    is the file, in a run's folder that of its student; `summary` is one line to print; `called` is its name in
    sentences.
    """

    module: nn.Module
    arch: str | None
    classes: int
    class_names: tuple[str, ...] | None
    input_shape: Shape
    mean: tuple[float, ...]
    std: tuple[float, ...]
    stated: bool
    data: str | None
    parameters: int
    path: Path
    sha256: str
    summary: str
    called: str = "the teacher"

    def normalised(self, mean: Sequence[float], std: Sequence[float]) -> "Network":
        """Return the same network, sharing its weights, under another normalisation."""
        inner = self.module.network if isinstance(self.module, Normalized) else self.module
        module = Normalized(inner, mean, std).eval().to(device_of(inner))
        return replace(self, module=module, mean=tuple(mean), std=tuple(std), stated=True)


def default_data(network: Network) -> str | None:
    """Return the data set that such a network is usually trained on, or None where that is a guess."""
    arch, channels = network.arch or "", network.input_shape[0]
    if _CIFAR.fullmatch(arch) and channels == 3:
        return {10: "cifar10", 100: "cifar100"}.get(network.classes)
    if arch.startswith("lenet") and channels == 1 and network.classes == 10:
        return "mnist"
    return None


def device_of(module: nn.Module) -> torch.device:
    """Return where a module's tensors are; the CPU when it has none."""
    tensors: list[Tensor] = [*module.parameters(), *module.buffers()]
    return tensors[0].device if tensors else torch.device("cpu")
