"""How time and memory of training grow: with classes, images, image size, attack size and steps, and the batch.

    python benchmarks/growth.py --out growth
    python benchmarks/growth.py --out growth --only images batch

ResNet-26 teaches ResNet-8 with `bss`, on made images. One thing grows at a time, from `BASE`. Each point is measured in
a process of its own, so that its memory is its own: the peak of the process on a CPU, of the allocator on a GPU. Prints
a table and the exponents of growth between the ends of each (0: none, 1: in proportion), and draws them all. A point
that does not fit in memory is named, and the others go on. Nothing depends on the figures.
"""

import argparse
import json
import math
import resource
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
import trainings
from rounds import machine, markdown, seconds, write_json

from compressor.report.drawing import drawing

BASE = {"classes": 10, "images": 10_000, "size": 32, "attack": 64, "steps": 10, "batch": 256}
GROWN: dict[str, tuple[int, ...]] = {
    "classes": (10, 100, 1000),
    "images": (10_000, 100_000, 1_000_000),
    "size": (32, 64, 128, 224),
    "attack": (16, 64, 256),
    "steps": (1, 3, 10, 30),
    "batch": (64, 256, 1024),
}
TITLES = {
    "classes": "classes",
    "images": "training images",
    "size": "height and width, pixels",
    "attack": "attacked images a step",
    "steps": "steps of an attack, at most",
    "batch": "images a step",
}
FIGURES = {"ms": "ms a step", "epoch_s": "s an epoch", "memory_mb": "MB at most"}


def main(words: list[str] | None = None) -> dict[str, Any]:
    options = arguments(words)
    if options.threads:
        torch.set_num_threads(options.threads)
    if options.point is not None:
        print(json.dumps(measured(json.loads(options.point), options)))
        return {}
    device = torch.device(options.device)
    rows: dict[str, list[dict[str, Any]]] = {}
    for name in options.only:
        rows[name] = [point(name, value, options) for value in options.grown[name]]
    lines = [table(name, found) for name, found in rows.items()]
    print("\n\n".join(lines))
    result = {**machine(device), "base": BASE, "rows": rows}
    if options.out is not None:
        write_json(options.out / "growth.json", result)
        (options.out / "growth.md").write_text("\n\n".join(lines) + "\n", encoding="utf-8")
        draw(rows, options.out / "growth.svg")
    return result


def point(name: str, value: int, options: argparse.Namespace) -> dict[str, Any]:
    """Measure in a process of its own; a point that fails says how."""
    given = {**BASE, **options.base, name: value}
    print(f"{name} {value:,}", file=sys.stderr, flush=True)
    command = [sys.executable, __file__, "--point", json.dumps(given), "--device", options.device]
    command += ["--threads", str(torch.get_num_threads()), "--timed", str(options.timed), "--warm", str(options.warm)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        said = done.stderr.strip().splitlines()
        return {"value": value, "failed": said[-1] if said else f"ended with code {done.returncode}"}
    return {"value": value, **json.loads(done.stdout.strip().splitlines()[-1])}


def measured(given: dict[str, int], options: argparse.Namespace) -> dict[str, float]:
    """Return milliseconds of a step, seconds of an epoch and the most memory that was ever in use, in MB."""
    device = torch.device(options.device)
    data = trainings.images(None, device, count=given["images"], size=given["size"], classes=given["classes"])
    teacher = trainings.taught(data, "resnet26", None, device, steps=options.warm)
    sections = {
        "data": {"name": "random", "batch_size": given["batch"]},
        "student": {"arch": "resnet8"},
        "method": {"kind": "bss", "attack": {"size": given["attack"], "steps": given["steps"]}},
        "train": {"lr": 0.01, "epochs": 80},
    }
    inputs = trainings.prepared(data, teacher, sections, [], device=device)
    step = trainings.stepping(inputs)
    for _ in range(options.warm):
        step()
    middle = statistics.median(seconds(step, device) for _ in range(options.timed))
    return {"ms": 1000 * middle, "epoch_s": middle * inputs.source.steps, "memory_mb": _most(device) / 1e6}


def _most(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts in KiB


def exponent(rows: list[dict[str, Any]], figure: str) -> float | None:
    """Return the `p` of growth like `value ** p` between the first and the last point that was measured."""
    known = [row for row in rows if figure in row]
    if len(known) < 2:
        return None
    first, last = known[0], known[-1]
    return math.log(last[figure] / first[figure]) / math.log(last["value"] / first["value"])


def table(name: str, rows: list[dict[str, Any]]) -> str:
    def cells(row: dict[str, Any]) -> tuple[str, ...]:
        if "failed" in row:
            return f"{row['value']:,}", f"not measured: {row['failed']}".replace("|", "/"), "", ""
        return f"{row['value']:,}", *(f"{row[figure]:,.1f}" for figure in FIGURES)

    powers = [exponent(rows, figure) for figure in FIGURES]
    grown = ("grows with the power", *("" if power is None else f"{power:.2f}" for power in powers))
    return markdown((TITLES[name], *FIGURES.values()), [*map(cells, rows), grown])


def draw(rows: dict[str, list[dict[str, Any]]], path: Path) -> None:
    """Draw time and memory against each thing that grew, both axes logarithmic."""
    style = {"svg.fonttype": "none", "svg.hashsalt": "growth", "font.size": 8, "axes.grid": True, "grid.alpha": 0.3}
    shown = ("ms", "memory_mb")
    with drawing(2.4 * len(rows), 4.2, style) as figure:
        axes = figure.subplots(len(shown), len(rows), squeeze=False)
        for column, (name, found) in enumerate(rows.items()):
            for line, key in enumerate(shown):
                known = [row for row in found if key in row]
                place = axes[line][column]
                place.loglog([row["value"] for row in known], [row[key] for row in known], marker="o", markersize=3)
                place.set_ylabel(FIGURES[key] if column == 0 else "")
                place.set_xlabel(TITLES[name] if line == len(shown) - 1 else "")
        figure.savefig(path, format="svg", metadata={"Date": None})


def arguments(words: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(GROWN), default=list(GROWN))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, help="of PyTorch on the CPU")
    parser.add_argument("--timed", type=int, default=10, help="steps, of which the median is taken")
    parser.add_argument("--warm", type=int, default=5, help="steps before these")
    parser.add_argument("--out", type=Path, help="folder for growth.json, growth.md and growth.svg")
    parser.add_argument("--quick", action="store_true", help="two small points of each: whether it works")
    parser.add_argument("--point", help=argparse.SUPPRESS)
    options = parser.parse_args(words)
    options.grown, options.base = GROWN, {}
    if options.quick:
        options.timed = options.warm = 1
        options.base = {"images": 64, "size": 8, "attack": 4, "steps": 1, "batch": 16}
        options.grown = {name: (small, 2 * small) for name, small in {**BASE, **options.base}.items()}
    return options


if __name__ == "__main__":
    main()
