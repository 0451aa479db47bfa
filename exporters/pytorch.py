"""A network in memory behind the same protocol as its exports: the reference that those are compared with."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.backends import cudnn

from exporters import Output, Pixels
from exporters.errors import RuntimeMissing
from exporters.feeding import expect_images

_WARM_UP = 3  # inferences before one is recorded: the libraries choose their algorithms in the first ones
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(eq=False)
class TorchRunner:
    """A `Runner` over a private copy of `network`, in inference mode, with all weights in `precision`.

    Images and logits are float32 at every precision; the casts are part of the inference. On a GPU, fp32 means fp32:
    TF32 convolutions are off while the network runs. `threads` holds for the calls of this runner only.

    With `cuda_graph`, what `prepare` returns replays an inference recorded on the GPU. With `compile`, the network goes
    through `torch.compile`, at the first images of each shape.
    """

    network: nn.Module
    _: KW_ONLY
    input_shape: tuple[int, int, int]
    classes: int
    device: str = "cpu"
    precision: str = "fp32"
    channels_last: bool = True
    threads: int | None = None
    cuda_graph: bool = False
    compile: bool = False
    path: Path | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    format: str = field(default="pytorch", init=False)
    pixels: Pixels = field(default="float32", init=False)
    output: Output = field(default="logits", init=False)
    provider: str = field(init=False)

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise RuntimeMissing(
                f"PyTorch runs are not offered in {self.precision!r}", hint=f"known: {', '.join(PRECISIONS)}"
            )
        self.provider = torch.device(self.device).type
        if self.provider == "cuda" and not torch.cuda.is_available():
            raise RuntimeMissing("PyTorch finds no CUDA device", hint="run on the CPU, or check the driver")
        if self.cuda_graph and self.provider != "cuda":
            raise RuntimeMissing(
                f"PyTorch records CUDA graphs on a GPU, not on {self.provider}",
                hint="run on cuda, or without a CUDA graph",
            )
        network = copy.deepcopy(self.network).to(self.device, PRECISIONS[self.precision])
        if any(module.training for module in network.modules()):  # an exported program is, and stays, in inference mode
            network.eval()
        self.network = network.requires_grad_(False).to(memory_format=self._layout)
        self._forward: Callable[[Tensor], Tensor] = torch.compile(self.network) if self.compile else self.network

    @property
    def _layout(self) -> torch.memory_format:
        return torch.channels_last if self.channels_last else torch.contiguous_format

    def __call__(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        with self._settings():
            logits: NDArray[np.float32] = self._infer(self._placed(images)).cpu().numpy()
        return logits

    def prepare(self, images: NDArray[np.float32]) -> Callable[[], object]:
        """See `Runner.prepare`. The call waits for the GPU, so that its duration is that of the inference."""
        placed = self._placed(images)
        if self.cuda_graph:
            return self._recorded(placed)

        def infer() -> Tensor:
            with self._settings():
                logits = self._infer(placed)
                if self.provider == "cuda":
                    torch.cuda.synchronize(self.device)
                return logits

        return infer

    def _recorded(self, images: Tensor) -> _Recording:
        """Record an inference of images on the GPU. Source: PyTorch's notes on CUDA semantics, "CUDA Graphs"."""
        graph = torch.cuda.CUDAGraph()
        with self._settings(), torch.cuda.device(self.device):
            current, side = torch.cuda.current_stream(), torch.cuda.Stream()
            side.wait_stream(current)
            with torch.cuda.stream(side):
                for _ in range(_WARM_UP):
                    self._infer(images)
            current.wait_stream(side)
            with torch.cuda.graph(graph):
                logits = self._infer(images)
        return _Recording(graph, images, logits)

    def _placed(self, images: NDArray[np.float32]) -> Tensor:
        expect_images(images, self.input_shape)
        return torch.from_numpy(np.ascontiguousarray(images)).to(self.device).contiguous(memory_format=self._layout)

    def _infer(self, images: Tensor) -> Tensor:
        with torch.inference_mode():
            logits: Tensor = self._forward(images.to(PRECISIONS[self.precision])).float()
        return logits

    @contextmanager
    def _settings(self) -> Iterator[None]:
        """Set what PyTorch only knows for the whole process, and put it back."""
        before = torch.get_num_threads()
        exact = nullcontext() if self.provider != "cuda" or self.precision != "fp32" else _without_tf32()
        try:
            if self.threads is not None and self.threads != before:
                torch.set_num_threads(self.threads)
            with exact:
                yield
        finally:
            if torch.get_num_threads() != before:
                torch.set_num_threads(before)


@dataclass(frozen=True)
class _Recording:
    """An inference as a CUDA graph. It reads and writes memory by address, and so must hold whose that is."""

    graph: torch.cuda.CUDAGraph
    images: Tensor
    logits: Tensor

    def __call__(self) -> Tensor:
        self.graph.replay()
        torch.cuda.synchronize(self.images.device)
        return self.logits


def _without_tf32() -> AbstractContextManager[None]:
    return cudnn.flags(
        enabled=cudnn.enabled,
        benchmark=cudnn.benchmark,
        benchmark_limit=cudnn.benchmark_limit,
        deterministic=cudnn.deterministic,
        allow_tf32=False,
    )
