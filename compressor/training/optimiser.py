"""Optimisers and learning rates, of the student as the recipe says and of whoever else an objective trains."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from compressor.methods.protocol import Objective, Player
from compressor.recipe import Schedule, Training

STUDENT = "student"  # the player that is the loop's own
_ROUNDING = 1e-9  # epochs: a drop at a fraction such as 0.55 of 100 epochs must not come one step late


@dataclass(frozen=True, eq=False)
class Trained:
    """An optimiser and what its rates follow: each group's is its `initial_lr` times `factor(step)`."""

    optimizer: torch.optim.Optimizer
    factor: Callable[[int], float]

    def set_rates(self, step: int) -> None:
        """Set what step `step`, from 0 over all epochs, is taken with."""
        factor = self.factor(step)
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * factor

    def resume(self, saved: dict[str, Any]) -> None:
        """Go on with the optimiser's saved state. The groups' own rates are the recipe's and the method's, not its."""
        rates = [group["initial_lr"] for group in self.optimizer.param_groups]
        self.optimizer.load_state_dict(saved)
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            group["initial_lr"] = rate

    @property
    def parameters(self) -> list[Tensor]:
        """What the optimiser moves."""
        return [parameter for group in self.optimizer.param_groups for parameter in group["params"]]


def players(config: Training, student: nn.Module, objective: Objective, steps_per_epoch: int) -> dict[str, Trained]:
    """Return who is trained, by name: the student and the objective's players, each with an optimiser of its own.

    The student's optimiser also trains the objective's own parameters that no player holds.

    Raises:
        ValueError: a player is called "student", or a parameter would be trained twice, or is a teacher's.
    """
    others = objective.players()
    if STUDENT in others:
        raise ValueError("a player cannot be called 'student', that is the loop's")
    made = {name: trained(config, player, steps_per_epoch) for name, player in others.items()}
    taken = [id(parameter) for each in made.values() for parameter in each.parameters]
    teachers = {id(parameter) for teacher in objective.setting.teachers for parameter in teacher.parameters()}
    networks = teachers | {id(parameter) for parameter in student.parameters()}
    if len(set(taken)) < len(taken) or networks & set(taken):
        raise ValueError("a player holds a parameter that another player, the student or a teacher has")
    free = (own for own in objective.parameters() if id(own) not in networks | set(taken))
    first = trained(config, Player(parameters=[*student.parameters(), *free]), steps_per_epoch)
    return {STUDENT: first, **made}


def trained(config: Training, player: Player, steps_per_epoch: int) -> Trained:
    """Return the optimiser of a player and its schedule; what the player leaves open is the recipe's.

    Weight decay applies to all parameters, BatchNorm and biases included, unless their group says otherwise. So do the
    published recipes. `adamw` has its usual betas, 0.9 and 0.999.
    """
    lr = config.lr if player.lr is None else player.lr
    decay = config.weight_decay if player.weight_decay is None else player.weight_decay
    given: list[Any] = list(player.parameters)
    groups = given if given and isinstance(given[0], dict) else [{"params": given}]
    groups = [{"lr": lr, "weight_decay": decay, **group} for group in groups]
    optimizer = _optimizer(config, player, groups)
    for group in optimizer.param_groups:
        group["initial_lr"] = group["lr"]
    steps, own = config.epochs * steps_per_epoch, player.schedule
    if own is not None:
        return Trained(optimizer, lambda step: own(step, steps))
    return Trained(optimizer, lambda step: rate_factor(config, step, steps_per_epoch))


def rate_factor(config: Training, step: int, steps_per_epoch: int) -> float:
    """Return the part of the full learning rate that the recipe gives optimiser step `step`, from 0 over all epochs.

    A drop `at: 40` comes when 40 epochs are done; numbers below 1 are fractions of all epochs. Momentum is kept over a
    drop (the authors of BSS make a new optimiser at theirs). Cosine falls from the full rate after the warm-up to zero
    at the end. The warm-up is linear in steps and multiplies whatever the schedule says: the first step has one share
    of the full rate, the last all of it.
    """
    schedule = config.schedule
    warmup = schedule.warmup * steps_per_epoch  # steps
    rise = min(1.0, (step + 1) / warmup) if warmup > 0 else 1.0
    if schedule.kind == "steps":
        return rise * schedule.gamma ** _drops(schedule, config.epochs, step / steps_per_epoch)
    if schedule.kind == "cosine" and step >= warmup:
        gone = min((step - warmup) / (config.epochs * steps_per_epoch - warmup), 1.0)
        return rise * (1 + math.cos(math.pi * gone)) / 2
    return rise


def _optimizer(config: Training, player: Player, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    kind = player.optimizer or config.optimizer
    if callable(kind):
        return kind(groups)
    if kind == "adamw":
        return torch.optim.AdamW(groups)
    return torch.optim.SGD(groups, momentum=config.momentum, nesterov=config.nesterov)


def _drops(schedule: Schedule, epochs: int, done: float) -> int:
    """Return how many drops lie behind after `done` epochs."""
    return sum(done >= (at * epochs if at < 1 else at) - _ROUNDING for at in schedule.at)
