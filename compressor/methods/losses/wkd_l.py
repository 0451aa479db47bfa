"""WKD-L: how far probability must be moved between classes, which are near where the teacher thinks so."""

from typing import Literal

import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from compressor.errors import UsageError
from compressor.methods.losses.relations import cosines, products
from compressor.methods.protocol import Config, Setting
from compressor.methods.taps import linear_head


class WKDL(Config):
    """Wasserstein distance of predictions (Lv et al., NeurIPS 2024).

    Source: "Wasserstein Distance Rivals Kullback-Leibler Divergence for Knowledge Distillation".

    `-t_y log s_y + distance W`: the first is the cross entropy of the label's class alone, unsoftened; `W` the cost of
    moving the student's softened prediction among the other classes to the teacher's, after `iterations` of Sinkhorn's
    algorithm at the given `regularisation`. Moving between two classes costs `1 - exp(-sharpen d)`, `d` one minus the
    cosine of their weights in the teacher's last linear layer. That is one of the two costs in the authors' code; their
    tables use the other, the likeness (CKA) of the classes' features, which needs a pass over the data beforehand.
    The authors fade it out by a cosine. Without labels the teacher's most probable class stands for the label's.
    """

    kind: Literal["wkd-l"] = "wkd-l"
    temperature: PositiveFloat = 8.0
    distance: PositiveFloat = 600.0
    sharpen: PositiveFloat = 1.0
    regularisation: float = Field(default=0.05, ge=0.03, description="less does not fit in single precision")
    iterations: PositiveInt = 10

    def build(self, setting: Setting) -> "Moved":
        if setting.classes < 3:
            raise UsageError(
                f"wkd-l compares classes other than the label's, and {setting.classes} classes leave too few",
                hint="choose another loss between logits",
            )
        return Moved(self, _classifier(setting.teachers[0], setting.classes))


class Moved(nn.Module):
    """The loss that `WKDL` describes; `weights` `[K, D]` are the classes' in the teacher's classifier."""

    cost: Tensor  # [K, K]

    def __init__(self, config: WKDL, weights: Tensor) -> None:
        super().__init__()
        self.config = config
        apart = (1 - cosines(weights)).clamp_min(0)
        self.register_buffer("cost", 1 - torch.exp(-config.sharpen * apart), persistent=False)

    def forward(self, student: Tensor, teacher: Tensor, labels: Tensor | None) -> Tensor:
        classes = teacher.argmax(dim=1) if labels is None else labels
        named = F.one_hot(classes, student.shape[1]).bool()
        target = -teacher.softmax(dim=1)[named] * student.log_softmax(dim=1)[named]
        learnt, taught = (
            (logits / self.config.temperature).masked_fill(named, -torch.inf).softmax(dim=1)
            for logits in (student, teacher)
        )
        return target + self.config.distance * self._moved(learnt, taught, ~named)

    def _moved(self, learnt: Tensor, taught: Tensor, others: Tensor) -> Tensor:
        """Return the cost of the regularised transport between rows of `[B, K]`, `[B]`.

        The label's class has no mass in either, so that one matrix of costs serves all samples.
        """
        cost = self.cost.to(learnt.dtype)
        near = torch.exp(-cost / self.config.regularisation)
        tiny = torch.finfo(near.dtype).tiny  # the authors' 1e-8 is as large as what far classes have in common
        u = others.to(learnt.dtype) / others.sum(dim=1, keepdim=True)
        for _ in range(self.config.iterations):  # costs are symmetric: near is its own transpose
            v = taught / (products(u, near) + tiny)
            u = learnt / (products(v, near) + tiny)
        return (u * products(v, near * cost)).sum(dim=1)


def _classifier(teacher: nn.Module, classes: int) -> Tensor:
    """Return the weights `[K, D]` of the last linear layer that has as many outputs as there are classes."""
    head = linear_head(teacher, classes)
    if head is None:
        raise UsageError(
            f"wkd-l compares classes by the teacher's last linear layer, and it has none of {classes} outputs",
            hint="choose another loss between logits, such as dist",
        )
    return head[1].weight.detach()
