"""All feature losses of a method at once: the taps, the regressors, the terms."""

from collections.abc import Sequence

from torch import Tensor, nn

from compressor.methods.losses.protocol import FeatureLoss
from compressor.methods.protocol import Moment, Setting
from compressor.methods.taps import Taps


class Features(nn.Module):
    """The terms of feature losses on the latest pass of student and teacher; a submodule of the objective."""

    def __init__(self, losses: Sequence[FeatureLoss], setting: Setting) -> None:
        super().__init__()
        self.losses = losses
        self.compared = nn.ModuleList(loss.build(setting) for loss in losses)
        if losses:
            self.student = Taps(setting.student, sorted({loss.student for loss in losses}))
            self.teacher = Taps(setting.teachers[0], sorted({loss.teacher for loss in losses}))

    def terms(self, moment: Moment) -> dict[str, Tensor]:
        """Return the weighted terms, by `name`, of what both networks were called with last."""
        return {
            name(loss): loss.weight.at(moment.elapsed)
            * module(self.student[loss.student], self.teacher[loss.teacher]).mean()
            for loss, module in zip(self.losses, self.compared, strict=True)
        }


def name(loss: FeatureLoss) -> str:
    """Return what the term is logged as: the kind, a plug-in's own name, and where the student is tapped."""
    return f"{loss.kind.rpartition(':')[2]}.{loss.student}"
