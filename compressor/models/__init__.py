"""Networks by name: families for small images, torchvision, timm and a user's own; and names for unknown weights."""

from compressor.models.architectures import Entry, build, catalogue, described, outline, require_known, title
from compressor.models.changes import Change, ReusedClassifier, changes_of
from compressor.models.cost import macs, parameters
from compressor.models.infer import Candidate, candidates, explain
from compressor.models.normalized import Normalized, Selected
from compressor.models.timm_zoo import owners as timm_owners
from compressor.models.wide_stem import twin

__all__ = [
    "Candidate",
    "Change",
    "Entry",
    "Normalized",
    "ReusedClassifier",
    "Selected",
    "build",
    "candidates",
    "catalogue",
    "changes_of",
    "described",
    "explain",
    "macs",
    "outline",
    "parameters",
    "require_known",
    "timm_owners",
    "title",
    "twin",
]
