"""SimKD: the teacher's classifier is the student's, which learns to give it what it knows."""

import math
from collections.abc import Iterator, Sequence
from typing import ClassVar, Literal

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from compressor import models
from compressor.attack import as_found
from compressor.batch import Batch
from compressor.errors import UsageError
from compressor.methods.kd import ask
from compressor.methods.labels import label_loss
from compressor.methods.losses.protocol import wide
from compressor.methods.protocol import Config, Moment, Needs, Objective, Setting, Update
from compressor.methods.taps import Taps, linear_head, shapes, unwrap
from compressor.methods.weights import Weight


class SimKD(Config):
    """The teacher's classifier behind a projector in the student, which learns its features (Chen et al., CVPR 2022).

    Source: "Knowledge Distillation with the Reused Teacher Classifier", arXiv:2203.14001.

    `student` and `teacher` are the modules whose maps each network averages before it classifies. The loss is the mean
    squared difference of the student's projected map and the teacher's, both averaged to the smaller height and width;
    there are no labels in it, unless `ce_weight` says so. The projector has the teacher's channels divided by `factor`
    inside, and stays in the student, also when it is exported: that is the price of the method. The teacher's
    classifier is copied and stays as it is.
    """

    kind: Literal["simkd"] = "simkd"
    student: str = Field(min_length=1, description="module path in the student of the last map, such as layer3")
    teacher: str = Field(min_length=1, description="module path in the teacher of the last map")
    factor: PositiveInt = 2
    weight: Weight = Weight(1.0)
    ce_weight: Weight = Weight(0.0)
    needs: ClassVar[Needs] = Needs(mixed=True)

    def alter(self, student: nn.Module, teachers: Sequence[nn.Module], *, input_shape: tuple[int, int, int]) -> None:
        """Put the projector and a frozen copy of the first teacher's classifier into the student."""
        if models.changes_of(student):
            raise UsageError("the student to start from has a reused classifier already", hint="leave student.init out")
        device, teacher = next(student.parameters()).device, teachers[0]
        ours, theirs = (
            shapes(network, [path], input_shape=input_shape, device=device)[path]
            for network, path in ((student, self.student), (teacher, self.teacher))
        )
        classes = _classes(teacher, input_shape, device)
        own, taught = _last(student, "student", classes), _last(teacher, "teacher", classes)
        for who, path, shape, layer in (
            ("student", self.student, ours, own[1]),
            ("teacher", self.teacher, theirs, taught[1]),
        ):
            if len(shape) != 3 or shape[0] != layer.in_features:
                raise UsageError(
                    f"simkd needs the last map of the {who}: {path} gives {list(shape)}, "
                    f"and the classifier takes {layer.in_features} numbers",
                    hint="name the module whose output is averaged over places and classified",
                )
        _refuse_more_than_averaging(teacher, self.teacher, taught[1], input_shape, device)
        models.ReusedClassifier(
            map=self.student,
            classifier=own[0],
            channels=ours[0],
            middle=max(theirs[0] // self.factor, 1),
            features=theirs[0],
            classes=classes,
            bias=taught[1].bias is not None,
        ).apply(unwrap(student))
        reused = unwrap(student).get_submodule(own[0])
        reused.load_state_dict(taught[1].state_dict())
        reused.requires_grad_(False)
        _refuse_more_than_averaging(student, self.student, reused, input_shape, device)

    def build(self, setting: Setting) -> Objective:
        return _Features(self, setting)


class _Features(Objective):
    """The loss that `SimKD` describes, of a student that it has altered."""

    def __init__(self, config: SimKD, setting: Setting) -> None:
        super().__init__(setting)
        self.config = config
        self.learnt = Taps(setting.student, [config.student])
        self.taught = Taps(setting.teachers[0], [config.teacher])

    def updates(self, batch: Batch, moment: Moment) -> Iterator[Update]:
        config, elapsed = self.config, moment.elapsed
        ask(self.setting.teachers[0], batch.images)
        logits = self.setting.student(batch.images).float()
        distance = map_distance(wide(self.learnt[config.student]), wide(self.taught[config.teacher]))
        terms = {"simkd": config.weight.at(elapsed) * distance.mean()}
        if (ce := config.ce_weight.at(elapsed)) > 0:
            terms["ce"] = ce * label_loss(logits, batch)
        yield Update(terms)


def map_distance(learnt: Tensor, taught: Tensor) -> Tensor:
    """Return the mean squared difference of maps `[B, C, H, W]`, averaged to the smaller height and width, `[B]`."""
    size = min(learnt.shape[2], taught.shape[2]), min(learnt.shape[3], taught.shape[3])
    ours, theirs = (F.adaptive_avg_pool2d(each, size) for each in (learnt, taught))
    return (ours - theirs).square().flatten(1).mean(dim=1)


def _classes(network: nn.Module, input_shape: tuple[int, int, int], device: torch.device) -> int:
    return ask(network, torch.zeros(1, *input_shape, device=device)).shape[1]


def _last(network: nn.Module, who: str, classes: int) -> tuple[str, nn.Linear]:
    found = linear_head(network, classes)
    if found is None:
        raise UsageError(
            f"simkd replaces the classifier, and the {who} has no linear layer of {classes} outputs",
            hint="choose another method, such as kd",
        )
    return found


def _refuse_more_than_averaging(
    network: nn.Module, path: str, last: nn.Module, input_shape: tuple[int, int, int], device: torch.device
) -> None:
    """See that the network's logits are those of its classifier on the mean over places of a map."""
    image = torch.linspace(0, 1, math.prod(input_shape), device=device).view(1, *input_shape)
    with as_found(network), torch.no_grad(), Taps(network, [path]) as taps:
        try:
            logits = unwrap(network).forward(image)
            averaged = torch.allclose(logits, last(taps[path].mean(dim=(2, 3))), rtol=1e-3, atol=1e-3)
        except RuntimeError:  # layers behind the map do not take what it has become
            averaged = False
    if not averaged:
        raise UsageError(
            f"simkd needs a map that is averaged over places and classified, and more comes after {path}",
            hint="name the last module before the average, or choose another method",
        )
