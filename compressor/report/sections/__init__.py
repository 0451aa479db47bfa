"""The sections of the page, a file each.

A section is a function of what is known of a run that returns what the templates only have to set: numbers as text,
figures as SVG, a dash for what is not known. It returns nothing where there is nothing to show, and the page leaves the
section out. In the order of the page: `summary`, `files`, `training`, `speed`, `classes`, `boundary`, `disagreements`,
`origin`; `several` is for a page of several runs. They share `pieces`, and write numbers as
`report.numbers` does.
"""

from compressor.report.sections.boundary import boundary_cards, likeness, no_boundary, plane
from compressor.report.sections.classes import class_changes, confusion
from compressor.report.sections.disagreements import disagreement_cards, disagreement_count
from compressor.report.sections.files import measures
from compressor.report.sections.origin import environment, repeat
from compressor.report.sections.pieces import keys
from compressor.report.sections.several import compared, same_data, same_machine
from compressor.report.sections.speed import frontiers, latencies
from compressor.report.sections.summary import promises, tiles, verdict
from compressor.report.sections.training import training_curves

__all__ = [
    "boundary_cards",
    "class_changes",
    "compared",
    "confusion",
    "disagreement_cards",
    "disagreement_count",
    "environment",
    "frontiers",
    "keys",
    "latencies",
    "likeness",
    "measures",
    "no_boundary",
    "plane",
    "promises",
    "repeat",
    "same_data",
    "same_machine",
    "tiles",
    "training_curves",
    "verdict",
]
