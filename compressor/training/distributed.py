"""Processes that train together, each on its part of every batch; one process alone is the default.

The networks are equal in all of them, bit for bit: they begin with those of the first, and step by the mean of their
gradients. The mean is taken of whatever gradients an update has left, as one flat tensor, and not by wrapping the
student in `DistributedDataParallel`: that counts on each pass of the wrapped network to reach all of its weights, and
stops where a method learns from an inner output alone, trains a network of its own, or leaves a pass out.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from compressor.errors import EnvironmentMissing, Interrupted, UsageError
from compressor.machine.ranks import RESTART, TIMEOUT, TOLD, WAIT_S, Place, place

T = TypeVar("T")

_STORE_S = 5.0
_joined = False  # whether this process has joined others: it does so once


class Lost(Interrupted):
    """Another of the processes that train together is missing."""


@dataclass(frozen=True)
class Processes:
    """This process among those that train together: number `rank` of `world`, from 0, and `local` on its machine.

    Of what they do together, each method is called by all of them, in the same order.
    """

    rank: int = 0
    world: int = 1
    local: int | None = None

    @property
    def leads(self) -> bool:
        """Whether this is the one that writes and talks."""
        return self.rank == 0

    def gather(self, rows: Tensor) -> Tensor:
        """Return the rows `[B, ...]` of all, in the order of their ranks, without gradients; counts may differ."""
        return rows

    def average(self, tensors: Iterable[Tensor]) -> None:
        """Replace each tensor by its mean over all processes, in place."""

    def copy_first(self, tensors: Iterable[Tensor]) -> None:
        """Replace each tensor by that of the first process, in place."""

    def any(self, flag: bool) -> bool:
        """Return whether the flag is set in one of them at least."""
        return flag

    def each(self, value: T) -> list[T]:
        """Return the value of each, by rank. Values are plain: numbers, texts, lists and dictionaries of them."""
        return [value]

    def first(self, value: T) -> T:
        """Return the value of the first process."""
        return self.each(value)[0]

    def leave(self) -> None:
        """Part from the others, when all of them are here."""

    def means(self, values: Mapping[str, float]) -> dict[str, float]:
        """Return the means over all processes by name; what one of them lacks counts as 0."""
        found = self.each(dict(values))
        names = dict.fromkeys(name for each in found for name in each)
        return {name: sum(each.get(name, 0.0) for each in found) / self.world for name in names}


ALONE = Processes()
# What torch says where another process is missing, and what that means.
_LOST = {"imed out": "did not answer in time", "by peer": "is gone", "Broken pipe": "is gone", "NCCL": "is gone"}


class Joined(Processes):
    """One of several processes, in the group of `torch.distributed`.

    Raises, in each method:
        Lost: another process is gone, or did not answer in time.
    """

    def gather(self, rows: Tensor) -> Tensor:
        with told():
            counts = [torch.zeros(1, dtype=torch.int64, device=rows.device) for _ in range(self.world)]
            dist.all_gather(counts, torch.tensor([len(rows)], device=rows.device))
            sizes = [int(count) for count in counts]
            padded = rows.new_zeros(max(sizes), *rows.shape[1:])  # what is gathered has one shape
            padded[: len(rows)] = rows.detach()
            parts = [torch.empty_like(padded) for _ in range(self.world)]
            dist.all_gather(parts, padded)
            return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])

    def average(self, tensors: Iterable[Tensor]) -> None:
        for flat, members in _flat(tensors):
            with told():
                dist.all_reduce(flat)
            _scatter(flat.div_(self.world), members)

    def copy_first(self, tensors: Iterable[Tensor]) -> None:
        for flat, members in _flat(tensors):
            with told():
                dist.broadcast(flat, 0)
            _scatter(flat, members)

    def any(self, flag: bool) -> bool:
        count = torch.tensor([int(flag)])  # on the CPU, where no device is waited for
        with told():
            dist.all_reduce(count)
        return bool(count)

    def each(self, value: T) -> list[T]:
        found: list[Any] = [None] * self.world
        with told():
            dist.all_gather_object(found, value)
        return found

    def leave(self) -> None:
        with told():
            dist.barrier()
        dist.destroy_process_group()


def join() -> Processes:
    """Join the processes that this one was started with, by torchrun or `--devices`; alone, there is nothing to do.

    Raises:
        EnvironmentMissing: they do not find each other.
        UsageError: this process has trained with them before, and they have ended.
    """
    global _joined
    here = place()
    if here.world == 1:
        return ALONE
    if _joined:
        raise UsageError(
            f"the other {here.world - 1} processes have ended with their training", hint="one training a script"
        )
    if torch.cuda.is_available():
        torch.cuda.set_device(here.local % torch.cuda.device_count())
    wait = timedelta(seconds=float(os.environ.get(TIMEOUT, WAIT_S)))
    try:
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo",
            rank=here.rank,
            world_size=here.world,
            timeout=wait,
        )
    except (RuntimeError, ValueError) as error:
        raise _apart(here, str(error)) from error
    _joined = True
    return Joined(here.rank, here.world, here.local)


def first_to_tell() -> bool:
    """Return whether nobody else of the processes that this one has joined has told why they end."""
    if not _joined:
        return True
    address = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    try:
        store = dist.TCPStore(*address, timeout=timedelta(seconds=_STORE_S))  # type: ignore[attr-defined]
        return store.add(f"{TOLD}{os.environ.get(RESTART, 0)}", 1) == 1
    except RuntimeError:
        return place().leads  # the store is gone, with the process that kept it


def require_same_start(group: Processes, facts: Mapping[str, Any]) -> None:
    """See that all processes were started for the same training.

    Args:
        facts: plain values by what they are called in the sentence.

    Raises:
        UsageError: a process has another value than the first.
    """
    first, *others = group.each(dict(facts))
    for rank, other in enumerate(others, 2):
        names = [name for name in first if first[name] != other.get(name)]
        if names:
            raise UsageError(
                f"process {rank} of {group.world} was started for another training than the first: "
                f"{', '.join(names)} {'differ' if names[1:] else 'differs'}",
                hint="start all with the same command, recipe and data",
            )


def require_equal(group: Processes, tensors: Mapping[str, Tensor]) -> None:
    """See that all processes hold the same bits, by the sums of their bytes.

    Raises:
        ValueError: one does not: an objective has changed what it holds by its own part of a batch alone.
    """
    first, *others = group.each([_bytes(tensor) for tensor in tensors.values()] if group.world > 1 else [])
    for rank, other in enumerate(others, 2):
        for name, own, its in zip(tensors, first, other, strict=True):
            if own != its:
                raise ValueError(
                    f"{name} is not the same in process {rank} as in the first: what an objective remembers of a batch "
                    "goes through Setting.gather"
                )


@contextmanager
def told() -> Iterator[None]:
    """Turn what torch raises where another process is missing into a sentence.

    Raises:
        Lost: another process is gone, or did not answer in time.
    """
    try:
        yield
    except RuntimeError as error:
        reason = next((reason for words, reason in _LOST.items() if words in str(error)), None)
        if reason is None:
            raise
        raise Lost(f"another process of this training {reason}") from error


def _apart(here: Place, reason: str) -> EnvironmentMissing:
    where = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
    if "EADDRINUSE" in reason:
        return EnvironmentMissing(f"the port of {where} is in use", hint="MASTER_PORT, or --master-port of torchrun")
    return EnvironmentMissing(
        f"the {here.world} processes of this training do not find each other at {where}",
        hint="MASTER_ADDR and MASTER_PORT are those of the first process; torchrun sets them",
    )


def _flat(tensors: Iterable[Tensor]) -> Iterator[tuple[Tensor, Sequence[Tensor]]]:
    """Yield all tensors of a kind and device as one `[N]`, with what it was made of."""
    kinds: dict[tuple[torch.dtype, torch.device], list[Tensor]] = defaultdict(list)
    for tensor in tensors:
        kinds[tensor.dtype, tensor.device].append(tensor.detach())
    for members in kinds.values():
        yield torch.cat([member.reshape(-1) for member in members]), members


def _scatter(flat: Tensor, members: Sequence[Tensor]) -> None:
    for member, values in zip(members, flat.split([member.numel() for member in members]), strict=True):
        member.copy_(values.view(member.shape))


def _bytes(tensor: Tensor) -> int:
    """Return the sum of a tensor's bytes, which does not depend on the order of its memory."""
    return int(tensor.detach().contiguous().view(-1).view(torch.uint8).sum(dtype=torch.int64))
