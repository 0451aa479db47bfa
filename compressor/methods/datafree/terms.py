"""What a generator without data is trained by: terms of what teacher and student say of its images.

All data-free methods share them, with other weights. Each is minimised by the generator; those of single images return
`[B]`, those of a batch a scalar.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, NamedTuple

import torch
from pydantic import Field, NonNegativeFloat
from torch import Tensor, nn
from torch.nn import functional as F

from compressor.errors import InputRejected
from compressor.kinds import Config
from compressor.methods.taps import Taps
from compressor.models import batchnorm
from compressor.models.batchnorm import Passed

Measure = Literal["l1", "kl", "log-l1"]
Matching = Literal["norm", "mse"]


def l1(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the mean absolute difference of logits, `[B, K]` each to `[B]`: DFAD's distance (arXiv:1912.11006)."""
    return (student - teacher).abs().mean(dim=1)


def kl(student: Tensor, teacher: Tensor) -> Tensor:
    """Return `KL(teacher || student)` of the predictions, `[B, K]` each to `[B]`, at temperature 1."""
    log_p, log_q = F.log_softmax(teacher, dim=1), F.log_softmax(student, dim=1)
    return (log_p.exp() * (log_p - log_q)).sum(dim=1)


def log_l1(student: Tensor, teacher: Tensor) -> Tensor:
    """Return `log(1 + l1)`, whose gradient weakens as the distance grows: DFAD's for dense predictions."""
    return l1(student, teacher).log1p()


DISTANCES: Mapping[Measure, Callable[[Tensor, Tensor], Tensor]] = {"l1": l1, "kl": kl, "log-l1": log_l1}


def one_hot(teacher: Tensor) -> Tensor:
    """Return the cross-entropy to the teacher's own top class, `[B, K]` to `[B]`: 0 where it is certain."""
    return F.cross_entropy(teacher, teacher.detach().argmax(dim=1), reduction="none")


def entropy_share(teacher: Tensor) -> Tensor:
    """Return the entropy of the mean prediction over images `[B, K]`, as a share of `log K`.

    It is 1 where the images are spread evenly over the classes as the teacher sees them, and 0 where all are of one.
    """
    mean = teacher.softmax(dim=1).mean(dim=0)
    entropy: Tensor = -torch.special.xlogy(mean, mean).sum()
    return entropy / math.log(teacher.shape[1])


def statistics(passed: Sequence[Passed], matching: Matching) -> Tensor:
    """Return how far a pass is from what a network's BatchNorm layers remember of its training, a scalar.

    Source: Yin et al., CVPR 2020 (arXiv:1912.08795), equation 4. `norm` sums `||mean - mean'||_2 + ||var - var'||_2`
    over the layers; `mse` is the mean over the layers of both mean squared errors, as Qimera has it.
    """
    gaps = [(each.mean - each.known_mean, each.variance - each.known_variance) for each in passed]
    if matching == "norm":
        return torch.stack([mean.norm() + variance.norm() for mean, variance in gaps]).sum()
    return torch.stack([mean.square().mean() + variance.square().mean() for mean, variance in gaps]).mean()


class GeneratorLoss(Config):
    """The terms of a generator and their weights; one of weight 0 costs nothing."""

    adversarial_weight: NonNegativeFloat = Field(
        default=0.0, description="of minus the distance of student and teacher: images on which they differ"
    )
    adversarial: Measure = Field(default="l1", description="which distance")
    label_weight: NonNegativeFloat = Field(
        default=0.0, description="of the teacher's cross-entropy to the classes that were asked for"
    )
    one_hot_weight: NonNegativeFloat = Field(
        default=0.0, description="of its cross-entropy to its own top class: images that it is sure of"
    )
    balance_weight: NonNegativeFloat = Field(
        default=0.0, description="of minus the entropy of its mean prediction: images of all classes"
    )
    statistics_weight: NonNegativeFloat = Field(
        default=0.0, description="of the distance to the statistics in its BatchNorm layers"
    )
    statistics: Matching = Field(
        default="norm", description="norm: sum over layers of 2-norms; mse: mean over layers of squared errors"
    )
    activation_weight: NonNegativeFloat = Field(
        default=0.0, description="of minus the mean size of its features: images that it responds to"
    )
    features: str | None = Field(default=None, description="of activation_weight: a module of the teacher, by its path")


class Judged(NamedTuple):
    """Weighted terms by name, of each image `[B]` and of the batch; `taught` `[B, K]` is what the teacher says."""

    images: Mapping[str, Tensor]
    batch: Mapping[str, Tensor]
    taught: Tensor

    def terms(self) -> dict[str, Tensor]:
        """Return the scalars to minimise."""
        return {name: value.mean() for name, value in self.images.items()} | dict(self.batch)


class Judge:
    """Teacher and student, asked about the images of a generator; gradients pass to the images.

    Args:
        student: a function, since who asks decides in which mode it answers.

    Raises:
        InputRejected: the teacher's statistics are asked for, and no BatchNorm layer of it has any.
    """

    def __init__(self, config: GeneratorLoss, teacher: nn.Module, student: Callable[[Tensor], Tensor]) -> None:
        self.config, self.teacher, self.student = config, teacher, student
        self.layers = batchnorm.remembering(teacher) if config.statistics_weight > 0 else []
        if config.statistics_weight > 0 and not self.layers:
            raise InputRejected(
                "the teacher has no BatchNorm whose statistics generated images could be matched to",
                hint="--set method.losses.statistics_weight=0, or --method dfad, which needs none",
            )

    def __call__(self, images: Tensor, labels: Tensor | None, measure: Measure) -> Judged:
        """Return the terms of images `[B, C, H, W]`.

        Args:
            labels: the share of each class that was asked for, `[B, K]`.
            measure: the distance between student and teacher.
        """
        config = self.config
        alone: dict[str, Tensor] = {}
        together: dict[str, Tensor] = {}
        with batchnorm.watched(self.layers) as passed:
            taught = self._taught(images, alone)
        if passed:
            together["statistics"] = config.statistics_weight * statistics(passed, config.statistics)
        if config.adversarial_weight > 0:
            alone["adversarial"] = -config.adversarial_weight * DISTANCES[measure](self.student(images).float(), taught)
        if config.label_weight > 0:
            assert labels is not None
            alone["label"] = config.label_weight * F.cross_entropy(taught, labels, reduction="none")
        if config.one_hot_weight > 0:
            alone["one_hot"] = config.one_hot_weight * one_hot(taught)
        if config.balance_weight > 0:
            entropy = entropy_share(taught) * math.log(taught.shape[1])
            together["balance"] = -config.balance_weight * entropy
        return Judged(alone, together, taught)

    def _taught(self, images: Tensor, alone: dict[str, Tensor]) -> Tensor:
        config = self.config
        if config.activation_weight == 0 or config.features is None:
            taught: Tensor = self.teacher(images).float()
            return taught
        with Taps(self.teacher, [config.features]) as taps:
            taught = self.teacher(images).float()
            alone["activation"] = -config.activation_weight * taps[config.features].float().abs().flatten(1).mean(dim=1)
        return taught
