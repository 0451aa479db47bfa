"""The recipe: one frozen, strictly checked description of a run, from YAML, flags and `--set`."""

from compressor.recipe.loading import Override, build, dump, load
from compressor.recipe.schema import (
    FORMATS,
    Bench,
    Data,
    Export,
    Format,
    Gates,
    PerBatch,
    Recipe,
    Schedule,
    Student,
    Teacher,
    Training,
    Validate,
    require_runnable,
)
from compressor.recipe.shape import schema

__all__ = [
    "FORMATS",
    "Bench",
    "Data",
    "Export",
    "Format",
    "Gates",
    "Override",
    "PerBatch",
    "Recipe",
    "Schedule",
    "Student",
    "Teacher",
    "Training",
    "Validate",
    "build",
    "dump",
    "load",
    "require_runnable",
    "schema",
]
