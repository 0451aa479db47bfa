"""Contrastive distillation: the student's answer to an image is the teacher's to that image, and not to another."""

from typing import ClassVar, Literal

import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from compressor.batch import Batch
from compressor.errors import UsageError
from compressor.methods.losses.protocol import Feature, in_words, tapped_shapes
from compressor.methods.losses.relations import pooled, products
from compressor.methods.protocol import Setting


class CRD(Feature):
    """Contrast with remembered images of other classes (Tian et al., ICLR 2020).

    Source: "Contrastive Representation Distillation".

    Both networks' features go through a linear layer to `size` and get length 1. One bank a network remembers them for
    each training image, moved by `1 - momentum` whenever it is met. With `x = exp(cos / temperature) / Z`, `Z` set by
    the first batch, the loss is `-log x / (x + c)` of an image and its own entry in the other network's bank, minus the
    sum of `log c / (x + c)` over entries of images of other classes; `c` is the number of these over that of the
    training images. Both directions are added. Entries of unknown class, not met yet, count as others. Unlike in the
    authors' code one draw of `negatives` serves the whole batch, and those of an image's own class are left out.

    The banks are resumed with the run and hold `2 * size` numbers a training image. The published weight is 0.8.
    """

    kind: Literal["crd"] = "crd"
    labelled: ClassVar[bool] = True
    size: PositiveInt = 128
    negatives: PositiveInt = 16384
    temperature: PositiveFloat = 0.07
    momentum: float = Field(default=0.5, ge=0, lt=1)

    def build(self, setting: Setting) -> "Contrast":
        student, teacher = tapped_shapes(self, setting)
        if {len(student), len(teacher)} - {1, 3}:
            raise UsageError(
                f"crd cannot compare its taps: {in_words(self, student, teacher)}",
                hint="tap vectors, or maps [channels, height, width]",
            )
        if setting.samples == 0:
            raise UsageError("crd remembers each training image, and there are none", hint="choose another loss")
        return Contrast(self, student[0], teacher[0], setting)


class Contrast(nn.Module):
    """The loss that `CRD` describes."""

    banks: Tensor  # [2, N, D], the student's first
    labels: Tensor  # [N], -1 where not met
    scales: Tensor  # [2], the Z of the student's and the teacher's features, 0 before the first batch

    def __init__(self, config: CRD, student: int, teacher: int, setting: Setting) -> None:
        super().__init__()
        self.config, self.gather = config, setting.gather
        self.student, self.teacher = nn.Linear(student, config.size), nn.Linear(teacher, config.size)
        self.register_buffer("banks", F.normalize(torch.randn(2, setting.samples, config.size), dim=2))
        self.register_buffer("labels", torch.full((setting.samples,), -1))
        self.register_buffer("scales", torch.zeros(2))

    def forward(self, student: Tensor, teacher: Tensor, batch: Batch) -> Tensor:
        learnt = F.normalize(pooled(self.student(pooled(student))), dim=1)
        taught = F.normalize(pooled(self.teacher(pooled(teacher))), dim=1)
        drawn = self.drawn()
        known = self.labels[drawn]
        others = (known != batch.labels.unsqueeze(1)) & (drawn != batch.indices.unsqueeze(1))  # [B, negatives]
        loss = self._contrast(learnt, 0, drawn, others, batch) + self._contrast(taught, 1, drawn, others, batch)
        self._remember(learnt, taught, batch)
        return loss

    def drawn(self) -> Tensor:
        """Return the indices of the images to contrast with, from the generator that the loop seeds at each step."""
        return torch.randint(len(self.labels), (self.config.negatives,), device=self.labels.device)

    def _contrast(self, features: Tensor, network: int, drawn: Tensor, others: Tensor, batch: Batch) -> Tensor:
        """Return the loss of features `[B, D]` of one network against the bank of the other, `[B]`."""
        bank = self.banks[1 - network].to(features.dtype)
        own = ((features * bank[batch.indices]).sum(dim=1) / self.config.temperature).exp()
        apart = (products(features, bank[drawn]) / self.config.temperature).exp()
        with torch.no_grad():
            fresh = self.gather(torch.cat((own.unsqueeze(1), apart), dim=1).mean(dim=1)).mean() * len(self.labels)
            self.scales[network] = torch.where(self.scales[network] > 0, self.scales[network], fresh)
        scale = self.scales[network].to(features.dtype, copy=True)  # the other direction writes beside it
        noise = others.sum(dim=1) / len(self.labels)  # c, [B]
        right = (own / scale).log() - (own / scale + noise).log()
        wrong = (noise.unsqueeze(1).clamp_min(1e-12).log() - (apart / scale + noise.unsqueeze(1)).log()) * others
        return -right - wrong.sum(dim=1)

    @torch.no_grad()
    def _remember(self, learnt: Tensor, taught: Tensor, batch: Batch) -> None:
        indices = self.gather(batch.indices)
        self.labels[indices] = self.gather(batch.labels)
        for bank, features in zip(self.banks, (learnt, taught), strict=True):
            moved = self.config.momentum * bank[indices] + (1 - self.config.momentum) * self.gather(features)
            bank[indices] = F.normalize(moved, dim=1)
