"""No teacher: the student's own predictions of the epoch before soften its labels."""

from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from compressor.batch import Batch
from compressor.methods.past import PastPredictions
from compressor.methods.protocol import Config, Moment, Needs, Objective, Setting, Update


class PSKD(Config):
    """Learn from labels mixed with the student's own predictions of the epoch before (Kim et al., ICCV 2021).

    Source: "Self-Knowledge Distillation with Progressive Refinement of Targets" (PS-KD).

    The target of an image in epoch t of T, from 1, is `(1 - alpha_t) y + alpha_t p_{t-1}` with `alpha_t = alpha t / T`.
    `p_{t-1}` is what the student, in training mode, said of the image as it was augmented then. An image without a
    prediction has its label alone, so the first epoch is `ce`. Predictions take two bytes a class and image, on the
    training device and in the run's state.
    """

    kind: Literal["ps-kd"] = "ps-kd"
    alpha: Annotated[float, Field(ge=0, le=1, description="weight of the predictions in the last epoch")] = 0.8
    needs: ClassVar[Needs] = Needs(teachers=0, most=0)

    def build(self, setting: Setting) -> Objective:
        return OwnPast(self, setting)


class OwnPast(Objective):
    """The cross entropy that `PSKD` describes. `past` holds the latest prediction of each training image."""

    def __init__(self, config: PSKD, setting: Setting) -> None:
        super().__init__(setting)
        self.config = config
        self.past = PastPredictions(setting.samples, setting.classes)

    def updates(self, batch: Batch, moment: Moment) -> Iterator[Update]:
        logits = self.setting.student(batch.images).float()
        loss = F.cross_entropy(logits, self.targets(batch, moment))
        self.past.remember(batch.indices, logits, self.setting.gather)
        yield Update({"ce": loss})

    def targets(self, batch: Batch, moment: Moment) -> Tensor:
        """Return what the batch is taught, `[B, K]` float32."""
        labels = F.one_hot(batch.labels, self.setting.classes).float()
        past, known = self.past.recall(batch.indices)
        return torch.where(known, torch.lerp(labels, past, self.config.alpha * moment.elapsed), labels)
