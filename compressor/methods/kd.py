"""Knowledge distillation: the student learns the teacher's softened predictions beside the labels."""

from collections.abc import Iterator, Sequence
from typing import Annotated, ClassVar, Literal, Self

import torch
from pydantic import Field, PositiveFloat, model_validator
from torch import Tensor, nn

from compressor.attack import as_found
from compressor.batch import Batch
from compressor.methods.labels import label_loss
from compressor.methods.losses import AnyFeatureLoss, AnyLogitLoss, Features
from compressor.methods.losses.features import name
from compressor.methods.losses.kl import KL
from compressor.methods.protocol import Config, Moment, Needs, Objective, Setting, Update, refusal
from compressor.methods.weights import Weight


class SoftTeaching(Config):
    """The keys of every method that teaches by soft targets, with the values of Heo et al. (AAAI 2019)."""

    kind: str
    temperature: PositiveFloat = 3.0
    ce_weight: Weight = Weight(1.0)
    kd_weight: Weight = Weight((4.0, 1.0))
    t2: bool = Field(default=False, description="multiply the soft losses by the temperature squared")
    soft: AnyLogitLoss | None = Field(
        default=None, description="the loss between logits; null: kl with the temperature and the t2 above"
    )

    @model_validator(mode="after")
    def _settings_have_an_effect(self) -> Self:
        fields = type(self).model_fields
        for key in ("temperature", "t2"):
            if self.soft is not None and getattr(self, key) != fields[key].default:
                raise refusal(
                    "is for the default soft loss", key=key, hint=f"write it in the section soft, or leave {key} out"
                )
        return self

    @property
    def soft_loss(self) -> AnyLogitLoss:
        """The loss between logits."""
        return KL(temperature=self.temperature, t2=self.t2) if self.soft is None else self.soft


class Distillation(SoftTeaching):
    """The keys of a method that teaches by one teacher: beside its soft targets, by its inner outputs."""

    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=0.0, description="of the labels' cross entropy: the part of its target that all classes share"
    )
    features: tuple[AnyFeatureLoss, ...] = Field(default=(), description="losses between inner outputs, none or more")

    @model_validator(mode="after")
    def _features_differ(self) -> Self:
        terms = [name(loss) for loss in self.features]
        if twice := next((each for each in terms if terms.count(each) > 1), None):
            raise refusal(f"lists {twice} twice", key="features")
        return self


class KD(Distillation):
    """Soft targets (Hinton et al., arXiv:1503.02531), by default as Heo et al. (AAAI 2019) use them.

    The defaults are those of `bss` without its boundary term, so that the two compare in pairs. Hinton's own form is a
    higher temperature with `t2: true` and constant weights that sum to 1, such as `ce_weight: 0.1, kd_weight: 0.9`.
    """

    kind: Literal["kd"] = "kd"
    needs: ClassVar[Needs] = Needs(cached=True, mixed=True)

    def build(self, setting: Setting) -> Objective:
        return SoftTargets(self, setting)


class SoftTargets(Objective):
    """Labels, soft targets and inner outputs on the images of the batch."""

    def __init__(self, config: Distillation, setting: Setting) -> None:
        super().__init__(setting)
        self.config = config
        self.soft = config.soft_loss.build(setting)
        self.features = Features(config.features, setting)

    def updates(self, batch: Batch, moment: Moment) -> Iterator[Update]:
        terms, _, _ = self.lesson(batch, moment)
        yield Update(terms)

    def lesson(self, batch: Batch, moment: Moment) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        """Return the terms on the images themselves, and the teacher's and the student's logits, `[B, K]` each."""
        config, elapsed = self.config, moment.elapsed
        taught = teacher_logits(self.setting, batch)[0]
        logits = self.setting.student(batch.images).float()
        terms = {
            "ce": config.ce_weight.at(elapsed) * label_loss(logits, batch, smoothing=config.label_smoothing),
            "kd": config.kd_weight.at(elapsed) * self.soft(logits, taught, batch.true_labels).mean(),
        }
        return terms | self.features.terms(batch, moment), taught, logits


def teacher_logits(setting: Setting, batch: Batch) -> Sequence[Tensor]:
    """Return the logits of every teacher on a batch's images, `[B, K]` each: those that it brings, else asked now."""
    return batch.taught or [ask(teacher, batch.images) for teacher in setting.teachers]


def ask(teacher: nn.Module, images: Tensor) -> Tensor:
    """Return the teacher's logits, `[B, K]` float32 without a graph; whatever its mode, it answers in eval mode."""
    with as_found(teacher), torch.no_grad():
        logits: Tensor = teacher(images)
    return logits.float()
