"""From a recipe to what it names: the device, the data, the teacher that was seen to do well on them, the student."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from compressor import checkpoint, data, models
from compressor.data import Dataset
from compressor.errors import UsageError
from compressor.machine.devices import choose_device
from compressor.progress import Tell
from compressor.recipe import Data, Recipe, Teacher


@dataclass(frozen=True)
class Inputs:
    """What a run starts from."""

    device: torch.device
    data: Dataset
    teacher: checkpoint.Network | None


@dataclass(frozen=True)
class Prepared(Inputs):
    """Inputs and their recipe, with all that was found out filled in."""

    recipe: Recipe

    @property
    def batch_size(self) -> int:
        """Training images of a step."""
        size = self.recipe.data.batch_size
        assert size is not None  # which `prepare` saw to
        return size

    def new_student(self) -> models.Normalized:
        """Build the student with its normalisation; torch's global generator decides the weights."""
        config, data = self.recipe.student, self.data
        if config.init is None:
            bare = models.build(config.arch, classes=len(data.classes), input_shape=data.input_shape)
            return models.Normalized(bare, data.mean, data.std).to(self.device)
        given = checkpoint.load_network(
            config.init, arch=config.arch, classes=len(data.classes), input_shape=data.input_shape
        )
        if not given.stated:
            given = given.normalised(data.mean, data.std)
        assert isinstance(given.module, models.Normalized)
        return given.module.to(self.device)


def require_known(recipe: Recipe) -> None:
    """Refuse a misspelt network or data set at once, before a teacher is examined for minutes.

    Raises:
        UsageError: there is no such architecture or data set.
        EnvironmentMissing: the package that holds the architecture is not installed.
    """
    models.require_known(recipe.student.arch)
    if recipe.teacher is not None and recipe.teacher.arch is not None:
        models.require_known(recipe.teacher.arch)
    if recipe.data.name is not None:
        data.require_known(recipe.data.name)


def prepare(recipe: Recipe, tell: Tell, *, examine: bool = True) -> Prepared:
    """Open what a recipe names; with `examine`, see that the teacher does well before anything is spent."""
    inputs = open_inputs(recipe.data, recipe.teacher, tell, device=choose_device(recipe.device), examine=examine)
    size = recipe.data.step(len(inputs.data.train))
    named = recipe.data.called(inputs.data.source).model_copy(update={"batch_size": size})
    if recipe.data.batch_size is None:
        tell(f"data: {size} of {len(inputs.data.train):,} training images a step; --batch-size chooses another")
    found: dict[str, Data | Teacher] = {"data": named}
    if recipe.teacher is not None and inputs.teacher is not None:
        known = {"arch": inputs.teacher.arch, "mean": inputs.teacher.mean, "std": inputs.teacher.std}
        found["teacher"] = recipe.teacher.model_copy(update=known)
    return Prepared(inputs.device, inputs.data, inputs.teacher, recipe.model_copy(update=found))


def open_inputs(source: Data, teacher: Teacher | None, tell: Tell, *, device: torch.device, examine: bool) -> Inputs:
    """Open teacher and data. Without a name the data are those that the teacher says or is known for.

    Raises:
        UsageError: no data set is named and none can be guessed.
        InputRejected: teacher or data cannot be used, or do not fit each other.
    """
    network = None if teacher is None else checkpoint.load_teacher(teacher)
    name, reason = source.name, ""
    if name is None and network is not None:
        name = network.data or checkpoint.default_data(network)
        origin = (
            "the checkpoint says so" if network.data else f"usual for {network.arch} with {network.classes} classes"
        )
        reason = f" ({origin}; --data chooses another)"
    if name is None:
        raise UsageError("no data set is named, and the teacher does not tell", hint="--data cifar10 or folder:PATH")
    tell(f"data: {name}{reason}")
    if network is not None:
        tell(f"teacher: {network.summary}")
    opened = data.open_data(source.called(name), device=device)
    for note in opened.notes:
        tell(f"data: {note}")
    if network is not None and teacher is not None:
        network.module.to(device)
        if examine:
            checked = checkpoint.check_teacher(network, opened, normalize=teacher.normalize)
            tell(f"teacher: {checked.sentence}")
            network = checked.network
    return Inputs(device, opened, network)
