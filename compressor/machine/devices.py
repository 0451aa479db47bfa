"""Which device a run computes on."""

import torch

from compressor.errors import EnvironmentMissing, UsageError


def choose_device(name: str) -> torch.device:
    """Return the device asked for; `auto` is CUDA where there is one.

    Raises:
        EnvironmentMissing: it is not here. There is no silent fallback.
        UsageError: there is no such kind of device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
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
