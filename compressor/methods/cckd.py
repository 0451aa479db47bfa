"""Confidence conditioned distillation: the surer a teacher is of the right class, the more a sample is its to teach."""

import math
from collections.abc import Iterator
from typing import ClassVar, Literal, Self

from pydantic import Field, PositiveFloat, model_validator
from torch import Tensor
from torch.nn import functional as F

from compressor.batch import Batch
from compressor.methods.kd import Distillation, SoftTargets, teacher_logits
from compressor.methods.protocol import Moment, Needs, Objective, Setting, Update, refusal
from compressor.methods.weights import Weight


class CCKD(Distillation):
    """Soft targets as far as the teacher believes in the label (Mishra and Sundaram, arXiv:2107.06993).

    Each sample has its own confidence `c`, the teacher's probability of its label. `form: loss` is the paper's CCKD-L,
    `c * kd + (1 - c) * ce`; `form: target` its CCKD-T, the soft loss against `c * teacher + (1 - c) * label`.

    With `self_regulation` (the paper's alpha) a sample teaches only where the student is wrong, or right by a margin
    between its two best probabilities below `1 - exp(-alpha * epoch)`, epochs counted from 0: at first only mistakes
    teach, later more. A skipped sample still costs the student's forward pass and is in the statistics of BatchNorm.
    A loss is a mean over the whole batch, so a sample pulls as much whether or not its neighbours are skipped; a batch
    of which nothing is left makes no step.

    The paper prints the threshold in two ways (one without the minus) and defines the margin in no equation: this is
    its figure, and the margin of the two best probabilities. Correlation congruence, which others call CCKD, is
    another method.
    """

    kind: Literal["cckd"] = "cckd"
    form: Literal["target", "loss"] = Field(
        default="target", description="what the confidence mixes: target (CCKD-T) or loss (CCKD-L)"
    )
    temperature: PositiveFloat = 1.0
    ce_weight: Weight = Weight(1.0)
    kd_weight: Weight = Weight(1.0)
    confidence_temperature: PositiveFloat | None = Field(
        default=None, description="of the teacher's confidence; null: as temperature, as the paper's algorithm has it"
    )
    self_regulation: PositiveFloat | None = Field(
        default=None,
        description="how fast the margin grows below which right answers teach, such as 0.01; null: all do",
    )
    needs: ClassVar[Needs] = Needs(cached=True)

    @model_validator(mode="after")
    def _keys_fit_the_form(self) -> Self:
        if self.form == "target" and self.soft is not None:
            raise refusal("is for form: loss; the mixed target has probabilities and no logits", key="soft")
        if self.form == "target" and self.ce_weight != Weight(1.0):
            raise refusal("is for form: loss; with form: target the labels are in the target", key="ce_weight")
        if self.form == "target" and self.label_smoothing:
            raise refusal("is for form: loss; with form: target there is no cross entropy", key="label_smoothing")
        if self.self_regulation is not None and self.features:
            raise refusal("does not go with self_regulation: skipped samples would teach through it", key="features")
        return self

    def build(self, setting: Setting) -> Objective:
        return _Conditioned(self, setting)


class _Conditioned(SoftTargets):
    config: CCKD

    def updates(self, batch: Batch, moment: Moment) -> Iterator[Update]:
        config = self.config
        taught = teacher_logits(self.setting, batch)[0]
        logits = self.setting.student(batch.images).float()
        losses = self._losses(logits, taught, batch.labels, moment.elapsed)
        if config.self_regulation is None:
            terms = {name: loss.mean() for name, loss in losses.items()}
            yield Update(terms | self.features.terms(batch, moment))
            return
        threshold = 1 - math.exp(-config.self_regulation * moment.epoch)
        teaching = still_teaching(logits / config.temperature, batch.labels, threshold).float()
        share = self.setting.gather(teaching).mean()
        # All processes step, or none does: a gradient is averaged over all of them.
        terms = {name: (loss * teaching).mean() for name, loss in losses.items()} if share > 0 else {}
        yield Update(terms, notes={"teaching": share})

    def _losses(self, logits: Tensor, taught: Tensor, labels: Tensor, elapsed: float) -> dict[str, Tensor]:
        """Return the weighted losses of each sample, `[B]`, by the name of the term."""
        config = self.config
        confidence = confidence_in(labels, taught / (config.confidence_temperature or config.temperature))
        kd_weight = config.kd_weight.at(elapsed)
        if config.form == "target":
            target = mixed_target(taught / config.temperature, labels, confidence)
            # The soft loss softens what it is given, which turns these back into the target.
            return {"kd": kd_weight * self.soft(logits, config.temperature * target.log(), labels)}
        ce = F.cross_entropy(logits, labels, reduction="none", label_smoothing=config.label_smoothing)
        return {
            "ce": config.ce_weight.at(elapsed) * (1 - confidence) * ce,
            "kd": kd_weight * confidence * self.soft(logits, taught, labels),
        }


def confidence_in(labels: Tensor, logits: Tensor) -> Tensor:
    """Return the probability of each row's label, `[B]`, from logits `[B, K]`."""
    return logits.softmax(dim=1).gather(1, labels[:, None]).squeeze(1)


def mixed_target(logits: Tensor, labels: Tensor, confidence: Tensor) -> Tensor:
    """Return the target of CCKD-T, `[B, K]`: each row a mixture of `softmax(logits)` and the label, so its sum is 1."""
    share = confidence[:, None]
    return share * logits.softmax(dim=1) + (1 - share) * F.one_hot(labels, logits.shape[1])


def still_teaching(logits: Tensor, labels: Tensor, threshold: float) -> Tensor:
    """Return which samples teach a student that answers with logits `[B, K]`: a bool each, `[B]`, without a graph."""
    probabilities = logits.detach().softmax(dim=1)
    best = probabilities.topk(2, dim=1).values
    wrong = probabilities.argmax(dim=1) != labels
    return wrong | (best[:, 0] - best[:, 1] < threshold)
