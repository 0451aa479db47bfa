"""Which of several processes this one is: what torchrun and `--devices` leave in the environment. Without torch."""

from __future__ import annotations

import os
from dataclasses import dataclass

from compressor.errors import UsageError

TIMEOUT = "COMPRESS_TIMEOUT_S"  # seconds that a process waits for the others in one step ...
WAIT_S = 600.0  # ... unless it is set
RESTART = "TORCHELASTIC_RESTART_COUNT"  # how often torchrun has started the processes again
TOLD = "compress/told/"  # with that count, the key in their store of how many have told why they end
LAUNCHED = "COMPRESS_LAUNCHED"  # set for processes of `--devices`, which end with the one that started them


@dataclass(frozen=True)
class Place:
    """Number `rank` of `world` processes, from 0, and `local` among those of its machine."""

    rank: int = 0
    world: int = 1
    local: int = 0

    @property
    def leads(self) -> bool:
        return self.rank == 0


def started_together() -> bool:
    """Whether the environment says that this is one of several processes, be it in words that make sense."""
    return "RANK" in os.environ and os.environ.get("WORLD_SIZE", "1") != "1"


def place() -> Place:
    """Return the place of this process; the only one where nothing is said.

    Raises:
        UsageError: the environment says what cannot be.
    """
    said = {name: os.environ.get(name) for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK")}
    if said["WORLD_SIZE"] is None or said["RANK"] is None:
        return Place()
    try:
        found = Place(int(said["RANK"]), int(said["WORLD_SIZE"]), int(said["LOCAL_RANK"] or 0))
    except ValueError:
        found = Place(-1)
    if not 0 <= found.rank < found.world or found.local < 0:
        spoken = " ".join(f"{name}={value}" for name, value in said.items() if value is not None)
        raise UsageError(f"the environment names no process: {spoken}", hint="torchrun sets these; else unset them")
    return found
