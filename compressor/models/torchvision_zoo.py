"""`torchvision/NAME`: every classifier of torchvision, freshly initialised."""

from functools import cache
from typing import Any

from torch import nn

from compressor.errors import UsageError, did_you_mean
from compressor.models.layers import on_meta
from compressor.models.probe import OTHER_SIZE, check_logits, refusal

Shape = tuple[int, int, int]
INPUT_SHAPE = (3, 224, 224)
# Some networks carry classifiers that only help training; we make the network without, so it returns plain logits.
AUXILIARY = ("aux1.", "aux2.", "AuxLogits.")


@cache
def names() -> tuple[str, ...]:
    """Return all names, each with its `torchvision/`."""
    import torchvision  # takes seconds

    return tuple(f"torchvision/{name}" for name in torchvision.models.list_models(module=torchvision.models))


def build(arch: str, classes: int, input_shape: Shape) -> nn.Module:
    """Return the classifier, which takes images of three channels.

    Raises:
        UsageError: no such name, or it cannot take these images.
    """
    require_known(arch)
    if input_shape[0] != 3:
        raise UsageError(
            f"{arch} takes images of 3 channels, not {input_shape[0]}",
            hint="choose a network for small images, such as resnet20, or a factory of your own",
        )
    # Without memory first: a refusal costs nothing, and the largest of them weigh gigabytes.
    try:
        shapes = on_meta(lambda: make(arch, classes, input_shape))
    except Exception as error:
        raise refusal(arch, input_shape, error, hint=OTHER_SIZE) from error
    check_logits(shapes, arch, classes, input_shape, hint=OTHER_SIZE)
    return make(arch, classes, input_shape)


def require_known(arch: str) -> None:
    """Refuse what is none of `names()`."""
    if arch not in names():
        raise UsageError(f"torchvision has no classifier {arch!r}", hint=did_you_mean(arch, names()))


def make(arch: str, classes: int, input_shape: Shape) -> nn.Module:
    """Return one of `names()` without checking what it does with the images."""
    from torchvision.models import get_model

    name = arch.removeprefix("torchvision/")
    options: dict[str, Any] = {"num_classes": classes}
    if name in ("googlenet", "inception_v3"):
        options |= {"aux_logits": False, "init_weights": True}
    if fixed_size(arch):
        options |= {"image_size": input_shape[1]} if name.startswith("vit_") else {"input_size": input_shape[1:]}
    network: nn.Module = get_model(name, weights=None, **options)
    return network


def fixed_size(arch: str) -> bool:
    """Whether the weights fit one image size only."""
    return arch.startswith(("torchvision/vit_", "torchvision/maxvit_"))
