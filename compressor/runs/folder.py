"""Run folders: where a run keeps its files, which one is the latest, and what may be written over."""

import glob
import json
import os
import shlex
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from compressor.errors import InputRejected, UsageError, did_you_mean
from compressor.files import append_text, explained, write_text
from compressor.runs.lock import LOCK, is_leftover, working

LATEST = "latest"
_BEGUN = ".compress-run"  # while a folder is to become a run, which it is with its recipe


@dataclass(frozen=True)
class Run:
    """The files of one run. Nothing is created by naming them."""

    folder: Path

    @property
    def recipe(self) -> Path:
        return self.folder / "recipe.resolved.yaml"

    @property
    def begun(self) -> Path:
        return self.folder / _BEGUN

    @property
    def student(self) -> Path:
        return self.folder / "student" / "student.safetensors"

    @property
    def exports(self) -> Path:
        return self.folder / "export"

    @property
    def last(self) -> Path:
        return self.folder / "checkpoints" / "last.ckpt"

    @property
    def best(self) -> Path:
        return self.folder / "checkpoints" / "best.ckpt"

    @property
    def metrics(self) -> Path:
        return self.folder / "metrics.jsonl"

    @property
    def bench(self) -> Path:
        return self.folder / "bench.json"

    @property
    def predictions(self) -> Path:
        return self.folder / "predictions.npz"

    @property
    def generated(self) -> Path:
        return self.folder / "generated.npy"

    @property
    def report(self) -> Path:
        return self.folder / "report" / "report.html"

    @property
    def environment(self) -> Path:
        return self.folder / "env.json"

    @property
    def tracking(self) -> Path:
        return self.folder / "tracking.json"

    @property
    def stages(self) -> Path:
        return self.folder / "stages.json"

    @property
    def log(self) -> Path:
        return self.folder / "run.log"

    def becomes(self, recipe: str) -> None:
        """Write the resolved recipe, with which the folder is a run."""
        write_text(self.recipe, recipe)
        self.begun.unlink(missing_ok=True)

    def epochs(self) -> list[dict[str, Any]]:
        """Return the metrics of the finished epochs; a last line that a crash cut short does not count."""
        if not self.metrics.exists():
            return []
        lines = self.metrics.read_text(encoding="utf-8").splitlines(keepends=True)
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def keep_epochs(self, count: int) -> None:
        """Drop the metrics of epochs after `count`, which a resumed run will write again."""
        if self.metrics.exists():
            write_text(self.metrics, "".join(json.dumps(row) + "\n" for row in self.epochs() if row["epoch"] <= count))

    def log_epoch(self, row: dict[str, Any]) -> None:
        """Append the metrics of an epoch."""
        append_text(self.metrics, json.dumps(row) + "\n")


def copied(run: Run, out: Path) -> Run:
    """Copy a run, but for its training states, to where it can be written to; whole or not at all.

    Raises:
        UsageError: `out` is there already.
        InputRejected: it cannot be written, or the run cannot be read.
    """
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise UsageError(f"{out} exists already", hint="--out takes a folder that is to be made")
    temporary = out.with_name(f".{out.name}.{os.getpid()}.part")
    left_out = shutil.ignore_patterns(Run(Path()).last.parent.name, ".*")
    try:
        with explained(out):
            out.parent.mkdir(parents=True, exist_ok=True)
            shutil.copytree(run.folder, temporary, ignore=left_out, copy_function=shutil.copyfile)
            temporary.replace(out)
    except shutil.Error as error:
        raise InputRejected(f"cannot copy {run.folder}: {error.args[0][0][2]}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return Run(out)


def resume_command(folder: Path) -> str:
    """Return the line that goes on with a run, by the verb that began it: without a teacher that is `train`."""
    from compressor.recipe.document import parse, read  # which imports PyTorch, and commands start without

    try:
        values = parse(read(Run(folder).recipe), "recipe").values
    except UsageError:
        values = None
    alone = isinstance(values, dict) and values.get("teacher") is None
    return f"compress {'train' if alone else 'distill'} --resume {shlex.quote(str(folder))}"


@contextmanager
def new_run(
    name: str, *, out: Path | None, overwrite: bool, latest: bool = True, root: Path = Path("runs")
) -> Iterator[Run]:
    """Make a run folder and hold it as `working` does: `out`, or the next free `root/NAME-n`.

    A folder becomes a run with its recipe (`Run.becomes`), which the caller writes last. What a process that was killed
    before that left behind is taken over.

    Args:
        overwrite: an earlier run in `out` gives way; files that are not a run's never do.
        latest: let `root/latest` point to the folder.

    Raises:
        UsageError: `out` holds a run and `overwrite` is not set, or it holds something else.
        InputRejected: the folder cannot be made.
    """
    with ExitStack() as held:
        try:
            run = _emptied(out, overwrite, held) if out is not None else _next(root, name, held)
            write_text(run.begun, "")  # from here on the folder is ours, whatever becomes of this process
            _forget(run)
            if latest:
                _point_latest(root, run.folder)
        except OSError as error:
            raise InputRejected(
                f"cannot make the run folder: {error.strerror}: {error.filename}", hint="--out DIR chooses another"
            ) from error
        yield run


def find(where: Path | None, *, root: Path = Path("runs")) -> Run:
    """Return the run at `where`, or the latest one.

    Raises:
        UsageError: there is no run there.
    """
    if where is None:
        latest = root / LATEST
        if not latest.exists():
            raise UsageError(
                f"no run yet: {latest} does not exist", hint="compress distill --teacher FILE --student resnet20"
            )
        name = latest.readlink() if latest.is_symlink() else Path(latest.read_text(encoding="utf-8").strip())
        where = Path(os.path.normpath(root / name))
    if not where.exists():
        beside = where.parent.iterdir() if where.parent.is_dir() else ()
        raise UsageError(
            f"no such file or folder: {where}", hint=did_you_mean(where.name, (each.name for each in beside))
        )
    if not (where / Run(where).recipe.name).is_file():
        raise UsageError(
            f"{where} is not the folder of a run: it has no {Run(where).recipe.name}",
            hint="give a folder such as runs/NAME-1",
        )
    return Run(where)


def argument(run: Run, *, root: Path = Path("runs")) -> str:
    """Return what to type after a command for this run: nothing for the latest, else its folder as a shell takes it."""
    try:
        latest = find(None, root=root).folder.resolve()
    except UsageError:
        latest = None
    return "" if run.folder.resolve() == latest else f" {shlex.quote(str(run.folder))}"


def siblings(name: str, *, root: Path = Path("runs")) -> list[Run]:
    """Return the runs `root/NAME-n`, the newest first."""
    numbered = [
        (int(path.name.removeprefix(f"{name}-")), path)
        for path in root.glob(f"{glob.escape(name)}-*")
        if path.name.removeprefix(f"{name}-").isdecimal() and is_run(path)
    ]
    return [Run(path) for _, path in sorted(numbered, reverse=True)]


def is_run(path: Path) -> bool:
    return Run(path).recipe.is_file()


def _emptied(folder: Path, overwrite: bool, held: ExitStack) -> Run:
    """Return `folder`, where it is blank or holds a run that may give way, held."""
    run = Run(folder)
    if folder.is_dir() and not is_blank(folder):
        if not is_run(folder):
            raise UsageError(
                f"{folder} is not empty and not the folder of a run",
                hint="another --out; --overwrite replaces runs, never other files",
            )
        if not overwrite:
            raise UsageError(
                f"{folder} is not empty",
                hint="--overwrite to replace it, --resume to go on with it, or another --out",
            )
    folder.mkdir(parents=True, exist_ok=True)
    held.enter_context(working(run.folder))
    return run


def _next(root: Path, name: str, held: ExitStack) -> Run:
    """Return the first `root/NAME-n` that is no run and that no other process holds, held."""
    root.mkdir(parents=True, exist_ok=True)
    for number in count(1):
        run = Run(root / f"{name}-{number}")
        if run.folder.exists() and not is_blank(run.folder):
            continue
        run.folder.mkdir(exist_ok=True)
        with ExitStack() as attempt:
            try:
                attempt.enter_context(working(run.folder))
            except UsageError:  # another process took it at this very moment
                continue
            if is_blank(run.folder):  # and did not end with it in between
                held.enter_context(attempt.pop_all())
                return run
    raise AssertionError("numbers do not end")


def is_blank(folder: Path) -> bool:
    """Whether a folder is empty, or one that a run was to be made in by a process that did not come so far."""
    if not folder.is_dir() or is_run(folder):
        return False
    return (folder / _BEGUN).is_file() or all(each.name == LOCK or _is_half_begun(each) for each in folder.iterdir())


def _is_half_begun(path: Path) -> bool:
    """Whether this is the mark of a begun run that a process was killed while writing."""
    return path.name.startswith(f".{_BEGUN}.") and is_leftover(path)


def _forget(run: Run) -> None:
    """Remove the files of an earlier run that a new one would otherwise seem to own."""
    files = {getattr(run, name) for name, member in vars(Run).items() if isinstance(member, property)}
    names = [
        run.recipe,
        *sorted(files - {run.begun, run.log, run.exports}),
        *(run.folder / name for name in ("result.json", "manifest.json", "model-card.md", "bom.cdx.json")),
    ]
    made = [path for folder in (run.exports, run.report.parent) if folder.is_dir() for path in folder.iterdir()]
    for path in [*names, *made]:  # the recipe first: without it the folder is no run any more, whatever happens
        path.unlink(missing_ok=True)


def _point_latest(root: Path, folder: Path) -> None:
    root.mkdir(parents=True, exist_ok=True)
    link = root / LATEST
    target = os.path.relpath(folder, root)  # relative, so that the runs folder can be moved
    if link.is_symlink() or link.is_file():
        link.unlink()
    try:
        link.symlink_to(target, target_is_directory=True)
    except OSError:  # file systems without links get a text file with the path
        write_text(link, f"{target}\n")
