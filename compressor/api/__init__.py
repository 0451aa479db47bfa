"""What the commands do, as functions that take the caller's own networks and data sets; see docs/python.md.

A network or a data set may be named as on the command line, or given as an object. A function or class of an importable
module goes by its name, `package.module:name`, so that a later process finds it too; any other object goes by
`given:NAME`, and a run that was made of one can be opened only where it is given again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from torch import nn

from compressor import checkpoint, pipeline
from compressor.api.given import Network, arch_of, data_name, weights_file
from compressor.errors import UsageError
from compressor.models import Normalized
from compressor.pipeline import Normalisation
from compressor.pipeline import compare as comparing
from compressor.pipeline.bench import NO_OPTIONS, BenchOptions
from compressor.pipeline.finished_run import stored_recipe
from compressor.pipeline.foreign import UNSTATED
from compressor.presets import find
from compressor.progress import Tell
from compressor.recipe import Data, Export, Override, Recipe, Teacher, build, load, section
from compressor.recipe.code import code_named
from compressor.report.comparison import Comparison
from compressor.runs import folder as run_folder
from compressor.runs import record
from compressor.runs.stages import Stage

# Recipe keys by dotted names, such as {"train.lr": 0.05}; or overrides, as commands make them of what was typed.
Settings = Mapping[str, Any] | Sequence[Override]


@dataclass(frozen=True)
class Run:
    """A run folder whose student is trained. The record is read from it anew each time, so it is never stale.

    `allow` is code of your own, `package.module:name`, that the run may import: what its recipe names is imported only
    where you name it too, since a run folder may come from elsewhere. The functions here name what they were given.
    """

    folder: Path
    allow: tuple[str, ...] = ()

    @property
    def result(self) -> record.Result:
        """All that is known of the run, as `result.json` has it."""
        return record.read(self.folder)

    @property
    def recipe(self) -> Recipe:
        """What was asked for, every default written out. Code that it names is not imported for this."""
        return load(run_folder.Run(self.folder).recipe)

    @property
    def student(self) -> nn.Module:
        """The student, in eval mode on the CPU: images `[B, C, H, W]` in `[0, 1]` to logits `[B, K]`."""
        stored = run_folder.Run(self.folder)
        arch = stored_recipe(stored, allow=self.allow).student.arch
        return checkpoint.load_network(stored.student, arch=arch).module.eval()

    def export(
        self, *, settings: Settings | None = None, device: str | None = None, tell: Tell | None = None, **target: Any
    ) -> record.Result:
        """Export the student, and prove the file; see `export`. Without any key, all that the recipe exports."""
        place = ("export", 0)
        overrides = [*_overrides(target, below=place), *_overrides(settings, below=place)]
        return pipeline.export(self.folder, _tell(tell), overrides=overrides, device=device, allow=self.allow)

    def validate(
        self,
        *,
        settings: Settings | None = None,
        device: str | None = None,
        out: Path | str | None = None,
        tell: Tell | None = None,
    ) -> record.Result:
        """Measure every file on the same images, boundary images among them.

        Args:
            settings: keys of the recipe for this call only, `{"validate.boundary_samples": 64}`.
            out: a folder for a copy of the run without its training states, which is measured in its place.
        """
        return pipeline.validate(
            self.folder,
            _tell(tell),
            device=device,
            overrides=_overrides(settings),
            allow=self.allow,
            out=_path(out),
        )

    def benchmark(
        self,
        *,
        settings: Settings | None = None,
        device: str | None = None,
        options: BenchOptions = NO_OPTIONS,
        tell: Tell | None = None,
    ) -> record.Result:
        """Time every file, in turn; see `benchmark`."""
        return pipeline.bench(
            self.folder,
            _tell(tell),
            device=device,
            options=options,
            overrides=_overrides(settings, below=("bench",)),
            allow=self.allow,
        )

    def report(self, *, tell: Tell | None = None) -> Path:
        """Write the page of the run, and return where it is."""
        return pipeline.report([self.folder], _tell(tell), allow=self.allow)

    def _repr_html_(self) -> str:
        """What a notebook shows of a run: the table of its files."""
        cells = (
            (file.label, "" if file.metrics.top1 is None else f"{file.metrics.top1:.2f} %", file.metrics.size_bytes)
            for file in self.result.files()
        )
        rows = "".join(f"<tr>{''.join(f'<td>{escape(str(cell))}</td>' for cell in row)}</tr>" for row in cells)
        head = "<tr><th>file</th><th>top-1</th><th>bytes</th></tr>"
        return f"<b>{escape(str(self.folder))}</b><table>{head}{rows}</table>"


def train(
    student: Network | None = None,
    data: Any = None,
    *,
    recipe: str | Path | Recipe | None = None,
    settings: Settings | None = None,
    out: Path | str | None = None,
    overwrite: bool = False,
    tell: Tell | None = None,
) -> Run:
    """Train a network on labels alone: a teacher to be, or a baseline.

    Args:
        student: a name (`resnet20`), a function that makes a network of `classes` and `input_shape`, or a network;
            left out, as the recipe says, like all else.
        data: a name (`cifar10`, `folder:PATH`), a data set of yours, or a pair of them (train, test).
        recipe: a file, a shipped name or a recipe to start from.
        settings: recipe keys by dotted names that replace what the recipe says, `{"train.epochs": 10}`.
        out: the run folder; by default the next free one in `runs/`.
        tell: who is told of the progress; `Tell(quiet=True)` keeps silent.

    Raises:
        CompressError: as the command would say it.
    """
    given = {**({} if recipe is not None else {"method": {"kind": "ce"}}), **_sections(student, data)}
    return _trained(_recipe(recipe, given, settings), out=_path(out), overwrite=overwrite, tell=tell)


def distill(
    teacher: Network | Run | Sequence[Network | Run] | None = None,
    student: Network | None = None,
    data: Any = None,
    *,
    method: str | Mapping[str, Any] | None = None,
    recipe: str | Path | Recipe | None = None,
    settings: Settings | None = None,
    out: Path | str | None = None,
    overwrite: bool = False,
    tell: Tell | None = None,
) -> Run:
    """Train a student from a teacher.

    Args:
        teacher: a checkpoint, a run, or a network of yours that is trained; several where the method takes them.
            Without `settings` for `teacher.mean` and `teacher.std`, a network is taken to expect the data's own.
        student, data: as for `train`; the student may come from the recipe, the data from the teacher.
        method: a name, `{"kind": "bss", ...}`, or nothing: as the recipe says, boundary supporting samples by default.
    """
    target = _path(out)
    given = _sections(student, data)
    if teacher is None:
        pass  # the recipe names it
    elif isinstance(teacher, Sequence) and not isinstance(teacher, str):
        given["teachers"] = [_teacher(each, number, target) for number, each in enumerate(teacher)]
    else:
        given["teacher"] = _teacher(teacher, 0, target)
    if method is not None:
        given["method"] = {"kind": method} if isinstance(method, str) else dict(method)
    chosen = _recipe(recipe, given, settings)
    if chosen.teacher is None:
        raise UsageError("distill needs a teacher", hint="--teacher FILE, or compress train for a network alone")
    return _trained(chosen, out=target, overwrite=overwrite, tell=tell)


def run(
    recipe: str | Path | Recipe,
    *,
    settings: Settings | None = None,
    out: Path | str | None = None,
    overwrite: bool = False,
    start: Stage | None = None,
    page: bool = True,
    tell: Tell | None = None,
) -> Run:
    """Do all of a recipe: train, export, validate, bench, gates, report; what is done already is left alone.

    Gates are judged and recorded, `run(...).result.passed`, and raise nothing.

    Args:
        start: do this stage and all later ones again.
        page: write `report/report.html`.
    """
    chosen = _recipe(recipe, {}, settings)
    _, folder = pipeline.run(chosen, _tell(tell), out=_path(out), overwrite=overwrite, start=start, page=page)
    return Run(folder.folder, tuple(code_named(chosen)))


def resume(where: Path | str, *, allow: Sequence[str] = (), tell: Tell | None = None) -> Run:
    """Go on with a training that was stopped; on a CPU it ends with the weights of an undisturbed one.

    Args:
        allow: code of your own that the run names, see `Run`.
    """
    return Run(pipeline.resume(Path(where), _tell(tell), allow=allow)[1].folder, tuple(allow))


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
        section(Export, place, [*_overrides(target, below=place), *_overrides(settings, below=place)]),
        _data_section(data),
        _teacher_section(teacher),
        _tell(tell),
        out=_path(out),
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
        _data_section(data),
        _teacher_section(teacher),
        _tell(tell),
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
    image_size: int | None = None,
    output_name: str | None = None,
    tell: Tell | None = None,
) -> record.Metrics:
    """Time one file on this machine; `Run.benchmark` times all files of a run, in turn.

    Args:
        settings: keys of a recipe's `bench`, `{"batch_sizes": [1, 8]}`.
        format, provider: as for `validate`.
        options: what is asked beyond the numbers: a baseline, a latency to stay within, a file for every sample.
        image_size, output_name: height and width of an ONNX file's images, and which output counts, where it leaves
            that open.
    """
    return pipeline.bench_file(
        Path(what),
        _tell(tell),
        device=device,
        format_=format,
        provider=provider,
        options=options,
        overrides=_overrides(settings, below=("bench",)),
        data=Data(image_size=image_size),
        given=Normalisation(output=output_name),
    )


def compare(
    recipe: str | Path | Recipe,
    *,
    methods: Sequence[str] = ("ce", "kd", "bss"),
    seeds: Sequence[int] = (0, 1, 2),
    students: Sequence[str] = (),
    teachers: Sequence[str | Path] = (),
    vary: Mapping[str, Sequence[Any]] | None = None,
    settings: Settings | None = None,
    out: Path | str | None = None,
    jobs: int | None = None,
    tell: Tell | None = None,
) -> Comparison:
    """Train every method on every student from every seed, in processes of their own, and compare in pairs.

    What is trained is named, not given as an object, since other processes must find it.

    Args:
        methods: names, `package.module:name`, or files with a section `method`.
        teachers: checkpoints or run folders, in place of the recipe's.
        vary: recipe keys by dotted names and the values that each takes, `{"train.lr": [0.05, 0.1]}`.
    """
    chosen = _recipe(recipe, {}, settings)
    planned = comparing.plan(
        chosen,
        _tell(tell),
        methods=methods,
        seeds=seeds,
        students=students,
        teachers=teachers,
        vary=vary,
        out=_path(out),
        jobs=jobs,
    )
    return comparing.compare(planned, _tell(tell))


def _trained(recipe: Recipe, *, out: Path | None, overwrite: bool, tell: Tell | None) -> Run:
    _, folder = pipeline.train(recipe, _tell(tell), out=out, overwrite=overwrite)
    return Run(folder.folder, tuple(code_named(recipe)))


def _recipe(recipe: str | Path | Recipe | None, given: Mapping[str, Any], settings: Settings | None) -> Recipe:
    """Return the recipe to go by: `given` sections over what it says, and `settings` over both."""
    changes = [Override((key,), value) for key, value in given.items()] + _overrides(settings)
    if isinstance(recipe, Recipe):
        return build(recipe.model_dump(mode="json", by_alias=True), changes, base=Path.cwd())
    if recipe is not None:
        return load(find(str(recipe)), changes, trusted=True)
    arch = given.get("student", {}).get("arch", "")
    name = "".join(letter if letter.isalnum() or letter in "_.+-" else "-" for letter in arch).strip("-.")
    return build({"name": name or "run"}, changes, base=Path.cwd())


def _sections(student: Network | None, data: Any) -> dict[str, Any]:
    """Return what a recipe says of the student and the data that were given."""
    sections: dict[str, Any] = {}
    if student is not None:
        sections["student"] = {"arch": arch_of(student, "student")}
    if data is not None:
        sections["data"] = {"name": data_name(data)}
    return sections


def _teacher(teacher: Network | Run, number: int, out: Path | None) -> dict[str, Any]:
    """Return the section of a teacher; the weights of a network are written to a file of their own first."""
    if isinstance(teacher, Run):
        trained = stored_recipe(run_folder.Run(teacher.folder), allow=teacher.allow)
        return {"checkpoint": str(teacher.folder), "arch": trained.student.arch}
    if isinstance(teacher, str | Path):
        return {"checkpoint": str(teacher)}
    if not isinstance(teacher, nn.Module):
        raise UsageError("a teacher is a network that is trained, and a function makes a new one")
    bare = teacher.network if isinstance(teacher, Normalized) else teacher
    made: dict[str, Any] = {"checkpoint": str(weights_file(bare, out)), "arch": arch_of(bare, f"teacher{number}")}
    if isinstance(teacher, Normalized):
        made |= {"mean": teacher.mean.flatten().tolist(), "std": teacher.std.flatten().tolist()}
    return made


def _teacher_section(teacher: Path | str | Teacher | None) -> Teacher | None:
    return teacher if teacher is None or isinstance(teacher, Teacher) else Teacher(checkpoint=Path(teacher))


def _data_section(data: Any) -> Data:
    if isinstance(data, Data):
        return data
    return section(Data, ("data",), [] if data is None else [Override(("data", "name"), data_name(data))])


def _overrides(settings: Settings | None, below: tuple[str | int, ...] = ()) -> list[Override]:
    """Return settings as overrides of a recipe; those that are overrides already say where they stand."""
    if not isinstance(settings, Mapping):
        return list(settings or ())
    return [
        Override((*below, *(int(part) if part.isdecimal() else part for part in name.split("."))), value)
        for name, value in settings.items()
    ]


def _path(path: Path | str | None) -> Path | None:
    return None if path is None else Path(path)


def _tell(tell: Tell | None) -> Tell:
    """Return one for this call alone: each keeps the log of the run it works in."""
    return Tell() if tell is None else Tell(tell.console, quiet=tell.quiet)
