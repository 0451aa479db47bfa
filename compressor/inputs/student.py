"""The student of a recipe, built: its architecture, weights to start from, what the method changes, its rounding."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from compressor import checkpoint, models
from compressor.data import Dataset
from compressor.inputs.opening import Inputs
from compressor.methods.protocol import Altering
from compressor.models.quantised import Quantised, placed
from compressor.recipe import Quantize, Recipe

_FIRST = 64  # images that a quantised student's ranges start from


def build_student(recipe: Recipe, inputs: Inputs, initial: checkpoint.Network | None) -> models.Normalized:
    """Build the student with its normalisation; torch's global generator decides the weights.

    Args:
        initial: weights to start from, of a network of other classes too: the student's head is then new.
    """
    network, method, quantize = _unrounded(recipe, inputs, initial), recipe.method, recipe.student.quantize
    if isinstance(method, Altering):
        teachers = [each.module for each in inputs.teachers]
        method.alter(network, teachers, input_shape=inputs.data.input_shape)
    return network if quantize is None else _quantised(network, quantize, recipe, inputs)


def new_weights(initial: checkpoint.Network | None, bare: nn.Module, data: Dataset) -> tuple[str, ...]:
    """Return which tensors of a student its initial weights do not give, by name: those that count the classes."""
    if initial is None or initial.classes == len(data.classes):
        return ()
    given = _weights(initial)
    return tuple(name for name, tensor in bare.state_dict().items() if given[name].shape != tensor.shape)


def _unrounded(recipe: Recipe, inputs: Inputs, initial: checkpoint.Network | None) -> models.Normalized:
    data = inputs.data
    bare = models.build(recipe.student.arch, classes=len(data.classes), input_shape=data.input_shape)
    if initial is not None:
        for change in models.changes_of(initial.module):  # the layers that its file tells of are the student's
            change.model_copy(update={"classes": len(data.classes)}).apply(bare)
        own = bare.state_dict()
        bare.load_state_dict({**_weights(initial), **{name: own[name] for name in new_weights(initial, bare, data)}})
    if initial is None or not initial.stated:
        return models.Normalized(bare, data.mean, data.std).to(inputs.device)
    return models.Normalized(bare, initial.mean, initial.std, bgr=initial.bgr).to(inputs.device)


def _quantised(network: models.Normalized, wanted: Quantize, recipe: Recipe, inputs: Inputs) -> Quantised:
    """Return the student behind the rounding of its export, with ranges of the first images that it will see."""
    shape = inputs.data.input_shape
    where = placed(network, shape, weights=wanted.weights, activations=wanted.activations, recipe=wanted.recipe)
    mean, std = (each.flatten().tolist() for each in (network.mean, network.std))
    student = Quantised(network.network, mean, std, where.plan).to(inputs.device)
    if recipe.method.needs.data:
        images = next(iter(inputs.data.train.batches(_FIRST, seed=recipe.seed))).images
    else:  # the training data, if any, are not looked at
        images = torch.rand(_FIRST, *shape, generator=torch.Generator().manual_seed(recipe.seed))
    student.observe(images.to(inputs.device))
    return student


def _weights(network: checkpoint.Network) -> dict[str, Tensor]:
    """Return the tensors of a network without its normalisation, and without the rounding that it was trained with."""
    assert isinstance(network.module, models.Normalized)
    plain = network.module.plain() if isinstance(network.module, Quantised) else network.module
    return plain.network.state_dict()
