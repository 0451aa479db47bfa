"""AI-KD: the student learns from an earlier training of itself, from its own last epoch, and to be taken for it."""

from collections.abc import Iterator, Mapping
from typing import ClassVar, Literal

from pydantic import PositiveFloat
from torch.nn import functional as F

from compressor.batch import Batch
from compressor.methods import critic
from compressor.methods.critic import Discriminator
from compressor.methods.kd import SoftTeaching, ask
from compressor.methods.past import PastPredictions
from compressor.methods.protocol import Moment, Needs, Objective, Player, Setting, Update
from compressor.methods.weights import Weight


class AIKD(SoftTeaching):
    """Self-distillation with a discriminator, reconstructed from the abstract of AI-KD (Kim et al., KBS 2024).

    Source: "AI-KD: Adversarial learning and Implicit regularization for self-Knowledge Distillation", arXiv:2211.10938.

    The teacher is a trained network of the student's own architecture. Beside the labels there are three terms: its
    soft targets (`kd_weight`), the student's predictions of the epoch before (`past_weight`, as a cross entropy at
    temperature 1, from the second epoch on), and a discriminator that tells the predictions of the two apart, which
    the student is to fool (`adversarial_weight`).

    That there are these terms is published in the abstract. The weights, the temperature, the discriminator and its
    loss are not: those here are ours.
    """

    kind: Literal["ai-kd"] = "ai-kd"
    temperature: PositiveFloat = 1.0
    kd_weight: Weight = Weight(1.0)
    past_weight: Weight = Weight(1.0)
    adversarial_weight: Weight = Weight(0.1)
    discriminator: Discriminator = Discriminator()
    needs: ClassVar[Needs] = Needs()

    def build(self, setting: Setting) -> Objective:
        return _Imitator(self, setting)


class _Imitator(Objective):
    """Student and discriminator take turns on each batch, the student first."""

    def __init__(self, config: AIKD, setting: Setting) -> None:
        super().__init__(setting)
        self.config = config
        self.soft = config.soft_loss.build(setting)
        self.past = PastPredictions(setting.samples, setting.classes)
        self.critic = config.discriminator.build(setting.classes)

    def players(self) -> dict[str, Player]:
        return {critic.NAME: self.critic.player()}

    def updates(self, batch: Batch, moment: Moment) -> Iterator[Update]:
        config, elapsed = self.config, moment.elapsed
        taught = ask(self.setting.teachers[0], batch.images)
        logits = self.setting.student(batch.images).float()
        past, known = self.past.recall(batch.indices)
        self.past.remember(batch.indices, logits, self.setting.gather)
        before = F.cross_entropy(logits, past, reduction="none") * known.squeeze(1)  # a row of zeros costs nothing
        yield Update(
            {
                "ce": config.ce_weight.at(elapsed) * F.cross_entropy(logits, batch.labels),
                "kd": config.kd_weight.at(elapsed) * self.soft(logits, taught, batch.labels).mean(),
                "past": config.past_weight.at(elapsed) * before.mean(),
                "adversarial": config.adversarial_weight.at(elapsed) * self.critic.fooled(logits),
            }
        )
        yield self.critic.update(taught, logits, elapsed)

    def warnings(self, notes: Mapping[str, float]) -> Iterator[str]:
        yield from self.critic.warnings(notes)
