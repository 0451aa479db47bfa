"""Graphs compiled for the CPU and run, in the precision that they have or not at all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from exporters.errors import ArtifactRejected, RuntimeMissing
from exporters.feeding import FedRunner
from exporters.openvino.census import NAMES, weights_by_kernel
from exporters.openvino.runtime import core, reason
from exporters.precision import precision_of

# By precision, the type that what is not quantised is computed in, as OpenVINO spells it.
_HINTS = {"fp32": "f32", "fp16": "f16", "bf16": "bf16", "int8": "f32"}


@dataclass(kw_only=True, eq=False)
class OpenVinoRunner(FedRunner):
    """A `Runner` over an IR or an ONNX file. Its census counts weights by the type of the kernels chosen for them."""

    model: Any  # openvino.Model
    compiled: Any  # openvino.CompiledModel

    def __post_init__(self) -> None:
        self._request = self.compiled.create_infer_request()
        self._by_batch: dict[int, Any] = {}

    def _answer(self, batch: NDArray[np.generic]) -> NDArray[np.generic]:
        answer: NDArray[np.generic] = self._request.infer({0: batch}, share_inputs=True)[0]
        return answer

    def prepare(self, images: NDArray[np.float32]) -> Callable[[], object]:
        """See `Runner.prepare`. The graph is compiled for this batch size, which is faster than for any."""
        self._expect_batch(images)
        request = self._for_batch(len(images)).create_infer_request()
        request.get_input_tensor().data[:] = self._fed(images)

        def infer() -> object:
            return request.infer(share_outputs=True)

        return infer

    def _for_batch(self, size: int) -> Any:
        if self.batch is not None:
            return self.compiled
        if size not in self._by_batch:
            model = self.model.clone()
            model.reshape([size, *list(model.input().get_partial_shape())[1:]])
            self._by_batch[size], _ = compile_model(self.path, model, self.precision, self.threads)
        return self._by_batch[size]


def compile_model(path: Path | None, model: Any, precision: str, threads: int | None) -> tuple[Any, dict[str, int]]:
    """Compile the graph of the file `path` for the CPU, and see that what was asked for is what it does.

    Returns:
        The compiled graph, and its weights by the type of the kernels chosen for them.

    Raises:
        ArtifactRejected: OpenVINO cannot compile it.
        RuntimeMissing: this CPU would run it in another precision, or on another number of threads.
    """
    if precision not in _HINTS:
        raise RuntimeMissing(f"OpenVINO runs are not offered in {precision!r}", hint=f"known: {', '.join(_HINTS)}")
    settings: dict[str, Any] = {
        "INFERENCE_PRECISION_HINT": _HINTS[precision],
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0,  # else 8-bit weights alone make it round activations as well
    }
    if threads is not None:
        settings["INFERENCE_NUM_THREADS"] = threads
    try:
        compiled = core().compile_model(model, "CPU", settings)
    except RuntimeError as error:
        raise ArtifactRejected(f"OpenVINO cannot compile {path}: {reason(error)}") from error
    hint = compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
    census = weights_by_kernel(compiled)
    if hint != _HINTS[precision] or (census and precision_of(census) != precision):
        wrong = precision_of(census) if census else NAMES.get(hint, hint)
        raise RuntimeMissing(
            f"OpenVINO would run {path} in {wrong} on this CPU, not in {precision}",
            hint="run it where there are kernels for it, or export it with --precision fp32",
        )
    devices, available = compiled.get_property("EXECUTION_DEVICES"), compiled.get_property("INFERENCE_NUM_THREADS")
    if devices != ["CPU"]:
        raise RuntimeMissing(f"OpenVINO chose {devices} though the CPU was asked for")
    if threads not in (None, available):
        raise RuntimeMissing(
            f"OpenVINO runs on {available} threads here, not on {threads}", hint=f"ask for {available}"
        )
    return compiled, census
