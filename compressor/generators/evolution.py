"""Generators that evolve: mutation by several losses, crossover by distilling the better image, selection.

Source: CE-GAN (Li et al., IJCNN 2021, arXiv:2101.11186), with a population of one. Unlike its code, mutants and their
offspring are scored on the same noise. It knows no discriminator: what an image is worth is the caller's affair, so the
same generation trains a GAN's generator and one that a teacher and a student judge.
"""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

OFFSPRING = "offspring"


class Score(NamedTuple):
    """What images are worth, the higher the better: each of them, `[B]`, and all of them together, a scalar."""

    images: Tensor
    all: Tensor


class Evolution(nn.Module):
    """One surviving generator, and the copies that it is changed in.

    Each mutation has a copy, and so has the offspring; each copy has an optimiser, which `optimizer` makes when its
    parameters are where they stay. Between generations all copies are the survivor, optimiser states included, so that
    `survivor` is any of them, and a run that is resumed needs nothing else.
    """

    def __init__(self, generator: nn.Module, mutations: Sequence[str], *, crossover: bool = True) -> None:
        super().__init__()
        if len(set(mutations)) < max(len(mutations), 1) or OFFSPRING in mutations:
            raise ValueError(f"mutations need names of their own, not {list(mutations)}")
        self.mutations = tuple(mutations)
        self.crossover = crossover and len(mutations) > 1
        names = (*self.mutations, *([OFFSPRING] if self.crossover else []))
        self.copies = nn.ModuleDict({name: copy.deepcopy(generator) for name in names})
        self._optimizers: dict[str, torch.optim.Optimizer] = {}

    @property
    def survivor(self) -> nn.Module:
        """The generator that was selected last."""
        return self.copies[self.mutations[0]]

    def optimizer(
        self, name: str, make: Callable[[Any], torch.optim.Optimizer]
    ) -> Callable[[Any], torch.optim.Optimizer]:
        """Return what makes the optimiser of a copy from its parameters, as `make` does, and remembers it."""

        def made(parameters: Any) -> torch.optim.Optimizer:
            self._optimizers[name] = make(parameters)
            return self._optimizers[name]

        return made

    def generation(
        self,
        mutate: Callable[[nn.Module], Tensor],
        trial: Callable[[nn.Module], Tensor],
        losses: Mapping[str, Callable[[Tensor], Tensor]],
        score: Callable[[Tensor], Score],
    ) -> Iterator[tuple[str, Tensor]]:
        """Yield, one by one, the copies to step and their losses; whoever iterates steps each before asking on.

        Each mutation is a step by its own loss. The offspring then begins as the fitter of the two best mutants and
        takes a step of mean squared error towards the better of their images, noise by noise. The best of all takes the
        place of every copy.

        Args:
            mutate, trial: the images `[B, ...]` that a generator makes of one noise, and of another on which copies are
                crossed and scored.
            losses: of each mutation, from images to a scalar.
            score: what images are worth; called without gradients.
        """
        for name in self.mutations:
            yield name, losses[name](mutate(self.copies[name]))
        with torch.no_grad():
            made = {name: trial(self.copies[name]) for name in self.mutations}
            scores = {name: score(images) for name, images in made.items()}
            worth = {name: each.all.item() for name, each in scores.items()}
        if self.crossover:
            first, second = sorted(self.mutations, key=worth.__getitem__, reverse=True)[:2]
            self._become(first, [OFFSPRING])
            better = scores[first].images >= scores[second].images  # [B]
            target = torch.where(better.view(-1, *[1] * (made[first].ndim - 1)), made[first], made[second])
            yield OFFSPRING, F.mse_loss(trial(self.copies[OFFSPRING]), target)
            with torch.no_grad():
                worth[OFFSPRING] = score(trial(self.copies[OFFSPRING])).all.item()
        best = max(worth, key=worth.__getitem__)
        self._become(best, [name for name in worth if name != best])

    def _become(self, source: str, others: Sequence[str]) -> None:
        """Let other copies be what one is, with its optimiser's state."""
        weights, state = self.copies[source].state_dict(), self._optimizers[source].state_dict()
        for name in others:
            self.copies[name].load_state_dict(weights)
            self._optimizers[name].load_state_dict(copy.deepcopy(state))  # which would share the tensors
