"""The command that exports: a student, or a graph from elsewhere."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from compressor.cli.options import (
    Data,
    Device,
    ExportPrecision,
    ImageSize,
    Input,
    Json,
    Mean,
    NormalizeOption,
    Output,
    Overwrite,
    Quantization,
    Quiet,
    Std,
    Target,
    Teacher,
    flag,
    normalisation_of,
)
from compressor.cli.output import show, tell_of
from compressor.errors import UsageError
from exporters import EXPORTERS

_ENTRY = ("export", 0)  # of a recipe: what the options describe


def export(
    target: Target = None,
    graph: Annotated[
        Path | None, typer.Option("--from", help="Export this ONNX classifier instead of a student.")
    ] = None,
    format_: Annotated[
        str | None, typer.Option("--format", "-f", help=f"{', '.join(EXPORTERS)} or package.module:name.")
    ] = None,
    precision: Annotated[ExportPrecision | None, typer.Option(help="Arithmetic of the artifact.")] = None,
    input_: Annotated[
        Input | None, typer.Option("--input", help="What it takes: float32 NCHW in [0, 1], or uint8 NHWC.")
    ] = None,
    output: Annotated[Output | None, typer.Option(help="What it answers.")] = None,
    max_drop: Annotated[
        float | None,
        typer.Option(min=0, help="INT8: keep layers in fp32 until it is proved and loses no more points."),
    ] = None,
    quantization: Annotated[
        Quantization | None, typer.Option(help="INT8: for ONNX Runtime and OpenVINO (cpu), or for TensorRT (trt).")
    ] = None,
    batch: Annotated[
        str | None, typer.Option(help="TensorRT: smallest, usual and largest batch, such as 1:8:32.")
    ] = None,
    opset: Annotated[int | None, typer.Option(help="ONNX operator set.")] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="Any other key of an export: engine.tf32=true, calibration.samples=1024, ..."),
    ] = None,
    rebuild: Annotated[
        bool, typer.Option("--rebuild", help="Build a plan anew from its ONNX file, for this machine.")
    ] = False,
    data: Data = None,
    image_size: ImageSize = None,
    mean: Mean = None,
    std: Std = None,
    normalize: NormalizeOption = None,
    teacher: Teacher = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="With --from: folder of the new file.")] = None,
    overwrite: Overwrite = False,
    device: Device = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Export a student, or any ONNX classifier, and prove the file.

    The student of the latest run, or of a run folder. With --from, an ONNX file: --data calibrates INT8, finds out how
    its images are normalised and measures what was lost.
    """
    from compressor import pipeline, recipe
    from compressor.runs.folder import argument, find

    tell = tell_of(quiet)
    given: dict[str, Any] = {
        "format": format_,
        "precision": precision,
        "input": input_,
        "output": output,
        "max_drop": max_drop,
    }
    given |= {"quantization": quantization, "opset": opset, "batch": None if batch is None else _profile(batch)}
    for_graphs: dict[str, Any] = {
        "--data": data,
        "--image-size": image_size,
        "--mean": mean,
        "--std": std,
        "--normalize": normalize,
    }
    for_graphs |= {"--teacher": teacher, "--out": out}
    if rebuild:
        _alone("--rebuild", {**given, "--set": set_ or None, "--from": graph, **for_graphs})
        show(pipeline.rebuild(target, tell), as_json=as_json)
        return
    asked = [flag(name, value, (*_ENTRY, name)) for name, value in given.items() if value is not None]
    asked += [recipe.Override.typed(text, example="engine.tf32=true", below=_ENTRY) for text in set_ or ()]
    if graph is not None:
        if target is not None:
            raise UsageError("give a run or --from, not both")
        artifact = pipeline.export_graph(
            graph,
            recipe.export_target(asked),
            recipe.Data(name=data, image_size=image_size),
            None if teacher is None else recipe.Teacher(checkpoint=teacher),
            tell,
            out=out,
            overwrite=overwrite,
            device=device,
            given=normalisation_of(mean, std, normalize),
        )
        show(artifact, as_json=as_json)
        tell(f"next: compress bench {shlex.quote(artifact.path)}")
        return
    _alone("a run", for_graphs)
    result = pipeline.export(target, tell, overrides=asked, device=device)
    show(result, as_json=as_json)
    tell(f"next: compress validate{argument(find(target))}")


def _profile(text: str) -> list[int]:
    try:
        sizes = [int(part) for part in text.split(":")]
    except ValueError:
        sizes = []
    if len(sizes) != 3:
        raise UsageError(f"--batch takes the smallest, usual and largest batch, not {text!r}", hint="--batch 1:8:32")
    return sizes


def _alone(what: str, flags: dict[str, Any]) -> None:
    extra = [flag for flag, value in flags.items() if value is not None]
    if extra:
        name = extra[0] if extra[0].startswith("--") else f"--{extra[0].replace('_', '-')}"
        raise UsageError(
            f"{name} does not go with {what}",
            hint="it is for compress export --from MODEL.onnx" if what == "a run" else None,
        )
