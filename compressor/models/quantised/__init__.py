"""Networks that train through the rounding of their export: where they round, and how."""

from compressor.models.quantised.network import Quantised
from compressor.models.quantised.placing import Placed, placed, tensor_ranges
from compressor.models.quantised.plan import Plan

__all__ = ["Placed", "Plan", "Quantised", "placed", "tensor_ranges"]
