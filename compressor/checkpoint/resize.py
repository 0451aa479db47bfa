"""A teacher made to take the images of a data set, or the sentence why it cannot; and the teacher it may be instead."""

from dataclasses import replace
from typing import Protocol

from torch import Tensor

from compressor import models
from compressor.checkpoint.network import Network, Shape
from compressor.checkpoint.probing import answer, classes_of
from compressor.errors import InputRejected, UsageError


class Described(Protocol):
    """What must be known of the data."""

    @property
    def name(self) -> str: ...
    @property
    def classes(self) -> tuple[str, ...]: ...
    @property
    def input_shape(self) -> Shape: ...


def fitted(network: Network, dataset: Described) -> Network:
    """Return the network for the data's image size: some are built anew, since their layers depend on it.

    Raises:
        InputRejected: the number of classes, the channels or the image size do not fit.
    """
    if network.classes != len(dataset.classes):
        raise InputRejected(
            f"{network.called} has {network.classes} classes, but {dataset.name} has {len(dataset.classes)}",
            hint="give the data that it was trained on",
        )
    shape = dataset.input_shape
    if network.input_shape[0] != shape[0]:
        raise InputRejected(
            f"{network.called} takes images of {network.input_shape[0]} channels, "
            f"but those of {dataset.name} have {shape[0]}",
            hint="give the data that it was trained on",
        )
    if network.input_shape != shape and network.arch is not None:
        network = _rebuilt(network, shape, dataset.name)
    if classes_of(answer(network.module, shape)) != network.classes:
        raise _wrong_size(network, shape, dataset.name)
    return replace(network, input_shape=shape)


def in_other_form(network: Network) -> Network | None:
    """Return the network that its BatchNorm remembers to have been: other shortcuts between the very same tensors.

    None where it is of the form it was trained in, or where that cannot be told; see `models.candidates`.
    """
    if network.arch is None or set(":/") & set(network.arch):
        return None  # of code from elsewhere, other forms are not known
    fits = [one.arch for one in models.candidates(_weights(network)) if one.exact]
    if not fits or network.arch in fits:
        return None
    return _built(replace(network, arch=fits[0]), network.input_shape)


def _rebuilt(network: Network, shape: Shape, name: str) -> Network:
    try:
        return _built(network, shape)
    except (UsageError, RuntimeError):
        raise _wrong_size(network, shape, name) from None


def _built(network: Network, shape: Shape) -> Network:
    """Return the network with its weights in a new module of its architecture."""
    assert network.arch is not None
    module = models.build(network.arch, classes=network.classes, input_shape=shape)
    module.load_state_dict(_weights(network))
    return replace(network, module=models.Normalized(module, network.mean, network.std).eval())


def _weights(network: Network) -> dict[str, Tensor]:
    return network.module.get_submodule("network").state_dict()


def _wrong_size(network: Network, shape: Shape, name: str) -> InputRejected:
    (_, height, width), (_, own_height, own_width) = shape, network.input_shape
    return InputRejected(
        f"{network.called} takes images of {own_height}x{own_width}, but those of {name} are {height}x{width}",
        hint=f"--image-size {own_height} scales the images of a folder" if own_height == own_width else None,
    )
