"""Knowledge distillation: the student learns the teacher's softened predictions beside the labels."""

from collections.abc import Iterator
from typing import ClassVar, Literal

import torch
from pydantic import Field, PositiveFloat
from torch import Tensor, nn
from torch.nn import functional as F

from compressor.attack import as_found
from compressor.batch import Batch
from compressor.methods.protocol import Config, Moment, Needs, Objective, Setting, Update
from compressor.methods.weights import Weight


class KD(Config):
    """Soft targets (Hinton et al., arXiv:1503.02531), by default as Heo et al. (AAAI 2019) use them.

    The defaults are those of `bss` without its boundary term, so that the two compare in pairs. Hinton's own form is a
    higher temperature with `t2: true` and constant weights that sum to 1, such as `ce_weight: 0.1, kd_weight: 0.9`.
    """

    kind: Literal["kd"] = "kd"
    temperature: PositiveFloat = 3.0
    ce_weight: Weight = Weight(1.0)
    kd_weight: Weight = Weight((4.0, 1.0))
    t2: bool = Field(default=False, description="multiply the soft loss by the temperature squared")
    needs: ClassVar[Needs] = Needs()

    def build(self, setting: Setting) -> Objective:
        return _SoftTargets(self, setting)


class _SoftTargets(Objective):
    def __init__(self, config: KD, setting: Setting) -> None:
        super().__init__(setting)
        self.config = config

    def updates(self, batch: Batch, moment: Moment) -> Iterator[Update]:
        config = self.config
        taught = ask(self.setting.teachers[0], batch.images)
        logits = self.setting.student(batch.images).float()
        soft = soft_loss(logits, taught, config.temperature, t2=config.t2)
        yield Update(
            {
                "ce": config.ce_weight.at(moment.elapsed) * F.cross_entropy(logits, batch.labels),
                "kd": config.kd_weight.at(moment.elapsed) * soft,
            }
        )


def ask(teacher: nn.Module, images: Tensor) -> Tensor:
    """Return the teacher's logits, `[B, K]` float32 without a graph; whatever its mode, it answers in eval mode."""
    with as_found(teacher), torch.no_grad():
        logits: Tensor = teacher(images)
    return logits.float()


def soft_loss(logits: Tensor, taught: Tensor, temperature: float, *, t2: bool) -> Tensor:
    """Return the cross entropy of the softened predictions, `-sum_k p_k log q_k`, mean over the batch.

    It is the KL divergence plus the entropy of the teacher, which is constant: the gradients are the same, and a
    student that equals its teacher has gradient zero, not loss zero. The gradient by the logits is
    `(q - p) / (temperature * B)` and so shrinks as `1 / temperature²`; with `t2` the loss is multiplied by
    `temperature²` to make up for it. The published boundary distillation does without.

    Args:
        logits, taught: the student's and the teacher's, `[B, K]` float32.
    """
    loss = F.cross_entropy(logits / temperature, (taught / temperature).softmax(dim=1))
    return loss * temperature**2 if t2 else loss
