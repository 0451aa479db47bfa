"""The two ends of a classifier in OpenVINO's form: what it takes, and what it returns."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from exporters import Output, Pixels
from exporters.errors import ArtifactRejected
from exporters.openvino.census import SAME_VALUES

_PIXELS: dict[str, type[np.generic]] = {"f32": np.float32, "f16": np.float16, "u8": np.uint8}
_COLOURS = (1, 3)


@dataclass(frozen=True)
class Borders:
    """What a graph takes and returns."""

    batch: int | None  # None: any
    input_shape: tuple[int, int, int]  # C, H, W, whatever the layout
    feed: type[np.generic]  # what an element of the input is
    pixels: Pixels
    returns: Output
    classes: int | None  # None: the graph does not say


def find(path: Path, model: Any) -> Borders:
    """Find what the graph of the file `path` takes and returns.

    Raises:
        ArtifactRejected: it does not take images in one of the two layouts of `Pixels`, or has several inputs or
            outputs.
    """
    inputs, outputs = model.inputs, model.outputs
    if len(inputs) != 1 or len(outputs) != 1:
        raise ArtifactRejected(
            f"{path} has {len(inputs)} inputs and {len(outputs)} outputs, a classifier has one of each"
        )
    kind, shape = inputs[0].get_element_type().to_string(), inputs[0].get_partial_shape()
    if kind not in _PIXELS:
        raise ArtifactRejected(f"{path} takes {kind} input, not images of floating-point or uint8 pixels")
    if shape.rank.is_dynamic or len(shape) != 4:
        raise ArtifactRejected(f"{path} takes input of shape {shape.to_string()}, not images [batch, C, H, W]")
    batch, *sizes = (0 if size.is_dynamic else size.get_length() for size in shape)
    if 0 in sizes:
        raise ArtifactRejected(
            f"{path} leaves the size of its images open", hint="export it with fixed channels, height and width"
        )
    if kind == "u8" and sizes[2] not in _COLOURS:
        raise ArtifactRejected(
            f"{path} takes uint8 pixels {shape.to_string()}, not [batch, H, W, C] with 1 or 3 channels",
            hint="give a graph that takes uint8 NHWC or float NCHW",
        )
    if kind != "u8" and sizes[2] in _COLOURS and sizes[0] not in _COLOURS:
        raise ArtifactRejected(
            f"{path} takes floating-point pixels {shape.to_string()}, channels last, which are only taken as uint8",
            hint="give a graph that takes [batch, C, H, W]",
        )
    channels, height, width = (sizes[2], sizes[0], sizes[1]) if kind == "u8" else sizes
    answer = outputs[0].get_partial_shape()
    if answer.rank.is_static and len(answer) != 2:
        raise ArtifactRejected(f"{path} returns {answer.to_string()}, not logits [batch, classes]")
    known = answer.rank.is_static and answer[1].is_static
    return Borders(
        batch=batch or None,
        input_shape=(channels, height, width),
        feed=_PIXELS[kind],
        pixels="uint8" if kind == "u8" else "float32",
        returns="probabilities" if _ends_in_softmax(model) else "logits",
        classes=answer[1].get_length() if known else None,
    )


def count_classes(path: Path, compiled: Any, borders: Borders) -> int:
    """Return the number of classes by asking for one image, where the graph does not say.

    Raises:
        ArtifactRejected: what is returned are not logits.
    """
    shape = [borders.batch or 1, *list(compiled.input().get_partial_shape())[1:]]
    answer = compiled(np.zeros([int(str(size)) for size in shape], borders.feed))[0]
    if answer.ndim != 2:
        raise ArtifactRejected(f"{path} returns {list(answer.shape)} for one image, not logits [batch, classes]")
    return int(answer.shape[1])


def _ends_in_softmax(model: Any) -> bool:
    node = model.get_results()[0].input_value(0).get_node()
    while node.get_type_name() in {*SAME_VALUES, "Convert"}:
        node = node.input_value(0).get_node()
    return bool(node.get_type_name() == "Softmax")
