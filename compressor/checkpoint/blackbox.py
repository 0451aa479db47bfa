"""Networks that bring their own code, as TorchScript or torch.export wrote them: differentiable, but opaque.

TorchScript is run by torch's own interpreter, which knows tensors and no Python; operators of it that open files are
refused. A torch.export archive is loaded only when it is seen to be data (`exported`).
"""

import re
import warnings
import zipfile
from pathlib import Path

import torch
from torch import Tensor, nn

from compressor.checkpoint.exported import refuse_code
from compressor.checkpoint.formats import Format, damaged
from compressor.checkpoint.network import Shape
from compressor.checkpoint.probing import USUAL_SHAPES, find_shape, refuse_undifferentiable
from compressor.errors import InputRejected

_FILE_OPERATORS = re.compile(r"\b(?:torch|aten)\.(?:from_file|save)\(")


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


def open_blackbox(path: Path, format_: Format, shape: Shape | None = None) -> tuple[nn.Module, Shape, int]:
    """Return the network in evaluation mode, an image shape it takes (`shape` first), and its number of classes.

    Raises:
        InputRejected: it is damaged, would open files or run foreign code, does not answer images with logits, or no
            gradient passes through it.
    """
    module, exact = _torchscript(path) if format_ is Format.TORCHSCRIPT else _exported(path)
    shapes = [first for first in (exact, shape) if first is not None]
    found, classes = find_shape(module, str(path), [*shapes, *USUAL_SHAPES])
    refuse_undifferentiable(module, found, str(path))
    return module.eval(), found, classes


def _torchscript(path: Path) -> tuple[nn.Module, None]:
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            called = _FILE_OPERATORS.search(archive.read(name).decode("utf-8", "replace")) if ".py" in name else None
            if called:
                raise InputRejected(
                    f"{path} was not loaded: its TorchScript opens files with {called[0][:-1]}",
                    hint="export the network without it",
                )
    try:
        with warnings.catch_warnings():
            # TorchScript is deprecated for writing; files that exist are what this reads.
            warnings.filterwarnings("ignore", message=r".*torch\.jit\.load.* is deprecated")
            module: nn.Module = torch.jit.load(str(path), map_location="cpu")
    except (RuntimeError, ValueError, OSError) as error:
        damaged(path, error)
    module.eval()
    for parameter in module.parameters():
        parameter.requires_grad_(False)
    return BlackBox(module).eval(), None


def _exported(path: Path) -> tuple[nn.Module, Shape | None]:
    refuse_code(path)
    try:
        with warnings.catch_warnings():
            # Torch 2.11 reads the weights from an immutable buffer, and warns of itself.
            warnings.filterwarnings("ignore", "The given buffer is not writable", UserWarning)
            program = torch.export.load(path)
        # With guards, a function made of strings in the file would be compiled.
        network = program.module(check_guards=False)
    except (RuntimeError, ValueError, KeyError, AssertionError, AttributeError, TypeError) as error:
        damaged(path, error)
    for parameter in network.parameters():
        parameter.requires_grad_(False)
    return BlackBox(network).eval(), _shape_of(program)


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
