"""A discriminator of predictions: it learns to tell a teacher's from a student's, which learns to be taken for one."""

from collections.abc import Iterator, Mapping
from functools import partial

import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from compressor.attack import as_found
from compressor.methods.protocol import Config, Player, Update

NAME = "critic"  # of its player, its term and its notes
WON = 0.95  # share of right verdicts from which on there is nothing left to learn from it


class Discriminator(Config):
    """The network that tells predictions apart, and the rate that it is trained with."""

    width: PositiveInt = 64
    lr: PositiveFloat = 1e-3

    def build(self, classes: int) -> "Critic":
        """Return the network for so many classes."""
        return Critic(self, classes)


class Critic(nn.Module):
    """A perceptron with two hidden layers on logits `[B, K]`, one verdict each, `[B]`: above 0 is "the teacher's".

    It sees logits minus their mean over the classes, which say as much as the probabilities and do not saturate. There
    is no BatchNorm, which would see both kinds in one batch.

    Source: Goodfellow et al., NeurIPS 2014, with the loss that does not saturate; Adam with momentum 0.5, a constant
    rate and no weight decay, as Radford et al., ICLR 2016, train such networks.
    """

    def __init__(self, config: Discriminator, classes: int) -> None:
        super().__init__()
        self.config, self.elapsed = config, 0.0
        self.layers = nn.Sequential(
            nn.Linear(classes, config.width),
            nn.LeakyReLU(0.2),
            nn.Linear(config.width, config.width),
            nn.LeakyReLU(0.2),
            nn.Linear(config.width, 1),
        )

    def forward(self, logits: Tensor) -> Tensor:
        verdicts: Tensor = self.layers(logits - logits.mean(dim=1, keepdim=True))
        return verdicts.squeeze(1).float()

    def player(self) -> Player:
        """Return how it is trained, beside the student."""
        return Player(
            parameters=self.parameters(),
            lr=self.config.lr,
            optimizer=partial(torch.optim.Adam, betas=(0.5, 0.999)),
            weight_decay=0.0,
            schedule=lambda _step, _steps: 1.0,
        )

    def fooled(self, logits: Tensor) -> Tensor:
        """Return the loss of predictions that are to be taken for the teacher's; it moves the student alone."""
        with as_found(self):
            verdicts = self(logits)
        return F.softplus(-verdicts).mean()

    def update(self, teacher: Tensor, student: Tensor, elapsed: float) -> Update:
        """Return its own step: both kinds of predictions, `[N, K]` and `[M, K]`, count alike.

        Args:
            elapsed: see `Moment`.
        """
        self.elapsed = elapsed
        ours, theirs = self(teacher.detach()), self(student.detach())
        loss = (F.softplus(-ours).mean() + F.softplus(theirs).mean()) / 2
        right = ((ours > 0).float().mean() + (theirs <= 0).float().mean()) / 2
        return Update({NAME: loss}, player=NAME, notes={f"{NAME}_right": right})

    def warnings(self, notes: Mapping[str, float]) -> Iterator[str]:
        """Yield the warning of a discriminator that wins; at first it always does, so half of the training is its own.

        Args:
            notes: of an epoch, with those of its updates.
        """
        right = notes.get(f"{NAME}_right", 0.0)
        if right >= WON and self.elapsed >= 0.5:
            yield (
                f"the discriminator tells the student from the teacher in {right:.1%} of cases, so that nothing is "
                "learnt from it: lower discriminator.lr, or adversarial_weight to 0"
            )
