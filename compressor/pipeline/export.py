"""The second stage: artifacts of the student, each proved before it is kept."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

from compressor import checkpoint
from compressor.artifacts.building import Source, build
from compressor.artifacts.building import rebuild as build_again
from compressor.artifacts.calibration import wanted_images
from compressor.artifacts.formats import exporter_for, provider_of
from compressor.artifacts.opening import torch_runner
from compressor.artifacts.proof import accuracy_drop, proof_images
from compressor.artifacts.rounding import Rounding
from compressor.errors import UsageError
from compressor.inputs import Prepared
from compressor.measure.made import noise_bytes, read_generated, stand_in
from compressor.models.quantised import Quantised
from compressor.pipeline.finished_run import FinishedRun, open_run, stored_recipe
from compressor.pipeline.identity import stage_inputs
from compressor.pipeline.next_commands import of_run
from compressor.progress import Tell
from compressor.recipe import ENGINES, Export, Override, load
from compressor.runs import record
from compressor.runs.folder import find
from compressor.runs.lock import working
from compressor.runs.stages import Stages
from exporters import onnx


def export(
    where: Path | None,
    tell: Tell,
    *,
    overrides: Sequence[Override] = (),
    device: str | None = None,
    allow: Sequence[str] = (),
) -> record.Result:
    """Export the student of a run, as its recipe says or as asked, and prove each file against the network.

    Args:
        overrides: of `export.0`; what they make of its defaults takes the place of all that the recipe exports.
        allow: code of the user's own that the run or an override names and that may be imported.

    Raises:
        ExportFailed: a file could not be made, or does not answer as the network does; it is not left behind.
    """
    folder = find(where)
    instead = Override(("export",), [{"precision": load(folder.recipe).usual_precision}])
    if overrides:  # all that is exported is what this command names
        targets = load(folder.recipe, [instead, *overrides]).export
        allow = [*allow, *(each.format for each in targets)]
    else:
        targets = stored_recipe(folder, allow=allow).export
    for each in targets:
        exporter_for(each)  # before anything slow
    with working(folder.folder):
        return export_stage(open_run(folder, tell, device=device, allow=allow), targets, tell).result


def rebuild(where: Path | None, tell: Tell, *, allow: Sequence[str] = ()) -> record.Result | record.Artifact:
    """Build a plan anew for this machine, or every plan of a run, whose record then names the new ones.

    Raises:
        UsageError: the run has no plan.
    """
    if where is not None and where.is_file():
        return build_again(where, tell, provider="cuda")
    folder = find(where)
    with working(folder.folder):
        opened = open_run(folder, tell, allow=allow)
        plans = [each for each in opened.result.artifacts if each.format in ENGINES]
        if not plans:
            raise UsageError(f"{folder.folder} has no plan", hint="compress export --format trt builds one")
        for plan in plans:
            new = build_again(folder.folder / plan.path, tell, provider="cuda", relative_to=folder.folder)
            same = {"input": plan.input, "output": plan.output, "calibration": plan.calibration}
            others = [each for each in opened.result.artifacts if each.path not in (plan.path, new.path)]
            opened = opened.noting(artifacts=(*others, new.model_copy(update=same))).saved()
        return opened.result


def export_stage(opened: FinishedRun, targets: Sequence[Export], tell: Tell) -> FinishedRun:
    """Make the artifacts of an open run; one that is made again takes the place of the old."""
    source, device = _source(opened, tell), opened.prepared.device
    with Stages(opened.folder).doing("export", stage_inputs("export", opened, tuple(targets))):
        for target in targets:
            artifact = build(
                source,
                target,
                opened.folder.exports,
                tell,
                provider=provider_of(target.format, device.type),
                relative_to=opened.folder.folder,
            )
            others = tuple(each for each in opened.result.artifacts if each.path != artifact.path)
            opened = opened.noting(artifacts=(*others, artifact)).saved()
    return opened


def _source(opened: FinishedRun, tell: Tell) -> Source:
    prepared, student, seed = _with_images(opened, tell), opened.student, opened.prepared.recipe.seed
    reference = torch_runner(student, device=prepared.device)
    quantised = student.module if isinstance(student.module, Quantised) else None
    return Source(
        name="student",
        trunk=_tracer(student),
        reference=reference,
        images=proof_images(prepared, student, seed=seed),
        calibration=cache(
            lambda wanted: wanted_images(
                wanted,
                prepared.data,
                student,
                walks=prepared.walkable or student,
                seed=seed,
                device=prepared.device,
            )
        ),
        drop=accuracy_drop(reference, lambda: prepared.data),
        metadata=_metadata(opened),
        rounding=None if quantised is None else Rounding.of(quantised, student.input_shape),
        advice=partial(of_run, opened),
    )


def _with_images(opened: FinishedRun, tell: Tell) -> Prepared:
    """Return the inputs of a run; where it has no images, those of its generator, or noise, stand in for them."""
    prepared = opened.prepared
    if len(prepared.data.test) and len(prepared.data.train):
        return prepared
    generated = read_generated(opened.folder.generated, prepared.data.input_shape)
    kind = "noise" if generated is None else "images of the run's generator"
    tell(f"export: there are no training images; {kind}, and boundary images walked from there, prove and calibrate")
    images = noise_bytes(prepared.data.input_shape, prepared.recipe.seed) if generated is None else generated
    network = prepared.teacher or opened.student
    return replace(prepared, data=stand_in(prepared.data, network, images, prepared.device))


def _tracer(network: checkpoint.Network) -> Callable[[Path, int], None]:
    """Return what writes the fp32 graph of a network: tracing takes seconds, and is done once for an operator set."""
    module = network.module.plain() if isinstance(network.module, Quantised) else network.module
    traced: dict[int, bytes] = {}

    def trunk(path: Path, opset: int) -> None:
        if opset in traced:
            path.write_bytes(traced[opset])
            return
        onnx.export(module, path, input_shape=network.input_shape, opset=opset)
        traced[opset] = path.read_bytes()

    return trunk


def _metadata(opened: FinishedRun) -> dict[str, str]:
    """Return what an exported file says of itself: what it was made from, and how to use it."""
    student, teacher, recipe = opened.student, opened.prepared.teacher, opened.prepared.recipe
    facts = {
        "arch": student.arch,
        "classes": opened.prepared.data.classes,
        "mean": student.mean,
        "std": student.std,
        "data": opened.prepared.data.name,  # not its path, which is nobody's business
        "method": recipe.method.kind,
        "student_sha256": student.sha256,
        "teacher_sha256": teacher and teacher.sha256,
        "recipe_sha256": opened.result.recipe_sha256,
        "top1": opened.result.student.top1,
    }
    return {f"compress.{key}": value if isinstance(value, str) else json.dumps(value) for key, value in facts.items()}
