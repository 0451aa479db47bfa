"""Plans run by `execute_async_v3` on a stream of their own, with torch's CUDA memory.

Everything that touches the GPU is in `CudaQueue` and the engine. The rest is tested without a GPU, against a stand-in
for these two; on a GPU this file has not run yet.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from exporters.errors import ArtifactRejected
from exporters.feeding import FedRunner, expect_images
from exporters.tensorrt.flavour import Log

if TYPE_CHECKING:
    import tensorrt as trt

# TensorRT's name of a type -> torch's. `trt.nptype` knows neither bf16 nor fp8.
DTYPES = {
    "FLOAT": torch.float32,
    "HALF": torch.float16,
    "BF16": torch.bfloat16,
    "INT8": torch.int8,
    "INT32": torch.int32,
    "INT64": torch.int64,
    "BOOL": torch.bool,
    "UINT8": torch.uint8,
    "FP8": torch.float8_e4m3fn,
}


class Queue(Protocol):
    """Where work is queued: a CUDA stream."""

    device: torch.device

    @property
    def handle(self) -> int: ...

    def after_caller(self) -> None:
        """Let what is queued next wait for the copies that the caller has queued."""
        ...

    def wait(self) -> None:
        """Return when all that is queued is done."""
        ...

    def record(self, work: Callable[[], None]) -> Callable[[], None]:
        """Return a call that queues the same kernels as `work` does, with the same addresses, at the cost of one."""
        ...


class CudaQueue:
    """A side stream: on the default one TensorRT adds a synchronisation to every call."""

    def __init__(self) -> None:
        self.device = torch.device("cuda", torch.cuda.current_device())
        self.stream = torch.cuda.Stream(self.device)

    @property
    def handle(self) -> int:
        return int(self.stream.cuda_stream)

    def after_caller(self) -> None:
        self.stream.wait_stream(torch.cuda.current_stream(self.device))

    def wait(self) -> None:
        self.stream.synchronize()

    def record(self, work: Callable[[], None]) -> Callable[[], None]:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=self.stream):
            work()

        def replay() -> None:
            with torch.cuda.stream(self.stream):
                graph.replay()

        return replay


@dataclass(frozen=True, eq=False)
class _Placed:
    """A batch on the device. The context has the addresses of the two tensors and does not keep them."""

    context: trt.IExecutionContext
    images: Tensor
    answers: Tensor  # [B, K]


@dataclass(kw_only=True, eq=False)
class PlanRunner(FedRunner):
    """A `Runner` over an engine. Images beyond its profile go in parts; too few are filled up with black ones."""

    profile: tuple[int, int, int]  # smallest, usual and largest batch
    cuda_graph: bool
    engine: trt.ICudaEngine
    queue: Queue
    log: Log
    given: str  # the input's name and type
    given_type: torch.dtype
    returned: str
    returned_type: torch.dtype

    def __post_init__(self) -> None:
        self._context = self._new_context()

    @property
    def _sizes(self) -> tuple[int, int | None]:
        return self.profile[0], self.profile[2]

    def _answer(self, batch: NDArray[np.generic]) -> NDArray[np.generic]:
        placed = self._placed(batch, self._context)
        self._enqueue(placed)
        self.queue.wait()
        answer: NDArray[np.float32] = placed.answers.float().cpu().numpy()
        return answer

    def prepare(self, images: NDArray[np.float32]) -> Callable[[], object]:
        """See `Runner.prepare`. With a CUDA graph the kernels are recorded once and replayed by each call.

        Raises:
            ArtifactRejected: the profile excludes the batch, or the GPU has no memory for it.
        """
        expect_images(images, self.input_shape)
        smallest, _, largest = self.profile
        if not smallest <= len(images) <= largest:
            raise ArtifactRejected(
                f"the profile of {self.path} takes batches of {smallest} to {largest} images, not of {len(images)}",
                hint="build it with a profile that includes this batch",
            )
        # A context of its own: shapes and addresses belong to the context, and other batches may be prepared.
        placed = self._placed(self._fed(images), self._new_context())
        self._enqueue(placed)  # TensorRT sets things up in the first run, which must not be recorded
        self.queue.wait()

        def enqueue() -> None:
            self._enqueue(placed)

        launch = self.queue.record(enqueue) if self.cuda_graph else enqueue

        def infer() -> object:
            launch()
            self.queue.wait()
            return placed.answers  # and thereby keeps what a recorded graph has only the addresses of

        return infer

    def _new_context(self) -> trt.IExecutionContext:
        self.log.clear()
        context = self.engine.create_execution_context()
        if context is None:
            raise self._failed("could not prepare to run")
        return context

    def _placed(self, images: NDArray[np.generic], context: trt.IExecutionContext) -> _Placed:
        """Put images on the device, and tell the context where they are and where the answers go."""
        self.log.clear()
        count = len(images)
        try:
            batch = torch.from_numpy(images).to(self.queue.device, self.given_type)
            answers = torch.empty(count, self.classes, dtype=self.returned_type, device=self.queue.device)
        except torch.OutOfMemoryError as error:
            raise self._failed(f"has no memory on the GPU for a batch of {count}") from error
        accepted = (
            context.set_input_shape(self.given, tuple(batch.shape))
            and context.set_tensor_address(self.given, batch.data_ptr())
            and context.set_tensor_address(self.returned, answers.data_ptr())
        )
        shape = context.get_tensor_shape(self.returned)
        if not accepted or len(shape) != 2 or (shape[0], shape[1]) != (count, self.classes):
            raise self._failed(f"does not take a batch of {count}")
        self.queue.after_caller()
        return _Placed(context, batch, answers)

    def _enqueue(self, placed: _Placed) -> None:
        if not placed.context.execute_async_v3(self.queue.handle):
            raise self._failed(f"could not run a batch of {len(placed.images)}")

    def _failed(self, what: str) -> ArtifactRejected:
        reason = self.log.reason()
        return ArtifactRejected(
            f"{self.path} {what}" + (f": {reason}" if reason else ""),
            hint="is its memory in use by other processes? try a smaller batch",
        )
