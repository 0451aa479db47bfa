"""What is done with one file: an ONNX classifier from elsewhere exported, any file measured and timed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from compressor import pipeline
from compressor.api.given import Settings, data_section, overrides, path_of, teacher_section, tell_of
from compressor.pipeline import Normalisation
from compressor.pipeline.bench import NO_OPTIONS, BenchOptions
from compressor.pipeline.normalisation import UNSTATED
from compressor.progress import Tell
from compressor.recipe import Data, Export, Teacher, section
from compressor.runs import record


def export(
    what: Path | str,
    *,
    data: Any = None,
    out: Path | str | None = None,
    overwrite: bool = False,
    settings: Settings | None = None,
    teacher: Path | str | Teacher | None = None,
    device: str | None = None,
    normalisation: Normalisation = UNSTATED,
    tell: Tell | None = None,
    **target: Any,
) -> record.Artifact:
    """Export an ONNX classifier from elsewhere, and prove the new file against it; `Run.export` does so for a student.

    Args:
        data: images to find its normalisation by, to calibrate and to measure with.
        target: keys of a recipe's `export`: `format="onnx"`, `precision="int8"`, ...
        settings: the same by dotted names, `{"calibration.samples": 256}`.
        teacher: of the images on whose boundary it is proved too.
        normalisation: how its images are normalised, where that is known.
    """
    place = ("export", 0)
    return pipeline.export_graph(
        Path(what),
        section(Export, place, [*overrides(target, below=place), *overrides(settings, below=place)]),
        data_section(data),
        teacher_section(teacher),
        tell_of(tell),
        out=path_of(out),
        overwrite=overwrite,
        device=device,
        given=normalisation,
    )


def validate(
    what: Path | str,
    data: Any = None,
    *,
    teacher: Path | str | Teacher | None = None,
    device: str | None = None,
    format: str | None = None,
    provider: str | None = None,
    normalisation: Normalisation = UNSTATED,
    tell: Tell | None = None,
) -> record.Metrics:
    """Measure one file on `data`, against a teacher where one is given; `Run.validate` measures all files of a run.

    Args:
        format: of a file that an exporter of yours wrote, `package.module:name`.
        provider: what runs an ONNX file, instead of the device's own: `cpu`, `cuda`, `tensorrt` or `openvino`.
        normalisation: how the images of an ONNX file from elsewhere are normalised.
    """
    return pipeline.validate_file(
        Path(what),
        data_section(data),
        teacher_section(teacher),
        tell_of(tell),
        device=device,
        format_=format,
        provider=provider,
        normalisation=normalisation,
    )


def benchmark(
    what: Path | str,
    *,
    settings: Settings | None = None,
    device: str | None = None,
    format: str | None = None,
    provider: str | None = None,
    options: BenchOptions = NO_OPTIONS,
    image_size: int | tuple[int, int] | None = None,
    output_name: str | None = None,
    tell: Tell | None = None,
) -> record.Metrics:
    """Time one file on this machine; `Run.benchmark` times all files of a run, in turn.

    Args:
        settings: keys of a recipe's `bench`, `{"batch_sizes": [1, 8]}`.
        format, provider: as for `validate`.
        options: what is asked beyond the numbers: a baseline, a latency to stay within, a file for every sample.
        image_size, output_name: height and width of an ONNX file's images, one number where they are alike, and which
            output counts, where it leaves that open.
    """
    return pipeline.bench_file(
        Path(what),
        tell_of(tell),
        device=device,
        format_=format,
        provider=provider,
        options=options,
        overrides=overrides(settings, below=("bench",)),
        data=section(Data, ("data",), overrides(None if image_size is None else {"data.image_size": image_size})),
        given=Normalisation(output=output_name),
    )
