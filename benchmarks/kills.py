"""Kill a run at every file operation, type the same command again, and see that nothing is lost, left over or blocked.

    python benchmarks/kills.py                 # every operation, with and without --out: some minutes
    python benchmarks/kills.py --points 5      # a few, evenly spread

A process is killed (SIGKILL, nothing is cleaned up) right before its n-th operation on a file or folder of the run:
opening for writing, renaming, removing, making or linking. The same command is then run to its end, and must leave the
bytes of a run that was never disturbed: student, exported file, number of epochs; no half-written file; one run folder.
"""

import argparse
import contextlib
import io
import json
import os
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

os.environ.setdefault("SOURCE_DATE_EPOCH", "0")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: a process with one thread can be forked

from compressor.pipeline import run
from compressor.progress import Tell
from compressor.recipe import Recipe, build

_PATHS = {"open": 0, "os.rename": 1, "os.remove": 0, "os.mkdir": 0, "os.rmdir": 0, "os.symlink": 1, "os.truncate": 0}
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
_SAME = ("student/student.safetensors", "export/student.fp32.onnx")


def recipe() -> Recipe:
    """Return a run of all stages that takes a second."""
    values = {
        "name": "kills",
        "data": {"name": "digits", "batch_size": 647},
        "student": {"arch": "lenet5-half"},
        "method": {"kind": "ce"},
        "train": {"epochs": 2, "lr": 0.05, "schedule": {"kind": "constant"}},
        "validate": {"boundary_samples": 0, "attack_samples": 16},
        "bench": {"batch_sizes": [1], "warmup_s": 0.0, "duration_s": 0.01, "min_iterations": 3},
    }
    return build(values, [], base=Path.cwd())


def forked(do: Callable[[], None]) -> int:
    """Run `do` in a process of its own; return its exit code, negative for a signal."""
    child = os.fork()
    if child == 0:
        try:
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                do()
        except BaseException:
            traceback.print_exc(file=sys.__stderr__)
            os._exit(1)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    return os.waitstatus_to_exitcode(status)


def whole(out: str | None) -> None:
    run(recipe(), Tell(quiet=True), out=None if out is None else Path(out), page=False)


def watched(folder: Path, at: int | None, counted: Path) -> None:
    """Count the operations below `folder` in this process, into a file beside it, and die before operation `at`."""
    count = 0

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal count
        place = _PATHS.get(event)
        if place is None or not isinstance(arguments[place], str | bytes | os.PathLike):
            return
        path = Path(os.fsdecode(arguments[place]))
        if event == "open" and not int(arguments[2] or 0) & _WRITING:
            return
        if path == counted or not (Path.cwd() / path).is_relative_to(folder):
            return
        count += 1
        if count == at:
            os.kill(os.getpid(), signal.SIGKILL)
        if at is None:
            os.write(ledger, b".")

    ledger = os.open(counted, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    sys.addaudithook(hook)


@contextlib.contextmanager
def place() -> Iterator[Path]:
    """Work in a new folder."""
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as name:
        os.chdir(name)
        try:
            yield Path(name).resolve()
        finally:
            os.chdir(before)


def state(folder: Path) -> dict[str, object]:
    """Return what must be as in an undisturbed run."""
    result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    artifact = result["artifacts"][0]
    return {
        **{name: (folder / name).read_bytes() for name in _SAME},
        "epochs": [json.loads(line)["epoch"] for line in (folder / "metrics.jsonl").read_text().splitlines()],
        "measured": (artifact["top1"], artifact["latency_ms"] is not None, result["training"]["best_epoch"]),
    }


def leftovers(root: Path) -> list[str]:
    """Return half-written files, and run folders beyond the one."""
    half = [path for path in root.rglob(".*") if path.name.endswith(".part") or path.name.startswith(".building-")]
    more = [path for path in root.glob("runs/kills-*") if path.name != "kills-1"]
    return [str(path.relative_to(root)) for path in (*half, *more)]


def trial(
    out: str | None, at: int | None, right: dict[str, object] | None
) -> tuple[int, str | None, dict[str, object]]:
    """Kill one run and go on with it; return how many operations an undisturbed one has, and what is wrong."""
    with place() as root:
        counted = root.parent / f"{root.name}.count"
        folder = root / (out or "runs/kills-1")

        def killed() -> None:
            watched(root, at, counted)
            whole(out)

        code = forked(killed)
        operations = counted.stat().st_size
        counted.unlink()
        if at is None:
            return operations, None if code == 0 else f"the undisturbed run ended with {code}", state(folder)
        if code != -signal.SIGKILL:
            return 0, None if code == 0 else f"ended with {code} before it was killed", {}
        code = forked(lambda: whole(out))
        if code != 0:
            return 0, f"blocked: the same command ended with {code}", {}
        if not (folder / "result.json").exists():
            there = sorted(str(path.relative_to(root)) for path in root.glob("*/*"))
            return 0, f"no result in {folder.relative_to(root)}; there are {', '.join(there)}", {}
        now = state(folder)
        other = [name for name, value in now.items() if right is not None and value != right[name]]
        left = leftovers(root)
        if other or left:
            return 0, f"differs: {', '.join(other) or 'nothing'}; left over: {', '.join(left) or 'nothing'}", now
        return 0, None, now


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, help="operations to kill at, evenly spread; all of them by default")
    options = parser.parse_args()
    wrong = 0
    for out in (None, "mine"):
        operations, reason, right = trial(out, None, None)
        if reason is not None:
            print(reason)
            return 1
        step = max(1, operations // options.points) if options.points else 1
        points = range(1, operations + 1, step)
        found = {at: said for at in points if (said := trial(out, at, right)[1])}
        wrong += len(found)
        where = "without --out" if out is None else f"with --out {out}"
        print(f"{where}: {operations} operations, killed before {len(points)} of them, {len(found)} wrong")
        for at, said in found.items():
            print(f"  before operation {at}: {said}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
