"""KD++: features of the student are long, and point where the teacher's class is."""

from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from compressor.batch import Batch
from compressor.errors import UsageError
from compressor.methods.losses.protocol import Feature, in_words, tapped_shapes
from compressor.methods.losses.relations import pooled, products
from compressor.methods.protocol import Setting


class ND(Feature):
    """Norm and direction against the teacher's class means, the addition of KD++ (Wang et al.).

    Source: "Improving Knowledge Distillation via Regularizing Feature Norm and Direction".

    `1 - <f_s, e_y> / max(|f_s|, |f_t|)`, with `e_y` the mean of the teacher's features of class `y`, divided by its
    length. Taps are the features before the classifier, or the maps that it averages over places. The authors take the
    means in a pass over the training images beforehand; here they are those of all images met so far, of each epoch as
    it was augmented, the current batch included, so that they settle within the first epoch. Features of different
    sizes meet behind a linear layer, trained with the student.
    """

    kind: Literal["nd"] = "nd"
    labelled: ClassVar[bool] = True

    def build(self, setting: Setting) -> "NormAndDirection":
        student, teacher = tapped_shapes(self, setting)
        if {len(student), len(teacher)} - {1, 3}:
            raise UsageError(
                f"nd cannot compare its taps: {in_words(self, student, teacher)}",
                hint="tap vectors, or maps [channels, height, width]",
            )
        regressor = nn.Identity() if student[0] == teacher[0] else nn.Linear(student[0], teacher[0])
        return NormAndDirection(regressor, teacher[0], setting)


class NormAndDirection(nn.Module):
    """The loss that `ND` describes; `sums` of the teacher's features of each class point where their means do."""

    sums: Tensor  # [K, D]

    def __init__(self, regressor: nn.Module, size: int, setting: Setting) -> None:
        super().__init__()
        self.regressor, self.gather = regressor, setting.gather
        self.register_buffer("sums", torch.zeros(setting.classes, size))

    def forward(self, student: Tensor, teacher: Tensor, batch: Batch) -> Tensor:
        learnt, taught = pooled(self.regressor(pooled(student))), pooled(teacher)
        self._meet(self.gather(taught), self.gather(batch.labels))
        means = F.normalize(self.sums, dim=1)[batch.labels]  # [B, D], of length 1
        length = torch.maximum(learnt.norm(dim=1), taught.norm(dim=1)).clamp_min(1e-12)
        return 1 - (learnt * means).sum(dim=1) / length

    @torch.no_grad()
    def _meet(self, features: Tensor, labels: Tensor) -> None:
        members = F.one_hot(labels, len(self.sums)).to(features.dtype)  # [B, K]
        self.sums += products(members.T, features.T)  # no index_add: on a GPU it adds in another order each time
