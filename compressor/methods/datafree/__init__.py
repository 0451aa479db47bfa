"""Methods without data: a generator makes the images that a teacher and a student are asked about."""

from compressor.methods.datafree.dfad import DFAD
from compressor.methods.datafree.dfq import DFQ
from compressor.methods.datafree.objective import DataFree
from compressor.methods.datafree.qimera import Qimera

__all__ = ["DFAD", "DFQ", "DataFree", "Qimera"]
