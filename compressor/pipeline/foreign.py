"""An ONNX classifier from elsewhere: how its images are normalised, what is made of it, and what that is worth."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from compressor import checkpoint
from compressor.artifacts.building import Source, build
from compressor.artifacts.calibration import wanted_images
from compressor.artifacts.formats import exporter_for, exporter_of, provider_of
from compressor.artifacts.opening import Normalised
from compressor.artifacts.proof import accuracy_drop, graph_images
from compressor.checkpoint.network import Shape
from compressor.choices import EMBEDDED, OFFICIAL
from compressor.errors import UsageError
from compressor.files import sha256
from compressor.inputs import Inputs, open_inputs
from compressor.machine.devices import choose_device
from compressor.measure.evaluation import EvaluationSet, evaluate
from compressor.measure.scores import predict
from compressor.pipeline.next_commands import of_graph
from compressor.pipeline.normalisation import UNSTATED, Normalisation
from compressor.progress import Tell
from compressor.recipe import Calibration, Data, Export, Teacher
from compressor.runs import record
from exporters import Runner, onnx
from exporters.errors import UserError


@dataclass(frozen=True)
class ForeignGraph:
    """A graph whose normalisation is known, and the data that told it, if any.

    `path` is the file in the form that runners take, which is another than `network.path` where that has not.
    """

    path: Path
    network: checkpoint.Network
    inputs: Inputs | None

    def known_inputs(self) -> Inputs:
        """Return the data.

        Raises:
            UsageError: none were named.
        """
        if self.inputs is None:
            raise UsageError("no data set is named", hint="--data cifar10 or folder:PATH")
        return self.inputs

    @property
    def bare(self) -> bool:
        """Whether the graph takes pixels in `[0, 1]` as it is."""
        return not any(self.network.mean) and set(self.network.std) == {1.0} and not self.network.bgr

    def normalised(self, runner: Runner) -> Runner:
        """Return a runner of the graph that takes pixels in `[0, 1]`."""
        return runner if self.bare else Normalised(runner, *self.prepared, bgr=self.network.bgr)

    @property
    def prepared(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        return self.network.mean, self.network.std


@contextmanager
def open_foreign(
    path: Path,
    data: Data,
    teacher: Teacher | None,
    tell: Tell,
    *,
    device: torch.device,
    given: Normalisation,
    held_out: bool = False,
) -> Iterator[ForeignGraph]:
    """Open an ONNX classifier and find out how its images are normalised, by its accuracy where there are data.

    Args:
        held_out: whether validation images are needed; where they are not, none are held out.

    Raises:
        UsageError: nobody says how its images are normalised, and there are no data to find out.
        InputRejected: another normalisation than the given one is clearly better, or the data do not fit.
    """
    inputs: Inputs | None = None
    shape = onnx.stated_shape(path)
    if data.name is not None or teacher is not None:
        wanted = fitting(data, shape)
        if not held_out:
            wanted = wanted.model_copy(update={"validation": 0})
        inputs = open_inputs(wanted, [] if teacher is None else [teacher], tell, device=device, examine=True)
    image = size_of(data, shape) if inputs is None else inputs.data.input_shape
    with adapted(path, given, image, tell) as file:
        network = opened_graph(path, file, given)
        if inputs is None and not network.stated:
            raise UsageError(
                f"it is not known how the images of {path} are normalised",
                hint="--data folder:PATH finds out; --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225 says it",
            )
        if inputs is not None:
            unnamed = replace(network, class_names=None)  # it is measured as it answers, in its own order of classes
            checked = checkpoint.check_teacher(unnamed, inputs.data, normalize=given.normalize)
            tell(f"{path.name}: {checked.sentence}")
            network = checked.network
        yield ForeignGraph(file, network, inputs)


@contextmanager
def adapted(path: Path, given: Normalisation, image: Shape | None, tell: Tell) -> Iterator[Path]:
    """Yield an ONNX file in the form that runners and exporters take: itself, or a copy that lives as long as this.

    Args:
        image: C, H, W of an image, for what the graph leaves open.
    """
    with tempfile.TemporaryDirectory(prefix="compress.") as folder:
        copy = Path(folder) / path.name
        notes = onnx.adapt(path, copy, image=image, output=given.output)
        for note in notes or ():
            tell(f"{path.name}: {note}")
        try:
            yield path if notes is None else copy
        except UserError as error:
            error.message = error.message.replace(str(copy), str(path))
            raise


def opened_graph(path: Path, file: Path, given: Normalisation) -> checkpoint.Network:
    """Open an ONNX file in its form for runners, `file`, under its own name."""
    network = checkpoint.open_graph(file, mean=given.mean, std=given.std, bgr=given.bgr)
    return replace(network, path=path, sha256=sha256(path))


def size_of(data: Data, shape: onnx.Sizes) -> Shape | None:
    """Return C, H, W of an image where nobody opens the data, as far as a user says them; colours are usual."""
    return None if data.image_size is None else (data.channels or shape[0] or 3, *data.image_size)


def fitting(data: Data, input_shape: onnx.Sizes) -> Data:
    """Return the data as a file takes them, None being open: what can be scaled is, where nothing else is asked."""
    channels, height, width = input_shape
    size = data.image_size or (None if height is None or width is None else (height, width))
    if data.name is None or data.name in (EMBEDDED, *OFFICIAL):  # whose colours are what they are
        return data.model_copy(update={"image_size": size if data.name else data.image_size})
    known = channels if channels in (1, 3) else None
    return data.model_copy(update={"image_size": size, "channels": data.channels or known})


def export_graph(
    path: Path,
    target: Export,
    data: Data,
    teacher: Teacher | None,
    tell: Tell,
    *,
    out: Path | None = None,
    overwrite: bool = False,
    device: str | None = None,
    given: Normalisation = UNSTATED,
) -> record.Artifact:
    """Export an ONNX classifier from elsewhere, and measure what it lost where there are labelled data.

    The new file takes pixels in `[0, 1]` (or bytes): the normalisation is inside.

    Args:
        out: the folder of the new file, by default that of the old one.

    Raises:
        UsageError: a file of that name is there and `overwrite` is not set.
        ExportFailed: the file could not be made, or does not answer as the graph does.
    """
    exporter_for(target)
    folder = out or path.parent
    _refuse_overwriting(path, target, folder, overwrite=overwrite)
    chosen = choose_device(device or "auto")
    held_out = target.max_drop is not None or target.calibration.method == "auto"
    with open_foreign(path, data, teacher, tell, device=chosen, given=given, held_out=held_out) as foreign:
        advice = partial(
            of_graph, foreign.network.path, None if foreign.inputs is None else foreign.inputs.teacher, data, given
        )
        return _exported(foreign, target, folder, tell, provider=provider_of(target.format, chosen.type), advice=advice)


def _exported(
    foreign: ForeignGraph,
    target: Export,
    folder: Path,
    tell: Tell,
    *,
    provider: str,
    advice: Callable[[Export], str],
) -> record.Artifact:
    path, inputs = foreign.network.path, foreign.inputs
    reference = foreign.normalised(onnx.load(foreign.path))

    def calibration(wanted: Calibration) -> tuple[NDArray[np.float32], int]:
        if inputs is None:
            return wanted_images(wanted, None, None, walks=None, seed=0, device=torch.device("cpu"))
        return wanted_images(wanted, inputs.data, inputs.teacher, walks=inputs.walkable, seed=0, device=inputs.device)

    source = Source(
        name=path.stem,
        trunk=lambda place, _opset: _trunk(foreign, place, target.opset),
        reference=reference,
        images=graph_images(reference, None if inputs is None else inputs.data, seed=0),
        calibration=calibration,
        drop=accuracy_drop(reference, lambda: foreign.known_inputs().data),
        metadata=_metadata(foreign, path),
        advice=advice,
    )
    artifact = build(source, target, folder, tell, provider=provider)
    return artifact if inputs is None else _examined(artifact, reference, inputs, tell)


def _trunk(foreign: ForeignGraph, place: Path, opset: int | None) -> None:
    """Write the graph with its normalisation inside."""
    network = foreign.network
    if opset is not None:
        raise UsageError(f"the operator set of {network.path} stays as it is", hint="leave --opset out")
    mean, std = (None, None) if foreign.bare else foreign.prepared
    onnx.convert(foreign.path, place, mean=mean, std=std, bgr=network.bgr, draft=True)


def _refuse_overwriting(path: Path, target: Export, folder: Path, *, overwrite: bool) -> None:
    suffix = exporter_of(target.format).SUFFIXES[0]
    there = sorted(folder.glob(f"{path.stem}{target.variant}.{target.precision}*{suffix}"))
    if there and not overwrite:
        raise UsageError(f"{there[0]} exists already", hint="--overwrite replaces it, --out DIR writes elsewhere")


def _metadata(foreign: ForeignGraph, path: Path) -> dict[str, str]:
    network, inputs = foreign.network, foreign.inputs
    facts = {
        "classes": None if inputs is None else inputs.data.classes,
        "data": None if inputs is None else inputs.data.name,
        "mean": network.mean,
        "std": network.std,
        "channel_order": "bgr" if network.bgr else "rgb",
        "source": path.name,
        "source_sha256": network.sha256,
    }
    known = {key: value for key, value in facts.items() if value is not None}
    return {f"compress.{key}": value if isinstance(value, str) else json.dumps(value) for key, value in known.items()}


def _examined(artifact: record.Artifact, reference: Runner, inputs: Inputs, tell: Tell) -> record.Artifact:
    """Measure the artifact on the test images, against the graph that it was made from."""
    before = predict(reference, inputs.data.test)
    top1 = evaluate(reference, EvaluationSet(inputs.data, before), teacher=True)["top1"]
    tell(f"the source is right on {top1:.2f} % of {len(before.labels):,} test images")
    if artifact.provider is None:
        return artifact
    runner = exporter_of(artifact.format).load(Path(artifact.path), provider=artifact.provider)
    return artifact.model_copy(update=evaluate(runner, EvaluationSet(inputs.data, before)))
