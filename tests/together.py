"""One of several processes that train together: `python together.py RANK WORLD STORE OUT KIND`.

It trains a tiny student on its part of every batch, and writes what it ends with. `training` is the same in one
process, for a test to compare with.
"""

import os
import sys
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.nn import functional as F

from compressor.data import Shard
from compressor.data.augment import Augmentation
from compressor.data.split import Held, Split
from compressor.methods import METHODS, Objective, Player, Setting, Update
from compressor.recipe import Schedule, Training
from compressor.training.distributed import ALONE, Joined
from compressor.training.loop import TrainingState, fit

CPU = torch.device("cpu")
IMAGES, SIZE = 43, 8  # whose last batch has three images, too few for two processes
SHAPE = (3, 6, 6)


class Plain(nn.Module):
    """Without BatchNorm, whose statistics are those of a process's own part of a batch."""

    def __init__(self, *, norm: bool = False) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4) if norm else nn.Identity(), nn.ReLU())
        self.head = nn.Linear(4, 4)

    def forward(self, images):
        return self.head(self.body(images).mean(dim=(2, 3)))


class Turns(Objective):
    """A network of its own with an optimiser of its own, turns, and a student that learns by an inner output alone."""

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self.judge = nn.Linear(4, 1)

    def players(self):
        return {"judge": Player(parameters=self.judge.parameters(), optimizer="adamw", lr=0.01)}

    def updates(self, batch, moment):
        features = self.setting.student.body(batch.images).mean(dim=(2, 3))
        yield Update({"judge": F.softplus(self.judge(features.detach())).mean()}, player="judge")
        yield Update({"inner": F.softplus(-self.judge(features)).mean()})


def objective(kind: str, setting: Setting) -> Objective:
    if kind == "turns":
        return Turns(setting)
    if kind == "crd":
        features = [{"kind": "crd", "student": "head", "teacher": "head", "negatives": 16, "size": 4}]
        return METHODS["kd"](features=features).build(setting)
    return METHODS["kd" if kind == "norm" else kind]().build(setting)


def training(kind: str, group=ALONE, epochs: int = 3) -> TrainingState:
    """Train by a method in `group`."""
    torch.manual_seed(group.rank)  # not the same: all begin with the networks of the first
    student = Plain(norm=kind == "norm")
    torch.manual_seed(7)
    teacher = Plain().eval()
    pixels = torch.randint(256, (IMAGES, *SHAPE[1:], 3), dtype=torch.uint8)
    split = Split(Held(pixels), torch.arange(IMAGES), torch.arange(IMAGES) % 4, Augmentation(1, True), CPU)
    teachers = [] if kind in ("ps-kd", "turns") else [teacher]
    setting = Setting(student, teachers, 4, SHAPE, IMAGES, torch.ones(3), CPU, gather=group.gather)
    config = Training(epochs=epochs, lr=0.05, schedule=Schedule(kind="constant"), ema=0.9, clip_norm=1.0)
    steps = -(-IMAGES // SIZE)
    state = TrainingState(
        student, objective(kind, setting), config, seed=0, device=CPU, steps_per_epoch=steps, group=group
    )
    shard = Shard(group.rank, group.world)

    def batches(epoch, start):
        return split.batches(SIZE, epoch=epoch, seed=0, augment=True, start=start, shard=shard)

    state.told = [(epoch.losses, epoch.images) for epoch in fit(state, batches)]
    return state


def main() -> None:
    rank, world, store, out, kinds = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], Path(sys.argv[4]), sys.argv[5:]
    dist.init_process_group(
        "gloo", init_method=f"file://{store}", rank=rank, world_size=world, timeout=timedelta(seconds=60)
    )
    group = Joined(rank, world, rank)
    for kind in kinds:
        state = training(kind, group)
        torch.save({"state": state.state_dict(), "told": state.told}, out / f"{kind}-{rank}.pt")
    group.leave()
    os._exit(0)  # as the command does: gloo's threads may let go of a tensor while Python ends, which aborts


if __name__ == "__main__":
    main()
