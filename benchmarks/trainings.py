"""Trainings for the benchmarks that time them: data or made images, a teacher, and the product's own steps."""

import argparse
import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import bss_step
import torch
from torch import nn

from compressor.batch import Batch
from compressor.data import Dataset, divided, from_objects, open_data
from compressor.inputs import Prepared
from compressor.methods.ce import CE
from compressor.models import Normalized, build
from compressor.pipeline.fastest import with_fastest
from compressor.pipeline.staged import new_state
from compressor.progress import Tell
from compressor.recipe import Data
from compressor.recipe import build as recipe_of
from compressor.training.sources import Source

BASE = Path()


def images(name: str | None, device: torch.device, *, count: int, size: int = 32, classes: int = 10) -> Dataset:
    """Open a data set, or make `count` images, as many of each class: its pattern under as much noise."""
    if name is not None:
        return open_data(Data(name=name, augment="crop-flip"), device=device)
    chance = torch.Generator().manual_seed(0)
    labels = torch.arange(count) % classes
    patterns = torch.randint(0, 128, (classes, size, size, 3), dtype=torch.uint8, generator=chance)
    random = torch.randint(0, 128, (count, size, size, 3), dtype=torch.uint8, generator=chance)
    random += patterns[labels]
    config = Data(name="random", augment="crop-flip", validation=0, test=classes / count)
    loaded = from_objects((random.numpy(), labels.numpy()), config, device, name="random")
    return divided(loaded, config, device=device)


def taught(data: Dataset, arch: str, path: Path | None, device: torch.device, *, steps: int) -> Normalized:
    """Return a teacher: of a file, or trained for a moment and as steep as a published one (see `bss_step`)."""
    network = Normalized(build(arch, classes=len(data.classes), input_shape=data.input_shape), data.mean, data.std)
    teacher = network.to(device)
    if path is not None:
        teacher.network.load_state_dict(bss_step.state(path))
        return teacher.eval()
    learnt(teacher, data, steps=steps)
    bss_step.steepen(teacher.eval(), _first(data).images[:64])
    return teacher


def learnt(network: Normalized, data: Dataset, *, steps: int) -> None:
    """Train a network for a moment, on the first images alone, so that it knows some of them."""
    few = _first(data)
    bss_step.warm_up(network, CE(), [], few.images, few.labels, steps=steps)


def _first(data: Dataset) -> Batch:
    return next(iter(data.train.batches(1024, seed=0)))


def prepared(
    data: Dataset, teacher: Normalized, sections: dict[str, Any], overrides: Sequence[str], *, device: torch.device
) -> Prepared:
    """Return what the pipeline makes of a recipe, with all that is `auto` measured."""
    whole = {"data": {"name": "random"}, "teacher": {"checkpoint": "teacher.pt"}, **sections}
    mean, std = (each.flatten().tolist() for each in (teacher.mean, teacher.std))
    given = SimpleNamespace(module=copy.deepcopy(teacher), mean=mean, std=std)
    recipe = recipe_of(whole, overrides, base=BASE)
    tell = Tell()
    return with_fastest(Prepared(device, data, (given,), recipe), tell)


def stepping(inputs: Prepared, weights: dict[str, Any] | None = None) -> Callable[[], object]:
    """Return a step of the product, data path included: each call trains on the next batch.

    Args:
        weights: what the student starts from, its own otherwise.
    """
    state = new_state(inputs)
    if weights is not None:
        state.student.load_state_dict(weights)
    state.enter_training()
    batches = endless(inputs.source)
    return lambda: state.advance(next(batches))


def eager(inputs: Prepared) -> Prepared:
    """Return the same training without compiled code or other runtimes, of which operations can be counted."""
    train = inputs.recipe.train.model_copy(update={"compile": False, "teacher_runtime": "torch"})
    return replace(inputs, recipe=inputs.recipe.model_copy(update={"train": train}))


def endless(source: Source) -> Iterator[Batch]:
    """Yield the batches of one epoch after the other."""
    epoch = 0
    while True:
        yield from source.batches(epoch, 0)
        epoch += 1


def weights_of(network: nn.Module) -> dict[str, Any]:
    """Return a copy of a network's weights."""
    return copy.deepcopy(dict(network.state_dict()))


def common(parser: argparse.ArgumentParser) -> None:
    """Add the options that all of them take."""
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, help="of PyTorch on the CPU")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="of our recipes: train.compile=auto"
    )
    parser.add_argument("--quick", action="store_true", help="tiny: whether it works, no numbers")
