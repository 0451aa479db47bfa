"""`timm/NAME`: every classifier of timm, freshly initialised; timm is an optional dependency."""

from collections.abc import Mapping
from functools import partial
from typing import Any

from torch import Tensor, nn

from compressor.errors import EnvironmentMissing, UsageError, did_you_mean
from compressor.models.layers import on_meta
from compressor.models.probe import OTHER_SIZE, check_logits, refusal


def owners(tensors: Mapping[str, Tensor], like: str) -> tuple[str, ...]:
    """Return the networks of timm that have these very names and shapes, but for the classes.

    Args:
        like: torchvision's network with the same shapes, `torchvision/NAME`: those of the same family are looked at.
    """
    names = {name for name in tensors if not name.endswith("num_batches_tracked")}
    try:
        import timm
    except ImportError:
        return ("timm/NAME",) if "conv_stem.weight" in names else ()
    wanted = _compact(like.removeprefix("torchvision/"))
    found = []
    for name in timm.list_models():
        if wanted not in _compact(name):
            continue
        network = on_meta(partial(timm.create_model, name, pretrained=False))
        shapes = {key: value.shape for key, value in network.state_dict().items() if key in names}
        head = [key for key, shape in shapes.items() if tensors[key].shape != shape]
        if len(shapes) == len(names) and all(tensors[key].shape[1:] == shapes[key][1:] for key in head):
            parts = {key.rpartition(".")[0] for key in head}
            if len(parts) <= 1:
                found.append(f"timm/{name}")
    return tuple(found)


def _compact(name: str) -> str:
    return name.replace("_", "").replace(".", "")


def build(arch: str, classes: int, input_shape: tuple[int, int, int]) -> nn.Module:
    """Return the classifier.

    Raises:
        EnvironmentMissing: timm is not installed.
        UsageError: no such name, or it cannot take these images.
    """
    require_known(arch)
    import timm

    name = arch.removeprefix("timm/")
    options: dict[str, Any] = {"num_classes": classes, "in_chans": input_shape[0]}
    configuration = timm.get_pretrained_cfg(name)
    if configuration is not None and configuration.fixed_input_size:
        options["img_size"] = input_shape[1:]
    try:
        network: nn.Module = timm.create_model(name, pretrained=False, **options)
    except Exception as error:
        raise refusal(arch, input_shape, error, hint=OTHER_SIZE) from error
    check_logits(network, arch, classes, input_shape, hint=OTHER_SIZE)
    return network


def require_known(arch: str) -> None:
    """Refuse a name that timm does not have.

    Raises:
        EnvironmentMissing: timm is not installed.
        UsageError: no such name.
    """
    try:
        import timm
    except ImportError as error:
        raise EnvironmentMissing(f"{arch} needs the package timm", hint="pip install 'compressor[timm]'") from error
    name = arch.removeprefix("timm/")
    if not timm.is_model(name):
        known = (f"timm/{known}" for known in timm.list_models())
        raise UsageError(f"timm has no classifier {name!r}", hint=did_you_mean(arch, known))
