"""An ONNX graph written as IR, and either opened on the CPU."""

from __future__ import annotations

import tempfile
from importlib import metadata
from pathlib import Path

from exporters import Built, Engine
from exporters.errors import ExportFailed, RuntimeMissing
from exporters.feeding import expect_claims
from exporters.openvino import FORMAT, SUFFIXES
from exporters.openvino.borders import count_classes, find
from exporters.openvino.census import constants_by_type, weights_by_type
from exporters.openvino.ir import read, weights_of
from exporters.openvino.runner import OpenVinoRunner, compile_model
from exporters.openvino.runtime import package
from exporters.openvino.writing import save, write_pair
from exporters.precision import precision_of


def require() -> None:
    """See `Exporter.require`."""
    package()


def versions() -> dict[str, str | None]:
    """See `Exporter.versions`."""
    package()
    return {"version": metadata.version("openvino")}


def build(source: Path, folder: Path, stem: str, *, precision: str, engine: Engine) -> Built:
    """Write an ONNX file as IR, `stem.precision.xml` and `.bin`; see `Exporter.build`. Nothing is compiled yet.

    The same graph and the same OpenVINO give the same bytes. Metadata are kept, and so is the hash of the weights, so
    that files that do not belong together are told apart.
    """
    del engine  # a CPU compiles when it loads
    graph = read(source)
    find(source, graph.model)
    found = precision_of(weights_by_type(graph.model))
    if found != precision:
        raise ExportFailed(f"{source} computes in {found}, not in {precision}", hint=f"give a graph in {precision}")
    path = folder / f"{stem}.{precision}{SUFFIXES[0]}"
    with tempfile.TemporaryDirectory(prefix="compress.") as place:
        draft = Path(place) / path.name
        save(source, graph, draft)
        written = read(draft).model
        if constants_by_type(written) != constants_by_type(graph.model):
            raise ExportFailed(f"OpenVINO stored the weights of {source} as other types than they have")
        write_pair(path, draft)
    return Built(
        path=path,
        format=FORMAT,
        precision=precision,
        census=weights_by_type(written),
        companions=(weights_of(path),),
    )


def load(path: Path, *, provider: str = "cpu", threads: int | None = None, cuda_graph: bool = False) -> OpenVinoRunner:
    """Open an IR or an ONNX classifier on the CPU; `threads` are those of one inference, by default all cores.

    Raises:
        RuntimeMissing: OpenVINO is not here, `provider` is not the CPU, or this CPU has no kernels for the file's
            precision, so that OpenVINO would run it in another.
        ArtifactRejected: the file is not what it claims, or no image classifier.
    """
    if provider != "cpu":
        raise RuntimeMissing(f"OpenVINO is offered on the CPU only, not on {provider!r}", hint="use the device cpu")
    if cuda_graph:
        raise RuntimeMissing("CUDA graphs are for CUDA devices, and OpenVINO runs on the CPU")
    graph = read(path)
    borders = find(path, graph.model)
    precision = precision_of(weights_by_type(graph.model))
    expect_claims(path, graph.metadata, precision=precision, pixels=borders.pixels, output=borders.returns)
    compiled, census = compile_model(path, graph.model, precision, threads)
    return OpenVinoRunner(
        path=path,
        format=FORMAT,
        provider="cpu",
        precision=precision,
        input_shape=borders.input_shape,
        classes=borders.classes or count_classes(path, compiled, borders),
        pixels=borders.pixels,
        output=borders.returns,
        metadata=graph.metadata,
        threads=threads,
        census=census,
        batch=borders.batch,
        feed=borders.feed,
        model=graph.model,
        compiled=compiled,
    )
