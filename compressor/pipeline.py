"""The whole path, one function a stage: train, export, validate, bench. Each leaves its part in `result.json`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch

from compressor import baseline as baselines
from compressor import bench as benchmark
from compressor import checkpoint
from compressor.artifacts import exporter_of, facts, open_artifact, torch_runner
from compressor.bench import Latency
from compressor.errors import InputRejected, UsageError
from compressor.exam import grade, set_exam
from compressor.files import replacing, write_text
from compressor.gates import evaluate_gates, promised, unmeasurable
from compressor.hardware import clashes, hardware, versions
from compressor.prepare import Prepared, choose_device, open_inputs, prepare
from compressor.progress import Tell
from compressor.proof import proof_images, prove
from compressor.recipe import Bench, Data, Export, Recipe, Teacher, Validate, dump, load, require_runnable
from compressor.report import record
from compressor.runs import Run, create, find
from compressor.student import new_state, train_student
from exporters import Exporter, Runner

AnyMetrics = TypeVar("AnyMetrics", bound=record.Metrics)


def check(recipe: Recipe) -> None:
    """Refuse what could only fail after hours.

    Raises:
        UsageError: the recipe lacks a teacher or data, or a gate is on something no stage measures.
    """
    require_runnable(recipe)
    problems = unmeasurable(recipe)
    if problems:
        raise UsageError(problems[0], hint="; ".join(problems[1:]) or None)


def run(recipe: Recipe, tell: Tell, *, out: Path | None = None, overwrite: bool = False) -> record.Result:
    """Do it all: train, export, validate, bench, gates."""
    exporters = [exporter_of(target.format) for target in recipe.export]  # a missing runtime is known before training
    opened = _train(recipe, tell, out=out, overwrite=overwrite)
    opened = _export(opened, list(zip(recipe.export, exporters, strict=True)), tell)
    opened = _validate(opened, tell)
    return _bench(opened, recipe.bench, tell).result


def train(recipe: Recipe, tell: Tell, *, out: Path | None = None, overwrite: bool = False) -> tuple[record.Result, Run]:
    """Train the student of a recipe, from its teacher where the method has one, into a new run folder."""
    opened = _train(recipe, tell, out=out, overwrite=overwrite)
    return opened.result, opened.folder


def resume(where: Path, tell: Tell) -> tuple[record.Result, Run]:
    """Go on with a run where it stopped; on a CPU the student ends with the very weights of an undisturbed run."""
    folder = find(where)
    tell.keep(folder.log)
    prepared = prepare(load(folder.recipe), tell, examine=False)
    state = new_state(prepared)
    if folder.last.exists():
        state.load_state_dict(checkpoint.load_state(folder.last))
    folder.keep_epochs(state.epoch)
    tell(f"run: {folder.folder}, resuming after {state.epoch} of {prepared.recipe.train.epochs} epochs")
    return train_student(prepared, state, folder, tell), folder


def export(
    where: Path | None,
    tell: Tell,
    *,
    format_: str | None = None,
    precision: str | None = None,
    opset: int | None = None,
) -> record.Result:
    """Export the student of a run, as its recipe says or as asked, and prove each file against the network.

    Raises:
        ExportFailed: a file could not be made, or does not answer as the network does; it is not left behind.
    """
    asked = {key: value for key, value in {"format": format_, "precision": precision, "opset": opset}.items() if value}
    folder = find(where)
    targets = load(folder.recipe, values={"export": [asked]} if asked else {}).export
    exporters = [exporter_of(target.format) for target in targets]  # before anything slow
    return _export(_open(folder, tell), list(zip(targets, exporters, strict=True)), tell).result


def validate(where: Path | None, tell: Tell, *, device: str | None = None) -> record.Result:
    """Give every file of a run the same exam, and hold the gates that are measured by now."""
    return _validate(_open(find(where), tell, device=device), tell).result


def bench(
    where: Path | None,
    settings: Mapping[str, Any],
    tell: Tell,
    *,
    device: str | None = None,
    baseline: Path | None = None,
) -> record.Result:
    """Time every file of a run, in turn, so that their ratios hold, and hold the gates that are measured by now."""
    before = None if baseline is None else baselines.read(baseline)
    opened = _open(find(where), tell, device=device)
    config = opened.prepared.recipe.bench.model_copy(update=dict(settings))
    return _bench(opened, config, tell, before).result


def validate_file(
    path: Path, data: Data, teacher: Teacher | None, tell: Tell, *, device: str | None = None
) -> record.Metrics:
    """Examine one artifact on `data`, and against a teacher where there is one."""
    config, seed = Validate(), 0
    inputs = open_inputs(data, teacher, tell, device=choose_device(device or "auto"), examine=True)
    runner = open_artifact(path, device=inputs.device, data=inputs.data)
    if runner.classes != len(inputs.data.classes):
        raise InputRejected(
            f"{path} has {runner.classes} classes, {inputs.data.source} has {len(inputs.data.classes)}",
            hint="--data names the data that it was trained for",
        )
    taught = None if inputs.teacher is None else torch_runner(inputs.teacher, device=inputs.device)
    exam = set_exam(inputs, config, teacher_runner=taught, student=None, seed=seed)
    tell(f"examining {path}: {exam.sentence}")
    return record.Metrics(**facts(runner), **grade(runner, exam))


def bench_file(
    path: Path, settings: Mapping[str, Any], tell: Tell, *, device: str | None = None, baseline: Path | None = None
) -> record.Metrics:
    """Time one artifact."""
    before = None if baseline is None else baselines.read(baseline)
    config = Bench().model_copy(update=dict(settings))
    runner = open_artifact(path, device=choose_device(device or "auto"), threads=config.threads)
    times = benchmark.bench(runner, config)
    _say({path.name: times}, before, tell)
    return record.Metrics(**facts(runner), latency_ms={str(each.batch): _timing(each) for each in times})


@dataclass(frozen=True)
class _Opened:
    """A run whose student is trained."""

    folder: Run
    prepared: Prepared
    student: checkpoint.Network
    result: record.Result

    def noting(self, **changes: Any) -> _Opened:
        """Return the same with changes in the result."""
        return _Opened(self.folder, self.prepared, self.student, self.result.model_copy(update=changes))


def _train(recipe: Recipe, tell: Tell, *, out: Path | None, overwrite: bool) -> _Opened:
    check(recipe)
    prepared = prepare(recipe, tell)
    state = new_state(prepared)
    folder = create(recipe.name, out=out, overwrite=overwrite)
    tell.keep(folder.log)
    tell(f"run: {folder.folder}")
    write_text(folder.recipe, dump(prepared.recipe))
    write_text(folder.environment, json.dumps({"versions": versions(), "hardware": hardware()}, indent=2) + "\n")
    for clash in clashes():
        tell(f"warning: {clash}")
    result = train_student(prepared, state, folder, tell)
    return _Opened(folder, prepared, _student(folder, prepared), result)


def _export(opened: _Opened, targets: Sequence[tuple[Export, Exporter]], tell: Tell) -> _Opened:
    student = torch_runner(opened.student, device=opened.prepared.device)
    images = proof_images(opened.prepared, opened.student, seed=opened.prepared.recipe.seed)
    for target, module in targets:
        path = opened.folder.exports / f"student.{target.precision}{module.SUFFIX}"
        with replacing(path) as candidate:
            module.export(
                opened.student.module,
                candidate,
                input_shape=opened.student.input_shape,
                precision=target.precision,
                metadata=_metadata(opened),
                opset=target.opset,
            )
            proof = prove(module.load(candidate), student, images)
        tell(f"exported {path}: {proof.samples} images, largest error of a logit {proof.max_error:.2g}")
        artifact = record.Artifact(**facts(module.load(path), relative_to=opened.folder.folder), parity=proof)
        others = tuple(each for each in opened.result.artifacts if each.path != artifact.path)
        opened = opened.noting(artifacts=(*others, artifact))
    return _save(opened)


def _validate(opened: _Opened, tell: Tell) -> _Opened:
    prepared, result = opened.prepared, opened.result
    files = _files(opened)
    exam = set_exam(
        prepared,
        prepared.recipe.validation,
        teacher_runner=files.get("teacher"),
        student=opened.student,
        seed=prepared.recipe.seed,
    )
    tell(f"examining {len(files)} files: {exam.sentence}")

    def graded(name: str, metrics: AnyMetrics) -> AnyMetrics:
        return metrics.model_copy(update=grade(files[name], exam, teacher=name == "teacher"))

    return _save(
        opened.noting(
            teacher=result.teacher and graded("teacher", result.teacher),
            student=graded("student", result.student),
            artifacts=tuple(graded(artifact.path, artifact) for artifact in result.artifacts),
            data=result.data.model_copy(update=exam.sizes),
        )
    )


def _bench(opened: _Opened, config: Bench, tell: Tell, before: baselines.Benchmark | None = None) -> _Opened:
    result = opened.result
    files = _files(opened, threads=config.threads)
    tell(f"timing {len(files)} files at batch sizes {', '.join(map(str, config.batch_sizes))}")
    times = dict(zip(files, benchmark.bench_many(list(files.values()), config), strict=True))
    baselines.write(opened.folder.bench, times)

    def timed(name: str, metrics: AnyMetrics) -> AnyMetrics:
        return metrics.model_copy(update={"latency_ms": {str(each.batch): _timing(each) for each in times[name]}})

    opened = _save(
        opened.noting(
            teacher=result.teacher and timed("teacher", result.teacher),
            student=timed("student", result.student),
            artifacts=tuple(timed(artifact.path, artifact) for artifact in result.artifacts),
        )
    )
    _say(times, before, tell)  # last: a baseline that does not fit must not cost the measurement
    return opened


def _open(folder: Run, tell: Tell, *, device: str | None = None) -> _Opened:
    tell.keep(folder.log)
    result = record.read(folder.folder)
    recipe = load(folder.recipe)
    if device is not None:
        recipe = recipe.model_copy(update={"device": device})
    tell(f"run: {folder.folder}")
    prepared = prepare(recipe, Tell(quiet=True), examine=False)  # all was said when the student was trained
    return _Opened(folder, prepared, _student(folder, prepared), result)


def _student(folder: Run, prepared: Prepared) -> checkpoint.Network:
    student = checkpoint.load_network(folder.student, arch=prepared.recipe.student.arch)
    student.module.to(prepared.device)
    return student


def _files(opened: _Opened, *, threads: int | None = None) -> dict[str, Runner]:
    """Open every file of a run, by name: teacher, student, then the artifacts by their paths."""
    device = opened.prepared.device
    files: dict[str, Runner] = {}
    if opened.prepared.teacher is not None:
        files["teacher"] = torch_runner(opened.prepared.teacher, device=device, threads=threads)
    files["student"] = torch_runner(opened.student, device=device, threads=threads)
    for artifact in opened.result.artifacts:
        path = opened.folder.folder / artifact.path
        files[artifact.path] = open_artifact(path, device=torch.device(artifact.provider), threads=threads)
    return files


def _save(opened: _Opened) -> _Opened:
    """Judge the gates on what is known by now, and write the record."""
    gates, result = opened.prepared.recipe.gates, opened.result
    judged: tuple[record.Metrics, ...] = result.artifacts or (result.student,)
    verdicts = tuple(
        verdict for metrics in judged for verdict in evaluate_gates(gates, metrics, teacher=result.teacher)
    )
    opened = opened.noting(gates=verdicts, passed=promised(verdicts))
    opened.result.write(opened.folder.folder)
    return opened


def _metadata(opened: _Opened) -> dict[str, str]:
    """Return what an exported file says of itself: what it was made from, and how to use it."""
    student, teacher, recipe = opened.student, opened.prepared.teacher, opened.prepared.recipe
    pixels = "RGB" if student.input_shape[0] == 3 else "grey"
    facts = {
        "arch": student.arch,
        "classes": opened.prepared.data.classes,
        "input": f"{pixels} pixels in [0, 1], NCHW; mean and std are applied inside",
        "mean": student.mean,
        "std": student.std,
        "output": "logits",
        "data": opened.prepared.data.name,  # not its path, which is nobody's business
        "method": recipe.method.kind,
        "student_sha256": student.sha256,
        "teacher_sha256": teacher and teacher.sha256,
        "recipe_sha256": opened.result.recipe_sha256,
        "top1": opened.result.student.top1,
    }
    return {f"compress.{key}": value if isinstance(value, str) else json.dumps(value) for key, value in facts.items()}


def _say(times: Mapping[str, tuple[Latency, ...]], before: baselines.Benchmark | None, tell: Tell) -> None:
    """Say what the numbers mean: noise, INT8 that does not pay, and changes against a baseline."""
    noise = [latency.noisy for latencies in times.values() for latency in latencies if latency.noisy]
    if noise:
        tell(f"warning: {noise[0]}; repeat when nothing else runs")
    for sentence in baselines.slow_int8(times):
        tell(f"warning: {sentence}")
    if before is None:
        return
    other = baselines.other_machine(before)
    if other:
        tell(f"warning: {other}")
    for name in times:
        if name not in before.latencies:
            tell(f"{name} is not in the baseline")
            continue
        for change in baselines.compare(times[name], before.latencies[name]):
            sure = "" if change.clear else ", within the noise"
            tell(
                f"{name} batch {change.batch} p{change.percentile}: {change.now_ms:.3g} ms, "
                f"{change.ratio:.2f}x the baseline's {change.baseline_ms:.3g} ms{sure}"
            )


def _timing(latency: Latency) -> record.Timing:
    return record.Timing(
        p50=latency.at(50),
        p90=latency.at(90),
        p95=latency.at(95),
        p99=latency.at(99),
        mean=latency.mean_ms,
        median_ci=latency.median_interval,
        images_per_s=latency.throughput,
        iterations=len(latency.samples_ms),
        threads=latency.threads,
        transfers=latency.transfers,
        other_load=latency.other_load,
    )
