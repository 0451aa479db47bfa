"""Teachers and data, opened: what a run starts from, and a teacher that was seen to do well on the images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from compressor import checkpoint, data
from compressor.choices import FOLDER, HF, NOTHING, WDS
from compressor.data import Dataset
from compressor.errors import InputRejected, UsageError
from compressor.progress import Tell
from compressor.recipe import Data, Teacher
from compressor.recipe.code import is_code


@dataclass(frozen=True)
class Inputs:
    """What a run starts from. The first teacher is the one that results are compared with."""

    device: torch.device
    data: Dataset
    teachers: tuple[checkpoint.Network, ...]

    @property
    def teacher(self) -> checkpoint.Network | None:
        """The first teacher, where there is one."""
        return self.teachers[0] if self.teachers else None

    @property
    def walkable(self) -> checkpoint.Network | None:
        """The first teacher, where it can be walked to its boundary."""
        return self.teacher if self.teacher is not None and self.teacher.differentiable else None


def open_inputs(
    source: Data, teachers: Sequence[Teacher], tell: Tell, *, device: torch.device, examine: bool
) -> Inputs:
    """Open teachers and data. Without a name the data are those that the first teacher says or is known for.

    Raises:
        UsageError: no data set is named and none can be guessed.
        InputRejected: a teacher or the data cannot be used, or do not fit each other.
    """
    if source.name == NOTHING:
        return _without_data(source, teachers, tell, device)
    # One that nothing tells the images of is opened when the data are, and tried with theirs.
    late = [source.name is not None and checkpoint.shape_unsaid(teacher) for teacher in teachers]
    early = [None if waits else checkpoint.load_teacher(each) for each, waits in zip(teachers, late, strict=True)]
    name, reason = source.name, ""
    if name is None and (first := next(iter(early), None)) is not None:
        name = first.data or checkpoint.default_data(first)
        origin = "the checkpoint says so" if first.data else f"usual for {first.arch} with {first.classes} classes"
        reason = f" ({origin}; --data chooses another)"
    if name is None:
        raise UsageError("no data set is named, and the teacher does not tell", hint="--data cifar10 or folder:PATH")
    if source.name is None and is_code(name):
        raise UsageError(
            f"the teacher's file says that its data are {name}, which is code, and a file never makes us import any",
            hint=f"--data {name} does, where it is your own",
        )
    tell(f"data: {name}{reason}")
    titles = [f"teacher {number}" if len(teachers) > 1 else "teacher" for number in range(1, len(teachers) + 1)]
    for title, network in zip(titles, early, strict=True):
        if network is not None:
            tell(f"{title}: {network.summary}")
    opened = data.open_data(_as_trained(source.called(name), early, tell), device=device)
    for note in opened.notes:
        tell(f"data: {note}")
    networks = []
    for title, teacher, network in zip(titles, teachers, early, strict=True):
        found = network
        if found is None:
            found = checkpoint.load_teacher(teacher, input_shape=opened.input_shape)
            tell(f"{title}: {found.summary}")
        networks.append(found if title == "teacher" else replace(found, called=title))
    for place, (title, teacher) in enumerate(zip(titles, teachers, strict=True)):
        networks[place].module.to(device)
        if examine:
            checked = checkpoint.check_teacher(networks[place], opened, normalize=teacher.normalize)
            tell(f"{title}: {checked.sentence}")
            networks[place] = checked.network
        else:
            networks[place], _ = checkpoint.by_names(networks[place], opened.classes)
    return Inputs(device, opened, tuple(networks))


def _without_data(source: Data, teachers: Sequence[Teacher], tell: Tell, device: torch.device) -> Inputs:
    """Open teachers alone: they say what there is to know of the images that nobody has."""
    if not teachers:
        raise UsageError(
            "without data the shape of the images comes from a teacher, and none is named",
            hint="--data NAME, --data folder:PATH, or --teacher FILE",
        )
    networks = [_knowing(source, teacher) for teacher in teachers]
    first = networks[0]
    channels, *own = first.input_shape
    height, width = source.image_size or own
    shape = (channels, height, width)
    opened = data.without_images(
        source, first.classes, first.class_names, shape, (first.mean, first.std), device=device
    )
    for note in opened.notes:
        tell(f"data: {note}")
    found = []
    for number, network in enumerate(networks, 1):
        title = "teacher" if len(networks) == 1 else f"teacher {number}"
        tell(f"{title}: {network.summary}")
        fits, note = checkpoint.by_names(checkpoint.fitted(network, opened), opened.classes)
        if note:
            tell(f"{title}: {note}")
        fitting = replace(fits, called=network.called if len(networks) == 1 else title)
        fitting.module.to(device)
        found.append(fitting)
    return Inputs(device, opened, tuple(found))


def _knowing(source: Data, teacher: Teacher) -> checkpoint.Network:
    """Return a teacher that says how its images are normalised, for the shape that it or the user says.

    Raises:
        UsageError: nothing tells the shape.
        InputRejected: nothing tells the normalisation, which only images could.
    """
    size, channels = source.image_size, source.channels
    unsaid = checkpoint.shape_unsaid(teacher)
    if unsaid and (size is None or channels is None):
        raise UsageError(
            f"nothing tells the shape of the images of {teacher.checkpoint}, and there are no data to tell it",
            hint="--image-size 32 --set data.channels=3",
        )
    asked = (channels, *size) if size is not None and channels is not None else None
    network = checkpoint.load_teacher(teacher, input_shape=asked)
    if not network.stated:
        raise InputRejected(
            f"{teacher.checkpoint} does not say how its images are normalised, and without data that is not found out",
            hint="--set teacher.mean=[0.5] --set teacher.std=[0.5], a value a channel for pixels in [0, 1]",
        )
    return network


def _as_trained(source: Data, networks: Sequence[checkpoint.Network | None], tell: Tell) -> Data:
    """Return the data at the size and with the channels of the first teacher whose own file tells these.

    Images in files can be anything; what is asked for stands.
    """
    told = next((each.input_shape for each in networks if each is not None and each.trained_here), None)
    if told is None or source.name is None or not source.name.startswith((FOLDER, HF, WDS)):
        return source
    channels, height, width = told
    if source.image_size is None:
        tell(f"data: images of {height}x{width}, as the teacher's file says; --image-size chooses another")
    update = {
        "image_size": source.image_size or (height, width),
        "channels": source.channels or (channels if channels in (1, 3) else None),
    }
    return source.model_copy(update=update).called(source.name)
