"""Flow of the solution procedure: how a network gets from one layer to a later one."""

from typing import Literal

from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from compressor.batch import Batch
from compressor.errors import UsageError
from compressor.methods.losses.protocol import all_tapped_shapes, in_words, wide
from compressor.methods.losses.relations import products
from compressor.methods.protocol import Config, Setting
from compressor.methods.weights import Weight


class FSP(Config):
    """Squared distance of flow matrices, a mean over their elements (Yim et al., CVPR 2017).

    Source: "A Gift from Knowledge Distillation: Fast Optimization, Network Minimization and Transfer Learning".

    `student` and `teacher` each name two modules. A flow matrix `[C1, C2]` is the mean over the places of the products
    of the channels of the first and of the second; the map with more places is averaged down to the other's. Channels
    must be those of the teacher, places need not. The paper learns it in a stage of its own, before the task.
    """

    kind: Literal["fsp"] = "fsp"
    student: tuple[str, str] = Field(description="module paths in the student, such as [layer1, layer2]")
    teacher: tuple[str, str] = Field(description="module paths in the teacher")
    weight: Weight = Weight(1.0)

    def build(self, setting: Setting) -> "Flow":
        student, teacher = all_tapped_shapes(self, setting)
        maps = all(len(shape) == 3 for shape in (*student, *teacher))
        if not (maps and [shape[0] for shape in student] == [shape[0] for shape in teacher]):
            raise UsageError(
                f"fsp cannot compare its taps: {in_words(self, student, teacher)}",
                hint="tap maps [channels, height, width] with as many channels in both networks",
            )
        return Flow()


class Flow(nn.Module):
    """The loss that `FSP` describes."""

    def forward(
        self,
        student: tuple[Tensor, Tensor],
        teacher: tuple[Tensor, Tensor],
        batch: Batch | None = None,  # noqa: ARG002
    ) -> Tensor:
        return (_flow(*student) - _flow(*teacher)).square().mean(dim=(1, 2))


def _flow(first: Tensor, second: Tensor) -> Tensor:
    """Return the flow matrices of maps `[B, C1, H, W]` and `[B, C2, H, W]`, `[B, C1, C2]`."""
    size = min(first.shape[2], second.shape[2]), min(first.shape[3], second.shape[3])
    a, b = (F.adaptive_avg_pool2d(wide(maps), size).flatten(2) for maps in (first, second))
    return products(a, b) / a.shape[2]
