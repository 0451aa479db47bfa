"""The page: one file, nothing from outside, no scripts. Every string that is not ours is escaped by Jinja."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from compressor.report import sections
from compressor.report.story import Story


def page(story: Story) -> str:
    """Return the report of one run as HTML."""
    return _render(
        "run.html.j2",
        title=story.name,
        story=story,
        result=story.result,
        verdict=sections.verdict(story),
        promises=sections.promises(story.result.gates if story.result else ()),
        tiles=sections.tiles(story),
        groups=sections.measures(story.files),
        training=sections.training([story]),
        frontiers=sections.frontiers(story.files),
        keys=sections.keys(file.label for file in story.files),
        latencies=sections.latencies(story),
        confusion=sections.confusion(story),
        changes=sections.class_changes(story),
        boundary=sections.boundary_cards(story),
        plane=sections.plane(story),
        apart=sections.disagreement_count(story),
        disagreements=sections.disagreement_cards(story),
        environment=_environment(story),
        repeat=f"compress run {shlex.quote(str(story.folder / 'recipe.resolved.yaml'))}",
    )


def comparison(stories: Sequence[Story]) -> str:
    """Return the comparison of several runs as HTML."""
    results = [story.result for story in stories if story.result is not None]
    files = sections.compared(stories)
    return _render(
        "runs.html.j2",
        title=f"{len(stories)} runs compared",
        stories=[(story, sections.verdict(story)) for story in stories],
        runs=sections.keys(story.name for story in stories),
        students=[(story, file) for story in stories for file in story.files if file.name == "student"],
        groups=sections.measures([file for story in stories for file in story.files if file.name == "student"]),
        training=sections.training(stories),
        frontiers=sections.frontiers(files),
        keys=sections.keys(file.label for file in files),
        missing=[(story, missing) for story in stories for missing in story.missing],
        same_data=sections.same_data(results),
        same_machine=sections.same_machine(results),
    )


def _render(template: str, **values: Any) -> str:
    environment = Environment(
        loader=PackageLoader("compressor", "report/templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template(template).render(**values)


def _environment(story: Story) -> list[tuple[str, list[tuple[str, str]]]]:
    """Return what the run was made with, as lists of names and values with a title each."""
    parts = []
    for title in ("hardware", "versions"):
        known = getattr(story.result, title) if story.result else story.environment.get(title, {})
        parts.append((title, [(name, _text(value)) for name, value in known.items() if value not in (None, [])]))
    return [part for part in parts if part[1]]


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
