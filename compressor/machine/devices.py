"""Which device a run computes on."""

import torch

from compressor.errors import EnvironmentMissing, UsageError


def choose_device(name: str, *, local: int | None = None) -> torch.device:
    """Return the device asked for; `auto` is CUDA where there is one.

    Args:
        local: the number of this process on its machine, where several train together: each has a CUDA device.

    Raises:
        EnvironmentMissing: it is not here. There is no silent fallback.
        UsageError: there is no such kind of device, or one for all processes.
    """
    if local is not None and name.startswith("cuda:"):
        raise UsageError(f"several processes cannot train on {name} alone", hint="--device cuda: each has its own")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if local is not None and name == "cuda":
        name = f"cuda:{local}"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UsageError(f"no such device: {name!r}", hint="cpu, cuda, cuda:1 or auto") from None
    if device.type not in {"cpu", "cuda"}:
        raise UsageError(f"device {name!r} is not supported", hint="cpu, cuda, cuda:1 or auto")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise EnvironmentMissing(
            f"device {name} is not here: torch sees {torch.cuda.device_count()} CUDA devices", hint="--device cpu"
        )
    return device
