"""What to type where INT8 does not answer as its source does: the next commands, with the user's names filled in."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from compressor import checkpoint
from compressor.artifacts.building import recipe_of
from compressor.artifacts.formats import exporter_for
from compressor.choices import NOTHING
from compressor.dotted import dotted
from compressor.pipeline.finished_run import FinishedRun
from compressor.pipeline.normalisation import Normalisation
from compressor.recipe import Data, Export
from compressor.runs.folder import argument

_EPOCHS, _SLOWER = 3, 10  # of a training through the rounding: so many, at this part of the learning rate
# What says which images there are and how they are trained on, without the second streams of other methods.
_IMAGES = (
    *("root", "validation", "test", "batch_size", "image_size", "channels", "augment", "train_size", "class_order"),
    *("image", "label", "cache"),
)


def of_run(opened: FinishedRun, target: Export) -> str:
    """Return what may be done about the student of a run, the cheapest first."""
    recipe = opened.prepared.recipe
    run, trained = str(opened.folder.folder), recipe.parts[-1].train
    again = distil = None
    if len(opened.prepared.data.validation):
        again = ["compress", "export", *shlex.split(argument(opened.folder)), *_flags(target)]
    if recipe.data.name not in (None, NOTHING):
        distil = _distil(run, recipe.student.arch, recipe.data, target, lr=trained.lr / _SLOWER)
        distil += [] if trained.optimizer == "sgd" else _set({"train.optimizer": trained.optimizer})
    return _sentence(again, distil, target)


def of_graph(path: Path, teacher: checkpoint.Network | None, data: Data, given: Normalisation, target: Export) -> str:
    """Return the same of an ONNX file: it cannot be trained itself, but the checkpoint that was given as its teacher.

    Without data, neither can be done, and `--data` is left for the user to fill in.
    """
    again = ["compress", "export", "--from", str(path), *_flags(target), *_of_images(given)]
    again += ["--data", data.name or "folder:PATH"]
    again += [] if data.image_size is None else ["--image-size", "x".join(map(str, data.image_size))]
    again += [] if teacher is None else ["--teacher", str(teacher.path)]
    distil = None
    if teacher is not None and teacher.differentiable and teacher.arch is not None and data.name is not None:
        distil = _distil(str(teacher.path), teacher.arch, data, target, lr=None)
    return _sentence(again, distil, target)


def _sentence(again: Sequence[str] | None, distil: Sequence[str] | None, target: Export) -> str:
    steps = []
    if target.max_drop is None and again is not None:
        kept = shlex.join([*again, "--max-drop", "1"])
        steps.append(f"`{kept}` keeps the layers in fp32 that suffer most, until the file is proved")
    if distil is not None:
        steps.append(f"`{shlex.join(distil)}` trains it through its rounding, to be exported again")
    found = ["; then ".join(steps)] if steps else []
    if target.calibration.method != "auto":
        found.append("--set calibration.method=auto tries other ranges")
    return "; ".join(found)


def _distil(network: str, arch: str, data: Data, target: Export, *, lr: float | None) -> list[str]:
    """Return the command by which a network learns its rounding, itself in fp32 being the teacher."""
    command = ["compress", "distill", "--teacher", network, "--student", arch, "--init", network]
    command += ["--quantize", "int8", "--method", "kd", "--data", str(data.name), "--epochs", str(_EPOCHS)]
    command += [] if lr is None else ["--lr", f"{lr:g}"]
    rounding = recipe_of(target, exporter_for(target))
    settings = {} if rounding == "cpu" else {"student.quantize.recipe": rounding}
    images = data.model_dump(mode="json", include=set(_IMAGES), exclude_defaults=True)
    return [*command, *_set(settings | {f"data.{key}": value for key, value in images.items()})]


def _flags(target: Export) -> list[str]:
    """Return an export as it is typed, without `max_drop`."""
    known = target.model_dump(mode="json", exclude={"format", "precision", "max_drop"}, exclude_defaults=True)
    format_ = [] if target.format == "onnx" else ["--format", target.format]
    return [*format_, "--precision", target.precision, *_set(dotted(known))]


def _of_images(given: Normalisation) -> list[str]:
    """Return how a graph's images are normalised, as it was typed."""
    numbers = {"--mean": given.mean, "--std": given.std}
    typed = [part for flag, values in numbers.items() if values for part in (flag, ",".join(map(str, values)))]
    typed += [] if given.normalize == "given" else ["--normalize", given.normalize]
    typed += ["--channel-order", given.channel_order] if given.bgr else []
    return typed + ([] if given.output is None else ["--output-name", given.output])


def _set(settings: dict[str, Any]) -> list[str]:
    """Return settings as options; JSON is YAML too."""
    texts = (f"{key}={value if isinstance(value, str) else json.dumps(value)}" for key, value in settings.items())
    return [part for text in texts for part in ("--set", text)]
