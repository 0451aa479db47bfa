"""ONNX files run by ONNX Runtime, on the provider that was asked for or not at all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from exporters.borders import find
from exporters.errors import ArtifactRejected, RuntimeMissing
from exporters.feeding import FedRunner, expect_claims
from exporters.onnx import FORMAT
from exporters.onnx.reading import read
from exporters.onnx.session import PROVIDERS, open_session
from exporters.precision import precision_of, weights_by_type

_FEEDS: dict[int, type[np.generic]] = {
    TensorProto.FLOAT: np.float32,
    TensorProto.FLOAT16: np.float16,
    TensorProto.UINT8: np.uint8,
}


@dataclass(kw_only=True, eq=False)
class OnnxRunner(FedRunner):
    """A `Runner` over an ONNX file."""

    cuda_graph: bool
    session: Any
    _recorded: int = field(default=0, init=False)  # CUDA graphs so far

    def _answer(self, batch: NDArray[np.generic]) -> NDArray[np.generic]:
        # -1: none. A recorded graph holds for one batch size and one place in memory.
        once = self._replay(-1) if self.cuda_graph else None
        (answer,) = self.session.run(None, {self.session.get_inputs()[0].name: batch}, once)
        found: NDArray[np.generic] = answer.squeeze((2, 3)) if answer.shape[2:] == (1, 1) else answer
        return found

    def prepare(self, images: NDArray[np.float32]) -> Callable[[], object]:
        """See `Runner.prepare`. Images and what is returned for them stay in the provider's memory.

        With `cuda_graph`, the first call records the graph that later ones replay.
        """
        import onnxruntime as ort

        self._expect_batch(images)
        given, returned = self.session.get_inputs()[0], self.session.get_outputs()[0]
        output_type = np.float16 if returned.type == "tensor(float16)" else np.float32
        memory = "cpu" if self.provider == "cpu" else "cuda"
        binding = self.session.io_binding()
        binding.bind_ortvalue_input(given.name, ort.OrtValue.ortvalue_from_numpy(self._fed(images), memory, 0))
        shape = [len(images), self.classes, *returned.shape[2:]]
        answer = ort.OrtValue.ortvalue_from_shape_and_type(shape, output_type, memory, 0)
        binding.bind_ortvalue_output(returned.name, answer)
        options = None
        if self.cuda_graph:
            self._recorded += 1
            options = self._replay(self._recorded)

        def infer() -> object:
            self.session.run_with_iobinding(binding, options)
            binding.synchronize_outputs()
            return answer

        return infer

    def _replay(self, graph: int) -> Any:
        """Return what tells a run which CUDA graph to record or replay."""
        import onnxruntime as ort

        options = ort.RunOptions()
        options.add_run_config_entry("gpu_graph_id", str(graph))
        return options


def load(path: Path, *, provider: str = "cpu", threads: int | None = None, cuda_graph: bool = False) -> OnnxRunner:
    """Open an ONNX classifier; `threads` are those of one operator, by default as many as there are cores.

    The providers are `cpu`, `cuda`, and `tensorrt`, which leaves to CUDA what it cannot run. With `cuda_graph`, what
    `prepare` returns replays a recorded graph; that needs the provider `cuda`.

    Raises:
        ArtifactRejected: not an ONNX file, cut short, not an image classifier, weights outside its folder, metadata
            that contradicts the graph, or nodes that the provider cannot run.
        RuntimeMissing: onnxruntime or the provider is not here, or the provider cannot do what is asked.
    """
    if provider not in PROVIDERS:
        raise RuntimeMissing(
            f"ONNX Runtime is not offered with the provider {provider!r}", hint=f"known: {', '.join(PROVIDERS)}"
        )
    if cuda_graph and provider != "cuda":
        raise RuntimeMissing(
            f"ONNX Runtime records CUDA graphs with the provider cuda, not with {provider}",
            hint="run it with provider cuda, or without a CUDA graph",
        )
    model = read(path)
    borders = find(path, model)
    counts = weights_by_type(model)
    precision = precision_of(counts)
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    expect_claims(path, metadata, precision=precision, pixels=borders.pixels, output=borders.returns)
    if provider == "cpu" and "bf16" in counts:
        raise RuntimeMissing(
            "ONNX Runtime has no bf16 convolution on the CPU; TensorRT runs it",
            hint="build it with --format trt, or export fp16",
        )
    if borders.element not in _FEEDS:
        raise ArtifactRejected(
            f"{path} takes bf16 input, which NumPy does not have", hint="convert it: inputs become fp32"
        )
    feed = _FEEDS[borders.element]
    session = open_session(path, model, provider, threads, cuda_graph=cuda_graph, fp16="fp16" in counts)
    classes = session.get_outputs()[0].shape[1:]
    if classes[1:] == [1, 1]:
        classes = classes[:1]
    if len(classes) != 1 or not isinstance(classes[0], int):
        channels, height, width = borders.input_shape
        image = (height, width, channels) if borders.pixels == "uint8" else borders.input_shape
        answer = session.run(None, {borders.input: np.zeros((borders.batch or 1, *image), feed)})[0]
        if answer.ndim != 2:
            raise ArtifactRejected(f"{path} returns {list(answer.shape)} for one image, not logits [batch, classes]")
        classes = [answer.shape[1]]
    return OnnxRunner(
        path=path,
        format=FORMAT,
        provider=provider,
        precision=precision,
        input_shape=borders.input_shape,
        classes=classes[0],
        pixels=borders.pixels,
        output=borders.returns,
        metadata=metadata,
        threads=threads,
        cuda_graph=cuda_graph,
        census=counts,
        batch=borders.batch,
        session=session,
        feed=feed,
    )
