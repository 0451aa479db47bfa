"""Training: a state that can be saved after any step, and a loop that yields once an epoch and does no I/O.

The loop owns the optimisers, their schedules and the precision. What is minimised is the objective's affair; what is
logged, evaluated and saved is the caller's, who sees the live networks between epochs.
"""

import copy
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from compressor.batch import Batch
from compressor.errors import UsageError
from compressor.methods.protocol import Moment, Objective, Update
from compressor.recipe import Training
from compressor.training.averaging import follow
from compressor.training.distributed import ALONE, Processes, require_equal
from compressor.training.freezing import frozen
from compressor.training.losses import Losses
from compressor.training.optimiser import STUDENT, Trained, players, rate_factor
from compressor.training.sources import Batches

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
_READ_EVERY = 50  # steps between two readings of the losses where a reading stalls the device


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """What one epoch did. `number` counts from 1, `lr` is the student's rate at its last step, `seconds` include data.

    `losses` are means over the updates in which the term appeared; a term that never did is absent. So are `notes`, of
    what the objective noted beside them. All of it is of all processes that train together, but the seconds.
    """

    number: int
    losses: Mapping[str, float]
    notes: Mapping[str, float]
    lr: float
    steps: int
    images: int
    seconds: float

    @property
    def images_per_second(self) -> float:
        return self.images / self.seconds if self.seconds > 0 else 0.0


def fit(state: "TrainingState", batches: Batches) -> Iterator[Epoch]:
    """Train what `state` holds, in place, from where it stands to its last epoch; yield after each epoch.

    An exception from `batches` (an interrupt, say) arrives between two steps: `state.state_dict()` is then whole, and a
    run resumed from it ends, on the CPU, with the weights of a run that was never stopped. Between epochs the caller
    may put the networks in any mode.

    Raises:
        Diverged: a loss term is NaN or infinite. On the CPU no weight has been touched by it yet; on other devices it
            is found up to 50 steps later, and still named by the step it appeared in.
        ValueError: an epoch has fewer batches than the state was told. More are not asked for.
    """
    while state.epoch < state.config.epochs:
        state.enter_training()
        mark = perf_counter()
        for batch in islice(batches(state.epoch, state.batch), state.steps_per_epoch - state.batch):
            state.advance(batch)
            mark, before = perf_counter(), mark
            state.seconds += mark - before
        yield state.finish_epoch()


class TrainingState:
    """Everything that changes while training, and the one step that changes it.

    With `config.accumulate` a step is taken in as many parts of its batch, whose gradients add up to the whole batch's:
    it needs the memory of a part. Each update of the objective is made for all parts before the next.

    The objective is moved to `device`; then its players get their optimisers (`optimiser.players`). `clip_norm` and
    `ema` are the student's: other players are neither clipped nor averaged. The teachers are frozen here
    (`requires_grad` off) and kept in eval mode by the loop. With `config.compile` True, and not while it is
    `auto`, the student's call is compiled in place: its state keeps its keys, and copies of it are not compiled.

    All that is random in a step, dropout included, is drawn from the seed, the step's number and the rank alone, and
    torch's global generators are left as they were: what the caller draws between steps changes nothing.

    Args:
        student: the bare network, on `device`; the objective may train it through a wrapper (`Setting.student`).
        steps_per_epoch: batches in each epoch.
        group: the processes that train together. They begin with the networks of the first, step by the mean of their
            gradients, each as its batch weighs, and have the mean of the running statistics of their BatchNorm layers.
    """

    def __init__(
        self,
        student: nn.Module,
        objective: Objective,
        config: Training,
        *,
        seed: int,
        device: torch.device,
        steps_per_epoch: int,
        group: Processes = ALONE,
    ) -> None:
        if steps_per_epoch < 1:
            raise ValueError(f"an epoch needs at least one batch, not {steps_per_epoch}")
        self.student, self.objective, self.config = student, objective.to(device), config
        self.seed, self.device, self.steps_per_epoch = seed, device, steps_per_epoch
        self.group = group
        group.copy_first(self._held().values())
        self._statistics = list(_statistics(student, objective))
        self.epoch = 0  # epochs finished
        self.batch = 0  # batches of the current epoch done
        self.images = 0  # seen in the current epoch
        self.seconds = 0.0  # spent on the current epoch
        self.losses, self.notes = Losses(), Losses(refuse=False)

        for teacher in objective.setting.teachers:
            teacher.requires_grad_(False)
        self.frozen = frozen(student, config.freeze)
        if config.channels_last:
            for network in (student, *objective.setting.teachers):
                network.to(memory_format=torch.channels_last)
        self.players = players(config, student, objective, steps_per_epoch)
        self.scaler = torch.amp.GradScaler(device.type, enabled=config.precision == "fp16")
        self.average = None if config.ema is None else copy.deepcopy(student).requires_grad_(False).eval()
        self._generator = torch.Generator(device)
        if config.compile is True:
            objective.setting.student.compile()

    @property
    def step(self) -> int:
        """Batches done over all epochs."""
        return self.epoch * self.steps_per_epoch + self.batch

    def reported(self) -> nn.Module:
        """Return the network to evaluate and save: the averaged copy where the recipe asks for one or the student."""
        return self.student if self.average is None else self.average

    def enter_training(self) -> None:
        """Put the student and the objective's networks in training mode, teachers and frozen modules in eval mode."""
        self.student.train()
        self.objective.setting.student.train()
        self.objective.train()
        for module in self.frozen:
            module.eval()
        for teacher in self.objective.setting.teachers:  # last: an objective may hold one as its submodule
            teacher.eval()

    def advance(self, batch: Batch) -> None:
        """Run all updates of one batch."""
        batch = batch.placed(self.device, channels_last=self.config.channels_last)
        for player in self.players.values():
            player.set_rates(self.step)
        generator = self._generator.manual_seed(_mixed("generator", self.seed, self.step, self.group.rank))
        fewest = batch.size // self.group.world  # images of a process: all have as many parts
        parts = batch.parts(min(self.config.accumulate, fewest // 2))
        first, count = self.group.rank * len(parts), self.group.world * len(parts)
        moments = [
            Moment(self.epoch, self.config.epochs, self.step, generator, first + place, count)
            for place in range(len(parts))
        ]
        with torch.random.fork_rng([self.device] if self.device.type == "cuda" else []):
            torch.manual_seed(_mixed("global", self.seed, self.step, self.group.rank))
            updates = [self._updates(part, moment) for part, moment in zip(parts, moments, strict=True)]
            while self._turn(parts, updates):
                pass
        self.group.average(self._statistics)
        if self.average is not None:
            assert self.config.ema is not None
            follow(self.average, self.student, decay=self.config.ema, step=self.step)
        self.batch += 1
        self.images += batch.size

    def finish_epoch(self) -> Epoch:
        """Close the epoch: read its losses, count it, start the next one's sums."""
        if self.batch != self.steps_per_epoch:
            raise ValueError(
                f"epoch {self.epoch + 1} gave {self.batch} batches where {self.steps_per_epoch} were announced"
            )
        mark = perf_counter()
        self._read()
        require_equal(self.group, self._held())
        finished = Epoch(
            number=self.epoch + 1,
            losses=self.losses.means(),
            notes=self.notes.means(),
            lr=self.config.lr * rate_factor(self.config, self.step - 1, self.steps_per_epoch),
            steps=self.batch,
            images=self.images,
            seconds=self.seconds + perf_counter() - mark,  # reading waits for the device to finish
        )
        self.epoch, self.batch, self.images, self.seconds = self.epoch + 1, 0, 0, 0.0
        self.losses, self.notes = Losses(), Losses(refuse=False)
        return finished

    def state_dict(self) -> dict[str, Any]:
        """Return a copy of all that a resumed run needs, as tensors and plain values (loads with `weights_only=True`).

        Raises:
            Diverged: a loss not read so far was not finite: such a state is not worth saving.
        """
        self._read()
        return copy.deepcopy(
            {
                "run": self._run(),
                "epoch": self.epoch,
                "batch": self.batch,
                "images": self.images,
                "seconds": self.seconds,
                "losses": {"sums": self.losses.sums, "counts": self.losses.counts},
                "notes": {"sums": self.notes.sums, "counts": self.notes.counts},
                "student": dict(self.student.state_dict()),
                "objective": dict(self.objective.state_dict()),
                "players": {name: player.optimizer.state_dict() for name, player in self.players.items()},
                "scaler": self.scaler.state_dict(),
                "average": None if self.average is None else dict(self.average.state_dict()),
            }
        )

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Continue from what `state_dict` returned.

        Raises:
            UsageError: the saved run had other settings, another seed or another number of steps in an epoch.
        """
        now = self._run()
        added = {key: value for key, value in Training().model_dump(mode="json").items() if key in now}
        then = added | saved["run"]  # a key that came since had its default
        for key in sorted(then.keys() | now.keys()):
            if then.get(key) != now.get(key):
                raise UsageError(
                    f"cannot resume: the saved run has {key} {then.get(key)}, this one {now.get(key)}",
                    hint="resume with the recipe and data the run began with, or start a new run",
                )
        self.epoch, self.batch = saved["epoch"], saved["batch"]
        self.images, self.seconds = saved["images"], saved["seconds"]
        self.losses = Losses(**saved["losses"])
        self.notes = Losses(**saved.get("notes", {}), refuse=False)  # states of before there were any
        self.student.load_state_dict(saved["student"])
        self.objective.load_state_dict(saved["objective"])
        for name, player in self.players.items():
            player.resume(copy.deepcopy(saved["players"][name]))  # torch would share the tensors
        self.scaler.load_state_dict(saved["scaler"])
        if self.average is not None:
            self.average.load_state_dict(saved["average"])

    def _read(self) -> None:
        """Add what was not read so far of losses and notes, and let them be the means over all processes."""
        for scalars in (self.losses, self.notes):
            scalars.read(self.epoch)
            scalars.sums, scalars.counts = self.group.means(scalars.sums), self.group.means(scalars.counts)

    def _held(self) -> dict[str, Tensor]:
        """Return what is the same in all processes, by name: the parameters and buffers of all that is trained."""
        networks = {"student": self.student, "objective": self.objective}
        return {
            f"{owner}.{name}": tensor
            for owner, network in networks.items()
            for name, tensor in chain(network.named_parameters(), network.named_buffers())
            if not name.endswith("num_batches_tracked")  # one may have made more passes than another
        }

    def _run(self) -> dict[str, Any]:
        """What must be the same for a resumed run to end in the same weights."""
        settings = self.config.model_dump(mode="json", exclude={"compile", "teacher_runtime"})
        return {**settings, "seed": self.seed, "steps_per_epoch": self.steps_per_epoch}

    def _updates(self, batch: Batch, moment: Moment) -> Iterator[Update]:
        """Yield the objective's updates, each computed under autocast, which is left while the loop works with it."""
        updates = self.objective.updates(batch, moment)
        while True:
            with autocast(self.device, self.config.precision):
                update = next(updates, None)
            if update is None:
                return
            yield update

    def _turn(self, parts: Sequence[Batch], updates: Sequence[Iterator[Update]]) -> bool:
        """Take the next update of all parts of a batch and step by the sum of their gradients, in all processes.

        Only the named player moves, by the gradient of these terms alone. Returns whether there was an update.
        """
        taken = turned = None
        for part, following in zip(parts, updates, strict=True):
            update = next(following, None)
            if update is None:
                continue
            taken = update
            self.notes.add(update.notes, self.step, part.weight)
            if not update.terms:
                continue
            if turned is None:  # right before: other players' backward passes have left gradients here
                self._player(update.player).optimizer.zero_grad()
            elif turned != update.player:
                raise ValueError(f"of the parts of a batch one trains {turned!r} and another {update.player!r}")
            turned = update.player
            self._backward(update, part.weight)
        if turned is not None:
            self._step(turned)
        return taken is not None

    def _player(self, name: str) -> Trained:
        if name not in self.players:
            raise ValueError(
                f"{type(self.objective).__name__} yields an update for {name!r}, "
                f"its players are {', '.join(map(repr, self.players))}"
            )
        return self.players[name]

    def _backward(self, update: Update, weight: float) -> None:
        """Add the gradients of the terms to what is there."""
        self.losses.add(update.terms, self.step, weight)
        if self.device.type == "cpu" or self.step % _READ_EVERY == 0:
            self.losses.read(self.epoch)
        total = torch.stack([term.float() for term in update.terms.values()]).sum() * weight
        self.scaler.scale(total).backward()

    def _step(self, name: str) -> None:
        """Step by the mean of the gradients over all processes."""
        player, optimizer = self.players[name], self.players[name].optimizer
        self.group.average(each.grad for each in player.parameters if each.grad is not None)
        self.scaler.unscale_(optimizer)
        if self.config.clip_norm is not None and name == STUDENT:
            nn.utils.clip_grad_norm_(player.parameters, self.config.clip_norm)
        self.scaler.step(optimizer)
        self.scaler.update()  # after every step, since a player may step again in the same batch


def _statistics(*networks: nn.Module) -> Iterator[Tensor]:
    """Yield the running means and variances of all BatchNorm layers, which each process takes of its part alone."""
    for module in dict.fromkeys(chain.from_iterable(network.modules() for network in networks)):
        if isinstance(module, _BatchNorm):
            yield from (each for each in (module.running_mean, module.running_var) if each is not None)


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Return the context of a training's arithmetic."""
    dtype = _DTYPES.get(precision)
    return torch.autocast(device.type, dtype, enabled=dtype is not None)


def _mixed(stream: str, seed: int, step: int, rank: int) -> int:
    """Return a seed of 63 bits for one step: streams, ranks and neighbouring seeds and steps share nothing."""
    named = f"{stream}/{seed}/{step}" + (f"/{rank}" if rank else "")  # the first rank draws what one process alone does
    return int.from_bytes(hashlib.blake2b(named.encode(), digest_size=8).digest()) >> 1
