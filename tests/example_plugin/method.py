"""A method of one's own: `--method example_plugin.method:Fading`, or `method: {kind: example_plugin.method:Fading}`."""

from collections.abc import Iterator
from typing import ClassVar

import torch
from torch.nn import functional as F

from compressor.batch import Batch
from compressor.methods import Config, Moment, Needs, Objective, Setting, Update


class Fading(Config):
    """From the teacher's classes to the labels: the hard predictions of the teacher count less each epoch."""

    kind: str
    start: float = 1.0  # weight of the teacher at the beginning
    needs: ClassVar[Needs] = Needs(teachers=1)

    def build(self, setting: Setting) -> Objective:
        return _Fading(self, setting)


class _Fading(Objective):
    def __init__(self, config: Fading, setting: Setting) -> None:
        super().__init__(setting)
        self.config = config

    def updates(self, batch: Batch, moment: Moment) -> Iterator[Update]:
        with torch.no_grad():
            taught = self.setting.teachers[0](batch.images).argmax(dim=1)
        logits = self.setting.student(batch.images).float()
        weight = self.config.start * (1 - moment.elapsed)
        yield Update({"ce": F.cross_entropy(logits, batch.labels), "taught": weight * F.cross_entropy(logits, taught)})
