"""The student's optimiser and its learning rate, as the recipe says."""

import math
from collections.abc import Iterable
from itertools import chain

import torch
from torch import Tensor, nn

from compressor.methods.protocol import Objective
from compressor.recipe import Schedule, Training

_ROUNDING = 1e-9  # epochs: a drop at a fraction such as 0.55 of 100 epochs must not come one step late


def optimiser(config: Training, trained: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """Return the recipe's optimiser. Weight decay applies to all parameters, BatchNorm and biases included.

    So do the published recipes. `adamw` has its usual betas, 0.9 and 0.999.
    """
    if config.optimizer == "adamw":
        return torch.optim.AdamW(trained, config.lr, weight_decay=config.weight_decay)
    return torch.optim.SGD(
        trained, config.lr, config.momentum, weight_decay=config.weight_decay, nesterov=config.nesterov
    )


def trained_parameters(student: nn.Module, objective: Objective) -> list[nn.Parameter]:
    """Return the student's parameters and the objective's own that nobody else trains, each once."""
    others: Iterable[Tensor] = chain(
        *(parameters(own) for own in objective.optimisers.values()),
        *(teacher.parameters() for teacher in objective.setting.teachers),
    )
    taken = {id(parameter) for parameter in chain(others, student.parameters())}
    return [*student.parameters(), *(own for own in objective.parameters() if id(own) not in taken)]


def parameters(player: torch.optim.Optimizer) -> list[Tensor]:
    """Return what an optimiser moves."""
    return [parameter for group in player.param_groups for parameter in group["params"]]


def learning_rate(config: Training, step: int, steps_per_epoch: int) -> float:
    """Return the rate of optimiser step `step`, counted from 0 over all epochs.

    A drop `at: 40` comes when 40 epochs are done; numbers below 1 are fractions of all epochs. Momentum is kept over a
    drop (the authors of BSS make a new optimiser at theirs). Cosine falls from the full rate after the warm-up to zero
    at the end. The warm-up is linear in steps and multiplies whatever the schedule says: the first step has one share
    of the full rate, the last all of it.
    """
    schedule = config.schedule
    warmup = schedule.warmup * steps_per_epoch  # steps
    rise = min(1.0, (step + 1) / warmup) if warmup > 0 else 1.0
    if schedule.kind == "steps":
        return config.lr * rise * schedule.gamma ** _drops(schedule, config.epochs, step / steps_per_epoch)
    if schedule.kind == "cosine" and step >= warmup:
        gone = min((step - warmup) / (config.epochs * steps_per_epoch - warmup), 1.0)
        return config.lr * rise * (1 + math.cos(math.pi * gone)) / 2
    return config.lr * rise


def _drops(schedule: Schedule, epochs: int, done: float) -> int:
    """Return how many drops lie behind after `done` epochs."""
    return sum(done >= (at * epochs if at < 1 else at) - _ROUNDING for at in schedule.at)
