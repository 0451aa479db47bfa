"""JUnit XML, as CI servers read it: a suite a file, a case a gate.

There is no standard. This stays within what the schemas of Jenkins and the reader of GitLab have in common: properties
stand on suites only, and a case holds at most one of `failure`, `error`, `skipped`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from xml.etree import ElementTree

from compressor.runs.record import Gate, Result

_FORBIDDEN = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # XML 1.0, section 2.2
_MOMENT = "0"  # a gate takes no time of its own


def junit(result: Result) -> str:
    """Return the verdicts of a run as JUnit XML.

    A gate that broke is a failure; one that was never measured is an error, since a complete run does not pass with it;
    one that is undecided and does not break the promise is skipped, with the reason.
    """
    root = ElementTree.Element("testsuites", name=_text(result.name))
    _count(root, result.gates)
    for artifact in dict.fromkeys(gate.artifact for gate in result.gates):
        _suite(root, result, artifact, [gate for gate in result.gates if gate.artifact == artifact])
    ElementTree.indent(root)
    return "<?xml version='1.0' encoding='UTF-8'?>\n" + ElementTree.tostring(root, encoding="unicode") + "\n"


def _suite(root: ElementTree.Element, result: Result, artifact: str, gates: Sequence[Gate]) -> None:
    suite = ElementTree.SubElement(root, "testsuite", name=_text(artifact))
    _count(suite, gates)
    suite.set("timestamp", result.created.partition("+")[0])
    properties = ElementTree.SubElement(suite, "properties")
    for name, value in _facts(result, artifact).items():
        ElementTree.SubElement(properties, "property", name=_text(name), value=_text(value))
    for gate in gates:
        place = _text(f"{result.name}.{artifact}")
        case = ElementTree.SubElement(suite, "testcase", name=gate.gate, classname=place, time=_MOMENT)
        kind = _outcome(gate)
        if kind is None:
            ElementTree.SubElement(case, "system-out").text = _text(gate.detail)
            continue
        outcome = ElementTree.SubElement(case, kind, message=_text(gate.detail))
        if kind != "skipped":
            outcome.set("type", gate.verdict)
            outcome.text = _text(f"limit {gate.limit:g}, value {'none' if gate.value is None else f'{gate.value:g}'}")


def _outcome(gate: Gate) -> str | None:
    if gate.passed is not None:
        return None if gate.passed else "failure"
    return "error" if gate.verdict == "unmeasured" else "skipped"


def _count(element: ElementTree.Element, gates: Sequence[Gate]) -> None:
    outcomes = [_outcome(gate) for gate in gates]
    element.set("tests", str(len(gates)))
    for kind, name in (("failure", "failures"), ("error", "errors"), ("skipped", "skipped")):
        element.set(name, str(outcomes.count(kind)))
    element.set("time", _MOMENT)


def _facts(result: Result, artifact: str) -> dict[str, str]:
    digests = {file.metrics.path: file.metrics.sha256 for file in result.files()}
    facts = {"sha256": digests.get(artifact, ""), "recipe_sha256": result.recipe_sha256, "data": result.data.source}
    machine = {key: str(result.hardware.get(key) or "none") for key in ("cpu", "gpus")}
    return {**facts, **machine, **{f"version.{name}": version for name, version in result.versions.items()}}


def _text(text: str) -> str:
    """Return text with what XML 1.0 forbids written out, as `\\x00`."""
    return _FORBIDDEN.sub(lambda match: match[0].encode("unicode_escape").decode(), text)
