"""`timm/NAME`: every classifier of timm, freshly initialised; timm is an optional dependency."""

from typing import Any

from torch import nn

from compressor.errors import EnvironmentMissing, UsageError, did_you_mean
from compressor.models.probe import OTHER_SIZE, check_logits, refusal


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
