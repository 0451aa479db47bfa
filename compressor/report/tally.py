"""How a run stands with its gates, counted: what every headline is made from."""

from collections.abc import Sequence
from dataclasses import dataclass

from compressor.runs.record import Gate


@dataclass(frozen=True)
class Tally:
    """Numbers of gates. Those `unmeasured` wait; those `undecided` break nothing, or they are among the `broken`."""

    total: int
    broken: int
    unmeasured: int
    undecided: int


def tally(gates: Sequence[Gate]) -> Tally:
    """Count the gates of a run by what became of them."""
    return Tally(
        total=len(gates),
        broken=sum(gate.passed is False for gate in gates),
        unmeasured=sum(gate.verdict == "unmeasured" for gate in gates),
        undecided=sum(gate.verdict == "undecided" and gate.passed is None for gate in gates),
    )
