"""Another domain, whose images have no labels: features that both domains share, and a teacher that adapts to it."""

import copy
import math
from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat
from torch import Tensor, nn
from torch.distributions import Categorical
from torch.nn import functional as F

from compressor.batch import Batch
from compressor.errors import UsageError
from compressor.methods.kd import ask
from compressor.methods.losses.kl import KL
from compressor.methods.losses.protocol import wide
from compressor.methods.losses.relations import distances
from compressor.methods.protocol import Config, Moment, Needs, Objective, Player, Setting, Update
from compressor.methods.taps import Taps, linear_head

_KERNELS = 5  # of the maximum mean discrepancy, each twice as wide as the one before
_Share = Annotated[float, Field(gt=0, lt=1)]


class UDA(Config):
    """No teacher: labels of one domain, and features that another domain shares (Long et al., ICML 2015).

    Source: "Learning Transferable Features with Deep Adaptation Networks", arXiv:1502.02791, as Nguyen-Meidine et al.
    (arXiv:2005.07839) adapt their networks: one discrepancy, of what the classifier is given.

    `CE + gamma MMD^2`, with `gamma` rising from 0 (`adaptation`). Both domains go through the network as one batch, so
    that BatchNorm normalises them by the same statistics, which are also those that are kept.
    """

    kind: Literal["uda"] = "uda"
    mmd_weight: NonNegativeFloat = Field(
        default=1.0, description="factor of the discrepancy; 0: it never sees the target"
    )
    needs: ClassVar[Needs] = Needs(teachers=0, most=0, target=True)

    def build(self, setting: Setting) -> Objective:
        return Adapting(self, setting)


class KDUDA(Config):
    """The teacher adapts to another domain and teaches there, in turns (Nguyen-Meidine et al., arXiv:2005.07839).

    Source: "Joint Progressive Knowledge Distillation and Unsupervised Domain Adaptation". This is the paper's method;
    its released script adapts nothing after the first epoch.

    In each step the teacher learns `(1 - beta) [CE + gamma MMD^2]`, and then the student, from the teacher as it is
    now, `beta [T^2 KL on the target + alpha T^2 KL on the source + (1 - alpha) CE]`. `beta` grows exponentially over
    the epochs: the teacher adapts first. It is a copy that adapts: a network of the objective's own, which is saved and
    resumed with the run and never exported. What a record says of the teacher is of the one that was given.

    The defaults are published but for the temperature, which was 20 for 31 classes.
    """

    kind: Literal["kd-uda"] = "kd-uda"
    temperature: PositiveFloat = 4.0
    alpha: Annotated[float, Field(ge=0, le=1, description="share of the teacher on the labelled images")] = 0.3
    beta: tuple[_Share, _Share] = Field(default=(0.1, 0.9), description="weight of teaching, first and at the end")
    mmd_weight: NonNegativeFloat = Field(
        default=1.0, description="factor of the discrepancy; 0: the teacher never learns from the target"
    )
    teacher_lr: PositiveFloat = Field(default=0.001, description="falls as (1 + 10 p)^-0.75, p what is done")
    needs: ClassVar[Needs] = Needs(target=True, gradients=True)

    def build(self, setting: Setting) -> Objective:
        return Joint(self, setting)


class Adapting(Objective):
    """The loss that `UDA` describes."""

    def __init__(self, config: UDA, setting: Setting) -> None:
        super().__init__(setting)
        self.config = config
        self.features = ClassifierInputs(setting.student, setting.classes, "student")

    def updates(self, batch: Batch, moment: Moment) -> Iterator[Update]:
        labelled = len(batch.images)
        if self.config.mmd_weight == 0:  # the target is not seen, not even by BatchNorm
            yield Update({"ce": F.cross_entropy(self.setting.student(batch.images).float(), batch.labels)})
            return
        logits = self.setting.student(_both(batch)).float()
        terms = {"ce": F.cross_entropy(logits[:labelled], batch.labels)}
        if (weight := self.config.mmd_weight * adaptation(moment)) > 0:
            terms["mmd"] = weight * self.features.discrepancy(labelled)
        yield Update(terms, notes=_noted(logits[labelled:]))


class Joint(Objective):
    """The turns that `KDUDA` describes; `adapted` is the teacher's copy."""

    def __init__(self, config: KDUDA, setting: Setting) -> None:
        super().__init__(setting)
        self.config = config
        self.soft = KL(temperature=config.temperature, t2=True).build(setting)
        self.adapted = copy.deepcopy(setting.teachers[0]).requires_grad_(True)
        self.features = ClassifierInputs(self.adapted, setting.classes, "teacher")

    def players(self) -> dict[str, Player]:
        return {"teacher": Player(parameters=self.adapted.parameters(), lr=self.config.teacher_lr, schedule=_falling)}

    def updates(self, batch: Batch, moment: Moment) -> Iterator[Update]:
        images, labelled = _both(batch), len(batch.images)
        beta = teaching(self.config.beta, moment)
        yield Update(self._adapt(images, batch, 1 - beta, moment), player="teacher")
        taught = ask(self.adapted, images)
        logits = self.setting.student(images).float()
        lessons, alpha = self.soft(logits, taught, None), self.config.alpha
        terms = {
            "ce": beta * (1 - alpha) * F.cross_entropy(logits[:labelled], batch.labels),
            "kd": beta * alpha * lessons[:labelled].mean(),
            "kd_target": beta * lessons[labelled:].mean(),
        }
        yield Update(terms, notes=_noted(logits[labelled:]))

    def _adapt(self, images: Tensor, batch: Batch, weight: float, moment: Moment) -> dict[str, Tensor]:
        labelled = len(batch.images)
        logits = self.adapted(images if self.config.mmd_weight > 0 else batch.images).float()
        terms = {"teacher_ce": weight * F.cross_entropy(logits[:labelled], batch.labels)}
        if (further := weight * self.config.mmd_weight * adaptation(moment)) > 0:
            terms["teacher_mmd"] = further * self.features.discrepancy(labelled)
        return terms


class ClassifierInputs:
    """What the classifier of a network, its last linear layer of one output a class, is given in the latest pass.

    Raises:
        UsageError: the network has no such layer.
    """

    def __init__(self, network: nn.Module, classes: int, called: str) -> None:
        head = linear_head(network, classes)
        if head is None:
            raise UsageError(
                f"the features of the {called} are what its last linear layer is given, and it has none of {classes} "
                "outputs",
                hint=f"choose another {called}, or a method that needs no features",
            )
        self.path = head[0]
        self.taps = Taps(network, [self.path], inputs=True)

    def features(self) -> Tensor:
        """Return them, `[B, D]` in single precision at least."""
        return wide(self.taps[self.path]).flatten(1)

    def discrepancy(self, labelled: int) -> Tensor:
        """Return the discrepancy between the first `labelled` images and the others."""
        features = self.features()
        return mmd(features[:labelled], features[labelled:])


def mmd(source: Tensor, target: Tensor) -> Tensor:
    """Return the squared maximum mean discrepancy of features `[N, D]` and `[M, D]`, a scalar of 0 at least.

    The kernel is the sum of five Gaussians `exp(-d^2 / w)`; the widths are the mean squared distance of different
    vectors of both together, times 1/4, 1/2, 1, 2 and 4, and are no part of the gradient.
    """
    count = len(source) + len(target)
    squares = distances(torch.cat([source, target])).square()  # [N + M, N + M]
    width = squares.detach().sum() / max(count * (count - 1), 1)
    widths = [width.clamp_min(torch.finfo(width.dtype).tiny) * 2.0 ** (i - _KERNELS // 2) for i in range(_KERNELS)]
    kernel = torch.stack([torch.exp(-squares / each) for each in widths]).sum(dim=0)
    n = len(source)
    return kernel[:n, :n].mean() + kernel[n:, n:].mean() - 2 * kernel[:n, n:].mean()


def adaptation(moment: Moment) -> float:
    """Return gamma, `2 / (1 + exp(-10 p)) - 1` with `p` the epochs done of all: from 0 to nearly 1."""
    return 2 / (1 + math.exp(-10 * moment.epoch / moment.epochs)) - 1


def teaching(ends: tuple[float, float], moment: Moment) -> float:
    """Return beta, which goes from the first end towards the second by the same factor each epoch."""
    first, last = ends
    return first * math.pow(last / first, moment.epoch / moment.epochs)


def _both(batch: Batch) -> Tensor:
    assert batch.unlabelled is not None  # which `needs` says
    return torch.cat([batch.images, batch.unlabelled])


def _noted(logits: Tensor) -> dict[str, Tensor]:
    """Return what is noted of the student's answers on the target: how unsure they are, in nats."""
    return {"target_entropy": Categorical(logits=logits.detach(), validate_args=False).entropy().mean()}


def _falling(step: int, steps: int) -> float:
    return math.pow(1 + 10 * step / steps, -0.75)
