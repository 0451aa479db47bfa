"""The whole path, one file a stage: train, export, validate, bench. Each leaves its part in `result.json`."""

from compressor.pipeline.bench import BenchOptions, bench, bench_file
from compressor.pipeline.export import export, rebuild
from compressor.pipeline.foreign import export_graph
from compressor.pipeline.normalisation import Normalisation
from compressor.pipeline.report import report
from compressor.pipeline.run import run
from compressor.pipeline.smoke import smoke
from compressor.pipeline.train import check, resume, train
from compressor.pipeline.validate import validate, validate_file

__all__ = [
    "BenchOptions",
    "Normalisation",
    "bench",
    "bench_file",
    "check",
    "export",
    "export_graph",
    "rebuild",
    "report",
    "resume",
    "run",
    "smoke",
    "train",
    "validate",
    "validate_file",
]
