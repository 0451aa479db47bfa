"""The page: one file, nothing from outside, no scripts. Every string that is not ours is escaped by Jinja."""

from __future__ import annotations

from collections.abc import Sequence

from compressor.report import sections
from compressor.report.rendering import render
from compressor.report.story import STUDENT, Story


def page(story: Story) -> str:
    """Return the report of one run as HTML."""
    return render(
        "run.html.j2",
        title=story.name,
        story=story,
        result=story.result,
        verdict=sections.verdict(story),
        promises=sections.promises(story.result.gates if story.result else ()),
        tiles=sections.tiles(story),
        groups=sections.measures(story.files),
        training=sections.training_curves([story]),
        frontiers=sections.frontiers(story.files),
        keys=sections.keys(file.label for file in story.files),
        latencies=sections.latencies(story),
        confusion=sections.confusion(story),
        changes=sections.class_changes(story),
        boundary=sections.boundary_cards(story),
        plane=sections.plane(story),
        apart=sections.disagreement_count(story),
        disagreements=sections.disagreement_cards(story),
        environment=sections.environment(story),
        repeat=sections.repeat(story),
    )


def comparison(stories: Sequence[Story]) -> str:
    """Return the comparison of several runs as HTML."""
    results = [story.result for story in stories if story.result is not None]
    files = sections.compared(stories)
    students = [(story, file) for story in stories for file in story.files if file.name == STUDENT]
    return render(
        "runs.html.j2",
        title=f"{len(stories)} runs compared",
        stories=[(story, sections.verdict(story)) for story in stories],
        runs=sections.keys(story.name for story in stories),
        students=students,
        groups=sections.measures([file for _, file in students]),
        training=sections.training_curves(stories),
        frontiers=sections.frontiers(files),
        keys=sections.keys(file.label for file in files),
        missing=[(story, missing) for story in stories for missing in story.missing],
        same_data=sections.same_data(results),
        same_machine=sections.same_machine(results),
    )
