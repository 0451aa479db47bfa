"""The page: one file, nothing from outside, no scripts. Every string that is not ours is escaped by Jinja."""

from __future__ import annotations

from collections.abc import Sequence

from compressor.report import sections
from compressor.report.contents import Contents
from compressor.report.rendering import render
from compressor.runs.record import STUDENT


def page(contents: Contents) -> str:
    """Return the report of one run as HTML."""
    frontiers, latencies = sections.frontiers(contents.files), sections.latencies(contents)
    return render(
        "run.html.j2",
        title=contents.name,
        contents=contents,
        result=contents.result,
        verdict=sections.verdict(contents),
        promises=sections.promises(contents.result.gates if contents.result else ()),
        tiles=sections.tiles(contents),
        groups=sections.measures(contents.files),
        training=sections.training_curves([contents]),
        frontiers=frontiers,
        keys=sections.keys((file.label for file in contents.files), [*frontiers, *latencies]),
        latencies=latencies,
        confusion=sections.confusion(contents),
        changes=sections.class_changes(contents),
        boundary=sections.boundary_cards(contents),
        likeness=sections.likeness(contents),
        no_boundary=sections.no_boundary(contents),
        plane=sections.plane(contents),
        apart=sections.disagreement_count(contents),
        disagreements=sections.disagreement_cards(contents),
        environment=sections.environment(contents),
        repeat=sections.repeat(contents),
    )


def comparison(several: Sequence[Contents]) -> str:
    """Return the comparison of several runs as HTML."""
    results = [contents.result for contents in several if contents.result is not None]
    files = sections.compared(several)
    frontiers = sections.frontiers(files)
    students = [(contents, file) for contents in several for file in contents.files if file.name == STUDENT]
    return render(
        "runs.html.j2",
        title=f"{len(several)} runs compared",
        several=[(contents, sections.verdict(contents)) for contents in several],
        runs=sections.keys(contents.name for contents in several),
        students=students,
        groups=sections.measures([file for _, file in students]),
        training=sections.training_curves(several),
        frontiers=frontiers,
        keys=sections.keys((file.label for file in files), frontiers),
        missing=[(contents, missing) for contents in several for missing in contents.missing],
        same_data=sections.same_data(results),
        same_machine=sections.same_machine(results),
    )
