"""What the benchmarks share: steps that are timed in turn, the machine's peak, tables and files.

A busy machine slows contestants that take turns alike; medians and ratios of one run compare, times of two runs do not.
"""

import json
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from compressor.machine.hardware import hardware, versions

Step = Callable[[], object]
_FLOOR_S = 0.5  # a product of matrices is repeated for so long


def synchronise(device: torch.device) -> None:
    """Wait until the device has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds(step: Step, device: torch.device) -> float:
    """Return the wall time of one step."""
    synchronise(device)
    started = time.perf_counter()
    step()
    synchronise(device)
    return time.perf_counter() - started


def in_turns(
    steps: Mapping[str, Step], *, rounds: int, each: int, warm: int, device: torch.device
) -> dict[str, list[float]]:
    """Return the seconds of each step, by name: `rounds` turns of `each` timed steps, after `warm` that are not.

    The untimed steps of a turn use up what a loader prepared while others had their turn, and let its workers fall
    silent again.
    """
    times: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(rounds):
        names = list(steps)
        for name in names[number % len(names) :] + names[: number % len(names)]:
            for _ in range(warm):
                steps[name]()
            times[name] += [seconds(steps[name], device) for _ in range(each)]
    return times


def peak(device: torch.device, dtype: torch.dtype, *, size: int) -> float:
    """Return the floating-point operations a second of the fastest product of two square matrices of `size`."""
    left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    times, until = [seconds(lambda: left @ right, device)], time.perf_counter() + _FLOOR_S
    while time.perf_counter() < until:
        times.append(seconds(lambda: left @ right, device))
    return 2 * size**3 / min(times)


def operations(step: Step) -> int:
    """Return the floating-point operations of one eager step: its convolutions and matrix products, both ways."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        step()
    return int(counter.get_total_flops())


def machine(device: torch.device) -> dict[str, Any]:
    """Return what a figure was measured on."""
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "hardware": hardware(),
        "versions": versions(),
    }


def median_and_range(values: Sequence[float]) -> tuple[float, float, float]:
    """Return the median, the lowest and the highest."""
    return statistics.median(values), min(values), max(values)


def markdown(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a table; the first column is text, the others are figures."""
    rule = ["---", *["---:"] * (len(columns) - 1)]
    return "\n".join("| " + " | ".join(map(str, row)) + " |" for row in (columns, rule, *rows))


def write_json(path: Path, values: Any) -> None:
    """Write values so that a file is there whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
    partial.replace(path)
