"""A format of one's own: `.zonnx`, an ONNX file in a zip archive, run by ONNX Runtime on the CPU.

Used as `compress export --format example_plugin.exporter:ZIPPED`.
"""

from __future__ import annotations

import io
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

from exporters import Built, Engine, Provider, Quantization, Runner, onnx
from exporters.errors import ArtifactRejected
from exporters.files import write_whole

MEMBER = "model.onnx"
ALWAYS = (1980, 1, 1, 0, 0, 0)  # so that the same graph gives the same bytes


class Zipped:
    """An `exporters.Exporter`."""

    FORMAT = f"{__name__}:ZIPPED"
    TITLE = "zipped ONNX"
    SUFFIXES = (".zonnx",)
    PROVIDERS: Mapping[str, Provider] = {
        "cpu": Provider(check="zipped", title="ONNX Runtime on zipped files", precisions=("fp32", "int8"))
    }
    RUNTIME_MODULES = onnx.RUNTIME_MODULES
    COMPILED = False
    QUANTIZATIONS: tuple[Quantization, ...] = ("cpu",)

    def require(self) -> None:
        """Zip archives are written everywhere."""

    def versions(self) -> Mapping[str, str | None]:
        return onnx.versions()

    def build(self, source: Path, folder: Path, stem: str, *, precision: str, engine: Engine) -> Built:
        path = folder / f"{stem}.{precision}{self.SUFFIXES[0]}"
        packed = io.BytesIO()
        with tempfile.TemporaryDirectory() as place:
            plain = onnx.build(source, Path(place), stem, precision=precision, engine=engine)
            with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
                archive.writestr(zipfile.ZipInfo(MEMBER, ALWAYS), plain.path.read_bytes())
        write_whole(path, packed.getvalue())
        return Built(path=path, format=self.FORMAT, precision=plain.precision, census=plain.census)

    def load(
        self, path: Path, *, provider: str = "cpu", threads: int | None = None, cuda_graph: bool = False
    ) -> Runner:
        try:
            with zipfile.ZipFile(path) as archive:
                content = archive.read(MEMBER)
        except (zipfile.BadZipFile, KeyError) as error:
            raise ArtifactRejected(f"{path} is not a zipped ONNX file", hint="export it again") from error
        with tempfile.TemporaryDirectory() as place:
            plain = Path(place) / MEMBER
            plain.write_bytes(content)
            runner = onnx.load(plain, provider=provider, threads=threads, cuda_graph=cuda_graph)
        runner.path, runner.format = path, self.FORMAT
        return runner


ZIPPED = Zipped()
