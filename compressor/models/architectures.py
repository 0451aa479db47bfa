"""All architectures by name: `build` makes one, `catalogue` lists them with what they cost."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from torch import nn

from compressor.errors import UsageError, did_you_mean
from compressor.models import (
    densenet,
    factory,
    lenet,
    mobilenet,
    resnet,
    shufflenet,
    squeeze,
    timm_zoo,
    torchvision_zoo,
    vgg,
    wide_stem,
    wrn,
)
from compressor.models.cost import macs, parameters
from compressor.models.layers import on_meta

Shape = tuple[int, int, int]
SMALLEST = 8  # pixels of height and width that every family for small images takes


class Family(Protocol):
    """A module of this package: networks for small images that share a plan."""

    PREFIX: str  # of every name
    LABEL: str  # the data the family is known from
    INPUT_SHAPE: Shape  # for the catalogue
    EXAMPLES: Mapping[str, str]  # name -> one line for the catalogue

    def build(self, arch: str, classes: int, input_shape: Shape) -> nn.Module | None:
        """Return the network, or None for a name of another family.

        Raises:
            UsageError: the name is one of this family, but its numbers cannot be.
        """
        ...

    def proposals(self, kernels: Sequence[Sequence[int]]) -> Iterable[str]:
        """Yield the names whose convolutions may be `kernels` (their weights' shapes, in file order)."""
        ...


# To add one: its module, then this line.
FAMILIES: tuple[Family, ...] = (resnet, wide_stem, squeeze, wrn, densenet, vgg, mobilenet, shufflenet, lenet)


@dataclass(frozen=True)
class Entry:
    """A line of the catalogue. `macs` are multiply-accumulates of one image of `input_shape`."""

    name: str
    parameters: int
    macs: int
    input_shape: Shape
    description: str


def build(arch: str, *, classes: int, input_shape: Shape) -> nn.Module:
    """Return a freshly initialised network: normalised images `[B, *input_shape]` to logits `[B, classes]`.

    `arch` is a name of a family for small images, `torchvision/NAME`, `timm/NAME` or `package.module:factory`.

    Raises:
        UsageError: there is no such architecture, or it cannot take these images.
        EnvironmentMissing: the package that holds it is not installed.
    """
    if ":" in arch:
        return factory.build(arch, classes, input_shape)
    if arch.startswith("torchvision/"):
        return torchvision_zoo.build(arch, classes, input_shape)
    if arch.startswith("timm/"):
        return timm_zoo.build(arch, classes, input_shape)
    network = _of_a_family(arch, classes, input_shape)
    _refuse_tiny_images(arch, input_shape)
    return network


def require_known(arch: str) -> None:
    """Refuse a name that `build` would refuse whatever the images are, before anything is spent on it.

    Raises:
        UsageError: there is no such architecture.
        EnvironmentMissing: the package that holds it is not installed.
    """
    if ":" in arch:
        factory.find(arch)
    elif arch.startswith("torchvision/"):
        torchvision_zoo.require_known(arch)
    elif arch.startswith("timm/"):
        timm_zoo.require_known(arch)
    else:
        on_meta(partial(_of_a_family, arch, 10, (3, 32, 32)))


def described(arch: str, network: nn.Module) -> str:
    """Return a network's name and size in a few words, and whether it is a size of a family that nobody lists."""
    listed = {name for family in FAMILIES for name in family.EXAMPLES}
    ours = any(re.match(rf"{family.PREFIX}[^:/]*$", arch) for family in FAMILIES)
    rare = ", none of the sizes that `compress models` lists" if ours and arch not in listed else ""
    return f"{title(arch)}, {parameters(network):,} parameters{rare}"


def outline(arch: str, *, classes: int, input_shape: Shape) -> nn.Module:
    """As `build`, on the meta device: names and shapes without memory, of the catalogue and torchvision alone."""
    return on_meta(partial(build, arch, classes=classes, input_shape=input_shape))


def catalogue(*, torchvision: bool = False) -> list[Entry]:
    """List representatives of every family, for 10 classes; with `torchvision`, its classifiers too, for 1,000.

    All numbers are computed from the networks, which are made without memory for their weights.
    """
    entries = []
    for family in FAMILIES:
        for arch, description in family.EXAMPLES.items():
            network = on_meta(partial(build, arch, classes=10, input_shape=family.INPUT_SHAPE))
            entries.append(_entry(arch, network, family.INPUT_SHAPE, description))
    if torchvision:
        for arch in torchvision_zoo.names():
            network = on_meta(partial(torchvision_zoo.make, arch, 1000, torchvision_zoo.INPUT_SHAPE))
            entries.append(_entry(arch, network, torchvision_zoo.INPUT_SHAPE, "torchvision classifier"))
    return entries


def title(arch: str) -> str:
    """Return the name with the data its family is known from: `resnet20 (CIFAR)`."""
    labels = (family.LABEL for family in FAMILIES if re.match(rf"{family.PREFIX}[^:/]*$", arch))
    label = next(labels, None)
    return arch if label is None else f"{arch} ({label})"


def _of_a_family(arch: str, classes: int, input_shape: Shape) -> nn.Module:
    for family in FAMILIES:
        network = family.build(arch, classes, input_shape)
        if network is not None:
            return network
    raise UsageError(f"unknown architecture {arch!r}", hint=_nearest(arch))


def _entry(arch: str, network: nn.Module, input_shape: Shape, description: str) -> Entry:
    return Entry(arch, parameters(network), macs(network, input_shape), input_shape, description)


def _refuse_tiny_images(arch: str, input_shape: Shape) -> None:
    _, height, width = input_shape
    if min(height, width) < SMALLEST:
        raise UsageError(
            f"{arch} needs images of at least {SMALLEST}x{SMALLEST} pixels, not {height}x{width}",
            hint="enlarge the images with data.image_size",
        )


def _nearest(arch: str) -> str | None:
    if f"torchvision/{arch}" in torchvision_zoo.names():
        return f"did you mean 'torchvision/{arch}'?"
    hint = did_you_mean(arch, (name for family in FAMILIES for name in family.EXAMPLES))
    return hint or "`compress models` lists the names; torchvision/NAME, timm/NAME and package.module:factory work too"
