"""Attacks as values: images in, images out, each on its own, in [0, 1], and the network left exactly as found."""

from compressor.attack.adversarial import PGD, fgsm, pgd
from compressor.attack.boundary import CROSSED, NOT_CROSSED, THIRD, BoundaryAttack, BoundarySamples, Walk
from compressor.attack.selection import sample_targets, select_bases
from compressor.attack.slope import as_found
from compressor.attack.summary import WalkSummary, summarise

__all__ = [
    "CROSSED",
    "NOT_CROSSED",
    "PGD",
    "THIRD",
    "BoundaryAttack",
    "BoundarySamples",
    "Walk",
    "WalkSummary",
    "as_found",
    "fgsm",
    "pgd",
    "sample_targets",
    "select_bases",
    "summarise",
]
