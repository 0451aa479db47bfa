"""Two artifacts that are to be compared, opened: on the same data, each with gradients that lead to its boundary."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from compressor import checkpoint
from compressor.artifacts.formats import format_of
from compressor.artifacts.opening import open_artifact, torch_runner
from compressor.data import Dataset
from compressor.errors import InputRejected, UsageError
from compressor.inputs import open_inputs
from compressor.machine.devices import choose_device
from compressor.pipeline.finished_run import stored_recipe
from compressor.pipeline.foreign import ForeignGraph, adapted, fitting, opened_graph, size_of
from compressor.pipeline.normalisation import UNSTATED, Normalisation
from compressor.progress import Tell
from compressor.recipe import Data
from compressor.runs.folder import Run, find, is_run
from exporters import Runner, onnx
from exporters.pytorch import TorchRunner


@dataclass(frozen=True)
class Opening:
    """How to open them. `guide` lends its gradients to what has none, `allow` is as for `stored_recipe`."""

    guide: Path | None = None
    device: str | None = None
    provider: str | None = None
    normalisation: Normalisation = UNSTATED
    allow: Sequence[str] = ()


@dataclass(frozen=True)
class Guide:
    """Whose gradients lead to an artifact's boundary; None without any."""

    network: nn.Module | None
    said: str | None


@dataclass(frozen=True)
class Pair:
    """Both artifacts, their guides, and the data that fit them."""

    runners: tuple[Runner, Runner]
    guides: tuple[Guide, Guide]
    data: Dataset


@contextmanager
def open_pair(a: Path, b: Path, data: Data, tell: Tell, opening: Opening) -> Iterator[Pair]:
    """Open two artifacts and their data. A copy of an ONNX file in its form for runners lives as long as this.

    Raises:
        UsageError: both are the same file, no data are named and neither belongs to a run, or an option is for neither.
        InputRejected: their classes or images do not fit each other or the data.
        EnvironmentMissing, RuntimeMissing: one cannot run here.
    """
    paths = [_file(path) for path in (a, b)]
    if paths[0].resolve() == paths[1].resolve():
        raise UsageError(f"A and B are the same file: {paths[0]}", hint="compress diff A B takes two different files")
    if opening.provider is not None and not any(path.suffix == ".onnx" for path in paths):
        raise UsageError("--provider chooses what runs an ONNX file, and neither A nor B is one")
    device = choose_device(opening.device or "auto")
    with ExitStack() as kept:
        files = [kept.enter_context(_runnable(path, data, opening, tell)) for path in paths]
        yield _paired(paths, files, data, tell, opening, device)


@contextmanager
def _runnable(path: Path, data: Data, opening: Opening, tell: Tell) -> Iterator[Path]:
    if path.suffix != ".onnx" or not path.is_file():
        yield path
        return
    with adapted(path, opening.normalisation, size_of(data, onnx.stated_shape(path)), tell) as file:
        yield file


def _paired(
    paths: Sequence[Path], files: Sequence[Path], data: Data, tell: Tell, opening: Opening, device: torch.device
) -> Pair:
    opened = [_opened(path, file, opening, device) for path, file in zip(paths, files, strict=True)]
    _match(*(_named(path, one) for path, one in zip(paths, opened, strict=True)))
    found = open_inputs(_data_of(data, paths, opened, opening.allow), [], tell, device=device, examine=False).data
    _match(_named(paths[0], opened[0]), (found.source, len(found.classes), found.input_shape))
    first, second = (_runner(file, one, found, opening, device, tell) for file, one in zip(files, opened, strict=True))
    for runner, path in zip((first, second), paths, strict=True):
        runner.path = path  # its own, where a copy is what runs
    if opening.guide is not None and isinstance(first, TorchRunner) and isinstance(second, TorchRunner):
        raise UsageError("--guide lends gradients to what has none, and both A and B have their own")
    return Pair((first, second), _guides(paths, (first, second), opening, device), found)


Named = tuple[str, int, tuple[int, int, int]]  # what to call it, its classes, the shape of its images


def _file(path: Path) -> Path:
    return find(path).student if path.is_dir() else path


def _run_of(path: Path) -> Run | None:
    """Return the run whose student or export a file is."""
    folder = path.resolve().parent.parent
    return Run(folder) if is_run(folder) else None


def _opened(path: Path, file: Path, opening: Opening, device: torch.device) -> checkpoint.Network | Runner:
    """Open a file as far as it goes without data: they may have to say how a network's images are normalised."""
    if path.suffix == ".onnx" and path.is_file():
        return opened_graph(path, file, opening.normalisation)
    if format_of(path) is not None:
        return open_artifact(path, device=device)
    run = _run_of(path)
    own = run is not None and path.resolve() == run.student.resolve()
    arch = stored_recipe(run, allow=opening.allow).student.arch if own and run is not None else None
    return checkpoint.load_network(path, arch=arch)


def _runner(
    path: Path,
    opened: checkpoint.Network | Runner,
    data: Dataset,
    opening: Opening,
    device: torch.device,
    tell: Tell,
) -> Runner:
    """Return what answers images in `[0, 1]`."""
    if not isinstance(opened, checkpoint.Network):
        return opened
    network, normalisation = opened, opening.normalisation
    if not network.stated or (path.suffix == ".onnx" and normalisation.mean is not None):
        checked = checkpoint.check_teacher(network, data, normalize=normalisation.normalize)
        tell(f"{path.name}: {checked.sentence}")
        network = checked.network
    if path.suffix == ".onnx":
        runner = open_artifact(path, device=device, provider=opening.provider)
        return ForeignGraph(path, network, None).normalised(runner)
    network.module.to(device)
    return torch_runner(network, device=device)


def _data_of(
    data: Data, paths: Sequence[Path], opened: Sequence[checkpoint.Network | Runner], allow: Sequence[str]
) -> Data:
    """Return the data that are named, else those of the run that a file belongs to."""
    if data.name is None:
        runs = [run for run in map(_run_of, paths) if run is not None]
        if not runs:
            raise UsageError(
                "no data set is named, and neither A nor B belongs to a run", hint="--data cifar10 or folder:PATH"
            )
        found = stored_recipe(runs[0], allow=allow).data
        return found if data.image_size is None else found.model_copy(update={"image_size": data.image_size})
    return fitting(data, opened[0].input_shape)


def _named(path: Path, opened: checkpoint.Network | Runner) -> Named:
    return str(path), opened.classes, opened.input_shape


def _match(one: Named, other: Named) -> None:
    """Raise `InputRejected` unless both have the same classes and images."""
    if one[1] != other[1]:
        raise InputRejected(
            f"{one[0]} has {one[1]} classes, {other[0]} has {other[1]}",
            hint="compare files that were made for the same classes, on their data",
        )
    if one[2] != other[2]:
        shapes = ["x".join(map(str, each[2])) for each in (one, other)]
        raise InputRejected(
            f"{one[0]} takes images of {shapes[0]}, {other[0]} of {shapes[1]}",
            hint="compare files that take the same images; --image-size N sets the size of a folder's",
        )


def _guides(
    paths: Sequence[Path], runners: Sequence[Runner], opening: Opening, device: torch.device
) -> tuple[Guide, Guide]:
    """Return whose gradients lead to each boundary: its own, those of `given`, or those of its run's student."""
    opened: dict[Path, nn.Module] = {}

    def guide(path: Path, runner: Runner) -> Guide:
        if isinstance(runner, TorchRunner):
            return Guide(runner.network, "own")
        run = _run_of(path)
        source = opening.guide or (run.student if run is not None and run.student.is_file() else None)
        if source is None:
            return Guide(None, None)
        if source not in opened:
            own = run is not None and source == run.student
            arch = stored_recipe(run, allow=opening.allow).student.arch if own and run is not None else None
            network = checkpoint.load_network(source, arch=arch)
            _match(_named(path, network), (str(source), runner.classes, runner.input_shape))
            opened[source] = torch_runner(network, device=device).network
        return Guide(opened[source], source.name)

    first, second = (guide(path, runner) for path, runner in zip(paths, runners, strict=True))
    return first, second
