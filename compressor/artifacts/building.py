"""From an fp32 graph to an artifact that is proved: precision, borders, the runtime's own build, and the comparison.

All of it happens in a scratch folder beside the final place; only files that answer as their source does leave it.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from compressor.artifacts.formats import exporter_for, exporter_of, format_of
from compressor.artifacts.opening import file_facts, located
from compressor.artifacts.proof import NOISE, NotProved, graph_images, prove
from compressor.artifacts.rounding import Rounding
from compressor.errors import InputRejected
from compressor.files import explained
from compressor.progress import Tell
from compressor.recipe import Calibration, Export
from compressor.runs import record
from compressor.runs.lock import BUILDING
from exporters import Built, Compiler, Engine, Exporter, Quantization, Runner, onnx, parity, quantize
from exporters.errors import ExporterError, RuntimeMissing
from exporters.precision import precision_of

Images = NDArray[np.float32]


@dataclass(frozen=True)
class Source:
    """What artifacts are made from, and what they are held against.

    `trunk` writes the fp32 graph in an operator set to a path. `reference` answers as every artifact must, `images`
    `[N, C, H, W]` are what it is asked. `calibration` gives images for INT8 and how many of them lie on the boundary;
    `drop` measures on held-out labelled images how many points of top-1 a runner loses against the reference.
    `metadata` is what a file says of itself. `rounding` is what the reference was trained to be rounded by, if it was.
    `advice` says what may be done where INT8 of the network does not answer as it does; `limits` are how far apart, by
    precision, the answers of both may be.
    """

    name: str
    trunk: Callable[[Path, int], None]
    reference: Runner
    images: Images
    calibration: Callable[[Calibration], tuple[Images, int]]
    drop: Callable[[Runner], float]
    metadata: Mapping[str, str]
    rounding: Rounding | None = None
    advice: Callable[[Export], str] | None = None
    limits: Mapping[str, parity.Limits] = field(default_factory=lambda: parity.LIMITS)


def build(
    source: Source, target: Export, folder: Path, tell: Tell, *, provider: str, relative_to: Path | None = None
) -> record.Artifact:
    """Make one artifact in `folder`, prove it, and return what there is to say of it.

    Args:
        provider: what runs the artifact for its proof, as `Exporter.load` names it.
        relative_to: the folder that the record's paths start from.

    Raises:
        ExportFailed: the file could not be made, or does not answer as its source does; nothing is left behind.
        InputRejected: there are no images to calibrate with, or the folder cannot be written to.
    """
    exporter = exporter_for(target)
    if source.rounding is not None:
        source.rounding.expect_carried(target, exporter)
    with explained(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=BUILDING, dir=folder) as place:
            finished = Path(place) / "finished"
            finished.mkdir()
            with _without(finished, Path(place)), _advised(source, target):
                graph, calibration = _graph(source, target, exporter, Path(place), tell)
                built = _built(source, target, exporter, graph, finished)
                rounded = source.rounding is not None
                proving = partial(
                    prove, reference=source.reference, images=source.images, rounded=rounded, limits=source.limits
                )
                known, sentence = _proved(proving, exporter, built, graph, provider)
            for each in sorted(finished.iterdir(), key=lambda file: file == built.path):  # the file itself comes last
                each.replace(folder / each.name)
    path = folder / built.path.name
    tell(f"exported {path}: {sentence}")
    described = {"input": target.input, "output": target.output, "calibration": calibration}
    return _recorded(path, built, {**known, **described}, relative_to)


def rebuild(path: Path, tell: Tell, *, provider: str, relative_to: Path | None = None) -> record.Artifact:
    """Build a plan anew for this machine from the ONNX file beside it, and prove it against that file.

    Raises:
        ArtifactRejected: it is no plan of ours, or its ONNX file is not beside it.
        ExportFailed: it could not be built, or does not answer as the graph does.
    """
    format_ = format_of(path)
    exporter = None if format_ is None else exporter_of(format_)
    if exporter is None or not exporter.COMPILED:
        raise InputRejected(f"{path} is not a plan", hint="compress export --rebuild PLAN")
    compiler = cast(Compiler, exporter)
    built = compiler.rebuild(path)
    graph = path.with_name(compiler.described(built.path).source)
    reference = onnx.load(graph)
    proving = partial(prove, reference=reference, images=graph_images(reference, None, seed=0))
    known, sentence = _proved(proving, exporter, built, graph, provider)
    tell(f"built {built.path}: {sentence}")
    return _recorded(built.path, built, known, relative_to)


@contextmanager
def _without(*folders: Path) -> Iterator[None]:
    """Leave scratch folders out of a refusal: when it is read, they are gone."""
    try:
        yield
    except ExporterError as error:
        message = error.message
        for folder in folders:
            message = message.replace(f"{folder}/", "")
        raise type(error)(message, hint=error.hint) from error


@contextmanager
def _advised(source: Source, target: Export) -> Iterator[None]:
    """Say what may be done about INT8 that loses too much, where its source knows."""
    try:
        yield
    except (NotProved, quantize.LosesTooMuch) as error:
        if source.advice is not None and target.precision == "int8" and source.rounding is None:
            kept = [error.hint] if isinstance(error, quantize.LosesTooMuch) else ["the file was not kept"]
            error.hint = "; ".join(filter(None, [*kept, source.advice(target)]))
        raise


def _graph(
    source: Source, target: Export, exporter: Exporter, place: Path, tell: Tell
) -> tuple[Path, record.Calibration | None]:
    """Write the ONNX file that has the precision and the borders of the target."""
    graph, calibration = place / f"{source.name}.onnx", None
    source.trunk(graph, target.operators)
    if source.rounding is not None:
        graph, calibration = source.rounding.write(graph, target)
    elif target.precision == "int8" and precision_of(onnx.census(graph)) == "int8":  # quantised by whoever made it
        quantize.expect_scheme(graph, recipe_of(target, exporter))
        tell("the graph is INT8 already, with the ranges that it has")
    elif target.precision == "int8":
        graph, calibration = _quantized(source, target, exporter, graph, tell)
    shaped = place / f"{source.name}.{target.precision}.onnx"
    onnx.convert(
        graph,
        shaped,
        precision=None if target.precision == "int8" else target.precision,
        pixels=target.input,
        output=target.output,
        metadata={**source.metadata, **_preparation(source.reference), "compress.input": _wanted(source, target)},
    )
    return shaped, calibration


def _preparation(reference: Runner) -> dict[str, str]:
    """Return what a service must do to an image, and what it must not, for machines to read."""
    _, height, width = reference.input_shape
    size = {"short_side": height} if height == width else {"cover": [height, width]}
    # As the images of a folder are brought to a size.
    resize = {**size, "filter": "bilinear, antialiased", "crop": "centre"}
    return {"compress.normalisation": "inside", "compress.resize": json.dumps(resize)}


def _wanted(source: Source, target: Export) -> str:
    """Return in words what the file takes."""
    colour = "RGB" if source.reference.input_shape[0] == 3 else "grey"
    form = "NCHW float32 pixels in [0, 1]" if target.input == "float32" else "NHWC uint8 pixels"
    return f"{colour}, {form}; mean and std are applied inside"


def _quantized(
    source: Source, target: Export, exporter: Exporter, trunk: Path, tell: Tell
) -> tuple[Path, record.Calibration]:
    recipe = recipe_of(target, exporter)
    images, boundary = source.calibration(target.calibration)
    kind = target.calibration.images
    near = f", {boundary} of them on the boundary" if kind == "training" else ""
    tell(f"calibrating INT8 ({recipe}) on {len(images)} {kind} images{near}")
    path = trunk.with_name("int8.onnx")
    opened = partial(_runnable, exporter)
    if target.calibration.method == "auto":
        method = _best_method(source, trunk, images, recipe, opened, tell)
    else:
        method = target.calibration.method
    if target.max_drop is None:
        quantized = quantize.quantize(trunk, path, images, recipe=recipe, method=method)
    else:
        quantized = quantize.quantize_within(
            trunk,
            path,
            images,
            recipe=recipe,
            method=method,
            max_drop=target.max_drop,
            drop=partial(_drop, source, opened),
        )
        kept = f"in fp32: {', '.join(quantized.kept)}" if quantized.kept else "every layer is INT8"
        tell(f"INT8 loses {quantized.drop:.2f} points on validation images, {target.max_drop:g} are allowed; {kept}")
    return path, record.Calibration(
        recipe=recipe,
        method=method,
        samples=len(images),
        boundary=boundary,
        kept_fp32=quantized.kept,
        drop=quantized.drop,
        images=kind,
    )


def recipe_of(target: Export, exporter: Exporter) -> Quantization:
    """Return the INT8 recipe of a target."""
    return target.quantization or exporter.QUANTIZATIONS[0]


def _runnable(exporter: Exporter, candidate: Path) -> Runner:
    """Open a candidate in the runtime that it is for, where that reads ONNX files; else in ONNX Runtime."""
    reads = candidate.suffix in exporter.SUFFIXES and not exporter.COMPILED
    return exporter.load(candidate) if reads else onnx.load(candidate)


def _best_method(
    source: Source, trunk: Path, images: Images, recipe: Quantization, opened: Callable[[Path], Runner], tell: Tell
) -> quantize.Method:
    """Return the way to choose ranges that loses least on validation images, of equals the one that errs least."""
    found: dict[quantize.Method, tuple[float, float]] = {}
    for method in quantize.METHODS:
        candidate = trunk.with_name(f"{method}.onnx")
        quantize.quantize(trunk, candidate, images, recipe=recipe, method=method)
        runner = opened(candidate)
        errors = parity.check(runner, source.reference, source.images[NOISE:], batch_sizes=())
        found[method] = source.drop(runner), next(iter(errors.values())).rms_error
    best = min(found, key=lambda method: found[method])
    told = ", ".join(f"{method} {drop:.2f}" for method, (drop, _) in found.items())
    tell(f"calibration.method {best}: points lost on validation images by method: {told}")
    return best


def _drop(source: Source, opened: Callable[[Path], Runner], candidate: Path) -> float:
    """Return the points of top-1 that a candidate loses; one that the proof would refuse is refused here."""
    runner = opened(candidate)
    prove(runner, source.reference, source.images, limits=source.limits)
    return source.drop(runner)


def _built(source: Source, target: Export, exporter: Exporter, graph: Path, finished: Path) -> Built:
    """Build the artifact; beside a plan stays the graph that it is built from again on another machine."""
    stem = source.name + target.variant
    if not exporter.COMPILED:
        return exporter.build(graph, finished, stem, precision=target.precision, engine=Engine())
    recipe = exporter.QUANTIZATIONS[0]
    mark = f".{recipe}" if target.precision == "int8" and recipe != onnx.QUANTIZATIONS[0] else ""
    kept = onnx.build(graph, finished, stem + mark, precision=target.precision, engine=Engine())
    smallest, usual, largest = target.batch
    engine = Engine(batch=(smallest, usual, largest), **target.engine.model_dump())
    return exporter.build(kept.path, finished, stem, precision=target.precision, engine=engine)


def _proved(
    proving: Callable[[Runner], record.Parity], exporter: Exporter, built: Built, graph: Path, provider: str
) -> tuple[dict[str, Any], str]:
    """Return what is known of the artifact, and a sentence: it answers as its source does, or cannot run here."""
    try:
        runner = exporter.load(built.path, provider=provider)
    except RuntimeMissing as missing:
        note = f"built, not run here: {missing.message}{_proof_of_graph(proving, graph)}"
        return {"format": built.format, "precision": built.precision, "provider": None, "note": note}, note
    proof = proving(runner)
    ran = {"format": runner.format, "precision": runner.precision, "provider": runner.provider}
    return {**ran, "parity": proof}, f"{proof.samples} images, largest error of a logit {proof.max_error:.2g}"


def _proof_of_graph(proving: Callable[[Runner], record.Parity], graph: Path) -> str:
    """Prove at least the graph that an artifact was built from, where ONNX Runtime can run that on the CPU."""
    try:
        runner = onnx.load(graph)
    except RuntimeMissing:
        return ""
    proof = proving(runner)
    return f"; the ONNX graph that it was built from was: largest error of a logit {proof.max_error:.2g}"


def _recorded(path: Path, built: Built, known: Mapping[str, Any], relative_to: Path | None) -> record.Artifact:
    companions = [path.with_name(each.name) for each in built.companions]
    return record.Artifact(
        **file_facts(path, companions, relative_to=relative_to),
        **known,
        companions=tuple(located(each, relative_to) for each in companions),
        census=dict(built.census),
    )
