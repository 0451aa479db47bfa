"""A recipe with what it names: what trains whom on which batches."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from torch import nn

from compressor import checkpoint, data, models
from compressor.checkpoint.network import refuse_undifferentiable
from compressor.data import Shard
from compressor.errors import InputRejected, UsageError
from compressor.inputs.batches import source_of
from compressor.inputs.opening import Inputs, open_inputs
from compressor.inputs.student import build_student, new_weights
from compressor.machine.devices import choose_device
from compressor.methods import Method
from compressor.progress import Tell
from compressor.recipe import Recipe, Training
from compressor.training.distributed import ALONE, Processes
from compressor.training.sources import Source

STEPS = 50  # of an epoch without data, where the recipe does not say: DFAD's


@dataclass(frozen=True)
class Prepared(Inputs):
    """Inputs and their recipe, with all that was found out filled in, and the processes that train by it together."""

    recipe: Recipe
    group: Processes = ALONE

    @cached_property
    def source(self) -> Source:
        """What the student is trained on: labelled images, with an unlabelled stream beside them, or nothing at all."""
        return source_of(self.recipe, self.data, Shard(self.group.rank, self.group.world))

    @property
    def batch_size(self) -> int:
        """Training images of a step."""
        size = self.recipe.data.batch_size
        assert size is not None  # which `prepare` saw to
        return size

    def new_student(self) -> models.Normalized:
        """Build the student; see `student.build_student`."""
        return build_student(self.recipe, self, self.initial)

    @cached_property
    def initial(self) -> checkpoint.Network | None:
        """The network whose weights the student starts from, where the recipe names one."""
        config = self.recipe.student
        if config.init is None:
            return None
        return checkpoint.load_network(config.init, arch=config.arch, input_shape=self.data.input_shape)

    def new_weights(self, bare: nn.Module) -> tuple[str, ...]:
        """Return which tensors of the bare student its initial weights do not give; see `student.new_weights`."""
        return new_weights(self.initial, bare, self.data)


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
    counted = [_counts(part.method, part.train) for part in recipe.parts]
    if counted != [part.train for part in recipe.parts]:
        tell(f"data: {STEPS} steps are an epoch; --set train.steps_per_epoch=100 chooses another number")
    named = recipe.data.called(inputs.data.source).model_copy(update={"batch_size": size})
    found = recipe.with_training(counted).model_copy(update={"data": named})
    return Prepared(inputs.device, inputs.data, inputs.teachers, found.with_teachers(known), group)


def _counts(method: Method, training: Training) -> Training:
    """Return how a stage is trained, with the steps of an epoch where there are no images to count."""
    if method.needs.data or training.steps_per_epoch is not None:
        return training
    return training.model_copy(update={"steps_per_epoch": STEPS})
