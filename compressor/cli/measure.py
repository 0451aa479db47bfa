"""The commands that measure: validate, bench."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from compressor.cli.options import (
    Allow,
    Device,
    FormatOption,
    Gate,
    ImageOptions,
    Json,
    Key,
    OutputName,
    ProviderOption,
    Quiet,
    Target,
    Teacher,
    TeacherArch,
    changes,
    gate_names,
    given,
    sides,
)
from compressor.cli.output import hold, show, tell_of
from compressor.errors import UsageError


def _integers(option: str, text: str) -> tuple[int, ...]:
    try:
        numbers = tuple(int(part) for part in text.split(","))
    except ValueError:
        numbers = ()
    if not numbers or min(numbers) < 1:
        raise UsageError(f"{option} takes whole numbers with commas between, not {text!r}", hint=f"{option} 1,8,32")
    return numbers


def _threads(option: str, text: str) -> int | tuple[int | None, ...] | None:
    """Return one number of threads or several, None for `auto`."""
    words = text.split(",")
    if not all(word == "auto" or (word.isdecimal() and int(word) > 0) for word in words):
        raise UsageError(f"{option} takes numbers of threads, or auto, not {text!r}", hint=f"{option} 1,2,auto")
    counts = tuple(None if word == "auto" else int(word) for word in words)
    return counts if len(counts) > 1 else counts[0]


@dataclass(frozen=True)
class BenchSettings:
    """How latency is measured."""

    batch_sizes: Annotated[
        str | None, typer.Option(help="Comma-separated, such as 1,8,32."), Key("bench.batch_sizes", _integers)
    ] = None
    duration: Annotated[
        float | None,
        typer.Option(min=0.001, help="Seconds of measuring, each file and batch size."),
        Key("bench.duration_s"),
    ] = None
    threads: Annotated[
        str | None,
        typer.Option(help="Threads of one inference, or several numbers to try, 1,2,auto; auto: the runtime's choice."),
        Key("bench.threads", _threads),
    ] = None
    transfers: Annotated[
        bool | None, typer.Option(help="Time copies between host and device too."), Key("bench.transfers")
    ] = None
    cuda_graph: Annotated[bool | None, typer.Option(help="Replay a recorded CUDA graph."), Key("bench.cuda_graph")] = (
        None
    )
    memory: Annotated[
        bool | None, typer.Option(help="Start a process for each file to see its memory."), Key("bench.memory")
    ] = None


def validate(
    images: ImageOptions,
    target: Target = None,
    teacher: Teacher = None,
    teacher_arch: TeacherArch = None,
    device: Device = None,
    format_: FormatOption = None,
    provider: ProviderOption = None,
    gate: Gate = None,
    allow: Allow = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Measure a copy of the run, made here; for one that is read-only."),
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Measure accuracy, agreement and robustness.

    Of every file of a run on the same images, or of one artifact.
    """
    from compressor import api
    from compressor.runs.folder import Run, argument, find

    tell = tell_of(quiet)
    promised = changes(gate=gate)
    if target is not None and target.is_file():
        from compressor import recipe

        _of_runs("--gate", gate)
        _of_runs("--out", out)
        if teacher is None and teacher_arch is not None:
            raise UsageError("--teacher-arch says what --teacher is, and there is none", hint="--teacher FILE")
        taught = None if teacher is None else recipe.Teacher(checkpoint=teacher, arch=teacher_arch)
        metrics = api.validate(
            target,
            images.source(),
            teacher=taught,
            device=device,
            format=format_,
            provider=provider,
            normalisation=images.normalisation(),
            tell=tell,
        )
        show(metrics, as_json=as_json)
        return
    chosen = find(target)
    alone = {**given(images), "--teacher": teacher, "--teacher-arch": teacher_arch}
    _refuse({**alone, "--format": format_, "--provider": provider}, hint="compress validate FILE ...")
    opened = api.Run(chosen.folder, tuple(allow or ()))
    result = opened.validate(settings=promised, device=device, out=out, tell=tell)
    show(result, as_json=as_json)
    tell(f"next: compress bench{argument(chosen if out is None else Run(out))}")
    hold(result, complete=False, asked=gate_names(promised))


def bench(
    settings: BenchSettings,
    target: Target = None,
    device: Device = None,
    format_: FormatOption = None,
    provider: ProviderOption = None,
    image_size: Annotated[
        str | None, typer.Option(help="Height and width, for an ONNX file that leaves them open: 224, or 240x320.")
    ] = None,
    output_name: OutputName = None,
    within: Annotated[float | None, typer.Option(min=0, help="Name the best file within so many ms (p99).")] = None,
    at_batch: Annotated[
        int | None, typer.Option(min=1, help="Batch size of --within; the smallest one when left out.")
    ] = None,
    baseline: Annotated[Path | None, typer.Option(help="An earlier bench.json to compare with.")] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Also write every sample here: NAME.json.")] = None,
    gate: Gate = None,
    allow: Allow = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Measure latency, throughput, energy and memory.

    Of every file of a run in turn, or of one artifact. Run it when nothing else runs.
    """
    if at_batch is not None and within is None:
        raise UsageError("--at-batch is the batch size of --within", hint="--within 5 --at-batch 1")
    if out is not None and out.suffix != ".json":
        raise UsageError(f"--out takes the name of a .json file, not {out}", hint="--out bench.json")
    from compressor import api, pipeline
    from compressor.bench import baseline as baselines
    from compressor.runs.folder import argument, find

    tell = tell_of(quiet)
    typed = changes(settings, gate=gate)
    before = None if baseline is None else baselines.read(baseline)
    wanted = pipeline.BenchOptions(before=before, within_ms=within, at_batch=at_batch, out=out)
    if target is not None and target.is_file():
        _of_runs("--gate", gate)
        metrics = api.benchmark(
            target,
            settings=typed,
            device=device,
            format=format_,
            provider=provider,
            options=wanted,
            image_size=None if image_size is None else sides("--image-size", image_size),
            output_name=output_name,
            tell=tell,
        )
        show(metrics, as_json=as_json)
        return
    chosen = find(target)
    opening: dict[str, object] = {"--format": format_, "--provider": provider}
    _refuse({**opening, "--image-size": image_size, "--output-name": output_name}, hint="compress bench FILE ...")
    opened = api.Run(chosen.folder, tuple(allow or ()))
    result = opened.benchmark(settings=typed, device=device, options=wanted, tell=tell)
    show(result, as_json=as_json)
    tell(f"next: compress report{argument(chosen)}")
    hold(result, complete=False, asked=gate_names(typed))


def _of_runs(flag: str, value: object) -> None:
    if value:
        raise UsageError(f"{flag} goes with a run, and not with a single artifact", hint="name the folder of a run")


def _refuse(flags: dict[str, object], *, hint: str) -> None:
    given = [flag for flag, value in flags.items() if value is not None]
    if given:
        raise UsageError(f"{given[0]} goes with a single artifact; a run has its own", hint=hint)
