"""TensorRT and TensorRT-RTX plans: built from ONNX, named by the precision found in them, and run on an NVIDIA GPU.

One code serves TensorRT 10.13 and later, 11, and TensorRT-RTX, whose builder needs no GPU. Running has been tested
against a stand-in for the runtime only: no plan has been executed on a GPU yet.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from exporters import Built, Engine, Provider, Quantization
from exporters.errors import ArtifactRejected, ExportFailed, RuntimeMissing
from exporters.tensorrt import sidecar
from exporters.tensorrt.flavour import Flavour, Gpu, gpu, listener, short, system
from exporters.tensorrt.sidecar import Sidecar

if TYPE_CHECKING:
    from exporters.tensorrt.runner import PlanRunner

__all__ = ["TENSORRT", "TENSORRT_RTX", "PlanExporter"]


@dataclass(frozen=True)
class PlanExporter:
    """A `Compiler` of plans for one of the two runtimes."""

    flavour: Flavour
    SUFFIXES: tuple[str, ...] = (".plan",)
    COMPILED: bool = True
    QUANTIZATIONS: tuple[Quantization, ...] = ("trt",)

    @property
    def FORMAT(self) -> str:
        """See `Exporter.FORMAT`."""
        return self.flavour.format

    @property
    def TITLE(self) -> str:
        """See `Exporter.TITLE`."""
        return self.flavour.title

    @property
    def PROVIDERS(self) -> Mapping[str, Provider]:
        """See `Exporter.PROVIDERS`."""
        return {"cuda": Provider(check=self.TITLE.lower(), title=self.TITLE)}

    @property
    def RUNTIME_MODULES(self) -> tuple[str, ...]:
        """See `Exporter.RUNTIME_MODULES`. PyTorch holds the memory on the device."""
        return ("torch", self.flavour.module)

    def versions(self) -> dict[str, str | None]:
        """See `Exporter.versions`."""
        return {"version": self.flavour.require()}

    def require(self) -> None:
        """See `Exporter.require`."""
        self.flavour.require()
        if not self.flavour.portable:
            self._gpu("builds plans")

    def build(self, source: Path, folder: Path, stem: str, *, precision: str, engine: Engine) -> Built:
        """See `Exporter.build`. A TensorRT plan is built on the GPU that runs it, and named after it.

        `source` is to be kept beside the plan, where `rebuild` looks for it.
        """
        from exporters.tensorrt.build import build_plan

        version = self.flavour.require()
        here = None if self.flavour.portable else self._gpu("builds plans")
        plan = build_plan(self.flavour, source, engine)
        if plan.precision != precision:
            raise ExportFailed(
                f"the plan of {source} computes in {plan.precision}, not in {precision}",
                hint=f"{self.flavour.title} keeps the precision of the graph: give it one in {precision}",
            )
        parts = [stem, plan.precision, *([f"sm{here.sm}"] if here else []), self.flavour.tagged(version)]
        path = folder / (".".join(parts) + self.SUFFIXES[0])
        record = Sidecar(
            plan_sha256=sidecar.sha256(plan.content),
            stem=stem,
            source=source.name,
            source_sha256=sidecar.sha256(source.read_bytes()),
            format=self.flavour.format,
            version=version,
            gpu=here.name if here else None,
            sm=here.sm if here else None,
            system=system(),
            profile=engine.batch,
            engine=sidecar.settings_of(engine),
            precision=plan.precision,
            census=plan.census,
            census_from=plan.census_from,
            input_shape=plan.borders.input_shape,
            classes=plan.classes,
            pixels=plan.borders.pixels,
            output=plan.borders.returns,
            metadata=plan.metadata,
        )
        sidecar.write(path, plan.content, record)
        return Built(
            path=path,
            format=self.flavour.format,
            precision=plan.precision,
            census=plan.census,
            companions=(sidecar.path_of(path),),
        )

    def described(self, path: Path) -> Sidecar:
        """See `Compiler.described`."""
        return sidecar.read(path)

    def rebuild(self, path: Path) -> Built:
        """Build a plan again for this machine from the ONNX file that its sidecar names, with the same settings.

        The new plan has the name that this machine gives it. The old one, which need not be there, stays.

        Raises:
            ArtifactRejected: there is no sidecar, or the ONNX file beside it is absent or another one.
            RuntimeMissing, ExportFailed: see `build`.
        """
        record = sidecar.read(path)
        self._expect_format(path, record)
        source = path.with_name(record.source)
        try:
            found = sidecar.sha256(source.read_bytes())
        except OSError as error:
            raise ArtifactRejected(
                f"{path} was built from {record.source}, which is not beside it", hint=f"put {record.source} there"
            ) from error
        if found != record.source_sha256:
            raise ArtifactRejected(
                f"{source} is not the file that {path.name} was built from: its hash differs", hint="export it anew"
            )
        return self.build(source, path.parent, record.stem, precision=record.precision, engine=record.settings())

    def load(
        self,
        path: Path,
        *,
        provider: str = "cpu",
        threads: int | None = None,  # noqa: ARG002 - for every exporter, and without meaning on a GPU
        cuda_graph: bool = False,
    ) -> PlanRunner:
        """Open a plan on the GPU, the one provider there is.

        Host code in plans is never executed. A version-compatible plan opens in newer minor versions if the runtime
        finds the matching lean library itself.

        Raises:
            ArtifactRejected: no sidecar, another hash, or built for another runtime, version, GPU or system.
            RuntimeMissing: another provider, no GPU, or the runtime is not installed.
        """
        title = self.flavour.title
        if provider != "cuda":
            raise RuntimeMissing(f"{title} plans run on an NVIDIA GPU, not on {provider!r}", hint="use provider cuda")
        content, record = sidecar.verified(path)
        self._expect_format(path, record)
        version = self.flavour.require()
        here = self._gpu("runs plans")
        self._expect_machine(path, record, version, here)
        return self._open(path, content, record, cuda_graph=cuda_graph)

    def _open(self, path: Path, content: bytes, record: Sidecar, *, cuda_graph: bool) -> PlanRunner:
        import numpy as np

        from exporters.tensorrt.runner import DTYPES, CudaQueue, PlanRunner

        if TYPE_CHECKING:
            import tensorrt as trt
        else:
            trt = import_module(self.flavour.module)

        logger, log = listener(self.flavour)
        log.clear()
        engine = trt.Runtime(logger).deserialize_cuda_engine(content)
        if engine is None:
            raise ArtifactRejected(f"{self.flavour.title} cannot load {path}", hint=log.reason() or None)
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        given = [name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT]
        returned = [name for name in names if name not in given]
        if len(given) != 1 or len(returned) != 1:
            raise ArtifactRejected(
                f"{path} has {len(given)} inputs and {len(returned)} outputs, a classifier has one of each"
            )
        low, usual, high = (shape[0] for shape in engine.get_tensor_profile_shape(given[0], 0))
        return PlanRunner(
            path=path,
            format=self.flavour.format,
            provider="cuda",
            precision=record.precision,
            input_shape=record.input_shape,
            classes=record.classes,
            pixels=record.pixels,
            output=record.output,
            metadata=record.metadata,
            threads=None,
            census=record.census,
            batch=low if low == high else None,
            feed=np.float32,  # what NumPy lacks, the device makes of it
            profile=(low, usual, high),
            cuda_graph=cuda_graph,
            engine=engine,
            queue=CudaQueue(),
            log=log,
            given=given[0],
            given_type=DTYPES[engine.get_tensor_dtype(given[0]).name],
            returned=returned[0],
            returned_type=DTYPES[engine.get_tensor_dtype(returned[0]).name],
        )

    def _gpu(self, does: str) -> Gpu:
        found = gpu()
        if found is None:
            raise RuntimeMissing(
                f"{self.flavour.title} {does} on an NVIDIA GPU, and there is none here", hint="check it with nvidia-smi"
            )
        return found

    def _expect_format(self, path: Path, record: Sidecar) -> None:
        if record.format != self.flavour.format:
            raise ArtifactRejected(
                f"{path} is a plan of the format {record.format}, not {self.flavour.format}",
                hint=f"open it with the format {record.format}",
            )

    def _expect_machine(self, path: Path, record: Sidecar, version: str, here: Gpu) -> None:
        if record.system == system() and _fits(record, here) and _reads(record, version):
            return
        built, found = record.version, version
        if short(built) != short(found):
            built, found = short(built), short(found)
        target = f"{Gpu(record.gpu, record.sm)} " if record.gpu and record.sm else ""
        raise ArtifactRejected(
            f"{path} was built for {target or 'GPUs '}with {self.flavour.title} {built} on {record.system}, "
            f"here are {here}, {self.flavour.title} {found} and {system()}",
            hint=f"build it for this machine: compress export --rebuild {path}",
        )


def _fits(record: Sidecar, here: Gpu) -> bool:
    """Whether the GPU is one that the plan was built for."""
    if record.sm is None:
        return True
    hardware = record.engine.get("hardware")
    if hardware == "ampere+":
        return here.sm >= 80
    return here.sm == record.sm and (hardware == "same-sm" or here.name == record.gpu)


def _reads(record: Sidecar, version: str) -> bool:
    """Whether this version of the runtime loads plans of the other."""
    if not record.engine.get("version_compatible"):
        return version == record.version
    built, found = ([int(part) for part in short(each).split(".")] for each in (record.version, version))
    return built[0] == found[0] and built[1] <= found[1]


TENSORRT = PlanExporter(
    Flavour(
        format="trt",
        module="tensorrt",
        title="TensorRT",
        tag="trt",
        install="pip install 'compressor[trt]', with NVIDIA's own index for its libraries: see their guide",
        portable=False,
    )
)
TENSORRT_RTX = PlanExporter(
    Flavour(
        format="trt-rtx",
        module="tensorrt_rtx",
        title="TensorRT-RTX",
        tag="rtx",
        install="pip install 'compressor[trt-rtx]'",
        portable=True,
    )
)
