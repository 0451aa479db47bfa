"""Which architecture do these weights belong to? Found from the shapes of the tensors, whatever their names are."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor, nn

from compressor.models import densenet, resnet, torchvision_zoo
from compressor.models.architectures import FAMILIES, build, title
from compressor.models.batchnorm import misfits
from compressor.models.layers import on_meta

Tensors = Sequence[tuple[str, tuple[int, ...]]]  # (key, shape), in order
Pairs = Sequence[tuple[tuple[str, tuple[int, ...]], tuple[str, tuple[int, ...]]]]  # here, there

# Stand for "any number" in an architecture's shapes; no layer is this wide.
ANY_CLASSES, ANY_CHANNELS = 10_007, 10_009
DECISIVE = 2.0  # times the best misfit rules an architecture out; on published checkpoints it was 30 and more


@dataclass(frozen=True)
class Candidate:
    """An architecture that all tensors of a checkpoint fit.

    `mapping` leads from the checkpoint's keys to the network's; counters of BatchNorm may be missing in either.
    `exact` means that it changes no key. `matched` of `total` tensors are used: the rest belong to classifiers that
    only help training. `input_shape` is None unless the weights fit one image size only.
    """

    arch: str
    classes: int
    channels: int
    input_shape: tuple[int, int, int] | None
    exact: bool
    mapping: Mapping[str, str]
    matched: int
    total: int


def candidates(state_dict: Mapping[str, Tensor]) -> list[Candidate]:
    """Return the architectures that the tensors fit, those with the checkpoint's own keys first.

    More than one means that shapes cannot tell them apart, and neither can what BatchNorm remembers. A single one that
    is exact is the likely one: others have the same shapes under other names. Wrapper prefixes (`module.`) must be
    stripped before.
    """
    weights = _read(state_dict)
    fits = [fit for arch in _proposals(weights) for fit in _fits(arch, weights)]
    if not fits:
        fits = [fit for arch in torchvision_zoo.names() for fit in _fits(arch, weights)]
    return sorted(_remembered(fits, state_dict), key=lambda fit: not fit.exact)


def explain(state_dict: Mapping[str, Tensor]) -> str:
    """Return why no architecture fits: the nearest one, how much of it fits, and the first tensor that does not."""
    here = _without_counters(_read(state_dict))
    examples = [arch for family in FAMILIES for arch in family.EXAMPLES]
    nearest, best, count, mismatch = "", 0.0, 0, ""
    for arch in dict.fromkeys([*_proposals(here), *examples, *torchvision_zoo.names()]):
        there = _without_counters(signature(arch))
        fitting, first = _compare(here, there)
        if fitting / max(len(here), len(there)) > best:
            nearest, best, count, mismatch = arch, fitting / max(len(here), len(there)), fitting, first
    if not count:
        return f"no known architecture resembles these {len(here)} tensors"
    return f"{title(nearest)} fits {count} of {len(here)} tensors; first mismatch: {mismatch}"


@cache
def signature(arch: str) -> Tensors:
    """Return the keys and shapes of an architecture, with `ANY_CLASSES` and `ANY_CHANNELS` where those are free."""
    if arch.startswith("torchvision/"):
        network = on_meta(lambda: torchvision_zoo.make(arch, ANY_CLASSES, torchvision_zoo.INPUT_SHAPE))
    else:
        network = on_meta(lambda: build(arch, classes=ANY_CLASSES, input_shape=(ANY_CHANNELS, 32, 32)))
    return _read(network.state_dict())


def _read(state_dict: Mapping[str, Tensor]) -> Tensors:
    return [(key, tuple(tensor.shape)) for key, tensor in state_dict.items()]


def _without_counters(tensors: Tensors) -> Tensors:
    """Leave out what has no dimensions: BatchNorm counts its batches, old checkpoints do not hold that."""
    return [(key, shape) for key, shape in tensors if shape]


def _proposals(tensors: Tensors) -> Iterator[str]:
    kernels = [shape for _, shape in tensors if len(shape) == 4]
    for family in FAMILIES:
        yield from family.proposals(kernels)


def _fits(arch: str, weights: Tensors) -> Iterator[Candidate]:
    """Yield one candidate, or none."""
    model = signature(arch)
    here = _without_auxiliary(arch, weights)
    if len(here) != len(model):
        here, model = _without_counters(here), _without_counters(model)
    for pairs in _pairings(here, model):
        free = _bind(pairs)
        if free is None:
            continue
        mapping = {key: other for (key, _), (other, _) in pairs}
        yield Candidate(
            arch=arch,
            classes=free[ANY_CLASSES],
            channels=free.get(ANY_CHANNELS, 3),
            input_shape=torchvision_zoo.INPUT_SHAPE if torchvision_zoo.fixed_size(arch) else None,
            exact=all(key == other for key, other in mapping.items()),
            mapping=mapping,
            matched=len(mapping),
            total=len(weights),
        )
        return


def _without_auxiliary(arch: str, tensors: Tensors) -> Tensors:
    if not arch.startswith("torchvision/"):
        return tensors
    return [(key, shape) for key, shape in tensors if not key.startswith(torchvision_zoo.AUXILIARY)]


def _pairings(here: Tensors, there: Tensors) -> Iterator[Pairs]:
    """Yield the ways to lay two lists of tensors side by side: by name, in order, in the order of sorted names."""
    if len(here) != len(there):
        return
    keys, named = [key for key, _ in here], dict(there)
    if named.keys() == set(keys):
        yield [((key, shape), (key, named[key])) for key, shape in here]
    else:
        yield list(zip(here, there, strict=True))
        names = [key for key, _ in _without_counters(here)]
        if names == sorted(names):  # as safetensors leaves them: the order says nothing
            yield list(zip(_by_name(here), _by_name(there), strict=True))


def _by_name(tensors: Tensors) -> Tensors:
    """Sort as such a file does, but linear layers last: heads have all sorts of names."""
    linear = {key.rpartition(".")[0] for key, shape in tensors if len(shape) == 2}
    return sorted(tensors, key=lambda tensor: (tensor[0].rpartition(".")[0] in linear, tensor[0]))


def _bind(pairs: Pairs) -> dict[int, int] | None:
    """Return what the free numbers of the architecture are in this checkpoint, or None if a shape does not fit."""
    free: dict[int, int] = {}
    for (_, here), (_, there) in pairs:
        if len(here) != len(there):
            return None
        for size, expected in zip(here, there, strict=True):
            known = free.setdefault(expected, size) if expected in (ANY_CLASSES, ANY_CHANNELS) else expected
            if size != known:
                return None
    return free


def _compare(here: Tensors, there: Tensors) -> tuple[int, str]:
    """Return how many tensors fit, by name or by place, whichever is more, and what is wrong with the first other."""
    named = dict(there)
    by_name = [((key, shape), (key, named[key]) if key in named else None) for key, shape in here]
    by_place = [(mine, other) for mine, other in zip(here, [*there, *[None] * len(here)], strict=False)]
    best: tuple[int, str] = (-1, "")
    for pairs in (by_name, by_place):
        wrong = [(mine, other) for mine, other in pairs if other is None or _bind([(mine, other)]) is None]
        best = max(best, (len(here) - len(wrong), _mismatch(wrong, here, there)), key=lambda found: found[0])
    return best


def _mismatch(
    wrong: Sequence[tuple[tuple[str, tuple[int, ...]], tuple[str, tuple[int, ...]] | None]],
    here: Tensors,
    there: Tensors,
) -> str:
    if not wrong:
        return f"{len(there) - len(here)} of its tensors are missing here"
    (key, shape), other = wrong[0]
    if other is None:
        return f"{key} {list(shape)} has no place there"
    name = "" if other[0] == key else f"{other[0]} "
    return f"{key} is {list(shape)} here and {name}{_free(other[1])} there"


def _free(shape: Sequence[int]) -> str:
    words = {ANY_CLASSES: "classes", ANY_CHANNELS: "channels"}
    return "[" + ", ".join(words.get(size, str(size)) for size in shape) + "]"


def _remembered(fits: Sequence[Candidate], state_dict: Mapping[str, Tensor]) -> list[Candidate]:
    """Drop the residual and the dense networks that BatchNorm's memory rules out."""
    wrong: list[Candidate] = []
    for family in (resnet, densenet):
        rivals = [fit for fit in fits if fit.arch.startswith(family.PREFIX)]
        if len(rivals) < 2:
            continue
        values = misfits([_loaded(rival, state_dict) for rival in rivals], (rivals[0].channels, 32, 32))
        if values is not None:
            wrong += [rival for rival, value in zip(rivals, values, strict=True) if value > DECISIVE * min(values)]
    return [fit for fit in fits if fit not in wrong]


def _loaded(fit: Candidate, state_dict: Mapping[str, Tensor]) -> nn.Module:
    """Return the candidate with a copy of the weights; no random number is drawn."""
    network = on_meta(lambda: build(fit.arch, classes=fit.classes, input_shape=(fit.channels, 32, 32)))
    weights = {there: state_dict[here].to("cpu", torch.float32, copy=True) for here, there in fit.mapping.items()}
    network.load_state_dict(weights, strict=False, assign=True)
    return network
