"""The command that exports: a student, or a graph from elsewhere."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from compressor.choices import CalibrationImages, ExportInput, ExportOutput, ExportPrecision, Quantization
from compressor.cli.options import (
    Allow,
    Device,
    ImageOptions,
    Json,
    Key,
    Overwrite,
    Quiet,
    Target,
    Teacher,
    changes,
    given,
)
from compressor.cli.output import show, tell_of
from compressor.errors import UsageError

_ENTRY = ("export", 0)  # of a recipe: what the options describe


def _profile(option: str, text: str) -> list[int]:
    try:
        sizes = [int(part) for part in text.split(":")]
    except ValueError:
        sizes = []
    if len(sizes) != 3:
        raise UsageError(f"{option} takes the smallest, usual and largest batch, not {text!r}", hint=f"{option} 1:8:32")
    return sizes


@dataclass(frozen=True)
class ArtifactOptions:
    """What file to write."""

    format_: Annotated[
        str | None,
        typer.Option("--format", "-f", help="onnx, trt, trt-rtx or openvino."),
        Key("export.0.format"),
    ] = None
    precision: Annotated[
        ExportPrecision | None, typer.Option(help="Arithmetic of the artifact."), Key("export.0.precision")
    ] = None
    input_: Annotated[
        ExportInput | None,
        typer.Option("--input", help="What it takes: float32 NCHW in [0, 1], or uint8 NHWC."),
        Key("export.0.input"),
    ] = None
    output: Annotated[ExportOutput | None, typer.Option(help="What it answers."), Key("export.0.output")] = None
    max_drop: Annotated[
        float | None,
        typer.Option(min=0, help="INT8: keep layers in fp32 until it is proved and loses no more points."),
        Key("export.0.max_drop"),
    ] = None
    quantization: Annotated[
        Quantization | None,
        typer.Option(help="INT8: for ONNX Runtime and OpenVINO (cpu), or for TensorRT (trt)."),
        Key("export.0.quantization"),
    ] = None
    calibration: Annotated[
        CalibrationImages | None,
        typer.Option(help="INT8: ranges from training images, or from synthetic ones, made without data."),
        Key("export.0.calibration.images"),
    ] = None
    batch: Annotated[
        str | None,
        typer.Option(help="TensorRT: smallest, usual and largest batch, such as 1:8:32."),
        Key("export.0.batch", _profile),
    ] = None
    opset: Annotated[int | None, typer.Option(help="ONNX operator set."), Key("export.0.opset")] = None


def export(
    wanted: ArtifactOptions,
    images: ImageOptions,
    target: Target = None,
    graph: Annotated[
        Path | None, typer.Option("--from", help="Export this ONNX classifier instead of a student.")
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="Any other key of an export: engine.tf32=true, calibration.samples=1024, ..."),
    ] = None,
    rebuild: Annotated[
        bool, typer.Option("--rebuild", help="Build a plan anew from its ONNX file, for this machine.")
    ] = False,
    teacher: Teacher = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="With --from: folder of the new file.")] = None,
    overwrite: Overwrite = False,
    allow: Allow = None,
    device: Device = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Export a student, or any ONNX classifier, and prove the file.

    The student of the latest run, or of a run folder. With --from, an ONNX file: --data calibrates INT8, finds out how
    its images are normalised and measures what was lost.
    """
    from compressor import api, pipeline, recipe
    from compressor.runs.folder import argument, find

    tell = tell_of(quiet)
    for_graphs = {**given(images), "--teacher": teacher, "--out": out}
    if rebuild:
        _alone("--rebuild", {**given(wanted), "--set": set_ or None, "--from": graph, **for_graphs})
        show(pipeline.rebuild(target, tell, allow=allow or ()), as_json=as_json)
        return
    asked = changes(wanted)
    asked += [recipe.Override.typed(text, example="engine.tf32=true", below=_ENTRY) for text in set_ or ()]
    if graph is not None:
        if target is not None:
            raise UsageError("give a run or --from, not both")
        artifact = api.export(
            graph,
            data=images.source(),
            teacher=teacher,
            settings=asked,
            out=out,
            overwrite=overwrite,
            device=device,
            normalisation=images.normalisation(),
            tell=tell,
        )
        show(artifact, as_json=as_json)
        tell(f"next: compress bench {shlex.quote(artifact.path)}")
        return
    _alone("a run", for_graphs)
    chosen = find(target)
    opened = api.Run(chosen.folder, tuple(allow or ()))
    show(opened.export(settings=asked, device=device, tell=tell), as_json=as_json)
    tell(f"next: compress validate{argument(chosen)}")


def _alone(what: str, flags: dict[str, Any]) -> None:
    extra = [flag for flag, value in flags.items() if value is not None]
    if extra:
        raise UsageError(
            f"{extra[0]} does not go with {what}",
            hint="it is for compress export --from MODEL.onnx" if what == "a run" else None,
        )
