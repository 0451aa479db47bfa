"""An ONNX classifier, ours or not, changed into the precision and the ends that are wanted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from onnx import ModelProto, inliner, version_converter

from exporters import Output, Pixels
from exporters.borders import Borders, find, rebuild
from exporters.errors import ArtifactRejected, ExportFailed
from exporters.onnx.graph import clean, expect_one_file, opset_of, whole, write
from exporters.precision import lower, precision_of, weights_by_type
from exporters.quiet import first_line, quiet

PRECISIONS = ("fp32", "fp16", "bf16")
_BF16_OPSET = 22  # the first in which convolutions take bf16
# What holds for one file only, and would be wrong in what is made of it.
_NOT_INHERITED = {"compress.created", "compress.input"}


def convert(
    source: Path,
    path: Path,
    *,
    precision: str | None = None,
    pixels: Pixels = "float32",
    output: Output = "logits",
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    bgr: bool = False,
    metadata: Mapping[str, str] | None = None,
    draft: bool = False,
) -> None:
    """Write the classifier in the ONNX file `source`, ours or not, to `path` in the form that is wanted.

    The result is one file that takes `input` and returns `logits` or `probabilities`, whatever the names in `source`,
    and float32 unless `pixels` are uint8, whatever the precision. A softmax that `source` ends with is taken off for
    logits. The same source and arguments give the same bytes; a time is stored, as `compress.created`, only if the
    environment sets SOURCE_DATE_EPOCH.

    Args:
        precision: "fp32", "fp16" or "bf16"; None leaves it as it is, also INT8.
        pixels: "uint8": the file takes `[batch, H, W, C]` and divides by 255. Only for grey and RGB images.
        mean, std: one number a channel, of pixels in `[0, 1]`: the file computes `(pixels - mean) / std` first, for a
            graph that expects such input; with `bgr` it expects blue first, and mean and std have red first.
        metadata: stored over what `source` stores, under `compress.precision`, `compress.input_shape` (JSON),
            `compress.exporter_version`, `compress.pixels` and `compress.output`, which are found in the graph.
        draft: for further use here: weights beyond the 2 GB of one file may lie in another beside it.

    Raises:
        ArtifactRejected: `source` is not a classifier of floating-point images, has such a border already, or its
            channels do not suit `pixels`, `mean` and `std`.
        ExportFailed: it cannot be given the precision, or the result is not valid ONNX.
    """
    model = whole(source)
    if model.functions:
        expect_one_file(model)
        model = inliner.inline_local_functions(model)
    borders = find(source, model)
    _expect_fitting(source, borders, pixels, output, mean, std)
    found = precision_of(weights_by_type(model))
    if precision is not None and precision != found:
        model = _lowered(source, model, found, precision)
    rebuild(model, borders, pixels=pixels, output=output, mean=mean, std=std, bgr=bgr)
    inherited = {entry.key: entry.value for entry in model.metadata_props if entry.key not in _NOT_INHERITED}
    clean(model)
    write(model, path, {**inherited, **(metadata or {})}, draft=draft)


def _expect_fitting(
    source: Path,
    borders: Borders,
    pixels: Pixels,
    output: Output,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
) -> None:
    """Refuse what would stand twice at an end, or does not suit the channels."""
    if borders.pixels == "uint8":
        raise ArtifactRejected(
            f"{source} takes uint8 pixels already", hint="start from the file that takes floating-point pixels"
        )
    if output == "probabilities" and borders.returns == "probabilities":
        raise ArtifactRejected(
            f"{source} returns probabilities already", hint="start from the file that returns logits"
        )
    channels = borders.input_shape[0]
    if pixels == "uint8" and channels not in (1, 3):
        raise ArtifactRejected(f"{source} takes {channels} channels, and uint8 pixels are grey or RGB")
    for name, values in (("mean", mean), ("std", std)):
        if values is None:
            continue
        if len(values) != channels:
            raise ArtifactRejected(
                f"{source} takes {channels} channels, and the {name} has {len(values)}",
                hint="give one number a channel",
            )
        if not np.isfinite(values).all() or (name == "std" and min(values) <= 0):
            wanted = "positive numbers" if name == "std" else "finite numbers"
            raise ArtifactRejected(f"a {name} consists of {wanted}, not {list(values)}")


def _lowered(source: Path, model: ModelProto, found: str, precision: str) -> ModelProto:
    if precision not in PRECISIONS:
        raise ExportFailed(f"ONNX graphs are not converted to {precision!r}", hint=f"known: {', '.join(PRECISIONS)}")
    if precision == "fp32":
        raise ExportFailed(
            f"{source} computes in {found}, and is not turned into fp32",
            hint="start from the fp32 file" + (f", or keep --precision {found}" if found in PRECISIONS else ""),
        )
    if found != "fp32":
        raise ExportFailed(
            f"{source} computes in {found}, and only fp32 is lowered to {precision}",
            hint="start from the fp32 file",
        )
    if precision == "bf16":
        model = _for_bf16(source, model)
    lower(model, precision)
    return model


def _for_bf16(source: Path, model: ModelProto) -> ModelProto:
    opset = opset_of(model)
    if opset >= _BF16_OPSET:
        return model
    try:
        with quiet():
            return version_converter.convert_version(model, _BF16_OPSET)
    except (version_converter.ConvertError, RuntimeError, ValueError) as error:
        raise ExportFailed(
            f"bf16 needs opset {_BF16_OPSET}, and {source} cannot be taken there from opset {opset}: "
            f"{first_line(error)}",
            hint=f"export it with --opset {_BF16_OPSET}",
        ) from error
