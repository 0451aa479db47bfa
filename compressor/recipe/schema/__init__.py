"""What a recipe may say. Each class is a section; what fields cannot express, a validator below them checks."""

from compressor.recipe.schema.data import Data
from compressor.recipe.schema.export import ENGINES, FORMATS, Calibration, Engine, Export, Format
from compressor.recipe.schema.measures import Bench, Gates, PerBatch, Validate
from compressor.recipe.schema.networks import Quantize, Student, Teacher
from compressor.recipe.schema.part import Part
from compressor.recipe.schema.runnable import require_runnable
from compressor.recipe.schema.tracking import MLflow, TensorBoard, Tracking
from compressor.recipe.schema.training import Schedule, Training
from compressor.recipe.schema.whole import Recipe

__all__ = [
    "ENGINES",
    "FORMATS",
    "Bench",
    "Calibration",
    "Data",
    "Engine",
    "Export",
    "Format",
    "Gates",
    "MLflow",
    "Part",
    "PerBatch",
    "Quantize",
    "Recipe",
    "Schedule",
    "Student",
    "Teacher",
    "TensorBoard",
    "Tracking",
    "Training",
    "Validate",
    "require_runnable",
]
