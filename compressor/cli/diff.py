"""The command that sets two artifacts side by side."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from compressor.cli.options import Allow, Device, ImageOptions, Json, ProviderOption, Quiet
from compressor.cli.output import draw, echo_json, tell_of
from compressor.errors import UsageError

if TYPE_CHECKING:
    from compressor.report.difference import Difference

Artifact = typer.Argument(
    help="A checkpoint, student, run folder (its student), .onnx, OpenVINO .xml or TensorRT .plan."
)


def diff(
    a: Annotated[Path, Artifact],
    b: Annotated[Path, Artifact],
    images: ImageOptions,
    samples: Annotated[int, typer.Option(min=0, help="Images to search from; 0 compares the test images alone.")] = 256,
    epsilon: Annotated[
        str, typer.Option(help="Changes of a pixel, in 1/255, to count differences within; comma-separated.")
    ] = "1,2,4,8",
    guide: Annotated[
        Path | None, typer.Option(help="A network whose gradients lead to the boundary of what has none.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Which images are searched from.")] = 0,
    html: Annotated[Path | None, typer.Option(help="Write the images on which they differ as one page.")] = None,
    save_images: Annotated[
        Path | None, typer.Option(help="Write the images on which they differ into an .npz file.")
    ] = None,
    min_agreement: Annotated[
        float | None, typer.Option(min=0, max=1, help="Exit 7 where they agree on a smaller fraction of test images.")
    ] = None,
    device: Device = None,
    provider: ProviderOption = None,
    allow: Allow = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Find images on which two artifacts decide differently.

    On the test images as they are, and near them: searched for across both decision boundaries.
    """
    epsilons = _epsilons(epsilon)
    if save_images is not None and save_images.suffix != ".npz":
        raise UsageError(f"--save-images writes an .npz file, not {save_images.name!r}", hint="--save-images flips.npz")
    from compressor.pipeline import diff as stage
    from compressor.pipeline.diff_inputs import Opening

    tell = tell_of(quiet)
    opening = Opening(guide, device, provider, images.normalisation(), allow or ())
    options = stage.Options(samples, epsilons, seed, opening)
    outcome = stage.diff(a, b, images.source(), tell, options)
    if html is not None:
        stage.write_gallery(outcome, html)
        tell(f"written: {html}")
    if save_images is not None:
        stage.write_images(outcome, save_images)
        tell(f"written: {save_images}")
    if as_json:
        echo_json(outcome.record.model_dump_json(indent=2))
    else:
        _show(outcome.record)
    stage.enforce_agreement(outcome.record, min_agreement)


def _show(record: Difference) -> None:
    from rich.markup import escape

    from compressor.report.difference import below

    draw(escape(record.summary), *below(record))


def _epsilons(text: str) -> tuple[float, ...]:
    try:
        numbers = tuple(sorted(float(part) for part in text.split(",")))
    except ValueError:
        numbers = ()
    if not numbers or not all(0 < number <= 255 for number in numbers):
        raise UsageError(
            f"--epsilon takes numbers above 0 and up to 255 with commas between, not {text!r}", hint="--epsilon 1,2,4,8"
        )
    return numbers
