"""From a recipe to what it names: the device, the data, the teacher that was seen to do well on them, the student."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor, nn

from compressor import checkpoint, data, models
from compressor.batch import Batch
from compressor.checkpoint.network import refuse_undifferentiable
from compressor.choices import FOLDER, NOTHING
from compressor.data import Dataset, Mix, Shard, Split
from compressor.errors import InputRejected, UsageError
from compressor.machine.devices import choose_device
from compressor.methods import Method
from compressor.methods.protocol import Altering
from compressor.models.quantised import Quantised, placed
from compressor.progress import Tell
from compressor.recipe import Data, Quantize, Recipe, Teacher, Training
from compressor.recipe.code import is_code
from compressor.training.distributed import ALONE, Processes
from compressor.training.sources import Source, empty_batches, in_epochs_of, with_unlabelled

STEPS = 50  # of an epoch without data, where the recipe does not say: DFAD's

_FIRST = 64  # images that a quantised student's ranges start from


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


@dataclass(frozen=True)
class Prepared(Inputs):
    """Inputs and their recipe, with all that was found out filled in, and the processes that train by it together."""

    recipe: Recipe
    group: Processes = ALONE

    @cached_property
    def source(self) -> Source:
        """What the student is trained on: labelled images, with an unlabelled stream beside them, or nothing at all."""
        recipe, needs = self.recipe, self.recipe.method.needs
        if not needs.data:
            assert recipe.train.steps_per_epoch is not None  # which `prepare` saw to
            part = len(range(self.batch_size)[self.group.rank :: self.group.world])
            return empty_batches(recipe.train.steps_per_epoch, self.data.input_shape, part, total=self.batch_size)
        shard = Shard(self.group.rank, self.group.world)
        labelled = _labelled(self.data, recipe, self.batch_size, shard)
        if recipe.train.steps_per_epoch is not None:
            labelled = in_epochs_of(recipe.train.steps_per_epoch, labelled)
        if not (needs.unlabelled or needs.target):
            return labelled
        stream, size = self.data.unlabelled, recipe.data.unlabelled_batch or self.batch_size
        if stream is None or len(stream) == 0:
            raise UsageError(
                f"all {len(self.data.train):,} training images keep their labels, and none is left to be unlabelled",
                hint="set data.labels lower, or name others with --unlabelled folder:PATH",
            )
        return _with_unlabelled(labelled, stream, size, recipe.seed, shard)

    @property
    def batch_size(self) -> int:
        """Training images of a step."""
        size = self.recipe.data.batch_size
        assert size is not None  # which `prepare` saw to
        return size

    def new_student(self) -> models.Normalized:
        """Build the student with its normalisation; torch's global generator decides the weights.

        Weights to start from are those of a network of other classes too: its head is then new.
        """
        network, method, quantize = self._unrounded(), self.recipe.method, self.recipe.student.quantize
        if isinstance(method, Altering):
            teachers = [each.module for each in self.teachers]
            method.alter(network, teachers, input_shape=self.data.input_shape)
        return network if quantize is None else self._quantised(network, quantize)

    def _quantised(self, network: models.Normalized, wanted: Quantize) -> Quantised:
        """Return the student behind the rounding of its export, with ranges of the first images that it will see."""
        where = placed(
            network,
            self.data.input_shape,
            weights=wanted.weights,
            activations=wanted.activations,
            recipe=wanted.recipe,
        )
        mean, std = (each.flatten().tolist() for each in (network.mean, network.std))
        student = Quantised(network.network, mean, std, where.plan).to(self.device)
        if self.recipe.method.needs.data:
            images = next(iter(self.data.train.batches(_FIRST, seed=self.recipe.seed))).images
        else:  # the training data, if any, are not looked at
            noise = torch.Generator().manual_seed(self.recipe.seed)
            images = torch.rand(_FIRST, *self.data.input_shape, generator=noise)
        student.observe(images.to(self.device))
        return student

    def _unrounded(self) -> models.Normalized:
        config, data = self.recipe.student, self.data
        bare = models.build(config.arch, classes=len(data.classes), input_shape=data.input_shape)
        if self.initial is not None:
            for change in models.changes_of(self.initial.module):  # the layers that its file tells of are the student's
                change.model_copy(update={"classes": len(data.classes)}).apply(bare)
            own = bare.state_dict()
            bare.load_state_dict({**_weights(self.initial), **{name: own[name] for name in self.new_weights(bare)}})
        if self.initial is None or not self.initial.stated:
            return models.Normalized(bare, data.mean, data.std).to(self.device)
        return models.Normalized(bare, self.initial.mean, self.initial.std, bgr=self.initial.bgr).to(self.device)

    @cached_property
    def initial(self) -> checkpoint.Network | None:
        """The network whose weights the student starts from, where the recipe names one."""
        config = self.recipe.student
        if config.init is None:
            return None
        return checkpoint.load_network(config.init, arch=config.arch, input_shape=self.data.input_shape)

    def new_weights(self, bare: nn.Module) -> tuple[str, ...]:
        """Return which tensors of a student its initial weights do not give, by name: those that count the classes."""
        if self.initial is None or self.initial.classes == len(self.data.classes):
            return ()
        given = _weights(self.initial)
        return tuple(name for name, tensor in bare.state_dict().items() if given[name].shape != tensor.shape)


def require_known(recipe: Recipe) -> None:
    """Refuse a misspelt network or data set at once, before a teacher is examined for minutes.

    Raises:
        UsageError: there is no such architecture or data set.
        EnvironmentMissing: the package that holds the architecture is not installed.
    """
    models.require_known(recipe.student.arch)
    if recipe.teacher is not None and recipe.teacher.arch is not None:
        models.require_known(recipe.teacher.arch)
    for name in (recipe.data.name, recipe.data.unlabelled, recipe.data.target):
        if name is not None:
            data.require_known(name)


def prepare(recipe: Recipe, tell: Tell, *, examine: bool = True, group: Processes = ALONE) -> Prepared:
    """Open what a recipe names; with `examine`, see that its teachers do well before anything is spent.

    Raises:
        UsageError: a step has less than two images for each process of `group`.
    """
    device = choose_device(recipe.device, local=group.local)
    inputs = open_inputs(recipe.data, recipe.teachers, tell, device=device, examine=examine)
    if any(part.method.needs.gradients for part in recipe.parts):
        for network in inputs.teachers:
            if not network.differentiable:
                raise InputRejected(
                    f"method {recipe.method.kind} needs gradients through its teacher, and an ONNX file only answers",
                    hint="give the checkpoint that it was exported from, or choose a method without, such as kd",
                )
            refuse_undifferentiable(network.module, inputs.data.input_shape, network.called)
    known = [
        given.model_copy(update={"arch": network.arch, **network.preparation})
        for given, network in zip(recipe.teachers, inputs.teachers, strict=True)
    ]
    images = len(inputs.data.train) if any(part.method.needs.data for part in recipe.parts) else None
    size = recipe.data.step(images)
    if recipe.data.batch_size is None:
        which = "generated" if images is None else f"of {images:,} training"
        tell(f"data: {size} {which} images a step; --batch-size chooses another")
    if size < 2 * group.world:
        raise UsageError(
            f"a step of {size} images is too small for {group.world} processes",
            hint=f"--batch-size {2 * group.world} or more",
        )
    if any(_counts(part.method, part.train) != part.train for part in recipe.parts):
        tell(f"data: {STEPS} steps are an epoch; --set train.steps_per_epoch=100 chooses another number")
    stages = [part.model_copy(update={"train": _counts(part.method, part.train)}) for part in recipe.stages]
    named = recipe.data.called(inputs.data.source).model_copy(update={"batch_size": size})
    counted = {"train": _counts(recipe.method, recipe.train), "stages": tuple(stages)}
    found = recipe.model_copy(update={"data": named, **counted})
    return Prepared(inputs.device, inputs.data, inputs.teachers, found.with_teachers(known), group)


def _counts(method: Method, training: Training) -> Training:
    """Return how a stage is trained, with the steps of an epoch where there are no images to count."""
    if method.needs.data or training.steps_per_epoch is not None:
        return training
    return training.model_copy(update={"steps_per_epoch": STEPS})


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
    size, (channels, height, width) = source.image_size, first.input_shape
    shape = (channels, size or height, size or width)
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
    asked = (channels, size, size) if size is not None and channels is not None else None
    network = checkpoint.load_teacher(teacher, input_shape=asked)
    if not network.stated:
        raise InputRejected(
            f"{teacher.checkpoint} does not say how its images are normalised, and without data that is not found out",
            hint="--set teacher.mean=[0.5] --set teacher.std=[0.5], a value a channel for pixels in [0, 1]",
        )
    return network


def _as_trained(source: Data, networks: Sequence[checkpoint.Network | None], tell: Tell) -> Data:
    """Return the data at the size and with the channels of the first teacher whose own file tells these.

    Images of a folder can be anything; what is asked for stands.
    """
    told = next((each.input_shape for each in networks if each is not None and each.trained_here), None)
    if told is None or not (source.name or "").startswith(FOLDER):
        return source
    channels, height, width = told
    size = source.image_size or (height if height == width else None)
    if source.image_size is None and size is not None:
        tell(f"data: images of {height}x{width}, as the teacher's file says; --image-size chooses another")
    return source.model_copy(
        update={"image_size": size, "channels": source.channels or (channels if channels in (1, 3) else None)}
    )


def _weights(network: checkpoint.Network) -> dict[str, Tensor]:
    """Return the tensors of a network without its normalisation, and without the rounding that it was trained with."""
    assert isinstance(network.module, models.Normalized)
    plain = network.module.plain() if isinstance(network.module, Quantised) else network.module
    return plain.network.state_dict()


def _labelled(data: Dataset, recipe: Recipe, size: int, shard: Shard) -> Source:
    """Return the training split, augmented and in as many views as the method compares.

    A last batch of a single image is dropped: BatchNorm has no variance of one.
    """
    samples = len(data.train)
    one_left = samples > size > 1 and samples % size == 1
    wanted = recipe.data.augment
    mix = Mix(wanted.mixup, wanted.cutmix) if wanted.mixes else None

    def batches(epoch: int, start: int) -> Iterator[Batch]:
        return data.train.batches(
            size,
            epoch=epoch,
            seed=recipe.seed,
            augment=True,
            drop_last=one_left,
            start=start,
            views=recipe.method.needs.views,
            mix=mix,
            shard=shard,
        )

    steps = samples // size if one_left else -(-samples // size)
    return Source(batches, steps, min(steps * size, samples))


def _with_unlabelled(labelled: Source, stream: Split, size: int, seed: int, shard: Shard) -> Source:
    """Return the batches with a stream beside them, always whole batches where it has enough."""
    size = min(size, len(stream))
    seed += 2**32  # beyond all seeds of recipes: images that are in both streams come at different times

    def passes(number: int, start: int) -> Iterable[Tensor]:
        batches = stream.batches(size, epoch=number, seed=seed, augment=True, drop_last=True, start=start, shard=shard)
        return (batch.images for batch in batches)

    return with_unlabelled(labelled, passes, len(stream) // size)
