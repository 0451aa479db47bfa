"""Memory and time of an epoch over many JPEGs: as a folder, as shards, and as decoded images that are kept.

    python benchmarks/memory.py --images 100000 --out memory

The images are made, then each kind of data is read in a process of its own, in batches that are dropped, and streamed
whatever its size. Printed is the resident memory of that process when the data are opened and its most within the epoch
(sampled once a batch); of it, pages of files are those that the system takes back when it needs them, as it does with
a file that is mapped into memory. Loading processes, of which each holds the batches under way, are not counted. The
images lie in a temporary folder below `--place`; 100,000 of them take about 0.5 GB as a folder, the same as shards, and
1.2 GB decoded. Nothing depends on the figures.
"""

import argparse
import io
import json
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from rounds import machine, markdown, write_json

from compressor.data import open_data
from compressor.recipe import Data

CLASSES, SHARD = 10, 1000  # of the images; of the samples of a shard
BATCH = 256
TITLES = {"folder": "folder:", "wds": "wds:", "making": "folder: --cache, first run", "kept": "folder: --cache, later"}
COLUMNS = ("data", "images/s", "opened in s", "MB when opened", "MB at most", "MB of these without pages of files")


def main(words: list[str] | None = None) -> dict[str, Any]:
    options = arguments(words)
    if options.part is not None:
        print(json.dumps(measured(Path(options.place), options.part, options)))
        return {}
    with tempfile.TemporaryDirectory(dir=options.place) as place:
        make(Path(place), options.images, options.size)
        rows = {part: child(part, place, options) for part in TITLES}
    cells = [(TITLES[part], *(f"{figure:,.1f}" for figure in row.values())) for part, row in rows.items()]
    lines = markdown(COLUMNS, cells)
    print(f"{options.images:,} JPEGs of {options.size} x {options.size} pixels, batches of {BATCH}\n\n{lines}")
    result = {**machine(torch.device("cpu")), "images": options.images, "size": options.size, "rows": rows}
    if options.out is not None:
        write_json(options.out / "memory.json", result)
        (options.out / "memory.md").write_text(lines + "\n", encoding="utf-8")
    return result


def make(place: Path, count: int, size: int) -> None:
    """Write the images twice: as a file each, a folder a class, and as shards."""
    generator = np.random.default_rng(0)
    for number in range(CLASSES):
        (place / "images" / str(number)).mkdir(parents=True)
    (place / "shards").mkdir()
    for first in range(0, count, SHARD):
        with tarfile.open(place / "shards" / f"{first // SHARD:05}.tar", "w") as shard:
            for number in range(first, min(first + SHARD, count)):
                coarse = generator.integers(0, 256, (8, 8, 3), dtype=np.uint8)
                buffer = io.BytesIO()
                Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC).save(buffer, "JPEG")
                label = number % CLASSES
                (place / "images" / str(label) / f"{number:07}.jpg").write_bytes(buffer.getvalue())
                for ending, content in (("jpg", buffer.getvalue()), ("cls", str(label).encode())):
                    info = tarfile.TarInfo(f"{number:07}.{ending}")
                    info.size = len(content)
                    shard.addfile(info, io.BytesIO(content))


def child(part: str, place: str, options: argparse.Namespace) -> dict[str, float]:
    print(TITLES[part], file=sys.stderr, flush=True)
    command = [sys.executable, __file__, "--part", part, "--place", place, "--workers", str(options.workers)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def measured(place: Path, part: str, options: argparse.Namespace) -> dict[str, float]:
    """Open one kind of data and go through an epoch of it."""
    name = f"wds:{place / 'shards'}" if part == "wds" else f"folder:{place / 'images'}"
    cache = place / "cache" if part in ("making", "kept") else None
    config = Data(name=name, cache=cache, validation=0, workers=options.workers)
    started = time.perf_counter()
    data = open_data(config, device=torch.device("cpu"), held=False)
    opened_s, opened = time.perf_counter() - started, resident()
    most, own = opened
    started, count = time.perf_counter(), 0
    for batch in data.train.batches(BATCH, seed=0, augment=True):
        count += len(batch.labels)
        now = resident()
        most, own = max(most, now[0]), max(own, now[1])
    rate = count / (time.perf_counter() - started)
    figures = {"images_s": rate, "opened_s": opened_s, "opened_mb": opened[0], "most_mb": most, "own_mb": own}
    return {key: round(value, 1) for key, value in figures.items()}


def resident() -> tuple[float, float]:
    """Return the resident memory of this process in MB, all of it and without pages of files. Linux alone tells."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    found = {
        line.split(":")[0]: int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith(("VmRSS", "Rss"))
    }
    return found["VmRSS"], found["RssAnon"] + found["RssShmem"]


def arguments(words: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--size", type=int, default=64, help="height and width, in pixels")
    parser.add_argument("--workers", type=int, default=2, help="loading processes")
    parser.add_argument("--place", help="folder for the images while they are needed; null: the system's own")
    parser.add_argument("--out", type=Path, help="folder for memory.json and memory.md")
    parser.add_argument("--part", choices=list(TITLES), help=argparse.SUPPRESS)
    return parser.parse_args(words)


if __name__ == "__main__":
    main()
