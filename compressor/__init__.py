"""Shrink an image classifier by distillation with boundary supporting samples, prove what was kept, export, measure it.

The Python API, documented in docs/python.md: what the commands do, on your own networks and data. All of it is imported
when it is first asked for, so that `import compressor` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from compressor.api import Run, benchmark, compare, distill, export, resume, run, train, validate
    from compressor.attack import BoundaryAttack, BoundarySamples, sample_targets, select_bases
    from compressor.measure.scores import Predictions, Scores, score

_HOMES = {
    "compressor.api": ("Run", "benchmark", "compare", "distill", "export", "resume", "run", "train", "validate"),
    "compressor.attack": ("BoundaryAttack", "BoundarySamples", "sample_targets", "select_bases"),
    "compressor.measure.scores": ("Predictions", "Scores", "score"),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "BoundaryAttack",
    "BoundarySamples",
    "Predictions",
    "Run",
    "Scores",
    "benchmark",
    "compare",
    "distill",
    "export",
    "resume",
    "run",
    "sample_targets",
    "score",
    "select_bases",
    "train",
    "validate",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'compressor' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
