"""Robust students: what is taught on attacked images, by labels or by a teacher that is robust itself.

One objective carries them all. They differ in what the attack climbs, in which answer of the teacher is the target on
the attacked images, and in which images count; the losses are those of every other method.
"""

from collections.abc import Iterator
from typing import ClassVar, Literal

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from compressor.attack import PGD
from compressor.attack.adversarial import Start
from compressor.attack.slope import apart, divergence, loss
from compressor.batch import Batch
from compressor.methods.kd import SoftTeaching, ask
from compressor.methods.protocol import Config, Moment, Needs, Objective, Setting, Update
from compressor.methods.taps import undistributed
from compressor.methods.weights import Weight


class PixelAttack(Config):
    """How images are attacked while training, see `compressor.attack.PGD`; lengths are in pixels, of 1."""

    epsilon: float = Field(default=8 / 255, gt=0, le=1, description="largest change of a pixel, of 1")
    steps: PositiveInt = 10
    step_size: PositiveFloat = 2 / 255
    start: Start = Field(default="normal", description="uniform: anywhere within epsilon; normal: hardly off the image")

    def build(self) -> PGD:
        """Return the attack."""
        return PGD(epsilon=self.epsilon, steps=self.steps, step_size=self.step_size, start=self.start)


class PGDAT(Config):
    """No teacher: cross entropy with the labels of attacked images (Madry et al., ICLR 2018).

    Source: "Towards Deep Learning Models Resistant to Adversarial Attacks", arXiv:1706.06083. What robust teachers are
    trained by. The student attacks itself, in eval mode, by its cross entropy.
    """

    kind: Literal["pgd-at"] = "pgd-at"
    attack: PixelAttack = PixelAttack(start="uniform")
    needs: ClassVar[Needs] = Needs(teachers=0, most=0)

    def build(self, setting: Setting) -> Objective:
        return _Attacked(self, setting)


class Robust(SoftTeaching):
    """The keys of every method that distils robustness. Weights: `ce_weight` of the labels on clean images,
    `clean_weight` and `kd_weight` of the soft loss on clean and on attacked ones; a term of weight 0 costs nothing.
    """

    temperature: PositiveFloat = 1.0
    ce_weight: Weight = Weight(0.0)
    clean_weight: Weight = Weight(0.0)
    kd_weight: Weight = Weight(1.0)
    attack: PixelAttack = PixelAttack()
    needs: ClassVar[Needs] = Needs()


class ARD(Robust):
    """Soft targets of clean images on attacked ones (Goldblum et al., AAAI 2020), for a teacher that is robust.

    Source: "Adversarially Robust Distillation", arXiv:1905.09747. The student's own cross entropy is attacked, from a
    uniform start. The paper's alpha is `kd_weight: alpha, ce_weight: 1 - alpha`; the default is 1, as in the authors'
    code. Their code attacks the student in training mode, and divides the soft loss by the number of classes.
    """

    kind: Literal["ard"] = "ard"
    temperature: PositiveFloat = 30.0
    t2: bool = True
    attack: PixelAttack = PixelAttack(start="uniform")

    def build(self, setting: Setting) -> Objective:
        return _AgainstLabels(self, setting)


class RSLAD(Robust):
    """Soft targets of clean images on clean and attacked ones, no labels (Zi et al., ICCV 2021).

    Source: "Revisiting Adversarial Robustness Distillation: Robust Soft Labels Make Student Better", arXiv:2108.07969.
    Attacked is the divergence from the teacher's answer to the clean image. The authors' code divides the losses by the
    number of classes.
    """

    kind: Literal["rslad"] = "rslad"
    clean_weight: Weight = Weight(1 / 6)
    kd_weight: Weight = Weight(5 / 6)

    def build(self, setting: Setting) -> Objective:
        return _AgainstTeacher(self, setting)


class AdaAD(Robust):
    """Soft targets where student and teacher differ most (Huang et al., CVPR 2023).

    Source: "Boosting Accuracy and Robustness of Student Models via Adaptive Adversarial Distillation". The attack
    climbs the divergence of the two, through both, and the target is what the teacher says of the attacked image. The
    paper's alpha is `kd_weight: alpha, clean_weight: 1 - alpha`. Two networks are attacked: about twice the cost of
    the others.
    """

    kind: Literal["adaad"] = "adaad"
    needs: ClassVar[Needs] = Needs(gradients=True)

    def build(self, setting: Setting) -> Objective:
        return _AgainstBoth(self, setting)


class DGAD(Robust):
    """AdaAD that does not pass on the teacher's mistakes (Park and Min, ECCV 2024).

    Source: "Dynamic Guidance Adversarial Distillation with Enhanced Teacher Knowledge", arXiv:2409.01627. An image that
    the teacher gets wrong teaches clean, all others attacked; where it is wrong, in either place, its logits of its
    own class and of the label's are exchanged. `consistency_weight` is the factor of the mean squared difference
    between what the student says of an image clean and attacked. Both groups share one mean over the batch, which is
    the published weighing of the two.
    """

    kind: Literal["dgad"] = "dgad"
    clean_weight: Weight = Weight(1.0)
    consistency_weight: NonNegativeFloat = 1.0
    needs: ClassVar[Needs] = Needs(gradients=True)

    def build(self, setting: Setting) -> Objective:
        return _Guided(self, setting)


class _Attacked(Objective):
    """The cross entropy that `PGDAT` describes."""

    def __init__(self, config: PGDAT, setting: Setting) -> None:
        super().__init__(setting)
        self.attack = config.attack.build()

    def updates(self, batch: Batch, moment: Moment) -> Iterator[Update]:
        network = undistributed(self.setting.student)
        moved = self.attack(network, batch.images, loss(batch.labels), generator=moment.generator)
        logits = self.setting.student(moved).float()
        yield Update({"ce": F.cross_entropy(logits, batch.labels)}, notes=_notes(logits, batch.labels))


class _Distilled(Objective):
    """Labels on clean images, soft targets on clean and on attacked ones."""

    def __init__(self, config: Robust, setting: Setting) -> None:
        super().__init__(setting)
        self.config, self.attack = config, config.attack.build()
        self.soft = config.soft_loss.build(setting)

    def moved(self, batch: Batch, taught: Tensor, moment: Moment) -> Tensor:
        """Return the attacked images, given the teacher's logits of the clean ones."""
        raise NotImplementedError

    def target(self, moved: Tensor, taught: Tensor) -> Tensor:  # noqa: ARG002 (what others need)
        """Return the logits that the student learns on the attacked images."""
        return taught

    def updates(self, batch: Batch, moment: Moment) -> Iterator[Update]:
        config, elapsed, labels = self.config, moment.elapsed, batch.labels
        taught = ask(self.setting.teachers[0], batch.images)
        moved = self.moved(batch, taught, moment)
        terms = dict[str, Tensor]()
        ce, clean = config.ce_weight.at(elapsed), config.clean_weight.at(elapsed)
        if ce > 0 or clean > 0:
            logits = self.setting.student(batch.images).float()
            terms |= {"ce": ce * F.cross_entropy(logits, labels)} if ce > 0 else {}
            terms |= {"clean": clean * self.soft(logits, taught, labels).mean()} if clean > 0 else {}
        attacked = self.setting.student(moved).float()
        terms["kd"] = config.kd_weight.at(elapsed) * self.soft(attacked, self.target(moved, taught), labels).mean()
        yield Update(terms, notes=_notes(attacked, labels))


class _AgainstLabels(_Distilled):
    def moved(self, batch: Batch, taught: Tensor, moment: Moment) -> Tensor:  # noqa: ARG002
        return self.attack(
            undistributed(self.setting.student), batch.images, loss(batch.labels), generator=moment.generator
        )


class _AgainstTeacher(_Distilled):
    def moved(self, batch: Batch, taught: Tensor, moment: Moment) -> Tensor:
        return self.attack(
            undistributed(self.setting.student), batch.images, divergence(taught), generator=moment.generator
        )


class _AgainstBoth(_Distilled):
    def moved(self, batch: Batch, taught: Tensor, moment: Moment) -> Tensor:  # noqa: ARG002
        both = SideBySide(undistributed(self.setting.student), self.setting.teachers[0])
        return self.attack(both, batch.images, apart, generator=moment.generator)

    def target(self, moved: Tensor, taught: Tensor) -> Tensor:  # noqa: ARG002
        return ask(self.setting.teachers[0], moved)


class _Guided(_AgainstBoth):
    config: DGAD

    def updates(self, batch: Batch, moment: Moment) -> Iterator[Update]:
        config, elapsed, labels = self.config, moment.elapsed, batch.labels
        taught = ask(self.setting.teachers[0], batch.images)
        moved = self.moved(batch, taught, moment)
        right = (taught.argmax(dim=1) == labels).float()  # [B]
        clean, attacked = (self.setting.student(images).float() for images in (batch.images, moved))
        on_clean = self.soft(clean, righted(taught, labels), labels) * (1 - right)
        on_attacked = self.soft(attacked, righted(self.target(moved, taught), labels), labels) * right
        terms = {
            "clean": config.clean_weight.at(elapsed) * on_clean.mean(),
            "kd": config.kd_weight.at(elapsed) * on_attacked.mean(),
            "consistency": config.consistency_weight * F.mse_loss(attacked.softmax(dim=1), clean.softmax(dim=1)),
        }
        if (ce := config.ce_weight.at(elapsed)) > 0:
            terms["ce"] = ce * F.cross_entropy(clean, labels)
        yield Update(terms, notes=_notes(attacked, labels) | {"teacher_right": right.mean()})


class SideBySide(nn.Module):
    """Two classifiers as one: `[B, C, H, W]` to `[B, 2K]`, the first network's logits before the second's."""

    def __init__(self, first: nn.Module, second: nn.Module) -> None:
        super().__init__()
        self.first, self.second = first, second

    def forward(self, images: Tensor) -> Tensor:
        return torch.cat((self.first(images), self.second(images)), dim=1)


def righted(logits: Tensor, labels: Tensor) -> Tensor:
    """Return logits `[B, K]` in which the largest and that of the label have changed places."""
    top = logits.argmax(dim=1, keepdim=True)
    named = labels[:, None]
    largest, own = logits.gather(1, top), logits.gather(1, named)
    return logits.scatter(1, top, own).scatter(1, named, largest)


def _notes(attacked: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Return what to note of the student's logits of attacked images: the share that it still gets right."""
    return {"attacked_right": (attacked.argmax(dim=1) == labels).float().mean()}
