"""ACKD: learners on inner stages of the student help it while it is trained, and are gone afterwards."""

from collections.abc import Iterator, Mapping
from typing import ClassVar, Literal

import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from compressor.batch import Batch
from compressor.errors import UsageError
from compressor.methods import critic
from compressor.methods.critic import Discriminator
from compressor.methods.kd import SoftTeaching, ask
from compressor.methods.losses.protocol import wide
from compressor.methods.protocol import Moment, Needs, Objective, Player, Setting, Update
from compressor.methods.taps import Taps
from compressor.methods.weights import Weight


class ACKD(SoftTeaching):
    """Learners on inner stages, fused by attention, and a discriminator, after the abstract of ACKD (Liu et al., 2021).

    Source: "Improved Knowledge Distillation via Adversarial Collaboration", arXiv:2111.14356.

    Each of `stages`, module paths in the student, has a learner: a convolution, BatchNorm, ReLU, the mean over places
    and a classifier. Attention weighs the learners' features for each image; their sum has a classifier too. All of
    them learn the labels and the teacher's soft targets (`learner_weight`), the student also what the sum says
    (`collaboration_weight`, by the same soft loss), and a discriminator tells the teacher's predictions from those of
    the student and its learners, which are to fool it (`adversarial_weight`). Only the student is exported.

    That the student has auxiliary learners, that a module brings attention and adversarial learning to them, is
    published in the abstract. How they are made, fused, weighed and judged is not: it is ours.
    """

    kind: Literal["ackd"] = "ackd"
    stages: tuple[str, ...] = Field(min_length=1, description="module paths in the student, such as [layer1, layer2]")
    temperature: PositiveFloat = 4.0
    kd_weight: Weight = Weight(1.0)
    t2: bool = True
    width: PositiveInt = Field(default=64, description="numbers of a learner's features")
    learner_weight: Weight = Weight(1.0)
    collaboration_weight: Weight = Weight(1.0)
    adversarial_weight: Weight = Weight(0.1)
    discriminator: Discriminator = Discriminator()
    needs: ClassVar[Needs] = Needs()

    def build(self, setting: Setting) -> Objective:
        return _Collaboration(self, setting)


class _Collaboration(Objective):
    """The student with its learners, then the discriminator, on each batch."""

    def __init__(self, config: ACKD, setting: Setting) -> None:
        super().__init__(setting)
        self.config = config
        self.soft = config.soft_loss.build(setting)
        self.inner = Taps(setting.student, config.stages)
        shapes = setting.shapes(setting.student, config.stages)
        self.learners = nn.ModuleList(Learner(path, shapes[path], config.width) for path in config.stages)
        self.heads = nn.ModuleList(nn.Linear(config.width, setting.classes) for _ in config.stages)
        self.fusion = Fusion(config.width, setting.classes)
        self.critic = config.discriminator.build(setting.classes)

    def players(self) -> dict[str, Player]:
        return {critic.NAME: self.critic.player()}

    def updates(self, batch: Batch, moment: Moment) -> Iterator[Update]:
        config, elapsed, labels = self.config, moment.elapsed, batch.labels
        taught = ask(self.setting.teachers[0], batch.images)
        logits = self.setting.student(batch.images).float()
        features = [learner(self.inner[path]) for path, learner in zip(config.stages, self.learners, strict=True)]
        said = [head(feature).float() for feature, head in zip(features, self.heads, strict=True)]
        fused = self.fusion(torch.stack(features, dim=1)).float()
        answers = torch.cat([logits, *said])
        lessons = [F.cross_entropy(each, labels) + self.soft(each, taught, labels).mean() for each in (*said, fused)]
        yield Update(
            {
                "ce": config.ce_weight.at(elapsed) * F.cross_entropy(logits, labels),
                "kd": config.kd_weight.at(elapsed) * self.soft(logits, taught, labels).mean(),
                "learners": config.learner_weight.at(elapsed) * torch.stack(lessons).mean(),
                "collaboration": config.collaboration_weight.at(elapsed)
                * self.soft(logits, fused.detach(), labels).mean(),
                "adversarial": config.adversarial_weight.at(elapsed) * self.critic.fooled(answers),
            },
            notes={"fused_right": (fused.argmax(dim=1) == labels).float().mean()},
        )
        yield self.critic.update(taught, answers, elapsed)

    def warnings(self, notes: Mapping[str, float]) -> Iterator[str]:
        yield from self.critic.warnings(notes)


class Learner(nn.Module):
    """Features `[B, D]` of an inner output, a map `[B, C, H, W]` or a vector `[B, C]`."""

    def __init__(self, path: str, shape: tuple[int, ...], width: int) -> None:
        super().__init__()
        if len(shape) not in (1, 3):
            raise UsageError(
                f"ackd cannot put a learner on {path}, which gives {list(shape)}",
                hint="name a module that gives a vector or a map [channels, height, width]",
            )
        self.layers = (
            nn.Sequential(nn.Conv2d(shape[0], width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
            if len(shape) == 3
            else nn.Sequential(nn.Linear(shape[0], width), nn.ReLU())
        )

    def forward(self, output: Tensor) -> Tensor:
        features: Tensor = self.layers(output)
        return wide(features).flatten(2).mean(dim=2) if features.dim() == 4 else features


class Fusion(nn.Module):
    """Logits `[B, K]` of M learners' features `[B, M, D]`, weighed for each image by attention over the learners."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.score = nn.Sequential(nn.Linear(width, width), nn.Tanh(), nn.Linear(width, 1))
        self.head = nn.Linear(width, classes)

    def weights(self, features: Tensor) -> Tensor:
        """Return each learner's share in each image, `[B, M, 1]`, which sums to 1."""
        scores: Tensor = self.score(features)
        return scores.softmax(dim=1)

    def forward(self, features: Tensor) -> Tensor:
        logits: Tensor = self.head((self.weights(features) * features).sum(dim=1))
        return logits
