"""Synthetic boundary supporting samples from superposed class embeddings: Qimera."""

from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from compressor.errors import InputRejected
from compressor.generators import AnyGenerator, ClassEmbeddings, Superposition, Upsample, superposition
from compressor.methods.datafree.objective import BatchNormUse, Betas, DataFree, DataFreeObjective, Draw, Generating
from compressor.methods.datafree.terms import GeneratorLoss, Matching, kl
from compressor.methods.protocol import Objective, Setting


class QimeraGenerator(Generating):
    """The generator, and how it is trained."""

    network: AnyGenerator = Upsample(noise=64)
    betas: Betas = (0.5, 0.999)


class QimeraLoss(GeneratorLoss):
    """The generator's terms."""

    label_weight: NonNegativeFloat = 1.0
    statistics_weight: NonNegativeFloat = 0.1
    statistics: Matching = "mse"


class Qimera(DataFree):
    """Images of classes and of several classes at once, near the boundaries, for a student in few bits.

    Source: Choi et al., NeurIPS 2021 (arXiv:2111.02625). The generator learns labels and BatchNorm statistics, the
    student soft targets and soft labels. It works with any student; the published one is the teacher itself in 4 or 5
    bits, which keeps the statistics of its BatchNorm. Not kept of the published code: a student
    that is frozen in the first epochs.
    """

    kind: Literal["qimera"] = "qimera"
    told: ClassVar[bool] = True
    student_steps: PositiveInt = 1
    generator: QimeraGenerator = QimeraGenerator()
    losses: QimeraLoss = QimeraLoss()
    student_batchnorm: BatchNormUse = "auto"
    mixed: Annotated[int, Field(ge=2)] = Field(default=2, description="classes of a superposed image")
    probability: Annotated[float, Field(ge=0, le=1)] = Field(
        default=0.4, description="of a batch of superposed images instead of single classes"
    )
    embeddings: Literal["random", "teacher"] = Field(
        default="random", description="teacher: the rows of its last linear layer to begin with"
    )
    disentangle: bool = Field(
        default=False,
        description="a learned linear map of each code before they are added; there is one anyway where they "
        "have another length than the generator's noise",
    )
    noise_scale: NonNegativeFloat = Field(default=1.0, description="of the noise that is added to an embedding")
    temperature: PositiveFloat = 20.0
    kd_weight: NonNegativeFloat = Field(
        default=1.0,
        description="of the soft targets: the temperature squared times the mean over classes of the terms of KL",
    )
    ce_weight: NonNegativeFloat = Field(default=1.0, description="of the classes that were asked for")

    def build(self, setting: Setting) -> Objective:
        return _Qimera(self, setting)


class Embedded(nn.Module):
    """Codes of classes, then their images."""

    def __init__(self, embeddings: ClassEmbeddings, network: nn.Module) -> None:
        super().__init__()
        self.embeddings, self.network = embeddings, network

    def forward(self, classes: Tensor, weights: Tensor, noise: Tensor) -> Tensor:
        """Return images for `classes` and `weights` `[B, J]` and `noise` `[B, J, D]`."""
        images: Tensor = self.network(self.embeddings(Superposition(classes, weights), noise))
        return images


class _Qimera(DataFreeObjective):
    config: Qimera

    def maker(self) -> nn.Module:
        config, setting = self.config, self.setting
        code = config.generator.network.noise
        rows = _last_weights(setting.teachers[0], setting.classes) if config.embeddings == "teacher" else None
        self.length = code if rows is None else rows.shape[1]
        embeddings = ClassEmbeddings(
            torch.randn(setting.classes, code) if rows is None else rows,
            noise_scale=config.noise_scale,
            mapped=code if config.disentangle or self.length != code else None,
        )
        return Embedded(embeddings, super().maker())

    def draw(self, count: int, generator: torch.Generator) -> Draw:
        config, classes, device = self.config, self.setting.classes, generator.device
        several = torch.rand((), generator=generator, device=device).item() < config.probability
        drawn = superposition(count, config.mixed if several else 1, classes, generator)
        noise = torch.randn(*drawn.classes.shape, self.length, generator=generator, device=device)
        return Draw((drawn.classes, drawn.weights, noise), drawn.labels(classes))

    def lesson(self, logits: Tensor, taught: Tensor, labels: Tensor | None) -> dict[str, Tensor]:
        config, scale = self.config, self.config.temperature
        soft = scale**2 * kl(logits / scale, taught / scale).mean() / logits.shape[1]
        terms = {"kd": config.kd_weight * soft}
        return terms if labels is None else terms | {"ce": config.ce_weight * F.cross_entropy(logits, labels)}


def _last_weights(teacher: nn.Module, classes: int) -> Tensor:
    """Return the weights `[K, D]` of the last linear layer that has an output for each class."""
    layers = [each for each in teacher.modules() if isinstance(each, nn.Linear) and each.out_features == classes]
    if not layers:
        raise InputRejected(
            "the teacher has no linear layer with an output a class to take embeddings from",
            hint="--set method.embeddings=random",
        )
    return layers[-1].weight
