"""What the commands do, as functions that take the caller's own networks and data sets; see docs/python.md.

A network or a data set may be named as on the command line, or given as an object. A function or class of an importable
module goes by its name, `package.module:name`, so that a later process finds it too; any other object goes by
`given:NAME`, and a run that was made of one can be opened only where it is given again.
"""

from compressor.api.files import benchmark, export, validate
from compressor.api.runs import Run
from compressor.api.training import compare, distill, resume, run, train

__all__ = ["Run", "benchmark", "compare", "distill", "export", "resume", "run", "train", "validate"]
