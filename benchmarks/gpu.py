"""All that waits for a GPU, in parts of at most eight minutes: each writes one small JSON and a line of Markdown.

    python benchmarks/gpu.py --out gpu
    python benchmarks/gpu.py --out gpu --teacher resnet26_cifar10.pt --data cifar10
    python benchmarks/gpu.py --dry-run

A part that is done is not done again: the same command goes on with those that are left, and with one that was stopped
by its time. What is missing (a GPU, a runtime, the data) is named, and the other parts run. `--dry-run` goes through
all parts on the CPU with tiny networks, to see that they run; its figures say nothing. The exit code is 1 where a part
failed or broke a stated bound; nothing depends on time.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import gpu_parts
import torch
from rounds import markdown, write_json

_GRACE_S = 20.0  # to save what a stopped part has
SECONDS = 480.0 - _GRACE_S  # of a part, at most
DONE, FAILED, MISSING, UNFINISHED = "done", "failed", "missing", "unfinished"


def main(words: list[str] | None = None) -> int:
    options = arguments(words)
    if options.part is not None:
        return _in_this_process(options)
    names = options.only or list(gpu_parts.PARTS)
    for name in names:
        print(f"{name}: {gpu_parts.PARTS[name].title}", file=sys.stderr, flush=True)
        found = _read(options, name)
        if found is None:
            found = _in_a_process(options, name)
            write_json(_file(options, name), found)
        print(_line(name, found), flush=True)
    results = {name: _stored(_file(options, name)) for name in gpu_parts.PARTS}
    rows = [(name, *_cells(found)) for name, found in results.items() if found is not None]
    (options.out / "gpu.md").write_text(markdown(("part", "state", "found"), rows) + "\n", encoding="utf-8")
    return int(any(found is not None and found["state"] == FAILED for found in map(results.get, names)))


def _in_a_process(options: argparse.Namespace, name: str) -> dict[str, Any]:
    """Run a part and return what it says, or how it ended; one that takes too long is asked to stop, then ended."""
    result = _file(options, name).with_suffix(".result.json")
    result.unlink(missing_ok=True)
    command = [sys.executable, __file__, "--part", name, "--result", str(result), *_handed_on(options)]
    with (options.out / f"{name}.log").open("w", encoding="utf-8") as log:
        child = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            code: int | None = child.wait(options.seconds)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            _end(child)
    identity = {"dry_run": options.dry_run, "commit": gpu_parts.commit()}
    found = _stored(result)
    if found is not None and code == 0:
        result.unlink()
        return {**found, **identity}
    if code is None:
        sentence = f"stopped after {options.seconds:.0f} s; the same command goes on"
        return {"state": UNFINISHED, "line": sentence, **identity}
    return {"state": FAILED, "line": f"ended with code {code}: {_last_line(options.out / f'{name}.log')}", **identity}


def _end(child: subprocess.Popen[bytes]) -> None:
    """Ask the processes of a part that still run to save and stop, and end those that do not."""
    for number, patience in ((signal.SIGINT, _GRACE_S), (signal.SIGKILL, None)):
        if child.poll() is not None:
            return
        os.killpg(child.pid, number)
        try:
            child.wait(patience)
        except subprocess.TimeoutExpired:
            continue


def _in_this_process(options: argparse.Namespace) -> int:
    """Run the one part that is asked for and write what it found."""
    part = gpu_parts.PARTS[options.part]
    device = torch.device("cpu" if options.dry_run else "cuda")
    try:
        if device.type == "cuda" and not torch.cuda.is_available():
            raise gpu_parts.Missing("PyTorch sees no GPU")
        line, values, good = part.run(
            gpu_parts.Given(device, options.dry_run, options.out, options.teacher, options.data)
        )
    except gpu_parts.Missing as missing:
        found: dict[str, Any] = {"state": MISSING, "line": str(missing)}
    else:
        found = {"state": DONE if good else FAILED, "line": line, "values": values, "device": _named(device)}
    write_json(options.result, found)
    return 0


def _named(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def _read(options: argparse.Namespace, name: str) -> dict[str, Any] | None:
    """Return what a part found before, where that still holds: done, of the same code, and not of a dry run."""
    found = _stored(_file(options, name))
    wanted = (DONE, options.dry_run, gpu_parts.commit())
    if found is None or (found["state"], found["dry_run"], found["commit"]) != wanted or options.again:
        return None
    return found


def _stored(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def _file(options: argparse.Namespace, name: str) -> Path:
    place: Path = options.out / f"{name}.json"
    return place


def _handed_on(options: argparse.Namespace) -> list[str]:
    words = ["--out", str(options.out), "--data", options.data]
    if options.teacher is not None:
        words += ["--teacher", str(options.teacher)]
    return [*words, "--dry-run"] if options.dry_run else words


def _cells(found: dict[str, Any]) -> tuple[str, str]:
    state = f"{found['state']}, dry run" if found["dry_run"] else str(found["state"])
    return state, str(found["line"]).replace("|", "/")


def _line(name: str, found: dict[str, Any]) -> str:
    return f"| {' | '.join((name, *_cells(found)))} |"


def _last_line(path: Path) -> str:
    lines = path.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1] if lines else "it said nothing"


def arguments(words: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("gpu"), help="folder for JSON, Markdown and logs")
    parser.add_argument("--only", nargs="+", choices=list(gpu_parts.PARTS), help="these parts alone")
    parser.add_argument("--again", action="store_true", help="also those that are done")
    parser.add_argument("--dry-run", action="store_true", help="tiny and on the CPU: whether it runs")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of a part, at most")
    parser.add_argument("--teacher", type=Path, help="for the tables: weights of a CIFAR ResNet-26")
    parser.add_argument("--data", default="cifar10", help="for the tables: cifar10, folder:PATH, ...")
    parser.add_argument("--part", choices=list(gpu_parts.PARTS), help=argparse.SUPPRESS)
    parser.add_argument("--result", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(words)
    options.out = options.out.absolute()
    options.out.mkdir(parents=True, exist_ok=True)
    return options


if __name__ == "__main__":
    raise SystemExit(main())
