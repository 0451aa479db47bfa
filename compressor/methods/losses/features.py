"""All feature losses of a method at once: the taps, the regressors, the terms."""

from collections.abc import Sequence

from torch import Tensor, nn

from compressor.batch import Batch
from compressor.methods.losses.protocol import FeatureLoss, Paths, paths
from compressor.methods.protocol import Moment, Setting
from compressor.methods.taps import Taps


class Features(nn.Module):
    """The terms of feature losses on the latest pass of student and teacher; a submodule of the objective."""

    def __init__(self, losses: Sequence[FeatureLoss], setting: Setting) -> None:
        super().__init__()
        self.losses = losses
        self.compared = nn.ModuleList(loss.build(setting) for loss in losses)
        if losses:
            self.student = Taps(setting.student, sorted({path for loss in losses for path in paths(loss.student)}))
            self.teacher = Taps(setting.teachers[0], sorted({path for loss in losses for path in paths(loss.teacher)}))

    def terms(self, batch: Batch, moment: Moment) -> dict[str, Tensor]:
        """Return the weighted terms, by `name`, of the batch that both networks were called with last."""
        return {
            name(loss): loss.weight.at(moment.elapsed)
            * module(_outputs(self.student, loss.student), _outputs(self.teacher, loss.teacher), batch).mean()
            for loss, module in zip(self.losses, self.compared, strict=True)
        }


def name(loss: FeatureLoss) -> str:
    """Return what the term is logged as: the kind, a plug-in's own name, and where the student is tapped."""
    return f"{loss.kind.rpartition(':')[2]}.{'+'.join(paths(loss.student))}"


def _outputs(taps: Taps, where: Paths) -> Tensor | tuple[Tensor, ...]:
    return taps[where] if isinstance(where, str) else tuple(taps[path] for path in where)
