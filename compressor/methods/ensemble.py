"""Several teachers at once: the student learns the softened predictions of all, averaged or weighed for each image."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import ClassVar, Literal

import torch
from pydantic import Field, PositiveFloat
from torch import Tensor, nn
from torch.nn import functional as F

from compressor.batch import Batch
from compressor.errors import UsageError
from compressor.methods.kd import SoftTeaching, teacher_logits
from compressor.methods.labels import label_loss
from compressor.methods.losses.protocol import LogitTerm, wide
from compressor.methods.protocol import Config, Moment, Needs, Objective, Setting, Update
from compressor.methods.taps import Taps, linear_head
from compressor.methods.weights import Weight


class Intermediate(Config):
    """Features of the student that equal each teacher's, weighed as the soft losses are.

    The student's map goes, at the teacher's height and width, through a 1x1 convolution, BatchNorm and ReLU of each
    teacher's own; the loss of an image is the mean squared difference to the teacher's map. What weighs an image is not
    the teacher's answer but what its classifier makes of the student's features, as a constant.
    """

    student: str = Field(min_length=1, description="module path in the student of the last map, such as layer3")
    teachers: tuple[str, ...] = Field(min_length=1, description="module paths, one for each teacher, or one for all")
    weight: Weight = Weight(50.0)


class Ensemble(SoftTeaching):
    """The keys of every method with several teachers, with the values of Zhang et al. (ICASSP 2022) for their logits.

    Teachers may have any architecture and normalisation, and all have the data's classes.
    """

    temperature: PositiveFloat = 4.0
    kd_weight: Weight = Weight(1.0)
    t2: bool = True
    intermediate: Intermediate | None = Field(default=None, description="the part between features; null: none")
    needs: ClassVar[Needs] = Needs(teachers=2, most=None, cached=True)


class Average(Ensemble):
    """Soft targets of several teachers, all with the same weight: what weighing them is compared with.

    The mean of the soft losses by each teacher. With `kl` it is the soft loss by the mean of the softened predictions,
    since a cross entropy is linear in its target. The defaults are those of `ca-mkd`.
    """

    kind: Literal["avg"] = "avg"
    needs: ClassVar[Needs] = Needs(teachers=2, most=None, cached=True, mixed=True)

    def build(self, setting: Setting) -> Objective:
        return Lessons(self, setting, equal_weights)


class CAMKD(Ensemble):
    """Soft targets of several teachers, weighed for each image by how right they are (Zhang et al., ICASSP 2022).

    Source: "Confidence-Aware Multi-Teacher Knowledge Distillation", arXiv:2201.00007. The part between features is
    `intermediate`; the paper has both. As in the paper, the weights of an image sum to 1; the authors' code divides the
    losses by the number of teachers once more, and begins with the features in the second epoch.
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
        self.inner = None if config.intermediate is None else _Inner(config.intermediate, setting)

    def updates(self, batch: Batch, moment: Moment) -> Iterator[Update]:
        config, elapsed = self.config, moment.elapsed
        taught = torch.stack(tuple(teacher_logits(self.setting, batch)))
        logits = self.setting.student(batch.images).float()
        losses = [soft(logits, answer, batch.true_labels) for soft, answer in zip(self.soft, taught, strict=True)]
        weighed = (self.weigh(taught, batch.labels) * torch.stack(losses)).sum(dim=0)
        terms = {
            "ce": config.ce_weight.at(elapsed) * label_loss(logits, batch),
            "kd": config.kd_weight.at(elapsed) * weighed.mean(),
        }
        if self.inner is not None:
            distances, judged = self.inner()
            weighed = (self.weigh(judged, batch.labels) * distances).sum(dim=0)
            terms["intermediate"] = self.inner.config.weight.at(elapsed) * weighed.mean()
        yield Update(terms)


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


class _Inner(nn.Module):
    """What `Intermediate` compares, of the images that all networks were called with last."""

    def __init__(self, config: Intermediate, setting: Setting) -> None:
        super().__init__()
        self.config = config
        paths = config.teachers * len(setting.teachers) if len(config.teachers) == 1 else config.teachers
        given = len(setting.teachers)
        if len(paths) != given:
            raise UsageError(
                f"method.intermediate.teachers names {len(paths)} modules, and there are {given} teachers",
                hint="name one for each teacher, in their order, or one for all",
            )
        (channels, *_) = setting.shapes(setting.student, [config.student])[config.student]
        self.student = Taps(setting.student, [config.student])
        self.teachers = [(Taps(each, [path]), path) for each, path in zip(setting.teachers, paths, strict=True)]
        self.classifiers, embeddings = [], []
        for number, (teacher, path) in enumerate(zip(setting.teachers, paths, strict=True), 1):
            shape, last = setting.shapes(teacher, [path])[path], linear_head(teacher, setting.classes)
            if last is None or shape[0] != last[1].in_features:
                takes = "it has no linear layer for the classes" if last is None else f"it takes {last[1].in_features}"
                raise UsageError(
                    f"the classifier of teacher {number} cannot weigh {path}, which gives {list(shape)}: {takes}",
                    hint="name the module whose output is averaged over places and classified",
                )
            self.classifiers.append(last[1])
            convolution = nn.Conv2d(channels, shape[0], 1, bias=False)
            embeddings.append(nn.Sequential(convolution, nn.BatchNorm2d(shape[0]), nn.ReLU()))
        self.embeddings = nn.ModuleList(embeddings)

    def forward(self) -> tuple[Tensor, Tensor]:
        """Return the distances of each teacher and image, `[M, B]`, and what the classifiers say, `[M, B, K]`."""
        learnt, distances, answers = _map(self.student[self.config.student]), [], []
        for (taps, path), embed, last in zip(self.teachers, self.embeddings, self.classifiers, strict=True):
            taught = _map(taps[path])
            embedded = wide(embed(_resized(learnt, taught.shape[2:])))
            distances.append(F.mse_loss(embedded, wide(taught), reduction="none").flatten(1).mean(dim=1))
            with torch.no_grad():
                answers.append(last(embedded.mean(dim=(2, 3))).float())
        return torch.stack(distances), torch.stack(answers)


def _map(output: Tensor) -> Tensor:
    """Return a vector `[B, C]` as a map of one place."""
    return output[:, :, None, None] if output.dim() == 2 else output


def _resized(output: Tensor, size: torch.Size) -> Tensor:
    """Return maps `[B, C, H, W]` at another height and width: averaged to a smaller, interpolated to a larger one."""
    if output.shape[2] > size[0]:
        return F.adaptive_avg_pool2d(output, (size[0], size[1]))
    return output if output.shape[2:] == size else F.interpolate(output, (size[0], size[1]), mode="bilinear")


class _Soft(nn.Module):
    """Any soft loss as a module, so that a list of them is saved and trained where they are modules themselves."""

    def __init__(self, term: LogitTerm) -> None:
        super().__init__()
        self.term = term

    def forward(self, student: Tensor, teacher: Tensor, labels: Tensor | None) -> Tensor:
        return self.term(student, teacher, labels)
