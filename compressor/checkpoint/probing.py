"""What a network answers to images of a shape, found by asking it."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from compressor.checkpoint.network import Shape, device_of
from compressor.errors import InputRejected

# Shapes to try on a network that does not say what it takes: small images first, since many large ones take them too.
USUAL_SHAPES: tuple[Shape, ...] = tuple((c, s, s) for s in (32, 28, 64, 224, 8, 96, 299) for c in (3, 1))

# What networks raise for images that do not fit their layers.
_MISFIT = (RuntimeError, ValueError, IndexError, AssertionError, TypeError)


def answer(module: nn.Module, shape: Shape, batch: int = 2) -> object | None:
    """Return what the network answers to `batch` grey images, or None when it cannot take them."""
    images = torch.full((batch, *shape), 0.5, device=device_of(module))
    try:
        with torch.no_grad():
            reply: object = module(images)
    except _MISFIT:
        return None
    return reply


def classes_of(reply: object, batch: int = 2) -> int | None:
    """Return the number of classes when `reply` is logits `[batch, K]`, else None."""
    right = isinstance(reply, Tensor) and reply.ndim == 2 and len(reply) == batch and reply.is_floating_point()
    return reply.shape[1] if right and isinstance(reply, Tensor) and reply.shape[1] > 1 else None


def find_shape(module: nn.Module, name: str, shapes: Iterable[Shape] = USUAL_SHAPES) -> tuple[Shape, int]:
    """Return the first shape that the network takes and its number of classes; `name` begins the sentences.

    Raises:
        InputRejected: none fits, the answer is not logits, or it takes one batch size only.
    """
    single: Shape | None = None
    for shape in shapes:
        reply = answer(module, shape)
        if reply is not None:
            classes = classes_of(reply)
            if classes is None:
                raise InputRejected(
                    f"{name} answers with {_described(reply)}, not with logits [batch, classes]",
                    hint="export it so that it returns the logits alone",
                )
            return shape, classes
        if single is None and answer(module, shape, batch=1) is not None:
            single = shape
    if single is not None:
        raise InputRejected(f"{name} takes one image at a time", hint="export it with a batch size that is dynamic")
    raise InputRejected(f"{name} takes images of none of the usual sizes", hint="export it for images [batch, C, H, W]")


def refuse_undifferentiable(module: nn.Module, shape: Shape, name: str) -> None:
    """Raise where no gradient reaches the image, which a teacher of boundary samples needs."""
    images = torch.full((2, *shape), 0.5, device=device_of(module), requires_grad=True)
    with torch.enable_grad():
        logits: Tensor = module(images)
    if not logits.requires_grad or torch.autograd.grad(logits.sum(), images, allow_unused=True)[0] is None:
        raise InputRejected(
            f"no gradient passes through {name}", hint="export it without torch.no_grad inside, or give its weights"
        )


def _described(reply: object) -> str:
    return f"a tensor {tuple(reply.shape)}" if isinstance(reply, Tensor) else f"a {type(reply).__name__}"
