"""Several teachers at once: the student learns the softened predictions of all, averaged or weighed for each image."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import ClassVar, Literal

import torch
from pydantic import PositiveFloat
from torch import Tensor, nn
from torch.nn import functional as F

from compressor.batch import Batch
from compressor.methods.kd import SoftTeaching, answers
from compressor.methods.losses.protocol import LogitTerm
from compressor.methods.protocol import Moment, Needs, Objective, Setting, Update
from compressor.methods.weights import Weight


class Ensemble(SoftTeaching):
    """The keys of every method with several teachers, with the values of Zhang et al. (ICASSP 2022) for their logits.

    Teachers may have any architecture and normalisation, and all have the data's classes.
    """

    temperature: PositiveFloat = 4.0
    kd_weight: Weight = Weight(1.0)
    t2: bool = True
    needs: ClassVar[Needs] = Needs(teachers=2, most=None, cached=True)


class Average(Ensemble):
    """Soft targets of several teachers, all with the same weight: what weighing them is compared with.

    The mean of the soft losses by each teacher. With `kl` it is the soft loss by the mean of the softened predictions,
    since a cross entropy is linear in its target. The defaults are those of `ca-mkd`.
    """

    kind: Literal["avg"] = "avg"

    def build(self, setting: Setting) -> Objective:
        return Lessons(self, setting, equal_weights)


class CAMKD(Ensemble):
    """Soft targets of several teachers, weighed for each image by how right they are (Zhang et al., ICASSP 2022).

    Source: "Confidence-Aware Multi-Teacher Knowledge Distillation", arXiv:2201.00007; its part between logits. The part
    between features is not here. As in the paper, the weights of an image sum to 1; the authors' code divides the loss
    by the number of teachers once more.
    """

    kind: Literal["ca-mkd"] = "ca-mkd"

    def build(self, setting: Setting) -> Objective:
        return Lessons(self, setting, confidence_weights)


class Lessons(Objective):
    """Labels, and a soft loss by each teacher, weighed for each image by `weigh` (its arguments: `equal_weights`)."""

    def __init__(self, config: Ensemble, setting: Setting, weigh: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__(setting)
        self.config, self.weigh = config, weigh
        # One loss for each teacher: some look at its classifier, some learn, some count what they were called with.
        self.soft = nn.ModuleList(
            _Soft(config.soft_loss.build(replace(setting, teachers=[teacher]))) for teacher in setting.teachers
        )

    def updates(self, batch: Batch, moment: Moment) -> Iterator[Update]:
        config, elapsed = self.config, moment.elapsed
        taught = torch.stack(tuple(answers(self.setting, batch)))
        logits = self.setting.student(batch.images).float()
        losses = [soft(logits, answer, batch.labels) for soft, answer in zip(self.soft, taught, strict=True)]
        weighed = (self.weigh(taught, batch.labels) * torch.stack(losses)).sum(dim=0)
        yield Update(
            {
                "ce": config.ce_weight.at(elapsed) * F.cross_entropy(logits, batch.labels),
                "kd": config.kd_weight.at(elapsed) * weighed.mean(),
            }
        )


def equal_weights(taught: Tensor, labels: Tensor) -> Tensor:
    """Return the weight of each teacher for each image, `[M, B]`, which sums to 1 over the teachers.

    Args:
        taught: the logits of M teachers, `[M, B, K]`.
        labels: `[B]` int64.
    """
    return taught.new_full((len(taught), len(labels)), 1 / len(taught))


def confidence_weights(taught: Tensor, labels: Tensor) -> Tensor:
    """Return `(1 - softmax_m(CE_m)) / (M - 1)`, `[M, B]`, CE the cross entropy of a teacher with the label.

    No weight is above `1 / (M - 1)`: one wrong teacher of many is left out, and the others share alike. Arguments are
    those of `equal_weights`, with two teachers at least.
    """
    errors = torch.stack([F.cross_entropy(logits, labels, reduction="none") for logits in taught])
    return (1 - errors.softmax(dim=0)) / (len(taught) - 1)


class _Soft(nn.Module):
    """Any soft loss as a module, so that a list of them is saved and trained where they are modules themselves."""

    def __init__(self, term: LogitTerm) -> None:
        super().__init__()
        self.term = term

    def forward(self, student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        return self.term(student, teacher, labels)
