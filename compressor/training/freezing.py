"""Modules of a student that a training leaves as they are."""

from collections.abc import Sequence

from torch import nn

from compressor.errors import UsageError
from compressor.methods.taps import inner


def frozen(student: nn.Module, paths: Sequence[str]) -> list[nn.Module]:
    """Freeze the parameters of inner modules, by path, and return these modules.

    Parameters without a gradient are left out by optimisers, weight decay included. The statistics of BatchNorm stay as
    well where the modules are kept in eval mode, which is the caller's part.

    Raises:
        UsageError: there is no such module (the hint names the nearest), or nothing of the student is left to train.
    """
    modules = [inner(student, path) for path in paths]
    for module in modules:
        module.requires_grad_(False)
    if modules and not any(parameter.requires_grad for parameter in student.parameters()):
        raise UsageError(
            f"train.freeze holds all of the student: {', '.join(paths)} leave no parameter to train",
            hint="name fewer modules",
        )
    return modules
