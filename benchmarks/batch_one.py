"""Which runtime, precision and number of threads is fastest for one image at a time, on a small network.

    python benchmarks/batch_one.py
    python benchmarks/batch_one.py --teacher resnet20_cifar10.th --threads 1,2,4,auto --markdown

ResNet20 on 32x32 images, with random weights or those of a checkpoint, in PyTorch, ONNX Runtime and OpenVINO, in each
precision that they take on a CPU. All take turns, round by round, and medians are compared. INT8 is calibrated on
random images: this is about time alone, `benchmarks/exports.py` scores the same files. Prints ratios, asserts nothing.
"""

import argparse
import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np
import torch
from exports import MEAN, STD, Subject, exported, from_ir, machine, measured

from compressor import checkpoint
from compressor.bench import Latency
from compressor.models import Normalized, build
from compressor.recipe import Bench
from exporters import Runner, onnx
from exporters.pytorch import TorchRunner

SIZE, CLASSES = 32, 10
REFERENCE = "ONNX Runtime fp32"

Row = tuple[str, Latency]  # what ran, and what it took


def main() -> None:
    options = arguments()
    subject = subject_of(options.teacher)
    config = Bench(
        batch_sizes=(1,),
        warmup_s=0.02 if options.quick else 0.3,
        duration_s=0.05 if options.quick else options.duration,
        min_iterations=5 if options.quick else 50,
    )
    print(machine(max(filter(None, options.threads), default=0) or torch.get_num_threads()))
    print(f"\n{subject.name}, {'x'.join(map(str, subject.input_shape))}, p50 of one image, fastest first")
    with tempfile.TemporaryDirectory() as folder:
        files = exported(subject, Path(folder))
        rows = timed(subject, files, options.threads, config)
    print(table(rows, markdown=options.markdown))
    loads = [row.other_load for _, row in rows if row.noisy and row.other_load is not None]
    if loads:
        print(f"other processes used up to {max(loads):.0%} of the CPU meanwhile: repeat this on a quiet machine")


def subject_of(teacher: Path | None) -> Subject:
    """Return the network, with weights of a checkpoint or random ones, and random images to calibrate on."""
    shape = (3, SIZE, SIZE)
    images = np.random.default_rng(0).random((64, *shape), dtype=np.float32)
    if teacher is not None:
        found = checkpoint.load_network(teacher)
        return Subject(teacher.name, found.module.eval(), found.input_shape, found.classes, images)
    torch.manual_seed(0)
    network = Normalized(build("resnet20", classes=CLASSES, input_shape=shape), MEAN, STD).eval()
    return Subject("resnet20", network, shape, CLASSES, images)


def timed(subject: Subject, files: Mapping[str, Path], counts: tuple[int | None, ...], config: Bench) -> list[Row]:
    """Return what each runtime, precision and number of threads takes, the fastest first."""
    openers: dict[str, partial[Runner]] = {}
    for threads in counts:
        network = {"input_shape": subject.input_shape, "classes": subject.classes, "threads": threads}
        for precision in ("fp32", "bf16"):
            opener = partial(TorchRunner, subject.network, precision=precision, **network)
            openers[f"PyTorch {precision}|{threads}"] = opener
        for precision in ("fp32", "fp16", "int8"):
            openers[f"ONNX Runtime {precision}|{threads}"] = partial(onnx.load, files[precision], threads=threads)
        for precision in ("fp32", "int8"):
            openers[f"OpenVINO {precision}|{threads}"] = partial(from_ir, files[precision], precision, threads)
    found = [(name.partition("|")[0], rows[0]) for name, rows in measured(openers, config).items()]
    return sorted(found, key=lambda each: each[1].at(50))


def table(rows: list[Row], *, markdown: bool) -> str:
    """Return the medians, each beside that of fp32 in ONNX Runtime with the threads that are fastest for it."""
    base = next((row.at(50) for name, row in rows if name == REFERENCE), None)
    lines = []
    for name, row in rows:
        ratio = "" if base is None else f"{base / row.at(50):.2f}x"
        cells = (name, row.on_threads, f"{row.at(50):.3f} ms", f"{row.at(99):.3f} ms", ratio)
        lines.append(f"| {' | '.join(cells)} |" if markdown else "  {:<20}{:<28}{:>10}{:>12}{:>9}".format(*cells))
    if markdown:
        lines[:0] = [f"| | threads | p50 | p99 | times {REFERENCE} |", "|---|---|---|---|---|"]
    return "\n".join(lines)


def counts_of(text: str) -> tuple[int | None, ...]:
    return tuple(None if word == "auto" else int(word) for word in text.split(","))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", type=Path, help="a checkpoint whose network is timed instead of a random one")
    parser.add_argument("--threads", type=counts_of, default=(1, 2, None), help="such as 1,2,auto")
    parser.add_argument("--duration", type=float, default=2.0, help="seconds, each row")
    parser.add_argument("--markdown", action="store_true", help="print the table as Markdown")
    parser.add_argument("--quick", action="store_true", help="a second, to see that it works")
    return parser.parse_args()


if __name__ == "__main__":
    main()
