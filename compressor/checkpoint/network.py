"""A trained classifier, opened: the module, all that is known of it, and what it answers to images of a shape."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from compressor.errors import InputRejected
from compressor.models import Normalized

Shape = tuple[int, int, int]

# The families for small images, by what they are known from. More classes or other names: no guess.
_CIFAR = re.compile(r"(preact)?resnet\d+.*|wrn.*|vgg.*|mobilenet.*|shufflenet.*")


@dataclass(frozen=True, kw_only=True)
class Network:
    """`module` takes pixels `[B, C, H, W]` in `[0, 1]` and answers logits `[B, classes]`, in evaluation mode.

    `arch` is None for a network that brought its own code (TorchScript, torch.export). `input_shape` is what it was
    made for, or is usual. Where `stated` is False, neither the file nor the user said how to normalise, and `mean` and
    `std` are 0 and 1 until the teacher check has chosen; with `bgr` it takes blue first.
    `data` names the data set in the file's metadata. `path`
    is the file, in a run's folder that of its student; `summary` is one line to print; `called` is its name in
    sentences. One that is not `differentiable` only answers: it is not walked to its boundary.
    """

    module: nn.Module
    arch: str | None
    classes: int
    class_names: tuple[str, ...] | None
    input_shape: Shape
    mean: tuple[float, ...]
    std: tuple[float, ...]
    bgr: bool = False
    stated: bool
    data: str | None
    parameters: int
    path: Path
    sha256: str
    summary: str
    called: str = "the teacher"
    differentiable: bool = True

    @property
    def trained_here(self) -> bool:
        """Whether its file is one of ours, which tells what images it was trained on."""
        return self.data is not None

    @property
    def preparation(self) -> dict[str, object]:
        """How its images are prepared, in the words of a recipe's teacher."""
        return {"mean": self.mean, "std": self.std, "channel_order": "bgr" if self.bgr else "rgb"}

    def normalised(self, mean: Sequence[float], std: Sequence[float], bgr: bool = False) -> "Network":
        """Return the same network, sharing its weights, under another normalisation."""
        inner = self.module.network if isinstance(self.module, Normalized) else self.module
        module = Normalized(inner, mean, std, bgr=bgr).eval().to(device_of(inner))
        return replace(self, module=module, mean=tuple(mean), std=tuple(std), bgr=bgr, stated=True)


def default_data(network: Network) -> str | None:
    """Return the data set that such a network is usually trained on, or None where that is a guess."""
    arch, channels = network.arch or "", network.input_shape[0]
    if _CIFAR.fullmatch(arch) and channels == 3:
        return {10: "cifar10", 100: "cifar100"}.get(network.classes)
    if arch.startswith("lenet") and channels == 1 and network.classes == 10:
        return "mnist"
    return None


def device_of(module: nn.Module) -> torch.device:
    """Return where a module's tensors are; the CPU when it has none."""
    tensors: list[Tensor] = [*module.parameters(), *module.buffers()]
    return tensors[0].device if tensors else torch.device("cpu")


# Shapes to try on a network that does not say what it takes: small images first, since many large ones take them too.
USUAL_SHAPES: tuple[Shape, ...] = tuple((c, s, s) for s in (32, 28, 64, 224, 8, 96, 299) for c in (3, 1))

_BATCHES = (1, 2, 4, 8, 16, 32, 64, 128)  # that a network may have been exported for, and no other

# What networks raise for images that do not fit their layers.
_MISFIT = (RuntimeError, ValueError, IndexError, AssertionError, TypeError)


def answer(module: nn.Module, shape: Shape, batch: int = 2) -> object | None:
    """Return what the network answers to `batch` grey images, or None when it cannot take them."""
    try:
        return _asked(module, shape, batch)
    except _MISFIT:
        return None


def classes_of(reply: object, batch: int = 2) -> int | None:
    """Return the number of classes when `reply` is logits `[batch, K]`, else None. One logit is one of two classes."""
    right = isinstance(reply, Tensor) and reply.ndim == 2 and len(reply) == batch and reply.is_floating_point()
    return reply.shape[1] if right and isinstance(reply, Tensor) and reply.shape[1] > 0 else None


def find_shape(module: nn.Module, name: str, shapes: Iterable[Shape] = USUAL_SHAPES) -> tuple[Shape, int]:
    """Return the first shape that the network takes and its number of classes; `name` begins the sentences.

    Raises:
        InputRejected: none fits, the answer is not logits, or it takes one batch size only.
    """
    fixed: tuple[int, Shape] | None = None
    errors: dict[Shape, str] = {}
    for shape in shapes:
        try:
            reply = _asked(module, shape, 2)
            _asked(module, shape, 3)
        except _MISFIT as error:
            errors[shape] = _last_line(error)
            fixed = fixed or _fixed_batch(module, shape)
            continue
        classes = classes_of(reply)
        if classes is None:
            raise InputRejected(
                f"{name} answers with {_described(reply)}, not with logits [batch, classes]",
                hint="export it so that it returns the logits alone",
            )
        return shape, classes
    if fixed is not None:
        batch, shape = fixed
        raise InputRejected(
            f"{name} takes batches of {batch} only, of images {'x'.join(map(str, shape))}",
            hint="export it with a batch size that is dynamic: dynamic_shapes=({0: torch.export.Dim.DYNAMIC},)",
        )
    raise _no_shape(name, errors)


def _asked(module: nn.Module, shape: Shape, batch: int) -> object:
    with torch.no_grad():
        reply: object = module(torch.full((batch, *shape), 0.5, device=device_of(module)))
    return reply


def _fixed_batch(module: nn.Module, shape: Shape) -> tuple[int, Shape] | None:
    """Return the one batch size that the network was exported for, with the shape, if that is why it refused."""
    return next(((batch, shape) for batch in _BATCHES if answer(module, shape, batch) is not None), None)


def _no_shape(name: str, errors: Mapping[Shape, str]) -> InputRejected:
    """Return what to raise where no shape fits: the network's own words, those of most shapes or else of the first."""
    counted = Counter(errors.values())
    said = max(counted, key=lambda text: counted[text]) if errors else "nothing"
    hint = "export it for images [batch, C, H, W], or give its weights"
    if any(word in said for word in ("CUDA", "cuda", "NVIDIA", "same device")):
        hint = "it was traced on a GPU, with the device written into it: trace model.cpu(), or give its weights"
    return InputRejected(f"{name} takes images of none of the usual sizes; it says: {said[:200]}", hint=hint)


def _last_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__).removeprefix("RuntimeError: ")


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
