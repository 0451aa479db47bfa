"""No teacher: cross entropy with the labels."""

from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from compressor.batch import Batch
from compressor.methods.labels import label_loss
from compressor.methods.protocol import Config, Moment, Needs, Objective, Setting, Update


class CE(Config):
    """Train on labels alone. The baseline that every method is compared with."""

    kind: Literal["ce"] = "ce"
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    needs: ClassVar[Needs] = Needs(teachers=0, most=0, mixed=True)

    def build(self, setting: Setting) -> Objective:
        return _Labels(self, setting)


class _Labels(Objective):
    def __init__(self, config: CE, setting: Setting) -> None:
        super().__init__(setting)
        self.config = config

    def updates(self, batch: Batch, moment: Moment) -> Iterator[Update]:  # noqa: ARG002 (the contract's signature)
        logits = self.setting.student(batch.images).float()
        yield Update({"ce": label_loss(logits, batch, smoothing=self.config.label_smoothing)})
