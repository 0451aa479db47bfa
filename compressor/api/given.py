"""What a caller gives, as the pipeline takes it: objects by names that a recipe can hold, keys, paths, listeners."""

from __future__ import annotations

import copy
import hashlib
import io
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from compressor.files import replacing
from compressor.models import Normalized
from compressor.plugins import GIVEN, give
from compressor.progress import Tell
from compressor.recipe import Data, Override, Teacher, section

# Recipe keys by dotted names, such as {"train.lr": 0.05}; or overrides, as commands make them of what was typed.
Settings = Mapping[str, Any] | Sequence[Override]
Network = str | Path | nn.Module | Callable[..., nn.Module]


def arch_of(network: Network, role: str) -> str:
    """Return the name that a network is built by."""
    if isinstance(network, str | Path):
        return str(network)
    if isinstance(network, nn.Module):
        bare = network.network if isinstance(network, Normalized) else network
        return give(role, lambda: copy.deepcopy(bare))
    return _importable(network) or give(role, network)


def weights_file(network: nn.Module, out: Path | None) -> Path:
    """Write the weights of a network beside the runs, under a name that is theirs alone."""
    buffer = io.BytesIO()
    torch.save({name: tensor.detach().cpu().clone() for name, tensor in network.state_dict().items()}, buffer)
    content = buffer.getvalue()
    root = Path("runs") if out is None else out.parent
    path = root / GIVEN / f"{type(network).__name__}-{hashlib.sha256(content).hexdigest()[:12]}.pt"
    if not path.is_file():
        with replacing(path) as temporary:
            temporary.write_bytes(content)
    return path


def data_name(data: Any) -> str:
    """Return the name of a data set."""
    if isinstance(data, str):
        return data
    if isinstance(data, Path):
        return f"folder:{data}"
    return (_importable(data) if callable(data) else None) or give("data", data)


def teacher_section(teacher: Path | str | Teacher | None) -> Teacher | None:
    return teacher if teacher is None or isinstance(teacher, Teacher) else Teacher(checkpoint=Path(teacher))


def data_section(data: Any) -> Data:
    if isinstance(data, Data):
        return data
    return section(Data, ("data",), [] if data is None else [Override(("data", "name"), data_name(data))])


def overrides(settings: Settings | None, below: tuple[str | int, ...] = ()) -> list[Override]:
    """Return settings as overrides of a recipe; those that are overrides already say where they stand."""
    if not isinstance(settings, Mapping):
        return list(settings or ())
    return [
        Override((*below, *(int(part) if part.isdecimal() else part for part in name.split("."))), value)
        for name, value in settings.items()
    ]


def path_of(path: Path | str | None) -> Path | None:
    return None if path is None else Path(path)


def tell_of(tell: Tell | None) -> Tell:
    """Return one for this call alone: each keeps the log of the run it works in."""
    return Tell() if tell is None else Tell(tell.console, quiet=tell.quiet)


def _importable(thing: Any) -> str | None:
    """Return the name of a function or class by which another process can import it, None where there is none."""
    module, name = getattr(thing, "__module__", None), getattr(thing, "__qualname__", None)
    if not module or not name or module == "__main__":
        return None
    return f"{module}:{name}" if getattr(sys.modules.get(module), name, None) is thing else None
