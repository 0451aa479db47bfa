"""What this machine can do: each runtime is asked to compute something, and what a recipe needs is looked for.

Nothing here imports a runtime. Each is tried in a process of its own, so that one that crashes or hangs is a line of
the answer and not the end of it.
"""

from compressor.doctor.finding import Finding, Status
from compressor.doctor.probing import RUNTIMES, TIMEOUT_S, probe
from compressor.doctor.surroundings import clashes, machine

__all__ = ["RUNTIMES", "TIMEOUT_S", "Finding", "Status", "clashes", "examine", "machine", "probe"]


def examine(*, timeout_s: float = TIMEOUT_S) -> tuple[Finding, ...]:
    """Look at the machine, its packages and every runtime. A runtime has `timeout_s` seconds to answer."""
    runtimes = probe(RUNTIMES, timeout_s=timeout_s)
    return (*machine(), *clashes(runtimes), *runtimes)
