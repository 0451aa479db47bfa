"""From a recipe to what it names: the device, the data, the teacher that was seen to do well on them, the student."""

from compressor.inputs.opening import Inputs, open_inputs
from compressor.inputs.prepared import Prepared, prepare, require_known

__all__ = ["Inputs", "Prepared", "open_inputs", "prepare", "require_known"]
