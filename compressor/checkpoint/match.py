"""Tensors into an architecture: one that is named, or the one they fit, built for the size of the data's images."""

from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from compressor import models
from compressor.checkpoint.class_order import covers
from compressor.checkpoint.network import Network, Shape, answer, classes_of
from compressor.checkpoint.reading import Tensors, strip_prefixes
from compressor.errors import InputRejected, UsageError

_SHOWN = 3
NAME_IT = "--teacher-arch NAME decides; NAME may be package.module:factory"
OPAQUE = (
    "name it with --teacher-arch timm/NAME, or your own code with --teacher-arch package.module:factory, "
    "or export the network with TorchScript or torch.export"
)


@dataclass(frozen=True)
class Fit:
    """A network with the checkpoint's weights in it. `matched` counts the checkpoint's tensors that were used.

    `binary` means that these give one logit, and the network two: zero and that one.
    """

    module: nn.Module
    arch: str
    classes: int
    input_shape: Shape
    matched: int
    renamed: bool
    binary: bool = False


def candidate(path: Path, read: Tensors, classes: int | None, shape: Shape | None) -> Fit:
    """Build the architecture that the tensors fit.

    Raises:
        InputRejected: none fits, or none with so many classes.
        UsageError: several fit, and neither names nor the file's own `arch` entry tell them apart.
    """
    fitting = models.candidates(read.tensors)
    if not fitting:
        raise InputRejected(f"{path} fits no known architecture: {models.explain(read.tensors)}", hint=OPAQUE)
    if classes is not None and not any(one.classes == classes for one in fitting):
        raise InputRejected(
            f"{path} has {fitting[0].classes} classes, not {classes}",
            hint="leave --num-classes out, or give another checkpoint",
        )
    fitting = [one for one in fitting if classes is None or one.classes == classes]
    fitting = [one for one in fitting if one.exact] or fitting
    if len(fitting) > 1:
        said = str(read.metadata.get("arch", "")).removeprefix("torchvision/")
        fitting = [one for one in fitting if one.arch.removeprefix("torchvision/") == said] or fitting
    if len(fitting) > 1:
        listed = ", ".join(models.title(one.arch) for one in fitting)
        raise UsageError(
            f"{path} fits several architectures: {listed}", hint=f"--teacher-arch {fitting[0].arch}, or another of them"
        )
    (one,) = fitting
    if one.arch.startswith("torchvision/") and not one.exact:
        owner = _timm_owner(path, read, one.arch)
        if owner is not None:
            return strict(path, read, owner, one.classes, shape)
    size = one.input_shape or (shape if shape and shape[0] == one.channels else _usual(one.arch, one.channels))
    found = max(one.classes, 2)
    tensors = _mapped(one, read.tensors)
    if one.classes == 1:
        tensors = _two_classes(tensors, _expected(one.arch, found, size))
    module = models.build(one.arch, classes=found, input_shape=size)
    _fill(module, tensors)
    return Fit(module.eval(), one.arch, found, size, one.matched, not one.exact, binary=one.classes == 1)


def parts(read: Tensors) -> list[Tensors]:
    """Return what of a file may be a network of its own: tensors that share the first word of their names.

    A Lightning module holds its networks and metrics like this.
    """
    found = []
    for word in dict.fromkeys(name.partition(".")[0] for name in read.tensors if "." in name):
        inner = {name.partition(".")[2]: value for name, value in read.tensors.items() if name.startswith(f"{word}.")}
        if len(inner) < len(read.tensors) and any(tensor.ndim in (2, 4) for tensor in inner.values()):
            tensors, prefixes = strip_prefixes(inner)
            left = [name for name in read.tensors if not name.startswith(f"{word}.")]
            note = f"left out {', '.join(left[:_SHOWN])}{', ...' if len(left) > _SHOWN else ''}"
            removed, notes = (*read.prefixes, f"{word}.", *prefixes), (*read.notes, note)
            found.append(replace(read, tensors=tensors, prefixes=removed, notes=notes))
    return found


def strict(
    path: Path,
    read: Tensors,
    arch: str,
    classes: int,
    shape: Shape | None,
    *,
    changes: Sequence[models.Change] = (),
    hint: str | None = None,
) -> Fit:
    """Build the named architecture and load every tensor: under its own name, with its prefix put back, or renamed.

    Args:
        changes: what was changed in the architecture before it was trained.
        hint: what to do about tensors that do not fit; else what they would fit is looked for.

    Raises:
        InputRejected: names or shapes do not agree; the sentence lists the first of them.
        UsageError, EnvironmentMissing: there is no such architecture here.
    """
    size = shape or _usual(arch, _channels(read.tensors))
    binary, classes = classes == 1, max(classes, 2)
    expected = _expected(arch, classes, size, changes)
    tried = []
    for tensors, renamed in _attempts(read, arch, classes, expected, binary):
        if not any(_problems(tensors, expected).values()):
            module = _changed(models.build(arch, classes=classes, input_shape=size), changes)
            _fill(module, tensors)
            return Fit(module.eval(), arch, classes, size, len(tensors), renamed, binary)
        tried.append(tensors)
    nearest = min(tried, key=lambda tensors: sum(len(names) for names in _problems(tensors, expected).values()))
    raise InputRejected(
        f"{path} does not fit {models.title(arch)} with {classes} classes: {_listed(_problems(nearest, expected))}",
        hint=hint or _suggestion(read.tensors, arch),
    )


def _attempts(
    read: Tensors, arch: str, classes: int, expected: Mapping[str, Tensor], binary: bool
) -> Iterator[tuple[dict[str, Tensor], bool]]:
    """Yield the tensors by the names that they may stand for, and whether that is by new ones, which take longest."""
    for prefix in _prefixes(read.prefixes):
        tensors = {prefix + name: tensor for name, tensor in read.tensors.items()}
        yield _two_classes(tensors, expected) if binary else tensors, False
    if _sizes(read.tensors) == _sizes(expected):
        for one in _renamed(read, arch, classes):
            yield _mapped(one, read.tensors), True


def _two_classes(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Put a row of zeros before the only row of a head: the logits are then 0 and the one that there was."""
    return {
        name: torch.cat([torch.zeros_like(tensor), tensor])
        if name in expected and tensor.ndim and (len(tensor), len(expected[name])) == (1, 2)
        else tensor
        for name, tensor in tensors.items()
    }


def head_classes(path: Path, tensors: Mapping[str, Tensor]) -> int:
    """Return how many classes the last layer has: the rows of the last matrix, or of the last convolution.

    Raises:
        UsageError: there is no such tensor.
    """
    for dimensions in (2, 4):
        rows = [len(tensor) for tensor in tensors.values() if tensor.ndim == dimensions]
        if rows:
            return rows[-1]
    raise UsageError(f"the number of classes of {path} cannot be seen", hint="give it with --num-classes")


def _prefixes(removed: Sequence[str]) -> Iterator[str]:
    """Yield nothing, the innermost prefix that was removed, the innermost two, ..."""
    yield from accumulate(reversed(removed), lambda inner, outer: outer + inner, initial="")


def _renamed(read: Tensors, arch: str, classes: int) -> list[models.Candidate]:
    if ":" in arch or arch.startswith("timm/"):
        return []  # unknown to the catalogue, so there is nothing to find
    return [one for one in models.candidates(read.tensors) if one.arch == arch and one.classes == classes]


def _mapped(one: models.Candidate, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {new: tensors[old] for old, new in one.mapping.items()}


def _sizes(tensors: Mapping[str, Tensor]) -> list[tuple[int, ...]]:
    """Return the shapes, sorted, without counters: what renaming cannot change."""
    return sorted(tuple(tensor.shape) for tensor in tensors.values() if tensor.ndim)


def _problems(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> dict[str, list[str]]:
    """Return what differs, by kind. Checkpoints from before 2018 lack BatchNorm's counters, which changes nothing."""
    missing = [name for name in expected if name not in tensors and not name.endswith("num_batches_tracked")]
    shared = [name for name in expected if name in tensors]
    return {
        "missing": missing,
        "unexpected": [name for name in tensors if name not in expected],
        "other shapes": [
            f"{name} {list(tensors[name].shape)} instead of {list(expected[name].shape)}"
            for name in shared
            if tensors[name].shape != expected[name].shape
        ],
    }


def _listed(problems: Mapping[str, Sequence[str]]) -> str:
    parts = []
    for kind, names in problems.items():
        if names:
            rest = ", ..." if len(names) > _SHOWN else ""
            parts.append(f"{len(names)} {kind} ({', '.join(names[:_SHOWN])}{rest})")
    return "; ".join(parts)


def _suggestion(tensors: Mapping[str, Tensor], arch: str) -> str:
    others = [models.title(one.arch) for one in models.candidates(tensors) if one.arch != arch]
    if others:
        return f"its tensors fit {' or '.join(others[:_SHOWN])}: leave --teacher-arch out"
    return f"{models.explain(tensors)}; {OPAQUE}"


def _changed(module: nn.Module, changes: Sequence[models.Change]) -> nn.Module:
    for change in changes:
        change.apply(module)
    return module


def _expected(arch: str, classes: int, size: Shape, changes: Sequence[models.Change] = ()) -> Mapping[str, Tensor]:
    """Return the tensors of an architecture: without memory, so that a file cannot ask for a network of any size.

    Code of a user or of timm is not written for that, and is named by the user alone.
    """
    if ":" in arch or arch.startswith("timm/"):
        return _changed(models.build(arch, classes=classes, input_shape=size), changes).state_dict()
    return _changed(models.outline(arch, classes=classes, input_shape=size), changes).state_dict()


def _fill(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Load every tensor. Layouts of layers are those of today, whose shapes they have; old counters start at zero."""
    whole = OrderedDict(module.state_dict())
    counters = {name: value for name, value in whole.items() if name.endswith("num_batches_tracked")}
    state = OrderedDict(counters | dict(tensors))
    state._metadata = module.state_dict()._metadata  # type: ignore[attr-defined]  # what torch calls the versions
    module.load_state_dict(state, strict=True)


def _timm_owner(path: Path, read: Tensors, arch: str) -> str | None:
    """Return timm's network that the names belong to: it shares tensors with torchvision's and computes otherwise.

    Raises:
        UsageError: the names are those of several, which differ in padding or constants, and the file does not say.
    """
    owners = models.timm_owners(read.tensors, like=arch)
    said = f"timm/{read.metadata.get('arch')}"
    if said in owners or len(owners) < 2:
        return said if said in owners else owners[0] if owners else None
    raise UsageError(
        f"{path} has the names and shapes of {', '.join(owners[:_SHOWN])}, which compute differently with them",
        hint=f"--teacher-arch {owners[0]}, or another of them: the one that it was trained as",
    )


def _channels(tensors: Mapping[str, Tensor]) -> int:
    """Return the input channels: those of the first convolution."""
    return next((tensor.shape[1] for tensor in tensors.values() if tensor.ndim == 4), 3)


def _usual(arch: str, channels: int) -> Shape:
    side = 224 if arch.startswith(("torchvision/", "timm/")) else 28 if arch.startswith("lenet") else 32
    return channels, side, side


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
    if network.classes != len(dataset.classes) and not covers(network, dataset.classes):
        lacking = [name for name in dataset.classes if name not in (network.class_names or ())]
        named = network.class_names is not None
        raise InputRejected(
            f"{network.called} has {network.classes} classes, but {dataset.name} has {len(dataset.classes)}",
            hint="give the data that it was trained on"
            + (f": its file names none that is called {', '.join(map(repr, lacking[:_SHOWN]))}" if named else ""),
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
    """Return the network that it may have been instead, with the very same tensors.

    That is the one which its BatchNorm remembers, or which has or lacks a pooling behind the stem, as data can tell.
    None where it is of the form it was trained in, or where other forms are not known; see `models.candidates`.
    """
    if network.arch is None or set(":/") & set(network.arch):
        return None  # of code from elsewhere, other forms are not known
    if (twin := models.twin(network.arch)) is not None:
        return _built(replace(network, arch=twin), network.input_shape)
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
    _changed(module, models.changes_of(network.module))
    module.load_state_dict(_weights(network))
    return replace(network, module=models.Normalized(module, network.mean, network.std, bgr=network.bgr).eval())


def _weights(network: Network) -> dict[str, Tensor]:
    return network.module.get_submodule("network").state_dict()


def _wrong_size(network: Network, shape: Shape, name: str) -> InputRejected:
    (_, height, width), (_, own_height, own_width) = shape, network.input_shape
    size = own_height if own_height == own_width else f"{own_height}x{own_width}"
    return InputRejected(
        f"{network.called} takes images of {own_height}x{own_width}, but those of {name} are {height}x{width}",
        hint=f"--image-size {size} scales the images of a folder",
    )
