"""Objects of the caller's as names: what a recipe can hold of a network or a data set that is no file."""

from __future__ import annotations

import copy
import hashlib
import io
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from compressor.files import replacing
from compressor.models import Normalized
from compressor.plugins import GIVEN, give

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


def _importable(thing: Any) -> str | None:
    """Return the name of a function or class by which another process can import it, None where there is none."""
    module, name = getattr(thing, "__module__", None), getattr(thing, "__qualname__", None)
    if not module or not name or module == "__main__":
        return None
    return f"{module}:{name}" if getattr(sys.modules.get(module), name, None) is thing else None
