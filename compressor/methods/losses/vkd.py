"""VkD: an orthogonal projection, which can neither stretch nor forget what the student says."""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

from compressor.batch import Batch
from compressor.errors import UsageError
from compressor.methods.losses.protocol import Feature, in_words, tapped_shapes
from compressor.methods.losses.relations import pooled
from compressor.methods.protocol import Setting


class VkD(Feature):
    """Distance to standardised features behind an orthogonal projection (Miles et al., CVPR 2024).

    Source: "VkD: Improving Knowledge Distillation using Orthogonal Projections".

    The student's features go through a matrix with orthonormal columns, trained with the student, which keeps all
    lengths and angles; the teacher's lose their mean and their standard deviation over the channels of each sample. The
    loss is the Huber loss of the difference, a mean over the channels. Maps are averaged over their places first. The
    student can have no more channels than the teacher. Each step solves a system of the teacher's size.
    """

    kind: Literal["vkd"] = "vkd"

    def build(self, setting: Setting) -> "Orthogonal":
        student, teacher = tapped_shapes(self, setting)
        if not ({len(student), len(teacher)} <= {1, 3} and student[0] <= teacher[0]):
            raise UsageError(
                f"vkd cannot compare its taps: {in_words(self, student, teacher)}",
                hint="tap vectors or maps [channels, height, width], with at most the teacher's channels",
            )
        return Orthogonal(student[0], teacher[0])


class Orthogonal(nn.Module):
    """The loss that `VkD` describes."""

    def __init__(self, student: int, teacher: int) -> None:
        super().__init__()
        self.projector = nn.Linear(student, teacher, bias=False)
        # Not torch's default of products of reflections: it keeps signs on a diagonal, which weight decay rounds to 0.
        parametrizations.orthogonal(self.projector, orthogonal_map="cayley")

    def forward(self, student: Tensor, teacher: Tensor, batch: Batch | None = None) -> Tensor:  # noqa: ARG002
        learnt, taught = pooled(student), pooled(teacher)
        with torch.autocast(learnt.device.type, enabled=False):  # in half precision columns are not orthonormal
            projected = self.projector(learnt)
            standard = F.layer_norm(taught, taught.shape[1:])
            return F.smooth_l1_loss(projected, standard, reduction="none").mean(dim=1)
