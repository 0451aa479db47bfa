"""Networks by name: families for small images, torchvision, timm and a user's own; and names for unknown weights."""

from compressor.models.architectures import Entry, build, catalogue, described, require_known, title
from compressor.models.cost import macs, parameters
from compressor.models.infer import Candidate, candidates, explain
from compressor.models.normalized import Normalized

__all__ = [
    "Candidate",
    "Entry",
    "Normalized",
    "build",
    "candidates",
    "catalogue",
    "described",
    "explain",
    "macs",
    "parameters",
    "require_known",
    "title",
]
