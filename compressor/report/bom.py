"""`report/bom.cdx.json`: the networks, files, data and packages of a run as a CycloneDX bill of materials (ML-BOM).

CycloneDX 1.6, https://cyclonedx.org/docs/1.6/json/. What the format has no field for is a property `compress:NAME`,
named and measured in the units of the record.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path

from cyclonedx.model import HashAlgorithm, HashType, Property
from cyclonedx.model.bom import Bom, BomMetaData
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.model.tool import ToolRepository
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL

from compressor.files import write_text
from compressor.runs import manifest, record
from compressor.runs.folder import Run

NAME = "bom.cdx.json"
_MEASURES = ("top1", "ece", "agreement", "boundary_agreement", "accuracy_drop", "pgd_top1", "autoattack_top1")
_OURS = "compressor"


def write_bom(run: Run, result: record.Result) -> Path:
    """Write the bill of materials of a run whose manifest is written, and return where it is.

    The student is what the bill is of; its parts are the teacher, the exported files, the data and the packages. What
    was made from what is in `dependencies`. The same run gives the same bytes.

    Raises:
        InputRejected: the run has no manifest.
    """
    lineage = manifest.read(run.folder).lineage
    path = run.report.with_name(NAME)
    write_text(path, JsonV1Dot6(_bill(result, lineage)).output_as_string(indent=2) + "\n")
    return path


def _bill(result: record.Result, lineage: Iterable[manifest.Link]) -> Bom:
    student = _network("student", result.student)
    data = _data(result.data)
    packages = [_package(name, version) for name, version in result.versions.items()]
    models = {artifact.sha256: _artifact(artifact) for artifact in result.artifacts}
    if result.teacher is not None:
        models[result.teacher.sha256] = _network("teacher", result.teacher)
    models[result.student.sha256] = student
    for link in lineage:
        if link.source_sha256 not in models:  # a graph on the way to a plan
            models[link.source_sha256] = _file(link.source, link.source_sha256, {})
    bom = Bom(
        serial_number=uuid.uuid5(uuid.NAMESPACE_OID, " ".join([result.recipe_sha256, *models])),
        metadata=BomMetaData(
            component=student,
            timestamp=datetime.fromisoformat(result.created),
            tools=ToolRepository(components=[each for each in packages if each.name == _OURS]),
        ),
        components=[*(each for each in models.values() if each is not student), data, *packages],
    )
    sources: dict[str, list[Component]] = {
        link.sha256: [models[link.source_sha256]] for link in lineage if link.sha256 in models
    }
    for digest, component in models.items():
        made_of = sources.get(digest, [])
        bom.register_dependency(component, [*made_of, data, *packages] if component is student else made_of)
    for component in (data, *packages):
        bom.register_dependency(component)
    return bom


def _network(role: str, network: record.Network) -> Component:
    cost = {"parameters": network.parameters, "macs": network.macs, "classes": network.classes}
    shape = {"input_shape": "x".join(map(str, network.input_shape))}
    component = _file(Path(network.path).name, network.sha256, _facts(network) | cost | shape | {"role": role})
    component.bom_ref.value = role
    component.name = network.arch or component.name
    return component


def _artifact(artifact: record.Artifact) -> Component:
    facts = _facts(artifact) | {"role": "artifact", "input": artifact.input, "output": artifact.output}
    if artifact.calibration is not None:
        facts["calibration_samples"] = artifact.calibration.samples
    return _file(artifact.path, artifact.sha256, facts)


def _facts(metrics: record.Metrics) -> dict[str, object]:
    facts: dict[str, object] = {
        "format": metrics.format,
        "precision": metrics.precision,
        "size_bytes": metrics.size_bytes,
        "test_samples": metrics.samples,
    }
    return facts | {name: getattr(metrics, name) for name in _MEASURES}


def _file(path: str, digest: str, facts: Mapping[str, object]) -> Component:
    """Return a model by its file. Its version is its hash, since that is what tells two of a name apart."""
    return Component(
        name=path,
        version=digest,
        type=ComponentType.MACHINE_LEARNING_MODEL,
        bom_ref=path,
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=digest)],
        properties=_properties(facts),
    )


def _data(data: record.Data) -> Component:
    counts = {"classes": data.classes, "train": data.train, "validation": data.validation, "test": data.test}
    return Component(
        name=data_name(data),
        version=data.fingerprint,
        type=ComponentType.DATA,
        bom_ref="data",
        properties=_properties({"fingerprint": data.fingerprint, **counts}),
    )


def data_name(data: record.Data) -> str:
    """Return the name of a data set, of a folder without those above it: where it lay is no business of others."""
    kind, colon, path = data.source.partition(":")
    return f"{kind}:{Path(path).name}" if colon else kind


def _package(name: str, version: str) -> Component:
    if name == "python":
        return Component(name=name, version=version, type=ComponentType.PLATFORM, bom_ref=name)
    return Component(
        name=name,
        version=version,
        type=ComponentType.LIBRARY,
        bom_ref=f"package:{name}",
        purl=PackageURL("pypi", name=name, version=version),
    )


def _properties(facts: Mapping[str, object]) -> list[Property]:
    """Return what is known; a float with the six digits that a test set of any size can mean."""
    text = {name: f"{value:.6g}" if isinstance(value, float) else str(value) for name, value in facts.items()}
    return [Property(name=f"compress:{name}", value=text[name]) for name, value in facts.items() if value is not None]
