"""Networks that bring their own code: TorchScript and torch.export, differentiable, and ONNX, which only answers.

TorchScript is run by torch's own interpreter once its operators are seen to be arithmetic (`torchscript`). An archive
of torch.export is loaded only when it is seen to be data (`exported`). Both meet their first images within limits
(`trial`).
"""

import json
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from compressor.checkpoint.exported import refuse_code
from compressor.checkpoint.formats import Format, guarded
from compressor.checkpoint.network import USUAL_SHAPES, Network, Shape, find_shape, refuse_undifferentiable
from compressor.checkpoint.torchscript import load_torchscript
from compressor.checkpoint.trial import can_limit, within_limits
from compressor.errors import InputRejected, UsageError
from compressor.files import sha256
from compressor.models import Normalized
from exporters import Runner, onnx
from exporters.errors import ExporterError, RuntimeMissing


class BlackBox(nn.Module):
    """Holds a network whose mode was fixed when it was exported: `train` and `eval` change nothing in it."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def train(self, mode: bool = True) -> "BlackBox":
        """Set the mode of this shell alone."""
        self.training = mode
        return self

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network(images)
        return logits


class OneLogit(nn.Module):
    """A binary classifier of one logit z, `[B, 1]`, as one of two classes: `[0, z]`, with the same probabilities."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        logit: Tensor = self.network(images)
        return torch.cat([torch.zeros_like(logit), logit], dim=1)


class Logarithms(nn.Module):
    """A network that answers with probabilities `[B, K]`, as one of their logarithms: logits up to a constant."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        probabilities: Tensor = self.network(images)
        return probabilities.clamp_min(torch.finfo(probabilities.dtype).tiny).log()


def with_logarithms(network: Network) -> Network:
    """Return a network that brings its own code and ends in a softmax, with the logarithms of what it answers."""
    assert isinstance(network.module, Normalized)
    module = Normalized(Logarithms(network.module.network), network.mean, network.std, bgr=network.bgr).eval()
    return replace(network, module=module)


def open_blackbox(path: Path, format_: Format, shape: Shape | None = None) -> tuple[nn.Module, Shape, int]:
    """Return the network in evaluation mode, an image shape it takes (`shape` first), and its number of classes.

    Raises:
        InputRejected: it is damaged, would open files or run foreign code, does not answer images with logits, or no
            gradient passes through it.
    """
    network, exact = (load_torchscript(path), None) if format_ is Format.TORCHSCRIPT else _exported(path)
    module = BlackBox(network).eval()
    shapes = [*(first for first in (exact, shape) if first is not None), *USUAL_SHAPES]
    found, classes = within_limits(lambda: find_shape(module, str(path), shapes), str(path))
    refuse_undifferentiable(module, found, str(path))
    if classes == 1:
        return BlackBox(OneLogit(network)).eval(), found, 2
    return module, found, classes


def _exported(path: Path) -> tuple[nn.Module, Shape | None]:
    refuse_code(path)
    with guarded(path):
        with warnings.catch_warnings():
            # Torch 2.11 reads the weights from an immutable buffer, and warns of itself.
            warnings.filterwarnings("ignore", "The given buffer is not writable", UserWarning)
            program = torch.export.load(path)
        # With guards, a function made of strings in the file would be compiled.
        network = program.module(check_guards=False)
        for parameter in network.parameters():
            parameter.requires_grad_(False)
        return network, _shape_of(program)


def _shape_of(program: torch.export.ExportedProgram) -> Shape | None:
    """Return `(C, H, W)` of the images it was exported for, where these are fixed."""
    names = program.graph_signature.user_inputs
    values = [node.meta.get("val") for node in program.graph.nodes if node.op == "placeholder" and node.name in names]
    if len(values) != 1 or not isinstance(values[0], Tensor) or values[0].ndim != 4:
        return None
    sizes = values[0].shape[1:]
    if not all(isinstance(size, int) for size in sizes):
        return None
    return int(sizes[0]), int(sizes[1]), int(sizes[2])


_OURS = "compress.exporter_version"  # in the metadata of a file that this project wrote: it takes pixels in [0, 1]


class Graph(nn.Module):
    """A runner in the place of a module: images `[B, C, H, W]` to logits `[B, K]`, on the CPU."""

    def __init__(self, runner: Runner) -> None:
        super().__init__()
        self.runner = runner

    def forward(self, images: Tensor) -> Tensor:
        return torch.from_numpy(self.runner(images.detach().cpu().contiguous().numpy())).to(images.device)

    def __deepcopy__(self, _memo: object) -> "Graph":
        return self  # a session holds no state of its own, and cannot be copied


def _tried(path: Path) -> None:
    """Let a copy of this process open a file and answer two images first, where the system can make one."""

    def first() -> None:
        try:
            runner = onnx.load(path, threads=1)
            runner(np.zeros((2, *runner.input_shape), np.float32))
        except RuntimeMissing:  # which whoever runs it will say
            return
        except ExporterError as error:
            raise InputRejected(error.message, hint=error.hint) from error

    if can_limit():
        within_limits(first, str(path))


def open_graph(
    path: Path, *, mean: Sequence[float] | None = None, std: Sequence[float] | None = None, bgr: bool = False
) -> Network:
    """Open an ONNX classifier, of three channels where it is `bgr`.

    Without `mean` and `std` it is not stated how its images are normalised.

    Raises:
        ArtifactRejected: it is not an ONNX classifier.
        UsageError: `mean` and `std` do not fit its channels or each other.
        InputRejected: it takes bytes, so that there is nothing to normalise outside.
    """
    _tried(path)
    runner = onnx.load(path)
    channels = runner.input_shape[0]
    inside = _OURS in runner.metadata or runner.pixels == "uint8"
    if inside and mean is not None and std is not None and not any(mean) and set(std) == {1.0}:
        mean = std = None  # as the recipe of a run has it that began with this file
    if (mean is None) != (std is None):
        raise UsageError("--mean and --std go together")
    if bgr and (mean is None or channels != 3):
        raise UsageError("--channel-order bgr is for images of three channels, with --mean and --std (red first)")
    if mean is not None and std is not None:
        if not len(mean) == len(std) == channels or min(std) <= 0:
            raise UsageError(f"--mean and --std need {channels} values each, std above zero, one a channel of {path}")
        if _OURS in runner.metadata:
            raise UsageError(f"{path} was exported by compress: mean and std are inside", hint="leave them out")
    if runner.pixels == "uint8" and _OURS not in runner.metadata and mean is not None:
        raise InputRejected(f"{path} takes bytes, so its normalisation is inside", hint="leave out --mean and --std")
    shape = "x".join(map(str, runner.input_shape))
    stated = mean is not None or _OURS in runner.metadata or runner.pixels == "uint8"
    mean, std = tuple(mean or [0.0] * channels), tuple(std or [1.0] * channels)
    return Network(
        module=Normalized(Graph(runner), mean, std, bgr=bgr).eval(),
        arch=None,
        classes=runner.classes,
        class_names=_class_names(runner),
        input_shape=runner.input_shape,
        mean=mean,
        std=std,
        bgr=bgr,
        stated=stated,
        data=None,
        parameters=sum(runner.census.values()),
        path=path,
        sha256=sha256(path),
        summary=f"{runner.precision} ONNX, {runner.classes} classes, images of {shape}",
        called=path.name,
        differentiable=False,
    )


def _class_names(runner: Runner) -> tuple[str, ...] | None:
    """Return the names of the classes that a file of ours tells, None where it does not, or not one a class."""
    try:
        names = json.loads(runner.metadata.get("compress.classes", "null"))
    except (ValueError, RecursionError):
        return None
    whole = isinstance(names, list) and len(names) == runner.classes and all(isinstance(name, str) for name in names)
    return tuple(names) if whole else None
