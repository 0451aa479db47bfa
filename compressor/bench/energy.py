"""Energy by the counters of the hardware: NVML for a GPU, RAPL (powercap) for CPU packages.

A counter is of the whole device: what idles and what other processes do is counted too. It moves in steps of some
milliseconds to a tenth of a second, so that only the sum over a longer time says something of one inference.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from compressor.machine.gpu import Gpu

POWERCAP = Path("/sys/class/powercap")


@dataclass(frozen=True)
class Counter:
    """Microjoules since some moment; a counter with a `range` starts again from zero when it has reached it."""

    read: Callable[[], int | None]
    range: int | None = None


@dataclass(frozen=True)
class Meter:
    """The counters of what a runner runs on. Without any, `missing` is a sentence that says why."""

    counters: tuple[Counter, ...] = ()
    missing: str | None = None

    def read(self) -> tuple[int | None, ...]:
        """Return what each counter shows."""
        return tuple(counter.read() for counter in self.counters)

    def joules(self, before: tuple[int | None, ...], after: tuple[int | None, ...]) -> float | None:
        """Return the energy between two readings, or None where a counter did not answer or there is none."""
        used = 0
        for counter, start, end in zip(self.counters, before, after, strict=True):
            if start is None or end is None:
                return None
            used += end - start if counter.range is None else (end - start) % counter.range
        return used / 1e6 if self.counters else None


def meter_of(provider: str, gpu: Gpu | None) -> Meter:
    """Return the meter of what a provider runs on; `gpu` is None where there is none or NVML does not tell."""
    return cpu_meter() if provider == "cpu" else gpu_meter(gpu)


def gpu_meter(gpu: Gpu | None) -> Meter:
    """Return the meter of a GPU."""
    if gpu is None:
        return Meter(missing="the energy of a GPU is known from NVML only")
    if gpu.energy_mj() is None:
        return Meter(missing="this GPU does not count its energy")

    def microjoules() -> int | None:
        shown = gpu.energy_mj()
        return None if shown is None else shown * 1000

    return Meter((Counter(microjoules),))


def cpu_meter() -> Meter:
    """Return the meter of all CPU packages."""
    zones = sorted(POWERCAP.glob("intel-rapl:*"))  # AMD's are called so too
    try:
        # What has another name is a part of a package, or counts the same energy once more.
        packages = [zone for zone in zones if (zone / "name").read_text().startswith("package")]
        counters = tuple(
            Counter(_reader(zone / "energy_uj"), int((zone / "max_energy_range_uj").read_text())) for zone in packages
        )
        shown = [(zone / "energy_uj").read_text() for zone in packages]
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        return Meter(missing=f"the energy counters of the CPU cannot be read: {str(reason).lower()}")
    return Meter(counters) if shown else Meter(missing="this machine shows no energy counter of its CPU")


def _reader(path: Path) -> Callable[[], int | None]:
    def microjoules() -> int | None:
        try:
            return int(path.read_text())
        except (OSError, ValueError):
            return None

    return microjoules
