"""Where the trainings of a comparison run: in processes of this machine, or on a Ray cluster."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from compressor.choices import Where
from compressor.errors import UsageError
from compressor.inputs import Prepared
from compressor.machine import cluster
from compressor.machine.workers import SideBySide, Workers
from compressor.measure.paired import Cell
from compressor.pipeline.compare.sharing import shares, threads_of
from compressor.recipe import Recipe


class Place(Protocol):
    """Where trainings run, before it is known which ones."""

    def require(self) -> None:
        """See that the place is there, as far as that is known at once.

        Raises:
            EnvironmentMissing: it is not.
        """
        ...

    def workers(self, prepared: Prepared, recipes: Mapping[Cell, Recipe], /) -> Workers:
        """Return what runs these trainings.

        Raises:
            UsageError: they cannot run there.
        """
        ...


@dataclass(frozen=True)
class Here:
    """Processes of this machine, `jobs` at a time; None: as many as cores or the device's memory allow."""

    jobs: int | None = None

    def require(self) -> None:
        pass

    def workers(self, prepared: Prepared, recipes: Mapping[Cell, Recipe]) -> Workers:
        return SideBySide(*shares(prepared, recipes, self.jobs))


@dataclass(frozen=True, kw_only=True)
class OnRay:
    """A Ray cluster: a local one, or the one at `address`.

    `cpus` and `gpus` are those of one training; None: as many threads as one has here, and a GPU where it trains on
    CUDA.
    """

    address: str | None = None
    jobs: int | None = None
    cpus: int | None = None
    gpus: float | None = None

    def require(self) -> None:
        cluster.require(self.address)

    def workers(self, prepared: Prepared, _recipes: Mapping[Cell, Recipe]) -> Workers:
        device = prepared.recipe.device
        if device.startswith("cuda:"):
            raise UsageError(f"Ray chooses the GPU of each training, and device is {device}", hint="--device cuda")
        gpus = float(prepared.device.type == "cuda") if self.gpus is None else self.gpus
        return cluster.Ray(
            address=self.address,
            jobs=self.jobs,
            threads=self.cpus or threads_of(),
            gpus=gpus,
            folder=Path.cwd(),
        )


HERE: Place = Here()


def place_of(
    on: Where,
    *,
    jobs: int | None = None,
    address: str | None = None,
    cpus: int | None = None,
    gpus: float | None = None,
) -> Place:
    """Return where trainings run, from what was asked.

    Raises:
        UsageError: something was asked that this place does not have.
    """
    if on == "ray":
        if gpus is not None and gpus > 1 and gpus % 1:
            raise UsageError(f"a training has a part of one GPU or several whole ones, not {gpus:g}", hint="--gpus 0.5")
        return OnRay(address=address, jobs=jobs, cpus=cpus, gpus=gpus)
    for flag, value in {"--address": address, "--cpus": cpus, "--gpus": gpus}.items():
        if value is not None:
            raise UsageError(f"{flag} is for a Ray cluster", hint=f"--on ray {flag} {value}")
    return Here(jobs)


def at_a_time(jobs: int | None) -> str:
    """Say how many trainings run at a time."""
    return "as many at a time as there is room for" if jobs is None else f"{jobs} at a time"
