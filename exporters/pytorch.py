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

from exporters.errors import RuntimeMissing
from exporters.ort import expect_images

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(eq=False)
class TorchRunner:
    """A `Runner` over a private copy of `network`, in inference mode, with all weights in `precision`.

    Images and logits are float32 at every precision; the casts are part of the inference. On a GPU, fp32 means fp32:
    TF32 convolutions are off while the network runs. `threads` holds for the calls of this runner only.
    """

    network: nn.Module
    _: KW_ONLY
    input_shape: tuple[int, int, int]
    classes: int
    device: str = "cpu"
    precision: str = "fp32"
    channels_last: bool = True
    threads: int | None = None
    path: Path | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    format: str = field(default="pytorch", init=False)
    provider: str = field(init=False)

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise RuntimeMissing(
                f"PyTorch runs are not offered in {self.precision!r}", hint=f"known: {', '.join(PRECISIONS)}"
            )
        self.provider = torch.device(self.device).type
        if self.provider == "cuda" and not torch.cuda.is_available():
            raise RuntimeMissing("PyTorch finds no CUDA device", hint="run on the CPU, or check the driver")
        network = copy.deepcopy(self.network).to(self.device, PRECISIONS[self.precision])
        if any(module.training for module in network.modules()):  # an exported program is, and stays, in inference mode
            network.eval()
        self.network = network.requires_grad_(False).to(memory_format=self._layout)

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

        def infer() -> Tensor:
            with self._settings():
                logits = self._infer(placed)
                if self.provider == "cuda":
                    torch.cuda.synchronize(self.device)
                return logits

        return infer

    def _placed(self, images: NDArray[np.float32]) -> Tensor:
        expect_images(images, self.input_shape)
        return torch.from_numpy(np.ascontiguousarray(images)).to(self.device).contiguous(memory_format=self._layout)

    def _infer(self, images: Tensor) -> Tensor:
        with torch.inference_mode():
            logits: Tensor = self.network(images.to(PRECISIONS[self.precision])).float()
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


def _without_tf32() -> AbstractContextManager[None]:
    return cudnn.flags(
        enabled=cudnn.enabled,
        benchmark=cudnn.benchmark,
        benchmark_limit=cudnn.benchmark_limit,
        deterministic=cudnn.deterministic,
        allow_tf32=False,
    )
